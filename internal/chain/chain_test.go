package chain

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestALineIsTheObjectWithTheLinkAtItsEnd(t *testing.T) {
	body := []byte(`{"id":"a","message":"x,\"seq\":9"}`)
	line, err := Join(body, Link{Seq: 7, Prev: Start, File: 2, Torn: &Torn{3, Start}, Sig: []byte("s")})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"a","message":"x,\"seq\":9","seq":7,"prev":"` + Start + `","file":2,"torn":{"bytes":3,"sha256":"` + Start + `"},"sig":"cw=="}`
	if string(line) != want {
		t.Errorf("%s\nwant %s", line, want)
	}
	got, link, err := Split(line)
	if err != nil || !bytes.Equal(got, body) || link.Seq != 7 || link.File != 2 || link.Torn.Bytes != 3 || string(link.Sig) != "s" {
		t.Errorf("%s, %+v, %v", got, link, err)
	}
}

func TestWhatJoinDoesNotMakeIsNoLine(t *testing.T) {
	good, err := Join([]byte(`{"id":"a"}`), Link{Seq: 1, Prev: Start})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Split(good); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"nothing":               ``,
		"no link":               `{"id":"a"}`,
		"no members before it":  `{"seq":1,"prev":"` + Start + `"}`,
		"a space":               strings.Replace(string(good), `,"prev"`, `, "prev"`, 1),
		"another order":         `{"id":"a","prev":"` + Start + `","seq":1}`,
		"an unknown member":     strings.Replace(string(good), `,"prev"`, `,"x":1,"prev"`, 1),
		"seq 0":                 strings.Replace(string(good), `"seq":1`, `"seq":0`, 1),
		"a short hash":          strings.Replace(string(good), `00"`, `0"`, 1),
		"an upper-case hash":    strings.Replace(string(good), `00"`, `0A"`, 1),
		"nothing torn":          strings.Replace(string(good), `"}`, `","torn":{"bytes":0,"sha256":"`+Start+`"}}`, 1),
		"a cut object":          string(good[:len(good)-1]),
		"no object before":      strings.Replace(string(good), `{"id":"a"`, `{"id":"a`, 1),
		"more than a line":      `{"id":"` + strings.Repeat("a", MaxLine) + `","seq":1,"prev":"` + Start + `"}`,
		"something after":       string(good) + " ",
		"an object, not closed": `{"id":{"a":1,"seq":1,"prev":"` + Start + `"}`,
	} {
		if _, link, err := Split([]byte(line)); !errors.Is(err, ErrNoLine) {
			t.Errorf("%s: %+v, %v", name, link, err)
		}
	}
	for _, body := range []string{"", "{}", "[1]", "{"} {
		if line, err := Join([]byte(body), Link{Seq: 1, Prev: Start}); err == nil {
			t.Errorf("%q makes %s", body, line)
		}
	}
}

func TestLinesAreReadBackward(t *testing.T) {
	long := strings.Repeat("x", 50_000)
	for _, c := range []struct {
		data string
		want []string
	}{
		{"", nil},
		{"\n", []string{"|"}},
		{"a", []string{"a"}},
		{"a\n", []string{"a|"}},
		{"a\nb", []string{"b", "a|"}},
		{"a\n\nb\n", []string{"b|", "|", "a|"}},
		{"\na\n", []string{"a|", "|"}},
		{"a\n" + long + "\nb\n", []string{"b|", long + "|", "a|"}},
		{long, []string{long}},
	} {
		var got []string
		err := Backward(strings.NewReader(c.data), int64(len(c.data)), int64(len(c.data)), func(piece []byte, begin int64, ended bool) bool {
			if string(piece) != c.data[begin:begin+int64(len(piece))] {
				t.Errorf("%.20q: %.20q is not at %d", c.data, piece, begin)
			}
			s := string(piece)
			if ended {
				s += "|"
			}
			got = append(got, s)
			return true
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%.20q gives %.60q, %v", c.data, got, err)
		}
	}
	n := 0
	if err := Backward(strings.NewReader(strings.Repeat("a\n", 100_000)), 200_000, 1000, func([]byte, int64, bool) bool { n++; return true }); err != nil || n == 0 || n > 8<<10 {
		t.Errorf("%d pieces within the limit, %v", n, err)
	}
}

func TestWhatCannotBeALogIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "target"), nil, 0o600), os.Symlink("target", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "fifo"} {
		path := filepath.Join(dir, name)
		if _, err := Open(path, os.O_RDONLY); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := (Log{Path: path}).OpenAll(); err == nil {
			t.Errorf("%s is opened as a log", name)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(`{"id":"a","seq":1,"prev":"` + Start + `"}`))
	f.Add([]byte(`{"id":"a","seq":7,"prev":"` + Start + `","file":2,"torn":{"bytes":3,"sha256":"` + Start + `"},"sig":"cw=="}`))
	f.Add([]byte(`{"id":",\"seq\":","seq":01,"prev":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		body, link, err := Split(line)
		if err != nil {
			if !errors.Is(err, ErrNoLine) {
				t.Fatal(err)
			}
			return
		}
		if again, err := Join(body, link); err != nil || !bytes.Equal(again, line) {
			t.Fatalf("%q was read from %q: %v", again, line, err)
		}
		if bytes.IndexByte(line, '\n') >= 0 && !bytes.Contains(body, []byte("\n")) {
			t.Fatalf("a newline in the link of %q", line)
		}
	})
}
