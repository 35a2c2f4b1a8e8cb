// Package memo is what a warden writes down beside its control socket: for a successor, should it be lost, and for clients
// that want to know how its gateway was without waking it.
//
// It lies in memory (/run), so it is not synced: it has to survive the warden, not the host.
package memo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Name is the memo's name in the container's run directory.
const Name = "warden.json"

// Version is the version of the memo's form. One of another version is another release's, and is not read.
const Version = 6

// MaxSize bounds a memo, in bytes.
const MaxSize = 1 << 20

// Memo tells how things stand, which process is the gateway, and what was meant for it. It is written before the deed: before
// a launcher is released, and before the gateway is signalled. To a successor it is a hint where to look and never a proof:
// it proves all of it again.
type Memo struct {
	Status   receipt.Status // with the health that was last looked at
	Counters counters.Counters
	Recovery
}

// Recovery is what only a successor needs.
type Recovery struct {
	Exits    []time.Time      `json:"exits"` // unasked ones, within the restart window
	Backoff  time.Duration    `json:"backoff"`
	Gateway  *receipt.New     `json:"gateway"`  // the gateway, or the launcher that is about to become it
	Identity process.Identity `json:"identity"` // of that process; of the launcher until it has been released
	Asked    bool             `json:"asked"`    // its end has been asked for
	Proven   bool             `json:"proven"`
	Adrift   bool             `json:"adrift,omitempty"` // its output goes to FIFOs that are not in the run directory any more
	Profile  profile.Profile  `json:"profile"`          // that it was started with
	Pending  *Pending         `json:"pending"`          // the action in progress, past its preflight
}

// Pending is an action that has begun, for a successor to finish and to answer for.
type Pending struct {
	ID      string              `json:"id"` // of its receipt
	Kind    receipt.Action      `json:"kind"`
	Asked   bool                `json:"asked"`
	Reason  string              `json:"reason"`
	Request string              `json:"request"`
	By      receipt.RequestedBy `json:"by"`
	Old     *receipt.Old        `json:"old"`     // the gateway that it has ended
	Overlap bool                `json:"overlap"` // the gateway is still the old one, which serves
	Profile profile.Profile     `json:"profile"`
	// Generation is the one that it tries, or has tried and turned down; 0: it starts the current one.
	Generation int               `json:"generation"`
	Seen       generation.Inputs `json:"seen"` // what was declared when that was made
}

// head is the memo's first line. The second is the Recovery. So a client reads and decodes what is for it, as strictly as a
// successor does the whole, and not the several times longer rest.
type head struct {
	Version  int               `json:"version"`
	Status   receipt.Status    `json:"status"`
	Counters counters.Counters `json:"counters"`
}

// encode gives the memo's form: two lines, each a JSON object.
func (m *Memo) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if err := enc.Encode(head{Version, m.Status, m.Counters}); err != nil {
		return nil, err
	}
	if err := enc.Encode(m.Recovery); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// parse is strict, as for all records of our own.
func parse(data []byte) (*Memo, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("longer than %d bytes", MaxSize)
	}
	first, second, _ := bytes.Cut(data, []byte("\n"))
	h, err := parseHead(first)
	if err != nil {
		return nil, err
	}
	r, err := strictjson.Decode[Recovery](second)
	switch {
	case err != nil:
		return nil, err
	case r.Profile.Name == "":
		return nil, errors.New("it is not complete")
	case r.Gateway != nil && (r.Gateway.PID <= 0 || r.Gateway.StartTime == 0 || r.Gateway.StartTime != r.Identity.Start):
		return nil, fmt.Errorf("process %d with start time %d is not a gateway", r.Gateway.PID, r.Gateway.StartTime)
	}
	return &Memo{h.Status, h.Counters, r}, nil
}

