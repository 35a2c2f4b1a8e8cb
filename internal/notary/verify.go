package notary

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/gatewarden/gatewarden/internal/chain"
)

// Kind is how a chain is broken.
type Kind string

// The kinds.
const (
	Damaged    Kind = "damaged"    // bytes that are no line, and no torn one either
	Edited     Kind = "edited"     // a line is not the one that the next one names
	Removed    Kind = "removed"    // lines are missing within a file
	Duplicated Kind = "duplicated" // the line before comes again
	Reordered  Kind = "reordered"  // a line is not in its place
	NoFile     Kind = "no-file"    // a file of the rotation is missing
	Restarted  Kind = "restarted"  // a new chain begins
	Signature  Kind = "signature"  // a signature that does not fit
	Unsigned   Kind = "unsigned"   // no signature, though earlier lines have one
)

// Break is the first broken link of a chain.
type Break struct {
	Kind     Kind   `json:"kind"`
	File     string `json:"file"`
	Line     int    `json:"line"` // 1, 2, … in that file
	Seq      uint64 `json:"seq"`  // of that line; 0 when it has none
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Meaning  string `json:"meaning"` // what can have brought it about
}

// Report is what was found of one log.
type Report struct {
	Log      string   `json:"log"`
	Intact   bool     `json:"intact"`
	Files    int      `json:"files"`
	Lines    int      `json:"lines"` // good ones, up to the break
	FirstSeq uint64   `json:"first_seq"`
	LastSeq  uint64   `json:"last_seq"`
	Last     string   `json:"last_sha256"` // hash of the last line: who keeps it elsewhere can tell later whether lines were taken from the end
	Signed   int      `json:"signed"`      // lines with a good signature; without a key to verify with, with any
	Verified bool     `json:"signatures_verified"`
	Notes    []string `json:"notes"` // what is as it may be, and worth knowing
	Broken   *Break   `json:"broken"`
}

// Options say how strict a verification is.
type Options struct {
	Keys          []ed25519.PublicKey // any of them may have signed; none: signatures are counted and not verified
	AllowUnsigned bool                // lines without a signature after signed ones are a note
	// Part allows the oldest file to begin anywhere, for a copy of a part of a log. Else that must be file Old.
	Part bool
}

// lookAgain is how long the end of a log that seems torn is given: its line may be being written at this moment.
const lookAgain = 100 * time.Millisecond

// errFull bounds a file that is verified.
var errFull = errors.New("it is longer than a file of this log can be")

// Verify reads a log from its oldest line to its newest and checks every link. It takes no lock, so nobody waits for it; lines
// that are appended meanwhile may or may not be among those that it has seen. The error says that the log can't be read; a
// broken chain is no error.
func Verify(log chain.Log, opt Options) (Report, error) {
	r, err := verifyOnce(log, opt)
	// A rotation has several steps, and an append can be seen half-way.
	if err == nil && (r.unsettled || r.Broken != nil && r.Broken.Kind == NoFile) {
		time.Sleep(lookAgain)
		r, err = verifyOnce(log, opt)
	}
	return r.Report, err
}

type verification struct {
	Report
	opt       Options
	unsettled bool // the last line may be being written

	have     bool // a line was read
	prev     []byte
	link     chain.Link
	at       place
	gap      [][]byte // what has come since prev and is no line, by file
	gapAt    place
	gapFile  string // of its last part
	seen     map[uint64]bool
	unsigned *Break // the first line that lacks a signature
	lacking  int
	fresh    bool   // no line of this file was read yet
	number   uint64 // of the file of the last line, as its first line says
	index    int    // of this file among the log's, 0 is the newest
}

type place struct {
	file string
	line int
}

func newVerification(log chain.Log, opt Options) *verification {
	v := &verification{opt: opt, seen: map[uint64]bool{}}
	v.Log, v.Notes, v.Verified = log.Path, []string{}, len(opt.Keys) > 0
	return v
}

func verifyOnce(log chain.Log, opt Options) (*verification, error) {
	v := newVerification(log, opt)
	files, err := log.OpenAll()
	if err != nil {
		return v, err
	}
	defer chain.CloseAll(files)
	v.Files = len(files)
	if len(files) == 0 {
		v.Intact = true
		v.note("%s does not exist: nothing was recorded, or all of it was removed", log.Path)
		return v, nil
	}
	contents := make([][]byte, len(files)) // oldest first
	names := make([]string, len(files))
	for i := range files {
		f := files[len(files)-1-i]
		data, err := io.ReadAll(io.LimitReader(f, log.MaxFile+1))
		if err == nil && int64(len(data)) > log.MaxFile {
			err = errFull
		}
		if err != nil {
			return v, fmt.Errorf("cannot verify %s: %w", f.Name(), err)
		}
		contents[i], names[i] = data, f.Name()
	}
	v.files(log, contents, names)
	return v, nil
}

