// Package chain is the form of a log whose lines are chained: each line is a JSON object that ends with the members of a
// Link, which name the line before it by its hash. It reads such logs; package notary writes and verifies them. The two
// are apart because programs that only read are to start without cryptography.
package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxLine bounds one line with its newline, in bytes.
const MaxLine = 64 << 10

// Start is the Prev of a chain's first line.
var Start = strings.Repeat("0", 64)

// Link is what chains one line to the one before it.
type Link struct {
	Seq  uint64 `json:"seq"`            // 1, 2, … through all files of the log
	Prev string `json:"prev"`           // SHA-256 of the line before, without its newline, in lower-case hexadecimal; Start in the first
	File uint64 `json:"file,omitempty"` // in the first line of each file of the log: 1, 2, … through all rotations
	Torn *Torn  `json:"torn,omitempty"` // what an append that did not come to its end has left before this line
	Sig  []byte `json:"sig,omitempty"`  // Ed25519 (RFC 8032) signature of the line without this member, in base64
}

// Torn tells of the bytes between the last whole line and this one, as this line's writer found them.
type Torn struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // of them, in lower-case hexadecimal
}

// Join puts link's members at the end of the JSON object body.
func Join(body []byte, link Link) ([]byte, error) {
	if len(body) < 3 || body[0] != '{' || body[len(body)-1] != '}' {
		return nil, fmt.Errorf("%.40q is not a JSON object with members", body)
	}
	tail, err := json.Marshal(link)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(body)+len(tail))
	line = append(line, body[:len(body)-1]...)
	return append(append(line, ','), tail[1:]...), nil
}

// ErrNoLine is what Split returns for bytes that are no line of a chain.
var ErrNoLine = errors.New("not a line of a chain")

// Split takes a line, without its newline, apart: the object that it was made of, and its link. It accepts only what Join
// makes. The error wraps ErrNoLine.
func Split(line []byte) (body []byte, link Link, err error) {
	// Within a JSON string this text would have its quotes escaped, so the last one is the member.
	i := bytes.LastIndex(line, []byte(`,"seq":`))
	if i < 2 || len(line) >= MaxLine {
		return nil, Link{}, ErrNoLine
	}
	tail := append([]byte("{"), line[i+1:]...)
	if err := json.Unmarshal(tail, &link); err != nil {
		return nil, Link{}, fmt.Errorf("%w: %w", ErrNoLine, err)
	}
	body = append(bytes.Clone(line[:i]), '}')
	again, err := Join(body, link)
	switch {
	case err != nil || !bytes.Equal(again, line):
		return nil, Link{}, fmt.Errorf("%w: its last members are not in the form of a link", ErrNoLine)
	case link.Seq == 0 || !isHash(link.Prev) || link.Torn != nil && (link.Torn.Bytes <= 0 || !isHash(link.Torn.SHA256)):
		return nil, Link{}, fmt.Errorf("%w: its link is out of range", ErrNoLine)
	case !json.Valid(body):
		return nil, Link{}, fmt.Errorf("%w: it is not JSON", ErrNoLine)
	}
	return body, link, nil
}

func isHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
