package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"
)

// The one call that is made: Check of gRPC's health service, as its authors define it (grpc/doc/health-checking.md), over
// HTTP/2 without TLS (grpc/doc/PROTOCOL-HTTP2.md). It is made with a few frames (frame.go) and not with google.golang.org/grpc,
// which would cost each warden four megabytes of memory for it.
const checkPath = "/grpc.health.v1.Health/Check"

// Bounds of an answer, in bytes but for the number of frames. All of them together fit into the connection's first flow
// control window (RFC 9113, 6.9.2), so that no more has to be granted.
const (
	maxAnswer     = 64 << 10 // of all frames
	maxFrames     = 256      // an answer has six or so
	maxMessage    = 4 << 10  // of the health service's message; one of the kind has 2 bytes
	maxFrame      = 16 << 10 // the least that a server may assume (RFC 9113, 6.5.2)
	messagePrefix = 5        // compressed or not, and the length
)

// servingStatus names the answers of the health service; only 1 means yes.
var servingStatus = []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

// codeNames are gRPC's status codes (grpc/doc/statuscodes.md).
var codeNames = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// check asks the health service on conn for service ("" is the server as a whole). No error means that it is serving. The
// deadline is the connection's.
func check(conn io.ReadWriter, authority, service string) error {
	if !plain(authority) || authority == "" {
		return fmt.Errorf("cannot ask host %q: not the host of a URL", authority)
	}
	request, err := checkRequest(authority, service)
	if err != nil {
		return err
	}
	// A server that answers without reading, and closes, may fail the write though its answer is there to read.
	_, werr := conn.Write(request)
	err = readAnswer(conn, service)
	if err != nil && werr != nil {
		if _, ok := errors.AsType[answerError](err); !ok {
			return werr
		}
	}
	return err
}

// checkRequest is all that is sent before the answer: preface, settings, and the request. A client need not wait for the
// server's settings (RFC 9113, 3.4), and this one keeps within the defaults.
func checkRequest(authority, service string) ([]byte, error) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", checkPath}, {":authority", authority},
		{"te", "trailers"}, {"content-type", "application/grpc"}, {"user-agent", "gatewarden"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return nil, err
		}
	}
	setting := func(b []byte, id uint16, value uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), value)
	}
	var message []byte
	if service != "" {
		message = protowire.AppendTag(nil, 1, protowire.BytesType) // HealthCheckRequest.service
		message = protowire.AppendString(message, service)
	}
	data := append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
	out := []byte(preface)
	for _, f := range []frame{
		{kind: frameSettings, payload: setting(setting(nil, settingEnablePush, 0), settingMaxHeaderListSize, maxHeader)},
		{kind: frameHeaders, flags: flagEndHeaders, stream: firstStream, payload: block.Bytes()},
		{kind: frameData, flags: flagEndStream, stream: firstStream, payload: data},
	} {
		out = f.append(out)
	}
	return out, nil
}

// recorder keeps the first bytes that were read, for a message.
type recorder struct {
	r    io.Reader
	head []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if room := 64 - len(r.head); room > 0 {
		r.head = append(r.head, p[:min(n, room)]...)
	}
	return n, err
}

// readAnswer reads frames until the answer to stream 1 is complete, and judges it.
func readAnswer(conn io.ReadWriter, service string) error {
	limited := &io.LimitedReader{R: conn, N: maxAnswer}
	in := &recorder{r: limited}
	decoder := newFieldDecoder()
	var a answer
	for n := 0; !a.ended; n++ {
		if n == maxFrames {
			return answerError(fmt.Sprintf("more than %d frames came before the end of the answer", maxFrames))
		}
		f, err := readFrame(in)
		if err != nil {
			return a.broken(err, in.head, limited.N <= 0)
		}
		if n == 0 && f.kind != frameSettings {
			return answerError("the answer is not HTTP/2: it begins with " + quote(in.head))
		}
		if err := a.take(f, decoder); err != nil {
			return a.broken(err, in.head, false)
		}
		if (f.kind == frameSettings || f.kind == framePing) && !f.has(flagAck) {
			reply := frame{kind: f.kind, flags: flagAck}
			if f.kind == framePing {
				reply.payload = f.payload
			}
			// It is small and asked for; a peer that does not read it runs into the deadline.
			if _, err := conn.Write(reply.append(nil)); err != nil {
				return err
			}
		}
	}
	return a.verdict(service)
}

// answer is what has come of the answer so far.
type answer struct {
	started bool // its header has come
	ended   bool
	interim int
	status  string // grpc-status
	text    string // grpc-message
	body    []byte
}