// files verifies the contents of the log's files, oldest first.
func (v *verification) files(log chain.Log, contents [][]byte, names []string) {
	for i, data := range contents {
		v.fresh, v.index = true, number(log, names[i])
		n := 0
		for piece := range bytes.Lines(data) {
			n++
			v.piece(piece, place{names[i], n}, log, contents[i:], len(bytes.TrimRight(piece, "\n")) == len(piece))
			if v.Broken != nil {
				return
			}
		}
	}
	v.finish()
}

// number is which of the log's files name is.
func number(log chain.Log, name string) int {
	for k := 0; k <= log.Old; k++ {
		if log.Numbered(k) == name {
			return k
		}
	}
	return 0
}

func (v *verification) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

func (v *verification) fail(k Kind, at place, seq uint64, expected, found, meaning string) {
	v.Broken = &Break{k, at.file, at.line, seq, expected, found, meaning}
}

// piece takes what lies between two newlines, with its newline. rest is this file and those after it.
func (v *verification) piece(piece []byte, at place, log chain.Log, rest [][]byte, open bool) {
	line := bytes.TrimSuffix(piece, []byte{'\n'})
	body, link, err := chain.Split(line)
	if err != nil {
		if len(v.gap) == 0 {
			v.gapAt = at
		}
		if len(v.gap) == 0 || v.gapFile != at.file {
			v.gap, v.gapFile = append(v.gap, nil), at.file
		}
		last := len(v.gap) - 1
		v.gap[last] = append(v.gap[last], piece...)
		return
	}
	if !v.torn(link, at) || !v.placed(line, link, at, log, rest) || !v.signed(body, link, at) {
		return
	}
	if open {
		v.note("%s line %d (seq %d) lacks its newline: its writer ended just before that; the next line brings it", at.file, at.line, link.Seq)
		v.unsettled = true
	}
	if !v.have {
		v.FirstSeq = link.Seq
	}
	v.have, v.fresh, v.prev, v.link, v.at = true, false, line, link, at
	v.seen[link.Seq] = true
	v.Lines++
	v.LastSeq, v.Last = link.Seq, hash(line)
}

// torn checks what lies before the line of link against what that says of it.
func (v *verification) torn(link chain.Link, at place) bool {
	parts, gap := v.gap, bytes.Join(v.gap, nil)
	v.gap = nil
	switch {
	case len(gap) == 0 && link.Torn == nil:
		return true
	case link.Torn == nil:
		v.fail(Damaged, v.gapAt, 0, fmt.Sprintf("the line of seq %d", v.link.Seq+1), quoted(gap),
			"a line was damaged, edited or put in after it was written: a torn write would have been noted by the line after it")
	case len(gap) == 0:
		v.fail(Removed, at, link.Seq, fmt.Sprintf("%d torn bytes before this line, which tells of them", link.Torn.Bytes), "none",
			"what was torn has been removed since")
	default:
		found := gap
		if int64(len(gap)) == link.Torn.Bytes+1 { // with the newline that closed it
			found = gap[:len(gap)-1]
			last := len(parts) - 1
			parts[last] = parts[last][:len(parts[last])-1]
		}
		if int64(len(found)) != link.Torn.Bytes || hash(found) != link.Torn.SHA256 {
			v.fail(Damaged, v.gapAt, 0, fmt.Sprintf("%d torn bytes with SHA-256 %s, of which line %d (seq %d) tells", link.Torn.Bytes, link.Torn.SHA256, at.line, link.Seq),
				fmt.Sprintf("%d bytes with SHA-256 %s", len(found), hash(found)), "what was torn has been changed since")
			return false
		}
		if !beginLines(parts) {
			v.fail(Damaged, v.gapAt, 0, "the line of seq "+fmt.Sprint(v.link.Seq+1)+", or the beginning of one", quoted(found),
				"a whole line was damaged or edited before the next one was appended: a torn write leaves the beginning of a line, and this is none")
			return false
		}
		v.note("%s line %d: %d bytes are torn: an append did not come to its end (a crash, a full disk); seq %d tells of it, and nothing else is missing",
			v.gapAt.file, v.gapAt.line, link.Torn.Bytes, link.Seq)
		return true
	}
	return false
}

