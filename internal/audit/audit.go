// Package audit is the host's audit log: every receipt of every container, in the order in which they were recorded. It
// outlives the containers. Its lines are chained as a journal's are (package chain), by a chain of its own; the wardens write
// it side by side (package notary). Here it is read.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Name is the name of the log in the state directory. Older files have a number after it.
const Name = "audit.jsonl"

const (
	maxFile = 8 << 20 // bounds one file, in bytes: some 5,000 receipts
	old     = 7       // files beside the newest
)

// Log gives the audit log of a host.
func Log(stateDir string) chain.Log {
	return chain.Log{Path: filepath.Join(stateDir, Name), MaxFile: maxFile, Old: old}
}

// Event is one line of the log.
type Event struct {
	Seq       uint64
	ID        string // of the receipt
	Container receipt.Container
	Text      []byte // the whole line, without its newline
}

// parse reads a line. What is no line of a chain, because it is torn, is none.
func parse(text []byte) (Event, bool) {
	body, link, err := chain.Split(text)
	if err != nil {
		return Event{}, false
	}
	var r struct {
		ID        string            `json:"id"`
		Container receipt.Container `json:"container"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return Event{}, false
	}
	return Event{link.Seq, r.ID, r.Container, bytes.Clone(text)}, true
}

// maxFind is how far back Find looks, in bytes of each file.
const maxFind = 256 << 10

// Find looks among the last lines for the receipt with that id, and gives nil if it is not there.
func Find(log chain.Log, id string) (found *receipt.Receipt, err error) {
	files, err := log.OpenAll()
	if err != nil {
		return nil, fmt.Errorf("cannot read the audit log: %w", err)
	}
	defer chain.CloseAll(files)
	for _, f := range files[:min(2, len(files))] {
		err := chain.Backward(f, f.Info.Size(), maxFind, func(text []byte, _ int64, _ bool) bool {
			if e, ok := parse(text); ok && e.ID == id {
				r := new(receipt.Receipt)
				if json.Unmarshal(text, r) == nil {
					found = r
				}
			}
			return found == nil
		})
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}