// take adds one frame to the answer.
func (a *answer) take(f frame, decoder *hpack.Decoder) error {
	switch f.kind {
	case frameGoAway:
		if last := binary.BigEndian.Uint32(f.payload) &^ (1 << 31); last < firstStream {
			return answerError("the server takes no calls: it said GOAWAY (" + errorCode(f.payload[4:]) + ")")
		}
	case frameRSTStream:
		return answerError("the server ended the call: RST_STREAM (" + errorCode(f.payload) + ")")
	case framePushPromise:
		return answerError("the server pushes, which it was asked not to")
	case frameHeaders:
		// Of whatever stream: the blocks of a connection are decoded in their order.
		h, err := decode(decoder, f.payload)
		if err != nil {
			return err
		}
		return a.header(f, h)
	case frameData:
		switch {
		case f.stream != firstStream || !a.started:
			return answerError("the server sent data that belongs to no answer")
		case len(a.body)+len(f.payload) > messagePrefix+maxMessage:
			return answerError(fmt.Sprintf("the answer is longer than %d bytes", maxMessage))
		}
		a.body = append(a.body, f.payload...)
		a.ended = f.has(flagEndStream)
	}
	return nil // settings, a ping, or a frame of a kind that is to be ignored (RFC 9113, 5.5)
}

// header takes the answer's header, or its trailer.
func (a *answer) header(f frame, h fields) error {
	ends := f.has(flagEndStream)
	if f.stream != firstStream {
		return answerError("the server sent a header that belongs to no answer")
	}
	if !a.started {
		status := h.status
		switch {
		case len(status) == 3 && status[0] == '1' && !ends:
			if a.interim++; a.interim > maxInterim {
				return answerError(fmt.Sprintf("more than %d interim responses came before the answer", maxInterim))
			}
			return nil
		case status != "200":
			return answerError("the answer is not gRPC's: HTTP status " + quote([]byte(status)))
		}
		kind := h.value("content-type")
		if kind != "application/grpc" && !strings.HasPrefix(kind, "application/grpc+") && !strings.HasPrefix(kind, "application/grpc;") {
			return answerError("the answer is not gRPC's: its content type is " + quote([]byte(kind)))
		}
		a.started = true
	} else if !ends {
		return answerError("the server sent a second header")
	}
	if ends {
		a.ended = true
		a.status, a.text = h.value("grpc-status"), h.value("grpc-message")
	}
	return nil
}

// verdict judges a complete answer.
func (a *answer) verdict(service string) error {
	of := "the server"
	if service != "" {
		of = "service " + quote([]byte(service))
	}
	switch {
	case a.status == "":
		return answerError("the answer ended without a gRPC status")
	case a.status == "5": // NOT_FOUND, as the health service has it
		return answerError("the health service does not know " + of + " (gRPC status NOT_FOUND): compare ready.service")
	case a.status == "12":
		return answerError("the gateway has no health service (gRPC status UNIMPLEMENTED)")
	case a.status != "0":
		said := ""
		if a.text != "" {
			said = ": " + quote([]byte(a.text))
		}
		return answerError("the health service answered with gRPC status " + nameOf(a.status) + said)
	}
	n, err := parseCheck(a.body)
	if err != nil {
		return err
	}
	if n == 1 {
		return nil
	}
	name := fmt.Sprint(n)
	if n < uint64(len(servingStatus)) {
		name = servingStatus[n]
	}
	return answerError("the health service says that " + of + " is " + name)
}

// nameOf gives the name of a grpc-status.
func nameOf(status string) string {
	for i, name := range codeNames {
		if status == fmt.Sprint(i) {
			return name
		}
	}
	return quote([]byte(status))
}

// parseCheck reads the one message of an answer: its prefix, and a HealthCheckResponse, whose field 1 is the status. Fields
// that are not known are skipped, as protobuf has it; a status that is not there is 0.
func parseCheck(body []byte) (uint64, error) {
	const wrong = answerError("the health service's message cannot be read")
	if len(body) < messagePrefix {
		return 0, answerError("the health service answered without a message")
	}
	length := uint64(body[1])<<24 | uint64(body[2])<<16 | uint64(body[3])<<8 | uint64(body[4])
	message := body[messagePrefix:]
	switch {
	case body[0] != 0:
		return 0, answerError("the health service's message is compressed, which was not asked for")
	case length != uint64(len(message)):
		return 0, wrong
	}
	var status uint64
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, wrong
		}
		message = message[n:]
		if number == 1 && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(message)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return 0, wrong
		}
		message = message[n:]
	}
	return status, nil
}

// broken judges the end of the reading before the answer's.
func (a *answer) broken(err error, head []byte, tooLong bool) error {
	rules, broke := errors.AsType[errFrame](err)
	switch {
	case tooLong:
		return answerError(fmt.Sprintf("the answer is longer than %d bytes", maxAnswer))
	case bytes.HasPrefix(head, []byte("HTTP/1.")):
		return answerError("the answer is HTTP/1, and gRPC needs HTTP/2")
	case broke:
		return answerError("the answer is not HTTP/2 as it should be (" + rules.Error() + "): it begins with " + quote(head))
	case (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)) && len(head) == 0:
		return fmt.Errorf("the connection was closed without an answer: %w", io.EOF)
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection was closed within the answer: %w", io.EOF)
	}
	return err
}
