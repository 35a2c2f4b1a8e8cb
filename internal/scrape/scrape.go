// Package scrape answers GET /metrics over HTTP/1.1, one request per connection, on sockets that are the host's own: a unix
// socket, or a port of a loopback address.
//
// It is no use of net/http: to link that costs every start of the program 2 to 4 ms of 15 (its tables, TLS and compression are
// initialised whether they are used or not), and most starts of this one are of a verb that ends after as many. What a scraper
// needs is small.
package scrape

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// Bounds of a request, of the connections that are served at a time, and of the time for each.
const (
	maxRequest     = 8 << 10
	maxConnections = 16
	requestTime    = 5 * time.Second
	answerTime     = 10 * time.Second
)

// Path is where the metrics are.
const Path = "/metrics"

// Document makes what is answered, of a media type.
type Document struct {
	Type   string
	Render func(context.Context) ([]byte, error)
}

// Serve answers on l until ctx ends, and gives the error with which that fails before.
func Serve(ctx context.Context, l net.Listener, d Document) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	places := make(chan struct{}, maxConnections)
	for {
		places <- struct{}{}
		conn, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		default:
			if temporary(err) {
				<-places
				time.Sleep(100 * time.Millisecond) // no descriptor was left, or the like
				continue
			}
			return fmt.Errorf("cannot accept on %s: %w", l.Addr(), err)
		}
		go func() {
			defer func() { <-places }()
			answer(ctx, conn, d)
		}()
	}
}

// temporary tells errors of accept(2) that say nothing about the listener.
func temporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary() && !errors.Is(err, net.ErrClosed)
}

func answer(ctx context.Context, conn net.Conn, d Document) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetDeadline(time.Now().Add(requestTime))
	head, err := readRequest(conn)
	if ctx.Err() != nil {
		return
	}
	var body []byte
	if err == nil {
		rendering, cancel := context.WithTimeout(ctx, answerTime)
		body, err = d.Render(rendering)
		cancel()
		if err != nil {
			err = failure{500, err.Error()}
		}
	}
	f, failed := errors.AsType[failure](err)
	switch {
	case failed:
	case err != nil:
		return // it hung up, or was too slow: there is nobody to answer
	default:
		f = failure{status: 200}
	}
	kind := d.Type
	if failed {
		kind, body = "text/plain; charset=utf-8", []byte(f.why+"\n")
	}
	more := ""
	if f.status == 405 {
		more = "Allow: GET, HEAD\r\n"
	}
	conn.SetDeadline(time.Now().Add(answerTime))
	header := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%sConnection: close\r\n\r\n",
		f.status, reason(f.status), kind, len(body), more)
	if head {
		body = nil
	}
	if _, err := conn.Write(append([]byte(header), body...)); err != nil {
		return
	}
	// A close with something unread would be a reset, which takes the answer with it.
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		conn.SetDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, io.LimitReader(conn, maxRequest))
	}
}

// failure is an answer other than the document.
type failure struct {
	status int
	why    string
}

func (f failure) Error() string { return f.why }

func reason(status int) string {
	return map[int]string{
		200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
		500: "Internal Server Error", 505: "HTTP Version Not Supported",
	}[status]
}

// readRequest reads the header of one request for the document and tells whether it is a HEAD. What is not one is a failure; any
// other error is the connection's.
func readRequest(conn io.Reader) (head bool, err error) {
	limited := &io.LimitedReader{R: conn, N: maxRequest}
	r := textproto.NewReader(bufio.NewReaderSize(limited, 1<<10))
	tooLong := func(err error) error {
		switch {
		case limited.N == 0:
			return failure{431, fmt.Sprintf("the request's header is longer than %d bytes", maxRequest)}
		case errors.As(err, new(textproto.ProtocolError)):
			return failure{400, "the request's header is malformed"}
		}
		return err
	}
	line, err := r.ReadLine()
	if err != nil {
		return false, tooLong(err)
	}
	method, target, err := requestLine(line)
	if err != nil {
		return false, err
	}
	fields, err := r.ReadMIMEHeader()
	if err != nil {
		return false, tooLong(err)
	}
	length := fields["Content-Length"]
	switch {
	case strings.HasSuffix(line, "1.1") && len(fields["Host"]) != 1:
		return false, failure{400, "the request has no Host, or several"}
	case len(fields["Transfer-Encoding"]) > 0 || len(length) > 1 || len(length) == 1 && length[0] != "0":
		return false, failure{400, "the request has a body; none is taken"}
	case method != "GET" && method != "HEAD":
		return false, failure{405, "only GET and HEAD are answered"}
	}
	if path, _, _ := strings.Cut(target, "?"); path != Path {
		return false, failure{404, "there is only " + Path}
	}
	return method == "HEAD", nil
}

// requestLine reads "GET /metrics HTTP/1.1" (RFC 9112, section 3).
func requestLine(line string) (method, target string, err error) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[0] == "" || strings.Trim(parts[0], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || !strings.HasPrefix(parts[1], "/") {
		return "", "", failure{400, "not an HTTP request"}
	}
	for i := range len(parts[1]) {
		if c := parts[1][i]; c <= ' ' || c > '~' {
			return "", "", failure{400, "the request's target has a character that no URL has: " + strconv.QuoteToASCII(parts[1][i:i+1])}
		}
	}
	switch version := parts[2]; {
	case version == "HTTP/1.1" || version == "HTTP/1.0":
		return parts[0], parts[1], nil
	case strings.HasPrefix(version, "HTTP/"):
		return "", "", failure{505, "HTTP/1.1 is spoken here"}
	}
	return "", "", failure{400, "not an HTTP request"}
}
