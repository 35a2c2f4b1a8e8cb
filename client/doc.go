// Package client asks the wardens of this host about their gateways, and has them restarted, without a subprocess: the same
// that the gatewarden command does, for tools written in Go.
//
//	c, err := client.New(client.Options{Via: "rotate-token"})
//	…
//	receipt, err := c.Restart(ctx, client.Ref{Namespace: "default", ID: "web"}, client.Action{Reason: "rotated the token"})
//
// # Who can use it
//
// Root of the host: a warden's control socket, the journals and the logs are root's alone, and there is no other way to be let
// in. All of it is local; nothing listens on a network. A tool that is not root, or not on that host, uses the container
// runtime's own API instead, where the right to exec is the right to restart: an exec of `gatewarden restart --json` (CRI
// ExecSync, containerd's Task.Exec, the pods/exec of Kubernetes) is answered by the warden with the receipt, in the form that
// [Receipt] decodes, and with [Error.ExitStatus] as its exit status.
//
// # Errors
//
// What a warden, or the way to it, says no to is an [*Error], found by errors.As: its [Code] is stable and meant for programs,
// its message is meant for people and names what was found and what to do. Errors of any other type are mistakes in how this
// package was called, or the system's (a settings file that cannot be read). No permission is errors.Is(err, fs.ErrPermission).
//
// An action that came to an outcome has a [Receipt], also one that failed or was refused: then the receipt and the error are
// both there.
//
// # Time
//
// The context bounds how long is waited. Status and Probe that have no deadline wait 2 and 10 seconds. An action that has no
// deadline waits as long as its warden lives: the profile's own times bound it. A deadline of the context is the action's
// too; see [Action]. To stop waiting never undoes what a warden has begun.
//
// # What is stable
//
// What is exported here, the JSON forms, and the strings of codes, stages, states, actions and outcomes stay as they are. Later
// releases may add fields, codes and the like: have a default case. Wardens of other releases are spoken to as well: what a
// later one adds to its answers is left alone, what an earlier one does not know is zero.
//
// Text in receipts, statuses and log lines can come from the container, and is given as it is: before it goes to a terminal,
// print it with %q or remove its control characters.
package client
