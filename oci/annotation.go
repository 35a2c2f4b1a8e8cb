package oci

import "fmt"

// GatewayAnnotation names the profile of the gateway that a container asks for. It can only name one: whether the
// container may have it, and what it is, is said by the profile alone.
const GatewayAnnotation = "io.gatewarden.gateway"

// ValidProfileName tells whether name can be the name of a profile: 1 to 63 lower-case letters, digits, and, except
// in the first place, "_", "." and "-". Such a name is always a single path component.
func ValidProfileName(name string) bool {
	// By hand: a regular expression would be compiled at each start of the hook, of a joiner and of an init, for nothing.
	for i, c := range []byte(name) {
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 63
}

// Gateway gives the profile that annotations name, or "" if they name none. An annotation with a value that cannot be
// a profile's name, the empty one included, is an error, never a container without a gateway.
func Gateway(annotations map[string]string) (string, error) {
	name, ok := annotations[GatewayAnnotation]
	if !ok {
		return "", nil
	}
	if !ValidProfileName(name) {
		return "", fmt.Errorf("annotation %s=%.80q does not name a profile: use 1 to 63 of a-z, 0-9, \"_\", \".\" and \"-\", beginning with a letter or digit",
			GatewayAnnotation, name)
	}
	return name, nil
}
