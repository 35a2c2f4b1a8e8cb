// Package oci is gatewarden's reading of the OCI runtime specification, for programs that switch gatewarden on or that
// are themselves OCI hooks: the state that a runtime hands to a hook, the annotation that names a gateway's profile, the
// edit of a bundle's config.json that installs the hooks, and the documents by which engines do that: hooks.d (podman,
// CRI-O) and CDI.
//
// A hook begins with [ReadState] and [Gateway]. What creates containers adds hooks to a specification that it has in memory by
// [AddHooks], to one that it has as text by [EditConfig], and to a bundle by [AddHooksToBundle] or [EditBundle]. What configures
// engines writes [HooksDocuments] and [CDISpec] as JSON.
//
// Everything here treats its input as untrusted in size and form, and none of it runs anything.
//
// # When not to use it
//
// To run gateways nothing of this is needed: the shim, the hook and `gatewarden runtime configure` do it. To ask what a gateway
// does, or to restart it, is the command's part, not this package's. It is no general editor of specifications: what makes
// one anew has [github.com/opencontainers/runtime-tools/generate] and containerd's package oci for that. And to edit a bundle is for
// its creator, before the runtime is called: later on nobody reads it, and there is no lock against another editor.
//
// # Stability
//
// From version 1 of the module on, what is exported here stays, with its meaning; new names may come. The documents' bytes may change
// between releases, in what engines read alike.
package oci

// Bounds of what is read, in bytes.
const (
	MaxState  = 1 << 20  // the state on a hook's standard input
	MaxConfig = 16 << 20 // a bundle's config.json
)

// ConfigName is the name of the specification's file in a bundle.
const ConfigName = "config.json"
