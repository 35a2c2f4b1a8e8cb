package gatewaylog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var testLimits = Limits{MaxBytes: 64 << 10, MaxFiles: 3}

func openWriter(t *testing.T, path string, limits Limits) *Writer {
	t.Helper()
	w, err := Open(path, limits)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// addAll adds lines and waits for them.
func addAll(t *testing.T, w *Writer, lines ...string) {
	t.Helper()
	for _, l := range lines {
		w.add(time.Now(), Stdout, false, []byte(l))
	}
	if err := w.sync(time.After(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

func texts(lines []Line) []string {
	s := []string{}
	for _, l := range lines {
		s = append(s, l.Text)
	}
	return s
}

func tail(t *testing.T, path string, n int) []Line {
	t.Helper()
	lines, err := Tail(path, n)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// fifo gives both ends of a FIFO as the warden has them: ours open O_RDWR, the gateway's a description of its own.
func fifo(t *testing.T) (ours, gateways *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ours, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	gateways, err = os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); gateways.Close() })
	return ours, gateways
}

func start(t *testing.T, r *os.File, stream string, w *Writer) *Pump {
	t.Helper()
	p, err := Start(r, stream, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLinesOfBothStreamsReachTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	before := time.Now()
	w := openWriter(t, path, testLimits)
	r1, out := fifo(t)
	r2, errs := fifo(t)
	p1, p2 := start(t, r1, Stdout, w), start(t, r2, Stderr, w)

	long := strings.Repeat("x", 2*maxText+5)
	fmt.Fprintf(out, "hello\n\nhalf a ")
	fmt.Fprintf(out, "line\n%s\n%s\nno newline \xff", long, strings.Repeat("y", maxText))
	if err := p1.Flush(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(errs, "bad\n")
	if err := p2.Flush(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	want := []Line{
		{Text: "hello"}, {Text: ""}, {Text: "half a line"},
		{Text: long[:maxText], Partial: true}, {Text: long[:maxText], Partial: true}, {Text: "xxxxx"},
		{Text: strings.Repeat("y", maxText)}, {Text: "no newline \xff"}, {Text: "bad"},
	}
	got := tail(t, path, -1)
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	for i, l := range got {
		stream := Stdout
		if i == len(got)-1 {
			stream = Stderr
		}
		if l.Text != want[i].Text || l.Partial != want[i].Partial || l.Stream != stream {
			t.Errorf("line %d: %s %v %.20q", i, l.Stream, l.Partial, l.Text)
		}
		if l.Time.Before(before.Truncate(0).Add(-time.Second)) || l.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("line %d: time is %v", i, l.Time)
		}
	}
	// The pump goes on with the next gateway.
	fmt.Fprintf(out, "again\n")
	if err := p1.Flush(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := texts(tail(t, path, 2)); !slices.Equal(got, []string{"bad", "again"}) {
		t.Errorf("%q", got)
	}
	for _, p := range []*Pump{p1, p2, p1} {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestFlushSeesWhatADeadGatewayLeftInThePipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	w := openWriter(t, path, testLimits)
	defer w.Close()
	r, out := fifo(t)
	p := start(t, r, Stderr, w)
	defer p.Close()
	for i := range 200 {
		last := fmt.Sprintf("panic: %d", i)
		fmt.Fprintf(out, "goroutine\n%s", last) // written and dead, without newline
		if err := p.Flush(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		if got := texts(tail(t, path, 1)); len(got) != 1 || got[0] != last {
			t.Fatalf("after flush %d the last line is %q", i, got)
		}
	}
}

func TestAPipeThatEndsEndsThePump(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	w := openWriter(t, path, testLimits)
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, r, Stdout, w)
	fmt.Fprint(out, "last words")
	out.Close()
	<-p.stopped
	if err := p.Flush(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := texts(tail(t, path, -1)); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("%q", got)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := p.Flush(time.Second); err != nil {
		t.Errorf("a flush after everything has ended: %v", err)
	}
}

func TestConcurrentFlushesAndCloseDoNotHang(t *testing.T) {
	w := openWriter(t, filepath.Join(t.TempDir(), "gateway.log"), testLimits)
	r, out := fifo(t)
	p := start(t, r, Stdout, w)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				fmt.Fprintln(out, "x")
				if err := p.Flush(5 * time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wg.Go(func() { p.Flush(5 * time.Second) })
	p.Close()
	wg.Wait()
	w.Close()
}

func TestAFloodNeitherBlocksNorFillsTheDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.log")
	w := openWriter(t, path, testLimits)
	r, out := fifo(t)
	p := start(t, r, Stdout, w)
	chunk := []byte(strings.Repeat(strings.Repeat("z", 99)+"\n", 640))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 { // 64 MB
		if _, err := out.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(out, "the end")
	if err := p.Flush(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	// The flush's own lines may have been dropped with the rest; the marker is then the last line.
	end := tail(t, path, 1)[0]
	if end.Text != "the end" && end.Stream != own {
		t.Errorf("the log ends with %+v", end)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes are still held after the flood", grown)
	}
	p.Close()
	w.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != testLimits.MaxFiles {
		t.Errorf("%d files", len(entries))
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > testLimits.MaxBytes {
			t.Errorf("%s has %d bytes", e.Name(), info.Size())
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if _, err := parse(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				t.Fatalf("%s has %.80q: %v", e.Name(), line, err)
			}
		}
	}
}

// stalled makes a Writer whose goroutine does not run yet: the slowest of all disks.
func stalled(path string, limits Limits) *Writer {
	return &Writer{path: path, limits: limits, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

func TestADiskThatStandsStillCostsBoundedMemoryAndIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	w := stalled(path, Limits{MaxBytes: 1 << 20, MaxFiles: 2})
	line := []byte(strings.Repeat("a", 1000))
	const added = 5000
	for range added {
		w.add(time.Now(), Stdout, false, line)
	}
	if len(w.pending) > maxPending || cap(w.pending) > 2*maxPending {
		t.Errorf("%d bytes (%d reserved) are pending", len(w.pending), cap(w.pending))
	}
	w.add(time.Now(), Stdout, false, []byte("short")) // would fit, but must not come before the marker
	go w.run()
	addAll(t, w)
	addAll(t, w, "after")
	got := tail(t, path, -1)
	kept := len(got) - 2
	want := fmt.Sprintf("lost %d bytes in %d lines of output here: the disk was slower than the gateway", (added-kept)*1000+5, added-kept+1)
	if m := got[kept]; m.Stream != own || m.Text != want {
		t.Errorf("marker is %s %.100q, want %q", m.Stream, m.Text, want)
	}
	if got[kept+1].Text != "after" {
		t.Errorf("then comes %q", got[kept+1].Text)
	}
	w.Close()
}

func TestAFullDiskIsToldWhenItHasRoomAgain(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=128k"); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path, ballast := filepath.Join(dir, "gateway.log"), filepath.Join(dir, "ballast")
	w := openWriter(t, path, Limits{MaxBytes: 1 << 20, MaxFiles: 2})
	defer w.Close()
	addAll(t, w, "before")
	if err := os.WriteFile(ballast, make([]byte, 256<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	line := strings.Repeat("b", 999)
	for range 50 {
		addAll(t, w, line)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	addAll(t, w, "after")
	got := tail(t, path, -1)
	kept := 0 // what went into the page that the file had already
	for _, l := range got {
		if l.Text == line {
			kept++
		}
	}
	end := got[len(got)-2:]
	if end[1].Text != "after" || end[0].Stream != own ||
		!strings.HasPrefix(end[0].Text, fmt.Sprintf("lost %d bytes in %d lines of output here: ", (50-kept)*999, 50-kept)) ||
		!strings.Contains(end[0].Text, "no space left on device") {
		t.Errorf("%d lines were kept, and the log ends with %+v", kept, end)
	}
	if got[0].Text != "before" {
		t.Errorf("the log begins with %q", got[0].Text)
	}
}

func TestALogThatEndsWithinALineIsContinued(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	w := openWriter(t, path, testLimits)
	addAll(t, w, "one")
	w.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("2026-11-23T12:00:")
	f.Close()
	w = openWriter(t, path, testLimits)
	addAll(t, w, "two")
	w.Close()
	if got := texts(tail(t, path, -1)); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
}

func TestOpenRefusesWhatIsNotALog(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	for _, err := range []error{
		os.WriteFile(target, nil, 0o600), os.Symlink(target, filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "dir"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "fifo", "dir", "none/log"} {
		path := filepath.Join(dir, name)
		if w, err := Open(path, testLimits); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
	for _, l := range []Limits{{}, {MaxBytes: 1, MaxFiles: 2}, {MaxBytes: 1 << 20, MaxFiles: 1}, {MaxBytes: 1 << 20, MaxFiles: 101}} {
		if _, err := Open(filepath.Join(dir, "x"), l); err == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
	regular, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	if _, err := Start(regular, Stdout, nil); err == nil {
		t.Error("a file that cannot be polled is accepted")
	}
	if _, err := Start(regular, own, nil); err == nil {
		t.Error("the log's own stream is accepted for a gateway")
	}
}

func TestTailCountsLinesAcrossFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	if _, err := Tail(path, 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	w := openWriter(t, path, Limits{MaxBytes: 64 << 10, MaxFiles: 4})
	defer w.Close()
	var want []string
	for i := range 300 {
		s := fmt.Sprintf("%04d %s", i, strings.Repeat("c", 500))
		want = append(want, s)
		addAll(t, w, s)
	}
	for _, n := range []int{-1, 300, 299, 150, 117, 118, 1, 0, 1000} {
		k := n
		if n < 0 || n > len(want) {
			k = len(want)
		}
		if got := texts(tail(t, path, n)); !slices.Equal(got, want[len(want)-k:]) {
			t.Errorf("the last %d: %d lines", n, len(got))
		}
	}
}

func TestExcerptIsRecentHarmlessAndShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	if got := Excerpt(path, time.Time{}, 5); got != "" {
		t.Errorf("no log: %q", got)
	}
	w := openWriter(t, path, testLimits)
	defer w.Close()
	addAll(t, w, "old")
	time.Sleep(time.Millisecond)
	since := time.Now()
	addAll(t, w, "new \x1b[31m", "newer")
	if got := Excerpt(path, since, 5); got != "new \\x1b[31m\nnewer" {
		t.Errorf("%q", got)
	}
	if got := Excerpt(path, since, 1); got != "newer" {
		t.Errorf("%q", got)
	}
	addAll(t, w, strings.Repeat("ä", 5000)+"end")
	if got := Excerpt(path, since, 5); len(got) > 2<<10 || !utf8.ValidString(got) || !strings.HasSuffix(got, "äend") || !strings.HasPrefix(got, "…ä") {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
}

func TestFollowGoesOnOverRotations(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.log")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lines := make(chan Line, 10000)
	done := make(chan error, 1)
	follow := func(n int) {
		go func() { done <- Follow(ctx, path, n, func(l Line) error { lines <- l; return nil }) }()
	}
	follow(10) // before there is a log
	next := func() Line {
		select {
		case l := <-lines:
			return l
		case err := <-done:
			t.Fatalf("Follow ended: %v", err)
		case <-ctx.Done():
			t.Fatal("nothing came")
		}
		panic("unreachable")
	}
	w := openWriter(t, path, Limits{MaxBytes: 64 << 10, MaxFiles: 3})
	defer w.Close()
	pad := strings.Repeat("d", 700)
	for i := range 600 { // several rotations, one line at a time
		want := fmt.Sprintf("%d %s", i, pad)
		addAll(t, w, want)
		if got := next(); got.Text != want {
			t.Fatalf("line %d is %.20q", i, got.Text)
		}
	}
	addAll(t, w, "old", "recent")
	next()
	next()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	follow(1) // an existing log
	if got := next(); got.Text != "recent" {
		t.Fatalf("begins with %q", got.Text)
	}
	for i := range 150 { // bursts that cross two files at once, faster than they are read
		w.add(time.Now(), Stdout, false, fmt.Appendf(nil, "%d %s", i, pad))
	}
	addAll(t, w)
	for i := range 150 {
		if got := next(); got.Text != fmt.Sprintf("%d %s", i, pad) {
			t.Fatalf("line %d of the burst is %.20q", i, got.Text)
		}
	}
	cancel()
	<-done
}

func TestFollowTellsWhatItMissed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	w := openWriter(t, path, testLimits)
	defer w.Close()
	addAll(t, w, "first")
	pad := strings.Repeat("e", 1000)
	stop := errors.New("enough")
	var after []Line
	err := Follow(t.Context(), path, 1, func(l Line) error {
		if l.Text == "first" { // a reader that sleeps while the log is rotated several times over
			for i := range 500 {
				addAll(t, w, fmt.Sprintf("%d %s", i, pad))
			}
			addAll(t, w, "last")
			return nil
		}
		if after = append(after, l); l.Text == "last" {
			return stop
		}
		return nil
	})
	if err != stop {
		t.Fatal(err)
	}
	gap := slices.IndexFunc(after, func(l Line) bool { return l.Stream == own })
	if gap < 0 {
		t.Fatal("nothing says that lines are missing")
	}
	// Each side of the gap is without holes.
	for _, part := range [][]Line{after[:gap], after[gap+1 : len(after)-1]} {
		first := -1
		for i, l := range part {
			var n int
			if _, err := fmt.Sscanf(l.Text, "%d ", &n); err != nil {
				t.Fatalf("%.20q: %v", l.Text, err)
			}
			if first < 0 {
				first = n
			}
			if n != first+i {
				t.Fatalf("%d follows %d", n, first+i-1)
			}
		}
	}
}

func TestFollowEndsWithItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "gateway.log")
	w := openWriter(t, path, testLimits)
	addAll(t, w, "x")
	w.Close()
	err := Follow(t.Context(), path, 1, func(Line) error { return os.RemoveAll(dir) })
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := Follow(t.Context(), path, 1, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestSanitizeLeavesNothingThatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"plain text\twith tab":     "plain text\twith tab",
		"ünïcödé 日本語 😀 e\u0301":    "ünïcödé 日本語 😀 e\u0301",
		"\x1b[2J\x1b]0;t\x07":      `\x1b[2J\x1b]0;t\x07`,
		"a\rb\x00\x7f\x08\n":       `a\x0db\x00\x7f\x08\x0a`,
		"\u009b31m":                `\u009b31m`,
		"\x9b31m \xff\xc3":         `\x9b31m \xff\xc3`,
		"\u202egnp\u202c \u2066":   `\u202egnp\u202c \u2066`,
		"zero\u200bwidth\ufeff":    `zero\u200bwidth\ufeff`,
		"tag \U000e0041":           `tag \U000e0041`,
		"\u2028\u2029\ue000\u00ad": `\u2028\u2029\ue000\u00ad`,
		"\ufffd is a character":    "\ufffd is a character",
		"":                         "",
	} {
		if got := Sanitize(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"2026-11-23T12:00:00.123456789Z stdout F text", "2026-11-23T12:00:00.123456789Z stderr P ", "2026-11-23T12:00:00.123456789Z gatewarden F x",
		"2026-11-23T12:00:00.123456789Z stdout F", "2026-13-23T12:00:00.123456789Z stdout F x", "2026-11-23T12:00:00Z stdout F x", "", "x",
		"2026-11-23T12:00:00.123456789Z stdout X text", "2026-11-23T12:00:00.123456789Z  stdout F text", "2026-11-23T12:00:00,123456789Z stdout F x",
		"2026-11-23T12:00:00.+00000000Z stdout F x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parse(b)
		if err != nil {
			return
		}
		if len(l.Text) > maxText || strings.Contains(l.Text, "\n") {
			t.Fatalf("%+v", l)
		}
		if got := appendLine(nil, l.Time, l.Stream, l.Partial, []byte(l.Text)); string(got) != string(b)+"\n" {
			t.Fatalf("%q is written as %q", b, got)
		}
	})
}

func FuzzReader(f *testing.F) {
	line := "2026-11-23T12:00:00.123456789Z stdout F text\n"
	f.Add([]byte(line+line+"torn"), 1)
	f.Add([]byte("\n\n"+line+"rubbish\n"+line), -1)
	f.Add([]byte(strings.Repeat("x", 3*maxLine)+"\n"+line), 7)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		path := filepath.Join(t.TempDir(), "gateway.log")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var want []string
		for l := range bytes.Lines(b) {
			if p, err := parse(bytes.TrimSuffix(l, []byte("\n"))); err == nil && bytes.HasSuffix(l, []byte("\n")) {
				want = append(want, p.Text)
			}
		}
		got := texts(tail(t, path, n))
		if n < 0 && !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
		if n >= 0 && (len(got) > n || len(got) > len(want) || !slices.Equal(got, want[len(want)-len(got):])) {
			t.Fatalf("the last %d are %q of %q", n, got, want)
		}
	})
}

func FuzzSanitize(f *testing.F) {
	f.Add("\x1b[31m \u202e ok \xff \u009b")
	f.Fuzz(func(t *testing.T, s string) {
		got := Sanitize(s)
		if Sanitize(got) != got || !utf8.ValidString(got) || len(got) > 5*len(s) {
			t.Fatalf("%q", got)
		}
		for _, r := range got {
			if !harmless(r) {
				t.Fatalf("%q keeps %U", got, r)
			}
		}
	})
}

func BenchmarkPump(b *testing.B) {
	w, err := Open(filepath.Join(b.TempDir(), "gateway.log"), Limits{MaxBytes: 8 << 20, MaxFiles: 3})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	r, out, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	p, err := Start(r, Stdout, w)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	chunk := []byte(strings.Repeat(strings.Repeat("z", 99)+"\n", 640))
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFlush(b *testing.B) {
	w, err := Open(filepath.Join(b.TempDir(), "gateway.log"), Limits{MaxBytes: 8 << 20, MaxFiles: 3})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	r, out, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	p, err := Start(r, Stdout, w)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for b.Loop() {
		out.WriteString("last words")
		if err := p.Flush(time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
