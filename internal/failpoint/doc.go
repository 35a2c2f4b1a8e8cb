// Package failpoint makes faults happen at named places, for tests. Only a binary built with the tag "failpoints" has
// them; in any other, Hit is empty and the compiler drops it.
//
// A test arms the points by a file named "failpoints" in the container's run directory, which is root's alone. It has a
// line for each: NAME ACTION. The actions are "kill" (SIGKILL to the own process), "stop" (SIGSTOP to it), "sleep
// DURATION" and "hold": make the file "failpoint.held" and go on when it has been removed. A point goes off once: the file
// is removed when one of its lines was met.
package failpoint

// Files in the run directory.
const (
	Name = "failpoints"     // arms points
	Held = "failpoint.held" // there while a process is held at one
)
