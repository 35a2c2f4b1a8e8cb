package client

import (
	"bytes"
	"strconv"
)

var headEnd = []byte("\r\n\r\n")

// request is a GET of path on a connection of its own.
func request(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
}

// complete tells whether an answer is there up to the end that its Content-Length tells.
func complete(answer []byte) bool {
	head, body, ok := bytes.Cut(answer, headEnd)
	if !ok {
		return false
	}
	_, rest, ok := bytes.Cut(head, []byte("\r\nContent-Length: "))
	if !ok {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(line))
	return err == nil && len(body) >= length
}
