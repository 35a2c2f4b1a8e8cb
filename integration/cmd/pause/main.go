// Command pause is the first process of the pods of tests, as Kubernetes' own pause is: it holds the namespaces, reaps what is
// reparented to it in a PID namespace that the pod's containers share, and ends when it is told to.
package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGCHLD)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		for {
			// An error says that there is no child.
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil && err != unix.EINTR || err == nil && pid == 0 {
				break
			}
		}
	}
}
