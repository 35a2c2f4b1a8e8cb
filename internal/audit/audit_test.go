package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// small is a log of small files.
func small(t *testing.T) chain.Log {
	t.Helper()
	l := Log(t.TempDir())
	l.MaxFile, l.Old = 3000, 2
	return l
}

func add(t testing.TB, log chain.Log, ids ...int) {
	t.Helper()
	for _, id := range ids {
		body, err := json.Marshal(&receipt.Receipt{Version: 1, ID: fmt.Sprintf("r%d", id), Container: receipt.Container{Namespace: "default", ID: "web"}})
		if err == nil {
			_, err = notary.Append(log, nil, body, notary.Patience)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func upTo(from, to int) []int {
	var all []int
	for ; from <= to; from++ {
		all = append(all, from)
	}
	return all
}

var errEnough = errors.New("enough")

// following is a Follow under way. What it gives is "r5", or "gap 2-4".
type following struct {
	t    *testing.T
	got  chan string
	done chan error
	stop context.CancelFunc
}

func follow(t *testing.T, log chain.Log, since string) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{t, make(chan string, 1000), make(chan error, 1), cancel}
	t.Cleanup(cancel)
	go func() {
		f.done <- Follow(ctx, log, since, func(e Event) error {
			if e.Container.ID != "web" || !strings.HasSuffix(string(e.Text), "}") {
				return fmt.Errorf("%+v", e)
			}
			f.got <- e.ID
			return nil
		}, func(g Gap) error {
			f.got <- fmt.Sprintf("gap %d-%d", g.From, g.To)
			return nil
		})
	}()
	return f
}

func (f *following) want(want ...string) {
	f.t.Helper()
	for i, w := range want {
		select {
		case got := <-f.got:
			if got != w {
				f.t.Fatalf("%d: %s, want %s", i, got, w)
			}
		case err := <-f.done:
			f.t.Fatalf("%d: it ended with %v, want %s", i, err, w)
		case <-time.After(5 * time.Second):
			f.t.Fatalf("%d: nothing, want %s", i, w)
		}
	}
}

func names(ids ...int) []string {
	var all []string
	for _, id := range ids {
		all = append(all, fmt.Sprintf("r%d", id))
	}
	return all
}

// begun adds receipts from number next on until the first comes, which tells that Follow has begun, and gives the next number.
func (f *following) begun(log chain.Log, next int) int {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		add(f.t, log, next)
		next++
		select {
		case got := <-f.got:
			var first int
			if n, err := fmt.Sscanf(got, "r%d", &first); n != 1 || err != nil {
				f.t.Fatalf("it begins with %s", got)
			}
			f.want(names(upTo(first+1, next-1)...)...)
			return next
		case err := <-f.done:
			f.t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	f.t.Fatal("nothing comes")
	return 0
}

func TestFollowingBeginsAtTheEndAndEndsWithItsContext(t *testing.T) {
	log := small(t)
	add(t, log, 1, 2)
	f := follow(t, log, "")
	next := f.begun(log, 3)
	add(t, log, next, next+1)
	f.want(names(next, next+1)...)
	f.stop()
	if err := <-f.done; !errors.Is(err, context.Canceled) || len(f.got) > 0 {
		t.Errorf("%v, %d more", err, len(f.got))
	}
}

func TestFollowingWaitsForALogThatIsNotThereYet(t *testing.T) {
	for name, missing := range map[string]string{"no file": "", "no directory": "later"} {
		t.Run(name, func(t *testing.T) {
			log := small(t)
			dir := filepath.Join(filepath.Dir(log.Path), missing)
			log.Path = filepath.Join(dir, Name)
			w := watch(dir)
			defer w.close()
			f := &follower{log: log}
			defer f.close()
			if err := f.begin(""); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			add(t, log, 1, 2)
			var got []string
			f.event = func(e Event) error { got = append(got, e.ID); return nil }
			for deadline := time.Now().Add(5 * time.Second); len(got) == 0 && w.wait(t.Context()) && time.Now().Before(deadline); {
				if err := f.drain(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(got, names(1, 2)) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestFollowingSinceAReceiptMissesNothingAcrossRotations(t *testing.T) {
	log := small(t)
	add(t, log, upTo(1, 5)...)
	f := follow(t, log, "r2")
	f.want("r3", "r4", "r5")
	for i := 6; i < 40; i++ { // one by one, through several rotations
		add(t, log, i)
		f.want(fmt.Sprintf("r%d", i))
	}
	files, err := log.OpenAll()
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	chain.CloseAll(files)
	// From each receipt that is there.
	var first int
	if err := Follow(t.Context(), log, "gone", func(e Event) error {
		_, err := fmt.Sscanf(e.ID, "r%d", &first)
		return errors.Join(err, errEnough)
	}, func(Gap) error { return nil }); !errors.Is(err, errEnough) || first < 2 {
		t.Fatalf("the oldest is %d, %v", first, err)
	}
	for since := first; since < 39; since++ {
		follow(t, log, fmt.Sprintf("r%d", since)).want(names(upTo(since+1, 39)...)...)
	}
	f = follow(t, log, "r39")
	add(t, log, 40)
	f.want("r40")
}

func TestWhatWasRotatedAwayIsToldAsAGap(t *testing.T) {
	log := small(t)
	add(t, log, upTo(1, 40)...)
	f := follow(t, log, "r1")
	gap := <-f.got
	var to int
	if n, err := fmt.Sscanf(gap, "gap 0-%d", &to); n != 1 || err != nil || to < 1 {
		t.Fatalf("it begins with %s", gap)
	}
	f.want(names(upTo(to+1, 40)...)...)
	// One that does not keep up.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, jumped := 41, false
	add(t, log, 41)
	err := Follow(ctx, log, "r40", func(e Event) error {
		if e.Seq != uint64(next) {
			t.Fatalf("seq %d, want %d", e.Seq, next)
		}
		if next++; next == 42 {
			add(t, log, upTo(42, 80)...)
		}
		if next == 81 {
			return errEnough
		}
		return nil
	}, func(g Gap) error {
		if g.From != uint64(next) || g.To <= g.From {
			t.Fatalf("gap %+v before %d", g, next)
		}
		next, jumped = int(g.To)+1, true
		return nil
	})
	if !errors.Is(err, errEnough) || !jumped {
		t.Errorf("%v; up to %d; a gap: %v", err, next, jumped)
	}
}

func TestAnUnknownReceiptIsAnErrorWhileNothingWasRotatedAway(t *testing.T) {
	log := small(t)
	for range 2 {
		err := Follow(t.Context(), log, "nobody's", func(Event) error { return nil }, func(Gap) error { return nil })
		if e, ok := errors.AsType[*UnknownError](err); !ok || e.ID != "nobody's" {
			t.Errorf("%v", err)
		}
		add(t, log, 1, 2)
	}
}

func TestTornLinesAreNoEvents(t *testing.T) {
	log := small(t)
	add(t, log, 1, 2)
	tear := func(path string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(`{"version":1,"id":"torn`)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tear(log.Path)
	end := &follower{log: log}
	defer end.close()
	if err := end.begin(""); err != nil {
		t.Fatal(err)
	}
	add(t, log, 3)
	var got []string
	end.event = func(e Event) error { got = append(got, e.ID); return nil }
	if err := end.drain(t.Context()); err != nil || !slices.Equal(got, names(3)) {
		t.Errorf("from a torn end on: %q, %v", got, err)
	}
	f := follow(t, log, "r2")
	f.want("r3")
	tear(log.Path)
	add(t, log, 4)
	f.want("r4")
	// A last line without its newline belongs to the log, and is not given twice.
	data, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(log.Path, int64(len(data)-1)); err != nil {
		t.Fatal(err)
	}
	add(t, log, 5)
	f.want("r5")
}

func TestWithoutInotifyTheLogIsPolled(t *testing.T) {
	log := small(t)
	add(t, log, 1)
	w := &watcher{dir: filepath.Join(t.TempDir(), "not there")}
	begin := time.Now()
	if !w.wait(t.Context()) || time.Since(begin) < pollTime || w.file != nil {
		t.Errorf("it waited %v", time.Since(begin))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w.wait(ctx) || watch(t.TempDir()).wait(ctx) {
		t.Error("it waits on after its end")
	}
}

func TestAReceiptIsFoundAmongTheLast(t *testing.T) {
	log := small(t)
	if r, err := Find(log, "r1"); r != nil || err != nil {
		t.Fatalf("no log: %+v, %v", r, err)
	}
	add(t, log, upTo(1, 40)...)
	if r, err := Find(log, "r40"); err != nil || r == nil || r.ID != "r40" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Find(log, "r1"); err != nil || r != nil {
		t.Errorf("%+v, %v", r, err)
	}
	files, err := os.ReadDir(filepath.Dir(log.Path))
	if err != nil || !slices.ContainsFunc(files, func(e os.DirEntry) bool { return e.Name() == Name+".2" }) {
		t.Errorf("%v, %v", files, err)
	}
}
