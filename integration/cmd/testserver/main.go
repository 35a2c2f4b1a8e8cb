// Command testserver is a server as a Go programmer writes it, who has never heard of gatewarden: it listens by net.Listen, and
// so by MPTCP where the kernel has it, on each address that it is given. It answers {"pid":…}.
//
//	testserver HOST:PORT…
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "{\"pid\":%d}\n", os.Getpid()) })
	failed := make(chan error)
	for _, address := range os.Args[1:] {
		go func() { failed <- http.ListenAndServe(address, answer) }()
	}
	log.Fatal(<-failed)
}
