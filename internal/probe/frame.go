package probe

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Frames of HTTP/2 (RFC 9113, 4 and 6), as far as one call without TLS needs them. The header compression is that of
// golang.org/x/net. Its framer is not used, since that package is net/http's and crypto/tls's companion: both would be
// linked into the warden, and cost each 280 KiB of memory of its own and each of its starts a millisecond.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameHeader = 9
	firstStream = 1
)

type frameKind uint8

const (
	frameData frameKind = iota
	frameHeaders
	_ // PRIORITY
	frameRSTStream
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	_ // WINDOW_UPDATE
	frameContinuation
)

const (
	flagAck        = 0x1 // of SETTINGS and PING
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	settingEnablePush        = 0x2
	settingMaxHeaderListSize = 0x6
)

// frame is one frame. Of a HEADERS frame the payload is the whole field block, with that of its CONTINUATION frames.
type frame struct {
	kind    frameKind
	flags   uint8
	stream  uint32
	payload []byte
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

// append adds the frame's wire form.
func (f frame) append(b []byte) []byte {
	n := len(f.payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(f.kind), f.flags)
	return append(binary.BigEndian.AppendUint32(b, f.stream), f.payload...)
}

// errFrame says how a peer breaks the rules of HTTP/2.
type errFrame string

func (e errFrame) Error() string { return string(e) }

// readFrame reads one frame, or a header with all its continuations.
func readFrame(r io.Reader) (frame, error) {
	f, err := readOne(r)
	if err != nil {
		return frame{}, err
	}
	switch n := len(f.payload); {
	case f.kind == frameContinuation:
		return frame{}, errFrame("a continuation of nothing")
	case f.kind == frameSettings && (n%6 != 0 || f.stream != 0 || f.has(flagAck) && n != 0),
		f.kind == framePing && (n != 8 || f.stream != 0), f.kind == frameRSTStream && n != 4, f.kind == frameGoAway && n < 8:
		return frame{}, errFrame("a frame of a wrong size or stream")
	case f.kind == frameData, f.kind == frameHeaders:
		if err := f.strip(); err != nil {
			return frame{}, err
		}
	}
	for f.kind == frameHeaders && !f.has(flagEndHeaders) {
		more, err := readOne(r)
		switch {
		case err != nil:
			return frame{}, err
		case more.kind != frameContinuation || more.stream != f.stream:
			return frame{}, errFrame("a header without its end")
		case len(f.payload)+len(more.payload) > maxHeader:
			return frame{}, tooLongHeader
		}
		f.payload = append(f.payload, more.payload...)
		f.flags |= more.flags & flagEndHeaders
	}
	return f, nil
}

func readOne(r io.Reader) (frame, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	if n > maxFrame {
		return frame{}, errFrame("a frame is too large")
	}
	f := frame{kind: frameKind(h[3]), flags: h[4], stream: binary.BigEndian.Uint32(h[5:]) &^ (1 << 31), payload: make([]byte, n)}
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// strip takes padding and priority off the payload.
func (f *frame) strip() error {
	if f.has(flagPadded) {
		if len(f.payload) == 0 || int(f.payload[0]) >= len(f.payload) {
			return errFrame("a frame is nothing but padding")
		}
		f.payload = f.payload[1 : len(f.payload)-int(f.payload[0])]
	}
	if f.kind == frameHeaders && f.has(flagPriority) {
		if len(f.payload) < 5 {
			return errFrame("a header is too short")
		}
		f.payload = f.payload[5:]
	}
	return nil
}

const tooLongHeader = answerError("the header of the answer is too long")

// fields are a response's or a trailer's.
type fields struct {
	status  string // the pseudo field
	regular []hpack.HeaderField
}

func (f fields) value(name string) string {
	for _, h := range f.regular {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// newFieldDecoder decodes all field blocks of a connection. Their strings are bounded; what they unfold to is in decode.
func newFieldDecoder() *hpack.Decoder {
	d := hpack.NewDecoder(4096, nil) // the table that a peer may assume (RFC 9113, 6.5.2)
	d.SetMaxStringLength(maxHeader)
	return d
}

// decode unfolds one field block.
func decode(d *hpack.Decoder, block []byte) (fields, error) {
	var f fields
	var wrong error
	left := maxHeader
	d.SetEmitEnabled(true)
	d.SetEmitFunc(func(h hpack.HeaderField) {
		name, pseudo := strings.CutPrefix(h.Name, ":")
		switch left -= int(h.Size()); {
		case left < 0:
			wrong = tooLongHeader
		case pseudo && (name != "status" || f.status != "" || f.regular != nil), !pseudo && h.Name != strings.ToLower(h.Name):
			wrong = errFrame("a malformed header")
		case pseudo:
			f.status = h.Value
		default:
			f.regular = append(f.regular, h)
		}
		if wrong != nil {
			d.SetEmitEnabled(false)
		}
	})
	if _, err := d.Write(block); err != nil {
		return fields{}, errFrame("a header that cannot be decoded")
	}
	if err := d.Close(); err != nil {
		return fields{}, errFrame("a header that cannot be decoded")
	}
	return f, wrong
}

// errorCodes are HTTP/2's (RFC 9113, 7).
var errorCodes = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func errorCode(b []byte) string {
	n := binary.BigEndian.Uint32(b)
	if int64(n) < int64(len(errorCodes)) {
		return errorCodes[n]
	}
	return fmt.Sprintf("error %#x", n)
}
