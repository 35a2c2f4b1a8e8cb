// Package failpoint makes faults happen at named places, for tests. Only a binary built with the tag "failpoints" has
// them; in any other, Hit is empty and the compiler drops it.
//
// A test arms the points by a file named "failpoints" in the container's run directory, which is root's alone. It has a
// line for each: NAME ACTION. The actions are "kill" (SIGKILL to the own process), "stop" (SIGSTOP to it) and "sleep
// DURATION". A point goes off once: the file is removed when one of its lines was met.
package failpoint

// Name is the file that arms points.
const Name = "failpoints"
