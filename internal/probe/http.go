package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of a response, in bytes and in interim (1xx) responses before the final one.
const (
	maxHeader  = 16 << 10
	maxInterim = 4
)

// get sends one GET request (RFC 9112) and returns the status of the final response once its header is complete.
// Redirects are not followed and the body is not read. The deadline is the connection's.
func get(conn io.ReadWriter, host, target string) (int, error) {
	if !strings.HasPrefix(target, "/") || !plain(target) || host == "" || !plain(host) {
		return 0, fmt.Errorf("cannot ask for %q of host %q: not a path and host of a URL", target, host)
	}
	request := "GET " + target + " HTTP/1.1\r\nHost: " + host +
		"\r\nUser-Agent: gatewarden\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	// A server that answers without reading, and closes, may fail the write though its answer is there to read.
	_, werr := io.WriteString(conn, request)
	buf := make([]byte, 0, 1<<10)
	for {
		status, err := parseResponse(buf)
		if !errors.Is(err, errIncomplete) {
			return status, err
		}
		if len(buf) == maxHeader {
			return 0, answerError(fmt.Sprintf("the header of the response is longer than %d bytes", maxHeader))
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(4*cap(buf), maxHeader)), buf...)
		}
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case n > 0: // an error, if any, comes again with the next read
		case err == io.EOF && len(buf) == 0 && werr != nil:
			return 0, werr // a reset is told once, and the write got it
		case err == io.EOF && len(buf) == 0:
			return 0, fmt.Errorf("the connection was closed without an answer: %w", err)
		case err == io.EOF:
			return 0, fmt.Errorf("the connection was closed within the header of the response: %w", err)
		case err != nil && werr != nil:
			return 0, werr
		case err != nil:
			return 0, err
		}
	}
}

// plain tells whether s has visible ASCII characters only: nothing in it can end a header line.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// errIncomplete says that b can still become a valid response.
var errIncomplete = errors.New("the header is not complete")

// parseResponse reads the header of a response from the beginning of b and returns its status, skipping interim responses
// (100 Continue, 103 Early Hints). A header that is wrong already is an error at once, complete or not; one that is right
// so far gives errIncomplete. Lines end with CR LF, nothing else: a server that cannot write a status line is not ready.
func parseResponse(b []byte) (int, error) {
	for interim := 0; ; interim++ {
		line, rest, found := bytes.Cut(b, []byte("\r\n"))
		status, err := parseStatusLine(line, found)
		if err != nil {
			return 0, err
		}
		for {
			line, rest, found = bytes.Cut(rest, []byte("\r\n"))
			if !found {
				if bytes.IndexByte(line, '\n') >= 0 {
					return 0, answerError("a header line of the response does not end with CR LF")
				}
				return 0, errIncomplete
			}
			if len(line) == 0 {
				break
			}
			if !validField(line) {
				return 0, answerError(fmt.Sprintf("the response has an invalid header line: %s", quote(line)))
			}
		}
		if status >= 200 {
			return status, nil
		}
		if status == 101 {
			return 0, answerError("the server switched protocols (HTTP status 101) unasked")
		}
		if interim == maxInterim {
			return 0, answerError(fmt.Sprintf("more than %d interim responses came before the answer", maxInterim))
		}
		b = rest
	}
}

// parseStatusLine reads "HTTP/1.1 200 OK". The reason phrase may be empty, and so may the space before it be missing, as
// many servers have it. With complete unset, line is the beginning of one.
func parseStatusLine(line []byte, complete bool) (int, error) {
	const form = "HTTP/1.d ddd" // d: a digit
	for i := range min(len(line), len(form)) {
		c := line[i]
		if form[i] == 'd' && (c < '0' || c > '9') || form[i] != 'd' && c != form[i] {
			return 0, answerError("the answer is not HTTP: it begins with " + quote(line))
		}
	}
	if len(line) > len(form) && line[len(form)] != ' ' && (complete || line[len(form)] != '\r' || len(line) > len(form)+1) {
		return 0, answerError("the answer's status line is wrong: " + quote(line))
	}
	for i, c := range line[min(len(line), len(form)):] {
		last := !complete && len(form)+i == len(line)-1 // a CR whose LF is still to come
		if c == 0x7f || c < ' ' && c != '\t' && (c != '\r' || !last) {
			return 0, answerError("the answer's status line is wrong: " + quote(line))
		}
	}
	if !complete {
		return 0, errIncomplete
	}
	if len(line) < len(form) {
		return 0, answerError("the answer's status line is too short: " + quote(line))
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil || status < 100 || status > 599 {
		return 0, answerError("the answer's status is outside 100 to 599: " + quote(line))
	}
	return status, nil
}

// validField tells whether line is "name: value" with a token as its name (RFC 9110, 5.6.2) and no control characters in
// its value. Folded lines are obsolete and refused.
func validField(line []byte) bool {
	name, value, found := bytes.Cut(line, []byte(":"))
	if !found || len(name) == 0 {
		return false
	}
	for _, c := range name {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	for _, c := range value {
		if c == 0x7f || c < ' ' && c != '\t' {
			return false
		}
	}
	return true
}

// quote makes the beginning of b harmless in a message.
func quote(b []byte) string {
	const most = 40
	if len(b) > most {
		return strconv.QuoteToASCII(string(b[:most])) + "…"
	}
	return strconv.QuoteToASCII(string(b))
}
