// Package oci is gatewarden's reading of the OCI runtime specification, for programs that switch gatewarden on or that
// are themselves OCI hooks: the state that a runtime hands to a hook, the annotation that names a gateway's profile, the
// edit of a bundle's config.json that installs the hooks, and the documents by which engines do that: hooks.d (podman,
// CRI-O) and CDI.
//
// Everything here treats its input as untrusted in size and form, and none of it runs anything.
package oci

// Bounds of what is read, in bytes.
const (
	MaxState  = 1 << 20  // the state on a hook's standard input
	MaxConfig = 16 << 20 // a bundle's config.json
)

// ConfigName is the name of the specification's file in a bundle.
const ConfigName = "config.json"