func parseHead(line []byte) (*head, error) {
	h, err := strictjson.Decode[head](line)
	switch {
	case err != nil:
		return nil, err
	case h.Version != Version:
		return nil, fmt.Errorf("version %d is not %d", h.Version, Version)
	case h.Status.Generation < 0 || h.Status.State == "":
		return nil, errors.New("its status is not complete")
	}
	if err := h.Counters.Check(); err != nil {
		return nil, err
	}
	return &h, nil
}

// Write puts m into the run directory dir, in the place of the memo that is there. It gives the file, with a lock on it that
// says that its writer lives: the caller keeps it until it has written the next one, or knows that this one is not true any
// more, and then closes it. The kernel does if the caller dies.
//
// The lock is an open file description lock (fcntl(2), Linux 3.15), because that kind can be looked at without being taken.
func (m *Memo) Write(dir string) (*os.File, error) {
	data, err := m.encode()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, Name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		err = sign(f)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// whole is the lock that a writer has on its memo: all of it, for itself.
func whole() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart} }

func sign(f *os.File) error {
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, whole()); err != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

// signed tells whether whoever wrote f still holds it. Nothing is taken, so nobody who is about to take anything is disturbed.
func signed(f *os.File) (bool, error) {
	lock := whole()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lock); err != nil {
		return false, &os.PathError{Op: "look at the lock of", Path: f.Name(), Err: err}
	}
	return lock.Type != unix.F_UNLCK, nil
}

// Read reads all of the memo in dir, for a successor: who wrote it need not live. It gives nil without an error where no
// warden has been before.
func Read(dir string) (*Memo, error) {
	f, err := open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	m, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", f.Name(), err)
	}
	return m, nil
}

// ErrUnsigned says that nobody holds the memo any more: its writer is gone, or knows that it is not true.
var ErrUnsigned = errors.New("nobody stands by it")

// replacements bounds how often the memo is opened anew because its writer replaced it meanwhile.
const replacements = 16

// Glance is what the memo has for clients.
type Glance struct {
	Status   receipt.Status
	Counters counters.Counters
	Signed   bool // its writer lives and stands by it. If not, the status is history; what has been counted has been all the same.
}

// Status gives the status in the memo in dir, as its writer, which lives, last wrote it down. It wakes nobody. Without a memo
// the error is fs.ErrNotExist, without a living writer ErrUnsigned.
func Status(dir string) (*receipt.Status, error) {
	g, err := Look(dir)
	if err == nil && !g.Signed {
		err = fmt.Errorf("cannot use %s: %w", filepath.Join(dir, Name), ErrUnsigned)
	}
	if err != nil {
		return nil, err
	}
	return &g.Status, nil
}

// Look reads the part of the memo in dir that is for clients, whether its writer lives or not. It wakes nobody. Without a memo
// the error is fs.ErrNotExist.
func Look(dir string) (*Glance, error) {
	for range replacements {
		g, again, err := look(dir)
		if !again {
			return g, err
		}
	}
	return nil, fmt.Errorf("%s is replaced faster than it can be read", filepath.Join(dir, Name))
}

// look is one try; again says that what was read has been replaced before it could be told who stands by it.
func look(dir string) (g *Glance, again bool, err error) {
	f, err := open(dir)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	line, err := firstLine(f)
	if err != nil {
		return nil, false, fmt.Errorf("cannot use %s: %w", f.Name(), err)
	}
	ok, err := signed(f)
	switch {
	case err != nil:
		return nil, false, err
	case !ok && replaced(f):
		return nil, true, nil
	}
	h, err := parseHead(line)
	if err != nil {
		return nil, false, fmt.Errorf("cannot use %s: %w", f.Name(), err)
	}
	return &Glance{Status: h.Status, Counters: h.Counters, Signed: ok}, false, nil
}

// firstLine reads no more than it takes; a status with its last receipt has some two thousand bytes.
func firstLine(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, MaxSize)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("it has no first line: %w", err)
	}
	return line, nil
}

// replaced tells whether f is not the memo any more. A file that is gone has been replaced too: the next try tells.
func replaced(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(f.Name())
	return err != nil || !os.SameFile(mine, there)
}

func open(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, Name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
