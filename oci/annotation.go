package oci

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// GatewayAnnotation names the profile of the gateway that a container asks for. It can only name one: whether the
// container may have it, and what it is, is said by the profile alone.
//
// An annotation of a Kubernetes pod reaches every container of the pod. So the container can be a part of the key:
// GatewayAnnotation + "/" + the container's name in the pod, as in "io.gatewarden.gateway/web".
const GatewayAnnotation = "io.gatewarden.gateway"

// Annotations by which a CRI implementation tells what a container is in its pod. Each sets its own after those of the pod, whose
// author can therefore not forge them; but may be able to add those of the other.
const (
	// containerd's, on every container that it makes for CRI (internal/cri/annotations).
	containerdType      = "io.kubernetes.cri.container-type"
	containerdName      = "io.kubernetes.cri.container-name"
	containerdNamespace = "io.kubernetes.cri.sandbox-namespace"
	containerdSandbox   = "io.kubernetes.cri.sandbox-id"
	// CRI-O has a type of its own, and makes annotations of the labels that the kubelet gives a container. Podman sets the type
	// too, for its own pods: their containers are annotated one by one, and have no name of Kubernetes'.
	crioType         = "io.kubernetes.cri-o.ContainerType"
	kubeletName      = "io.kubernetes.container.name"
	kubeletNamespace = "io.kubernetes.pod.namespace"

	sandboxType = "sandbox"
)

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

// validContainerName tells whether name can be the name of a container in a pod: a DNS label (Kubernetes' Container.name).
func validContainerName(name string) bool {
	for i, c := range []byte(name) {
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 63
}

// Place is what a container is in a Kubernetes pod, as a CRI implementation says in its annotations.
type Place struct {
	Pod       bool   // it belongs to a pod
	Namespace string // Kubernetes' namespace of the pod
	Sandbox   bool   // it is the one that holds the pod's namespaces (the pause container), and runs nothing of the pod's author
	Container string // its name in the pod; "" for the sandbox
	SandboxID string // of the sandbox's container, where the engine is containerd; else ""
}

// PlaceOf reads a container's place from its annotations. A container that no CRI implementation made has the zero Place,
// unless it is the sandbox of a pod of podman's. Annotations of two implementations are an error: one of them would be forged.
func PlaceOf(annotations map[string]string) (Place, error) {
	kind, containerd := annotations[containerdType]
	other, crio := annotations[crioType]
	name, named := annotations[kubeletName]
	switch {
	case containerd && crio:
		return Place{}, fmt.Errorf("annotations %s and %s are of two engines, and a container is made by one: remove from the pod's annotations what is not its engine's",
			containerdType, crioType)
	case containerd:
		p := place(kind, annotations[containerdNamespace], annotations[containerdName])
		p.SandboxID = annotations[containerdSandbox]
		return p, nil
	case crio && (named || other == sandboxType):
		return place(other, annotations[kubeletNamespace], name), nil
	}
	return Place{}, nil
}

func place(kind, namespace, name string) Place {
	if kind == sandboxType {
		return Place{Pod: true, Namespace: namespace, Sandbox: true}
	}
	return Place{Pod: true, Namespace: namespace, Container: name}
}

// Gateway gives the profile that annotations name for the container that has them, or "" if they name none.
//
//   - Outside a pod, GatewayAnnotation names it.
//   - In a pod, GatewayAnnotation/CONTAINER names it for the container of that name. The pause container never has a gateway.
//   - In a pod of containerd's, GatewayAnnotation names it too, for whichever container has the annotation. If it is the pod's, that is
//     each of them, and then it depends on the others whether it says who gets the gateway: see Unnamed.
//
// Whatever does not say clearly who gets what is an error, never a container without a gateway: a value that cannot be a
// profile's name, the empty one included; both forms in one pod; GatewayAnnotation in a pod of another engine, whose containers
// are not looked after together; and a container's name outside a pod. Most of this fails every container of a pod, the pause
// container first, so that nothing of the pod runs.
func Gateway(annotations map[string]string) (string, error) {
	var profile string
	_, plain := annotations[GatewayAnnotation]
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		container, qualified := strings.CutPrefix(key, GatewayAnnotation+"/")
		if !qualified && key != GatewayAnnotation {
			continue
		}
		in, err := PlaceOf(annotations)
		if err != nil {
			return "", err
		}
		name := annotations[key]
		if !ValidProfileName(name) {
			return "", fmt.Errorf("annotation %.160s=%.80q does not name a profile: use 1 to 63 of a-z, 0-9, \"_\", \".\" and \"-\", beginning with a letter or digit",
				quoteKey(key), name)
		}
		switch {
		case qualified && !validContainerName(container):
			return "", fmt.Errorf("annotation %.160s does not name a container: after the slash comes the container's name as in the pod's spec.containers", quoteKey(key))
		case qualified && !in.Pod:
			return "", fmt.Errorf("annotation %s names a container of a pod, and this container is in none; write %s=%s", key, GatewayAnnotation, name)
		case qualified && plain:
			return "", fmt.Errorf("annotations %s and %s are both there, and the former reaches every container of the pod: remove it", GatewayAnnotation, key)
		case !qualified && in.Pod && in.SandboxID == "":
			return "", ambiguous(in, name)
		case !in.Sandbox && (!qualified || container == in.Container):
			profile = name
		}
	}
	return profile, nil
}

// Unnamed tells whether it is GatewayAnnotation, without a container's name, that names the gateway of a container in a pod. If another
// container of that pod has it so too, nobody has said which of them gets the gateway.
func Unnamed(annotations map[string]string, in Place) bool {
	_, plain := annotations[GatewayAnnotation]
	return plain && in.Pod && !in.Sandbox
}

// ambiguous is the error of an annotation that reaches every container of a pod.
func ambiguous(in Place, name string) error {
	example := in.Container
	if !validContainerName(example) {
		example = "CONTAINER"
	}
	why := fmt.Sprintf("annotation %s=%s does not say which container of the pod gets the gateway, and reaches all of them; write %s/%s: %s",
		GatewayAnnotation, name, GatewayAnnotation, example, name)
	if in.Sandbox {
		why += ", with the container's name as in the pod's spec.containers"
	} else {
		why += " if it is this one"
	}
	return errors.New(why)
}

// quoteKey is a key for a message: as it is, unless it has to be quoted.
func quoteKey(key string) string {
	if q := fmt.Sprintf("%q", key); q != `"`+key+`"` {
		return q
	}
	return key
}
