package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func add(t *testing.T, path, id string) {
	t.Helper()
	put(t, path, &receipt.Receipt{Version: 1, ID: id, Message: strings.Repeat("m", 100)})
}

// put adds r as a warden does. Package journaltest can't be used here: it needs this one.
func put(t *testing.T, path string, r *receipt.Receipt) {
	t.Helper()
	body, err := json.Marshal(r)
	if err == nil {
		_, err = notary.Append(Log(path), nil, body, notary.Patience)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ids(rs []receipt.Receipt) string {
	var s []string
	for _, r := range rs {
		s = append(s, r.ID)
	}
	return strings.Join(s, " ")
}

func TestReceiptsAreReadBackOldestFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts.jsonl")
	if rs, err := Read(path, 0); err != nil || len(rs) != 0 {
		t.Fatalf("no journal: %v, %v", rs, err)
	}
	for i := range 5 {
		add(t, path, fmt.Sprint(i))
	}
	for n, want := range map[int]string{0: "0 1 2 3 4", -1: "0 1 2 3 4", 2: "3 4", 5: "0 1 2 3 4", 9: "0 1 2 3 4"} {
		if rs, err := Read(path, n); err != nil || ids(rs) != want {
			t.Errorf("the last %d: %q, %v", n, ids(rs), err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestTheJournalIsBoundedAndReadAcrossItsRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "receipts.jsonl")
	big := strings.Repeat("m", 60<<10)
	const added = 3 * maxFile / (60 << 10)
	for i := range added {
		put(t, path, &receipt.Receipt{Version: 1, ID: fmt.Sprint(i), Message: big})
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > maxFile {
			t.Errorf("%v, %v", info, err)
		}
	}
	all, err := Read(path, 0)
	if err != nil || len(all) < maxFile/(60<<10) {
		t.Fatalf("%d receipts, %v", len(all), err)
	}
	for i, r := range all {
		if r.ID != fmt.Sprint(added-len(all)+i) {
			t.Fatalf("receipt %d of %d is %s", i, len(all), r.ID)
		}
	}
	if rs, err := Read(path, len(all)-1); err != nil || len(rs) != len(all)-1 || rs[0].ID != all[1].ID {
		t.Errorf("%d receipts, %v", len(rs), err)
	}
}

func TestATornLineIsLeftOutAndReportedAndTheNextReceiptIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts.jsonl")
	add(t, path, "a")
	write := func(s string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"version":1,"id":"to`)
	check := func(n int, want string, lines int) {
		t.Helper()
		rs, err := Read(path, n)
		skipped, ok := errors.AsType[*SkippedError](err)
		if ids(rs) != want || ok != (lines > 0) || ok && skipped.Lines != lines {
			t.Errorf("%q, %v", ids(rs), err)
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not name the journal", err)
		}
	}
	check(0, "a", 1)
	add(t, path, "b")
	check(0, "a b", 1)
	check(1, "b", 0) // it never came to the torn line
	write("{\"version\":2,\"id\":\"later\"}\n[]\n" + strings.Repeat("x", chain.MaxLine+1) + "\n\n")
	add(t, path, "c")
	check(0, "a b c", 5)
	check(2, "b c", 4)
}

func TestWhatCannotBeAJournalIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "target"), nil, 0o600), os.Symlink("target", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.WriteFile(filepath.Join(dir, "huge"), make([]byte, maxFile+1), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "fifo", "huge"} {
		path := filepath.Join(dir, name)
		if rs, err := Read(path, 0); err == nil || rs != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, rs, err)
		}
	}
}

func TestTheReceiptsAfterALineAreReadFromTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), Name)
	if lines, err := After(path, 0, 10); err != nil || len(lines) != 0 {
		t.Fatalf("no journal: %v, %v", lines, err)
	}
	if got, err := Newest(path); got != 0 || err != nil {
		t.Fatalf("no journal: %d, %v", got, err)
	}
	big := strings.Repeat("m", 60<<10)
	const added = maxFile/(60<<10) + 5 // the last ones are in a file of their own
	for i := range added {
		put(t, path, &receipt.Receipt{Version: 1, ID: fmt.Sprint(i + 1), Message: big})
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{"version":1,"id":"to`); err != nil {
		t.Fatal(err)
	}
	if got, err := Newest(path); got != added || err != nil {
		t.Errorf("the newest is %d of %d, %v", got, added, err)
	}
	for _, c := range []struct {
		seq   uint64
		max   int
		first uint64
	}{{added, 10, 0}, {added + 5, 10, 0}, {added - 1, 10, added}, {added - 20, 100, added - 19}, {0, 10, added - 9}} {
		lines, err := After(path, c.seq, c.max)
		if err != nil || c.first == 0 && len(lines) != 0 || c.first != 0 && len(lines) != int(added-c.first+1) {
			t.Fatalf("after %d: %d lines, %v", c.seq, len(lines), err)
		}
		for i, l := range lines {
			if l.Seq != c.first+uint64(i) || l.ID != fmt.Sprint(l.Seq) || !strings.HasPrefix(string(l.Text), `{"version":1,"id":"`+l.ID+`"`) {
				t.Errorf("after %d: line %d has seq %d, id %s", c.seq, i, l.Seq, l.ID)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{\"version\":1,\"id\":\"a\"}\n{\"version\":1,\"id\":\"b\"}\n"), 1)
	f.Add([]byte("{\"version\":1}\n{\"ver"), 0)
	f.Add([]byte("\n\n[]\nnull\n"), -3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		var all, some SkippedError
		whole := parse(b, 0, &all)
		part := parse(b, n, &some)
		if n > 0 && len(part) > n || some.Lines > all.Lines {
			t.Fatalf("%d of %d, skipped %d of %d", len(part), len(whole), some.Lines, all.Lines)
		}
		if ids(part) != ids(whole[len(whole)-len(part):]) {
			t.Fatalf("%q is not the end of %q", ids(part), ids(whole))
		}
		if (all.Lines > 0) != (all.Err != nil) {
			t.Fatalf("%d skipped, %v", all.Lines, all.Err)
		}
	})
}
