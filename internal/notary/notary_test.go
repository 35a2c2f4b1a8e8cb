package notary

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/chain"
)

// keys gives a key that is the same each time.
func keys(n byte) (ed25519.PrivateKey, ed25519.PublicKey) {
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	return k, k.Public().(ed25519.PublicKey)
}

func newLog(t testing.TB) chain.Log {
	t.Helper()
	return chain.Log{Path: filepath.Join(t.TempDir(), "log.jsonl"), MaxFile: 1 << 20, Old: 3}
}

func body(i int) []byte { return fmt.Appendf(nil, `{"id":"r%d","message":"m"}`, i) }

// add appends n lines.
func add(t testing.TB, log chain.Log, key ed25519.PrivateKey, n int) (last chain.Link) {
	t.Helper()
	for i := range n {
		var err error
		if last, err = Append(log, key, body(i), Patience); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func verify(t testing.TB, log chain.Log, opt Options) Report {
	t.Helper()
	r, err := Verify(log, opt)
	if err != nil {
		t.Fatal(err)
	}
	if r.Intact != (r.Broken == nil) {
		t.Fatalf("intact %v, %+v", r.Intact, r.Broken)
	}
	return r
}

func intact(t testing.TB, r Report, lines int) {
	t.Helper()
	if !r.Intact || r.Lines != lines {
		t.Fatalf("%d lines, want %d; %+v; %q", r.Lines, lines, r.Broken, r.Notes)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func lines(data []byte) [][]byte {
	return bytes.SplitAfter(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

func TestEachLineNamesTheOneBefore(t *testing.T) {
	log := newLog(t)
	add(t, log, nil, 3)
	prev := chain.Start
	for i, line := range bytes.Split(bytes.TrimSuffix(read(t, log.Path), []byte("\n")), []byte("\n")) {
		got, link, err := chain.Split(line)
		if err != nil || !bytes.Equal(got, body(i)) || link.Seq != uint64(i+1) || link.Prev != prev || (link.File == 1) != (i == 0) || link.Sig != nil {
			t.Errorf("line %d: %s, %+v, %v", i+1, got, link, err)
		}
		prev = hash(line)
	}
	r := verify(t, log, Options{})
	intact(t, r, 3)
	if r.FirstSeq != 1 || r.LastSeq != 3 || r.Last != prev || len(r.Notes) != 0 || r.Verified {
		t.Errorf("%+v", r)
	}
	if info, err := os.Stat(log.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// rewrite gives the lines of data in a new order; 0 is the first.
func rewrite(data []byte, order ...int) []byte {
	all := lines(data)
	var out []byte
	for _, i := range order {
		out = append(append(out, bytes.TrimSuffix(all[i], []byte("\n"))...), '\n')
	}
	return out
}

// relink changes a line's link.
func relink(t *testing.T, line []byte, key ed25519.PrivateKey, change func(*chain.Link)) []byte {
	t.Helper()
	b, link, err := chain.Split(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	link.Sig = nil
	change(&link)
	out, err := seal(b, link, key)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func TestEveryKindOfTamperingIsToldByPlaceAndKind(t *testing.T) {
	key, pub := keys(1)
	other, _ := keys(2)
	signed := Options{Keys: []ed25519.PublicKey{pub}}
	replace := func(line int, old, new string) func(*testing.T, []byte) []byte {
		return func(t *testing.T, data []byte) []byte {
			all := lines(data)
			all[line] = bytes.Replace(all[line], []byte(old), []byte(new), 1)
			return append(bytes.Join(all, nil), '\n')
		}
	}
	reorder := func(order ...int) func(*testing.T, []byte) []byte {
		return func(_ *testing.T, data []byte) []byte { return rewrite(data, order...) }
	}
	// forge puts in a line that fits the chain, and makes those after it fit too.
	forge := func(key ed25519.PrivateKey) func(*testing.T, []byte) []byte {
		return func(t *testing.T, data []byte) []byte {
			all := lines(data)
			var out []byte
			prev := chain.Start
			for i, line := range all {
				if i == 2 {
					line = bytes.Replace(line, []byte(`"r2"`), []byte(`"xx"`), 1)
				}
				if i >= 2 {
					line = relink(t, line, key, func(l *chain.Link) { l.Prev = prev })
				}
				line = bytes.TrimSuffix(line, []byte("\n"))
				prev = hash(line)
				out = append(append(out, line...), '\n')
			}
			return out
		}
	}
	for name, c := range map[string]struct {
		key    ed25519.PrivateKey
		opt    Options
		tamper func(*testing.T, []byte) []byte
		kind   Kind
		line   int
		seq    uint64
	}{
		"a changed word":                                {nil, Options{}, replace(1, `"r1"`, `"rX"`), Edited, 3, 3},
		"a changed word, signed":                        {key, signed, replace(1, `"r1"`, `"rX"`), Signature, 2, 2},
		"a changed word in the last, signed":            {key, signed, replace(4, `"r4"`, `"rX"`), Signature, 5, 5},
		"a flipped bit of the form":                     {nil, Options{}, replace(1, `{"id"`, `{"id!`), Damaged, 2, 0},
		"a flipped bit in the first byte":               {nil, Options{}, replace(0, `{`, `z`), Damaged, 1, 0},
		"a changed prev":                                {nil, Options{}, replace(0, `"prev":"00`, `"prev":"01`), Edited, 1, 1},
		"a changed seq":                                 {nil, Options{}, replace(3, `"seq":4`, `"seq":3`), Reordered, 4, 3},
		"a larger seq":                                  {nil, Options{}, replace(3, `"seq":4`, `"seq":9`), Removed, 4, 9},
		"a dropped line":                                {nil, Options{}, reorder(0, 1, 3, 4), Removed, 3, 4},
		"the first line dropped":                        {nil, Options{}, reorder(1, 2, 3, 4), Removed, 1, 2},
		"the first line dropped, of a part":             {nil, Options{Part: true}, reorder(1, 2, 3, 4), Removed, 1, 2},
		"two lines swapped":                             {nil, Options{}, reorder(0, 2, 1, 3, 4), Reordered, 2, 3},
		"a line doubled":                                {nil, Options{}, reorder(0, 1, 1, 2, 3, 4), Duplicated, 3, 2},
		"a line repeated later":                         {nil, Options{}, reorder(0, 1, 2, 1, 3, 4), Reordered, 4, 2},
		"a chain that begins anew":                      {nil, Options{}, reorder(0, 1, 0, 1), Restarted, 3, 1},
		"a forged line, the rest made to fit, unsigned": {key, signed, forge(nil), Unsigned, 3, 3},
		"the same with another key":                     {key, signed, forge(other), Signature, 3, 3},
		"all of it signed by another key":               {other, signed, reorder(0, 1, 2, 3, 4), Signature, 1, 1},
		"something appended":                            {nil, Options{}, func(_ *testing.T, d []byte) []byte { return append(d, "hello"...) }, Damaged, 6, 0},
		"a whole line of something else appended":       {nil, Options{}, func(_ *testing.T, d []byte) []byte { return append(d, "{\"id\":1}\n"...) }, Damaged, 6, 0},
		"a line of something else between":              {nil, Options{}, replace(2, `{"id"`, "{\"id\":1}\n{\"id\""), Damaged, 3, 0},
		"a beginning of a line between":                 {nil, Options{}, replace(2, `{"id"`, "{\"id\":\n{\"id\""), Damaged, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			log := newLog(t)
			add(t, log, c.key, 5)
			write(t, log.Path, c.tamper(t, read(t, log.Path)))
			r := verify(t, log, c.opt)
			b := r.Broken
			if b == nil || b.Kind != c.kind || b.Line != c.line || b.Seq != c.seq || b.File != log.Path {
				t.Fatalf("%+v, want %s at line %d, seq %d", b, c.kind, c.line, c.seq)
			}
			if b.Expected == "" || b.Found == "" || b.Meaning == "" {
				t.Errorf("%+v does not tell all", b)
			}
		})
	}
}

// Whatever single bit is flipped in a signed log, it is found.
func TestNoFlippedBitOfASignedLogGoesUnnoticed(t *testing.T) {
	key, pub := keys(1)
	log := newLog(t)
	add(t, log, key, 2)
	good := read(t, log.Path)
	for i := range good[:len(good)-1] {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		write(t, log.Path, bad)
		// Not Verify, which looks at a torn end a second time.
		v, err := verifyOnce(log, Options{Keys: []ed25519.PublicKey{pub}})
		if err != nil || v.Broken == nil {
			t.Fatalf("bit %d of byte %d (%q): %+v, %v", i%8, i, good[i], v, err)
		}
	}
}

func TestATornEndIsRecognisedAndNotedByTheNextLine(t *testing.T) {
	for _, c := range []struct {
		name string
		torn string
	}{
		{"a beginning", `{"id":"r2","mess`},
		{"one byte", `{`},
		{"NULs after it", `{"id":"r2"` + "\x00\x00"},
		{"nothing but NULs", "\x00\x00\x00"},
		{"two after each other", `{"id":"r` + "\n" + `{"id"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := newLog(t)
			add(t, log, nil, 2)
			at := len(read(t, log.Path))
			write(t, log.Path, append(read(t, log.Path), c.torn...))
			r := verify(t, log, Options{})
			intact(t, r, 2)
			if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], fmt.Sprintf("the last %d bytes are torn", len(c.torn))) {
				t.Errorf("notes %q", r.Notes)
			}
			link := add(t, log, nil, 1)
			if link.Seq != 3 || link.Torn == nil || link.Torn.Bytes != int64(len(c.torn)) || link.Torn.SHA256 != hash([]byte(c.torn)) {
				t.Errorf("the next line's link is %+v, %+v", link, link.Torn)
			}
			add(t, log, nil, 2)
			r = verify(t, log, Options{})
			intact(t, r, 5)
			if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "seq 3 tells of it") {
				t.Errorf("notes %q", r.Notes)
			}
			// What was torn is part of the record.
			data := read(t, log.Path)
			changed := bytes.Clone(data)
			changed[at] = 'X'
			write(t, log.Path, changed)
			if b := verify(t, log, Options{}).Broken; b == nil || b.Kind != Damaged || b.Line != 3 {
				t.Errorf("changed afterwards: %+v", b)
			}
			write(t, log.Path, append(data[:at:at], data[at+len(c.torn)+1:]...))
			if b := verify(t, log, Options{}).Broken; b == nil || b.Kind != Removed || b.Seq != 3 {
				t.Errorf("removed afterwards: %+v", b)
			}
		})
	}
}

func TestALineThatLacksOnlyItsNewlineIsWhole(t *testing.T) {
	log := newLog(t)
	add(t, log, nil, 2)
	write(t, log.Path, bytes.TrimSuffix(read(t, log.Path), []byte("\n")))
	r := verify(t, log, Options{})
	intact(t, r, 2)
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "lacks its newline") {
		t.Errorf("notes %q", r.Notes)
	}
	if link := add(t, log, nil, 1); link.Seq != 3 || link.Torn != nil {
		t.Errorf("%+v", link)
	}
	r = verify(t, log, Options{})
	intact(t, r, 3)
	if len(r.Notes) != 0 {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestALastLineThatWasEditedIsNotTakenForATornOne(t *testing.T) {
	log := newLog(t)
	add(t, log, nil, 3)
	data := read(t, log.Path)
	write(t, log.Path, bytes.Replace(data, []byte(`"seq":3,"prev"`), []byte(`"seq":3,"Prev"`), 1))
	add(t, log, nil, 2)
	if b := verify(t, log, Options{}).Broken; b == nil || b.Kind != Damaged || b.Line != 3 || !strings.Contains(b.Meaning, "before the next one was appended") {
		t.Errorf("%+v", b)
	}
}

func TestTheChainGoesOnThroughRotations(t *testing.T) {
	log := newLog(t)
	log.MaxFile = 1000 // some seven lines
	key, pub := keys(1)
	opt := Options{Keys: []ed25519.PublicKey{pub}}
	full := 0
	for n := 1; n <= 60; n++ {
		link := add(t, log, key, 1)
		if link.Seq != uint64(n) {
			t.Fatalf("line %d has seq %d", n, link.Seq)
		}
		r := verify(t, log, opt)
		if !r.Intact || r.LastSeq != uint64(n) {
			t.Fatalf("after %d lines: %+v %+v", n, r, r.Broken)
		}
		if r.Files == 4 && r.FirstSeq > 1 {
			full++
			if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "rotated away") {
				t.Fatalf("notes %q", r.Notes)
			}
		} else if r.FirstSeq != 1 || len(r.Notes) != 0 {
			t.Fatalf("%+v", r)
		}
	}
	if full == 0 {
		t.Fatal("it was not enough to drop a file")
	}
	files, err := os.ReadDir(filepath.Dir(log.Path))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > log.MaxFile {
			t.Errorf("%v, %v", info, err)
		}
	}
	for name, c := range map[string]struct {
		do   func(*testing.T)
		kind Kind
		file int
	}{
		"a file in the midst is missing":   {func(t *testing.T) { remove(t, log.Numbered(2)) }, NoFile, 1},
		"the oldest is missing":            {func(t *testing.T) { remove(t, log.Numbered(3)) }, NoFile, 2},
		"two files are exchanged":          {func(t *testing.T) { exchange(t, log.Numbered(1), log.Numbered(2)) }, NoFile, 2},
		"the last line of an old file":     {func(t *testing.T) { dropLine(t, log.Numbered(2), -1) }, Removed, 1},
		"the first line of an old file":    {func(t *testing.T) { dropLine(t, log.Numbered(2), 0) }, Removed, 2},
		"the first line of the oldest":     {func(t *testing.T) { dropLine(t, log.Numbered(3), 0) }, Removed, 3},
		"an old file was put in two times": {func(t *testing.T) { write(t, log.Numbered(1), read(t, log.Numbered(2))) }, NoFile, 1},
		"all but the newest are missing":   {func(t *testing.T) { remove(t, log.Numbered(1)); remove(t, log.Numbered(2)); remove(t, log.Numbered(3)) }, NoFile, 0},
	} {
		t.Run(name, func(t *testing.T) {
			kept := map[int][]byte{}
			for k := range 4 {
				kept[k] = read(t, log.Numbered(k))
			}
			defer func() {
				for k, data := range kept {
					write(t, log.Numbered(k), data)
				}
			}()
			c.do(t)
			if b := verify(t, log, opt).Broken; b == nil || b.Kind != c.kind || b.File != log.Numbered(c.file) || b.Line != 1 {
				t.Errorf("%+v, want %s at the first line of file %d", b, c.kind, c.file)
			}
		})
	}
	// A copy of a part is as good as what is in it.
	part := newLog(t)
	write(t, part.Path, read(t, log.Numbered(1)))
	if b := verify(t, part, opt).Broken; b == nil || b.Kind != NoFile {
		t.Errorf("%+v", b)
	}
	opt.Part = true
	if r := verify(t, part, opt); !r.Intact || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func exchange(t *testing.T, a, b string) {
	t.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
}

// dropLine removes a line of a file; -1 is the last.
func dropLine(t *testing.T, path string, n int) {
	t.Helper()
	all := lines(read(t, path))
	if n < 0 {
		all = all[:len(all)-1]
	} else {
		all = append(all[:n:n], all[n+1:]...)
	}
	write(t, path, append(bytes.TrimSuffix(bytes.Join(all, nil), []byte("\n")), '\n'))
}

func TestWhatIsTornAtARotationIsNotedByTheFirstLineOfTheNextFile(t *testing.T) {
	log := newLog(t)
	log.MaxFile = 1000
	torn := []byte(`{"id":"` + strings.Repeat("x", 500))
	add(t, log, nil, 4)
	write(t, log.Path, append(read(t, log.Path), torn...))
	if link := add(t, log, nil, 1); link.File != 2 || link.Seq != 5 || link.Torn == nil || link.Torn.Bytes != int64(len(torn)) {
		t.Fatalf("%+v", link)
	}
	intact(t, verify(t, log, Options{}), 5)
	// The same, with the first line of the next file torn too.
	log = newLog(t)
	log.MaxFile = 1000
	add(t, log, nil, 4)
	write(t, log.Numbered(1), append(read(t, log.Path), torn...))
	write(t, log.Path, torn[:100])
	if link := add(t, log, nil, 1); link.File != 2 || link.Seq != 5 || link.Torn == nil || link.Torn.Bytes != int64(len(torn)+100) {
		t.Fatalf("%+v", link)
	}
	add(t, log, nil, 1)
	intact(t, verify(t, log, Options{}), 6)
}

func TestARotationThatWasCutShortIsTakenUp(t *testing.T) {
	log := newLog(t)
	log.MaxFile = 1000
	add(t, log, nil, 20) // three files
	if err := os.Rename(log.Path, log.Path+".x"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(log.Numbered(2), log.Numbered(3)), os.Rename(log.Numbered(1), log.Numbered(2)), os.Rename(log.Path+".x", log.Path)); err != nil {
		t.Fatal(err)
	}
	add(t, log, nil, 10)
	r := verify(t, log, Options{})
	intact(t, r, 30)
	if r.Files != 4 {
		t.Errorf("%+v", r)
	}
	// After the last step, before a new file is there.
	if err := os.Rename(log.Path, log.Path+".x"); err != nil {
		t.Fatal(err)
	}
	for k := 3; k > 1; k-- {
		if err := os.Rename(log.Numbered(k-1), log.Numbered(k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(log.Path+".x", log.Numbered(1)); err != nil {
		t.Fatal(err)
	}
	if link := add(t, log, nil, 1); link.Seq != 31 {
		t.Errorf("%+v", link)
	}
	if r := verify(t, log, Options{}); !r.Intact || r.LastSeq != 31 {
		t.Errorf("%+v %+v", r, r.Broken)
	}
}

func TestAppendersOfOneLogExcludeEachOther(t *testing.T) {
	log := newLog(t)
	log.MaxFile, log.Old = 20_000, 9
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := Append(log, nil, body(i), 10*time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// A reader beside them finds no fault.
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r, err := Verify(log, Options{}); err != nil || !r.Intact {
				t.Errorf("meanwhile: %+v, %v", r.Broken, err)
				return
			}
		}
	})
	wg.Wait()
	close(stop)
	reader.Wait()
	r := verify(t, log, Options{})
	intact(t, r, writers*each)
	if r.Files < 3 {
		t.Errorf("%d files: no rotation", r.Files)
	}
}

func TestALogThatIsKeptLockedIsNotWaitedForWithoutEnd(t *testing.T) {
	log := newLog(t)
	add(t, log, nil, 1)
	f, err := chain.Open(log.Path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err = Append(log, nil, body(1), 50*time.Millisecond)
	if took := time.Since(begin); err == nil || !strings.Contains(err.Error(), log.Path+": another process has kept it locked") || took < 50*time.Millisecond || took > 5*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	// Verifying takes no lock.
	intact(t, verify(t, log, Options{}), 1)
}

func TestAFullDiskLeavesNoTornLine(t *testing.T) {
	log := newLog(t)
	dir := filepath.Dir(log.Path)
	if err := unix.Mount("gwt", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal("this test needs root: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	var err error
	written := 0
	for ; err == nil && written < 1000; written++ {
		_, err = Append(log, nil, body(written), Patience)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("after %d lines: %v", written, err)
	}
	r := verify(t, log, Options{})
	intact(t, r, written-1)
	if len(r.Notes) != 0 {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestWhatCannotBeALineIsNotAppended(t *testing.T) {
	log := newLog(t)
	for _, b := range []string{"", "{}", "x", `{"id":"` + strings.Repeat("x", chain.MaxLine) + `"}`} {
		if link, err := Append(log, nil, []byte(b), Patience); err == nil {
			t.Errorf("%.20q: %+v", b, link)
		}
	}
	if r := verify(t, log, Options{}); r.Lines != 0 || !r.Intact {
		t.Errorf("%+v", r)
	}
}

func TestSignaturesThatEndAreToldWithTheirBeginning(t *testing.T) {
	key, pub := keys(1)
	log := newLog(t)
	add(t, log, nil, 2)
	add(t, log, key, 3)
	opt := Options{Keys: []ed25519.PublicKey{pub}}
	if r := verify(t, log, opt); !r.Intact || r.Signed != 3 || len(r.Notes) != 0 {
		t.Errorf("lines before the first signed one: %+v %+v", r, r.Broken)
	}
	if _, err := Append(log, nil, []byte(`{"id":"x","container":{"namespace":"default","id":"web"},"time":"2026-11-26T01:02:03.5Z"}`), Patience); err != nil {
		t.Fatal(err)
	}
	add(t, log, key, 1)
	r := verify(t, log, opt)
	if b := r.Broken; b == nil || b.Kind != Unsigned || b.Line != 6 || b.Seq != 6 || !strings.Contains(b.Found, "\"default/web\", 2026-11-26T01:02:03Z") || r.Lines != 7 {
		t.Errorf("%+v %+v", r, b)
	}
	for _, o := range []Options{{}, {Keys: opt.Keys, AllowUnsigned: true}} {
		if r := verify(t, log, o); !r.Intact || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "1 line(s) have no signature though earlier ones have, since "+log.Path+" line 6 (seq 6)") {
			t.Errorf("%+v: %+v", o, r)
		}
	}
	// A key that was exchanged: either is good.
	second, secondPub := keys(2)
	log = newLog(t)
	add(t, log, key, 2)
	add(t, log, second, 2)
	if b := verify(t, log, opt).Broken; b == nil || b.Kind != Signature || b.Line != 3 {
		t.Errorf("%+v", b)
	}
	intact(t, verify(t, log, Options{Keys: []ed25519.PublicKey{pub, secondPub}}), 4)
}

func TestKeysAreReadAsOpensslWritesThem(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "gwn-") // root's alone in every component
	if err != nil {
		t.Fatal("this test needs root: ", err)
	}
	defer os.RemoveAll(dir)
	private, public := filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.pub")
	openssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
	}
	openssl("genpkey", "-algorithm", "ed25519", "-out", private)
	openssl("pkey", "-in", private, "-pubout", "-out", public)
	if err := os.Chmod(private, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ReadPublicKeyFile(public)
	if err != nil || !pub.Equal(key.Public()) {
		t.Fatalf("%x, %v", pub, err)
	}
	// Its signatures are openssl's too.
	log := newLog(t)
	add(t, log, key, 1)
	b, link, err := chain.Split(bytes.TrimSpace(read(t, log.Path)))
	if err != nil {
		t.Fatal(err)
	}
	sig := link.Sig
	link.Sig = nil
	text, err := chain.Join(b, link)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "text"), text)
	write(t, filepath.Join(dir, "sig"), sig)
	openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", filepath.Join(dir, "text"), "-sigfile", filepath.Join(dir, "sig"))

	openssl("genpkey", "-algorithm", "x25519", "-out", filepath.Join(dir, "x.key"))
	openssl("pkey", "-in", filepath.Join(dir, "x.key"), "-pubout", "-out", filepath.Join(dir, "x.pub"))
	write(t, filepath.Join(dir, "twice"), append(read(t, private), read(t, private)...))
	write(t, filepath.Join(dir, "empty"), nil)
	write(t, filepath.Join(dir, "open"), read(t, private))
	for _, err := range []error{os.Chmod(filepath.Join(dir, "open"), 0o640), os.Chmod(filepath.Join(dir, "x.key"), 0o600), os.Chmod(public, 0o600), os.Symlink("audit.key", filepath.Join(dir, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, part := range map[string]string{
		"x.key": "of algorithm 1.3.101.110, not of Ed25519; make one with: openssl genpkey", "twice": "something comes after", "empty": "not PEM", "audit.pub": `a PEM "PUBLIC KEY"`,
		"open": "chmod 0600", "link": "symbolic link", "absent": "does not exist",
	} {
		if _, err := ReadKey(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, part := range map[string]string{"x.pub": "not of Ed25519", "audit.key": `a PEM "PRIVATE KEY"`, "empty": "not PEM", "absent": "no such file"} {
		if _, err := ReadPublicKeyFile(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzVerify gives anything to the verifier, and to the next append.
func FuzzVerify(f *testing.F) {
	key, pub := keys(1)
	log := newLog(f)
	add(f, log, key, 2)
	good := read(f, log.Path)
	f.Add(good)
	f.Add(rewrite(good, 1, 0))
	f.Add(append(bytes.Clone(good), `{"id":`...))
	f.Add(append(bytes.Clone(good), "\n\n\x00"...))
	f.Add([]byte("{}\n"))
	log = chain.Log{Path: "/log", MaxFile: 1 << 20, Old: 3}
	look := func(data []byte) *verification {
		v := newVerification(log, Options{Keys: []ed25519.PublicKey{pub}})
		v.files(log, [][]byte{data}, []string{log.Path})
		return v
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := look(data)
		if before.Intact != (before.Broken == nil) || before.Lines > bytes.Count(data, []byte("\n"))+1 {
			t.Fatalf("%+v", before)
		}
		if _, err := json.Marshal(before.Report); err != nil {
			t.Fatal(err)
		}
		// What Append does, without files.
		end, err := tailOf(bytes.NewReader(data), int64(len(data)), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		number := uint64(0)
		if end.line == nil {
			number = 1
		}
		line, err := seal([]byte(`{"id":"next"}`), end.next(end.gap, number), key)
		if err != nil {
			t.Fatal(err)
		}
		if end.open {
			line = append([]byte("\n"), line...)
		}
		after := look(append(append(bytes.Clone(data), line...), '\n'))
		// What was intact stays so; what was broken is not mended by an append.
		if before.Intact != after.Intact {
			t.Fatalf("before: %+v; after: %+v, %+v", before, after, after.Broken)
		}
		if after.Intact && (after.Lines != before.Lines+1 || after.LastSeq != before.LastSeq+1) {
			t.Fatalf("%d lines up to %d, then %d up to %d", before.Lines, before.LastSeq, after.Lines, after.LastSeq)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	key, _ := keys(1)
	line := []byte(`{"id":"x","message":"` + strings.Repeat("m", 1400) + `"}`)
	for name, k := range map[string]ed25519.PrivateKey{"unsigned": nil, "signed": key} {
		b.Run(name, func(b *testing.B) {
			log := newLog(b)
			log.MaxFile = 8 << 20
			for b.Loop() {
				if _, err := Append(log, k, line, Patience); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