// placed checks that the line is the next one.
func (v *verification) placed(line []byte, link chain.Link, at place, log chain.Log, rest [][]byte) bool {
	if v.have && link.Seq == 1 && link.Prev == chain.Start {
		v.fail(Restarted, at, 1, fmt.Sprintf("seq %d", v.link.Seq+1), "the first line of a new chain",
			"the files before this line were taken away while the log was in use, or this one was put in their place")
		return false
	}
	if v.fresh {
		if !v.begins(link, at, log) {
			return false
		}
		v.number = link.File
		if !v.have {
			return true
		}
	} else if link.File != 0 {
		v.fail(Removed, at, link.Seq, "a line within its file", fmt.Sprintf("the first line of file %d of the log", link.File), "two files were put together")
		return false
	}
	expected := v.link.Seq + 1
	switch {
	case link.Seq == v.link.Seq && bytes.Equal(line, v.prev):
		v.fail(Duplicated, at, link.Seq, fmt.Sprintf("seq %d", expected), fmt.Sprintf("seq %d again", link.Seq), "the line before was written a second time")
	case v.seen[link.Seq]:
		v.fail(Reordered, at, link.Seq, fmt.Sprintf("seq %d", expected), fmt.Sprintf("seq %d, which was there already", link.Seq), "a line was moved, or written a second time")
	case link.Seq != expected && comesLater(rest, at.line, expected):
		v.fail(Reordered, at, link.Seq, fmt.Sprintf("seq %d", expected), fmt.Sprintf("seq %d; the expected one comes later", link.Seq), "lines were moved")
	case link.Seq > expected:
		v.fail(Removed, at, link.Seq, fmt.Sprintf("seq %d", expected), fmt.Sprintf("seq %d", link.Seq), fmt.Sprintf("%d line(s) before this one were removed", link.Seq-expected))
	case link.Seq != expected:
		v.fail(Edited, at, link.Seq, fmt.Sprintf("seq %d", expected), fmt.Sprintf("seq %d", link.Seq), "the line's number was edited, or lines before it were removed")
	case link.Prev != hash(v.prev):
		v.fail(Edited, at, link.Seq, fmt.Sprintf("prev %s, the hash of %s line %d (seq %d)", hash(v.prev), v.at.file, v.at.line, v.link.Seq), "prev "+link.Prev,
			fmt.Sprintf("the line before, seq %d, was edited after this one was written, or this one was", v.link.Seq))
		// Nothing stands for the line before either.
		v.Lines, v.LastSeq, v.Last = v.Lines-1, v.link.Seq-1, v.link.Prev
	default:
		return true
	}
	return false
}

// begins checks the first line of a file.
func (v *verification) begins(link chain.Link, at place, log chain.Log) bool {
	switch {
	case link.File == 0:
		v.fail(Removed, at, link.Seq, "the first line of a file, which says which file it is", "a later line of its file", "the lines before it in this file were removed")
	case v.have && link.File == v.number+1:
		return true
	case v.have:
		v.fail(NoFile, at, link.Seq, fmt.Sprintf("file %d of the log", v.number+1), fmt.Sprintf("file %d", link.File), "a file of the rotation is missing, or files were exchanged")
	case link.File == 1 && (link.Seq != 1 || link.Prev != chain.Start):
		v.fail(Edited, at, link.Seq, "seq 1 with a prev of zeros in the log's first file", fmt.Sprintf("seq %d, prev %s", link.Seq, link.Prev), "the chain's first line was edited")
	case link.File != 1 && link.Seq == 1:
		v.fail(Edited, at, link.Seq, "file 1", fmt.Sprintf("file %d", link.File), "the chain's first line was edited")
	case link.File == 1 || v.opt.Part || v.index == log.Old:
		if link.File > 1 {
			v.note("the oldest line that is here is seq %d, the first of file %d of the log: what was before it was rotated away, and is not verified", link.Seq, link.File)
		}
		return true
	default:
		v.fail(NoFile, at, link.Seq, fmt.Sprintf("file %d of the log, at %s", link.File-1, log.Numbered(v.index+1)), "none", "a file of the rotation is missing: it keeps the last "+fmt.Sprint(log.Old)+" beside the newest")
	}
	return false
}

