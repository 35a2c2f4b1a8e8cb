// Package taskapi is gatewarden's containerd task service: runc's, decorated.
//
// A container whose annotation names a gateway is managed: its bundle gets the hooks, its start waits for the gateway,
// an exec of "gatewarden …" is answered here instead of entering the container, and the exec id "gateway" stands for the
// gateway's process. Everything else, and every other container, goes to runc's service untouched.
//
// Nothing here waits for a container's warden but the requests that ask it for something: State, Pids and Connect answer
// from what the warden's watch stream told last.
package taskapi