// comesLater tells whether the line of seq is in the first of the files after line number n, or in a later one.
func comesLater(files [][]byte, n int, seq uint64) bool {
	for i, data := range files {
		k := 0
		for line := range bytes.Lines(data) {
			if k++; i == 0 && k <= n {
				continue
			}
			if _, link, err := chain.Split(bytes.TrimSuffix(line, []byte{'\n'})); err == nil && link.Seq == seq {
				return true
			}
		}
	}
	return false
}

// signed checks a line's signature.
func (v *verification) signed(body []byte, link chain.Link, at place) bool {
	if link.Sig == nil {
		if v.Signed > 0 {
			v.lacking++
			if v.unsigned == nil {
				v.unsigned = &Break{Unsigned, at.file, at.line, link.Seq, "a signature, as earlier lines have one", "none" + about(body),
					"its warden had no key (it was not readable, or the container was created before there was one; warden.log and gatewarden doctor tell), or somebody without the key wrote it"}
			}
		}
		return true
	}
	v.Signed++
	if len(v.opt.Keys) == 0 {
		return true
	}
	sig := link.Sig
	link.Sig = nil
	text, err := chain.Join(body, link)
	if err == nil {
		for _, k := range v.opt.Keys {
			if ed25519.Verify(k, text, sig) {
				return true
			}
		}
	}
	meaning := "the line was edited or forged, or another key has signed it"
	if v.Signed == 1 {
		meaning = "another key has signed it (an earlier one: name both with --public-key), or the line was edited or forged"
	}
	v.fail(Signature, at, link.Seq, "a signature of this line by the host's key", "one that does not fit", meaning)
	return false
}

// about tells whose line it is.
func about(body []byte) string {
	var r struct {
		Container struct{ Namespace, ID string }
		Time      time.Time
	}
	if json.Unmarshal(body, &r) != nil || r.Container.ID == "" {
		return ""
	}
	return fmt.Sprintf(" (%.160q, %s)", r.Container.Namespace+"/"+r.Container.ID, r.Time.UTC().Format(time.RFC3339))
}

// finish judges the end of the log.
func (v *verification) finish() {
	if len(v.gap) > 0 {
		v.unsettled = true
		gap := bytes.Join(v.gap, nil)
		if !beginLines(v.gap) {
			v.fail(Damaged, v.gapAt, 0, fmt.Sprintf("the line of seq %d, or the beginning of one", v.link.Seq+1), quoted(gap),
				"the last line was damaged or edited, or something else was appended: a torn write leaves the beginning of a line, and this is none")
			return
		}
		v.note("%s line %d: the last %d bytes are torn: an append did not come to its end (a crash, a full disk); the next one will tell of it, and nothing else is missing",
			v.gapAt.file, v.gapAt.line, len(gap))
	}
	if v.unsigned != nil {
		v.note("%d line(s) have no signature though earlier ones have, since %s line %d (seq %d)", v.lacking, v.unsigned.File, v.unsigned.Line, v.unsigned.Seq)
		if v.Verified && !v.opt.AllowUnsigned {
			v.Broken = v.unsigned
			return
		}
	}
	v.Intact = true
}

// beginLines tells whether these ends of files can be what appends that did not come to their end have left: the beginnings of
// lines. A newline is written only together with the line after it, so none is at the end. What a filesystem has made longer
// before it wrote the content, at a loss of power, ends with NULs.
func beginLines(parts [][]byte) bool {
	for _, part := range parts {
		if len(part) > 0 && part[len(part)-1] == '\n' {
			return false
		}
		for piece := range bytes.SplitSeq(part, []byte{'\n'}) {
			piece = bytes.TrimRight(piece, "\x00")
			if len(piece) == 0 {
				continue
			}
			var v json.RawMessage
			if piece[0] != '{' || len(piece) >= chain.MaxLine || !errors.Is(json.NewDecoder(bytes.NewReader(piece)).Decode(&v), io.ErrUnexpectedEOF) {
				return false
			}
		}
	}
	return true
}

func quoted(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%d bytes: %q…", len(b), b[:most])
	}
	return fmt.Sprintf("%q", b)
}

// ReadPublicKeyFile reads a public key of any owner.
func ReadPublicKeyFile(path string) (ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the public key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the public key: %w", &fs.PathError{Op: "read", Path: path, Err: err})
	}
	return ReadPublicKey(path, data)
}
