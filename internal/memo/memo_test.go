package memo

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// running is the memo of a gateway that runs, proven, and of a restart of it that has begun.
func running() *Memo {
	yes, at := true, time.Date(2026, 11, 25, 14, 38, 13, 840780788, time.UTC)
	p := profile.Profile{
		Name: "demo", Gateway: profile.Gateway{Command: []string{"/usr/local/bin/testgateway", "--listen", "127.0.0.1:18789"}, User: 64990, Group: 64990, Cwd: "/"},
		Listen:  []profile.Listen{{Name: "api", Address: profile.Address{Network: "tcp"}, Mode: profile.ModeGateway}},
		Ready:   profile.Ready{Kind: "http", Path: "/health", Accept: []int{200}, Timeout: 5 * time.Second},
		Stop:    profile.Stop{Signal: unix.SIGTERM, Timeout: 5 * time.Second},
		Restart: profile.Restart{Policy: profile.Always, BackoffInitial: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Burst: 5, Window: time.Minute},
	}
	g := &receipt.New{PID: 3526, NSPID: 28, StartTime: 198616, Exe: "/usr/local/bin/testgateway", UID: 64990, GID: 64990, Groups: []int{}, NoNewPrivs: true}
	c := receipt.Container{Namespace: "default", ID: "web", InitPID: 3500, InitStart: 198600}
	listeners := []receipt.Listener{{Name: "api", Address: "tcp://127.0.0.1:18789", Mode: "gateway", Inode: 3, OwnerPID: 3526}}
	return &Memo{
		Status: receipt.Status{
			Container: c, Gateway: "demo", State: receipt.Running, PID: 3526, NSPID: 28, StartTime: 198616, Since: at,
			Restarts: receipt.Restarts{Asked: 1, Unasked: 1}, Generation: 3, Listeners: listeners, Healthy: &yes, Checked: &at,
			Standby: receipt.Standby{PID: 3600}, Warden: receipt.Warden{PID: 3520, Version: "test"},
			Last: &receipt.Receipt{Version: 1, ID: "r1", Container: c, Gateway: "demo", Action: receipt.Restart, Outcome: receipt.Replaced, Generation: 3,
				Old: &receipt.Old{PID: 3400, StartTime: 198500, DeathProof: "waitid"}, New: g, Listeners: listeners,
				Probe: &receipt.Probe{Kind: "http", Verdict: "yes", Status: 200}, Time: at},
		},
		Counters: counters.Counters{
			Actions: map[receipt.Action]map[receipt.Outcome]uint64{
				receipt.Start: {receipt.Replaced: 1}, receipt.Restart: {receipt.Replaced: 1, receipt.Refused: 2}, receipt.Respawn: {receipt.Replaced: 1},
			},
			Unavailable: counters.Durations{Buckets: []uint64{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, Seconds: 0.119},
		},
		Recovery: Recovery{
			Exits: []time.Time{at}, Backoff: 100 * time.Millisecond, Gateway: g, Identity: process.Identity{Start: 198616, UID: [4]uint32{64990, 64990, 64990, 64990}},
			Proven: true, Profile: p,
			Pending: &Pending{ID: "r2", Kind: receipt.Restart, Asked: true, Request: "q", Profile: p},
		},
	}
}

func write(t testing.TB, m *Memo, dir string) *os.File {
	t.Helper()
	f, err := m.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// put makes content the memo, signed like one.
func put(t testing.TB, dir, content string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, Name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if err := sign(f); err != nil {
		t.Fatal(err)
	}
}

func TestASuccessorReadsAllThatWasWritten(t *testing.T) {
	dir := t.TempDir()
	if m, err := Read(dir); m != nil || err != nil {
		t.Errorf("without a memo: %v, %v", m, err)
	}
	want := running()
	for _, alive := range []bool{true, false} { // whether its writer still is
		f := write(t, want, dir)
		if !alive {
			f.Close()
		}
		got, err := Read(dir)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("writer alive: %v: %v\ngot  %+v\nwant %+v", alive, err, got, want)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, Name)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestTheStatusCountsWhileItsWriterStandsByIt(t *testing.T) {
	dir := t.TempDir()
	if _, err := Status(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a memo: %v", err)
	}
	m := running()
	first := write(t, m, dir)
	if got, err := Status(dir); err != nil || !reflect.DeepEqual(*got, m.Status) {
		t.Errorf("%v: %+v", err, got)
	}
	m.Status.State = receipt.Stopping
	second := write(t, m, dir)
	first.Close()
	if got, err := Status(dir); err != nil || got.State != receipt.Stopping {
		t.Errorf("after the next one: %v: %+v", err, got)
	}
	if g, err := Look(dir); err != nil || !g.Signed || !reflect.DeepEqual(g.Counters, m.Counters) {
		t.Errorf("what was counted: %v: %+v", err, g)
	}
	second.Close()
	if got, err := Status(dir); got != nil || !errors.Is(err, ErrUnsigned) {
		t.Errorf("nobody stands by it: %v, %v", got, err)
	}
	if g, err := Look(dir); err != nil || g.Signed || !reflect.DeepEqual(g.Counters, m.Counters) || !reflect.DeepEqual(g.Status, m.Status) {
		t.Errorf("what was counted is not forgotten: %v: %+v", err, g)
	}
}

// A client that looks must not be in the way of who writes, or of who takes over.
func TestALookAtALockTakesNothing(t *testing.T) {
	dir := t.TempDir()
	f := write(t, running(), dir)
	look, err := os.Open(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	f.Close()
	if ok, err := signed(look); ok || err != nil {
		t.Errorf("signed: %v, %v", ok, err)
	}
	other, err := os.OpenFile(filepath.Join(dir, Name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := sign(other); err != nil {
		t.Errorf("after a look: %v", err)
	}
	if ok, err := signed(look); !ok || err != nil {
		t.Errorf("signed by another: %v, %v", ok, err)
	}
}

// The writer is a process here, which the kernel ends: what it held is let go, whatever it had in mind.
func TestTheMemoOfAWriterThatIsKilledHasNobodyWhoStandsByIt(t *testing.T) {
	dir := t.TempDir()
	f := write(t, running(), dir)
	holder := exec.Command("cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	holder.ExtraFiles = []*os.File{f} // the same open file description, as a lock's holder is
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		holder.Process.Kill()
		holder.Wait()
	}()
	f.Close()
	if _, err := Status(dir); err != nil {
		t.Fatalf("while it lives: %v", err)
	}
	holder.Process.Kill()
	holder.Wait()
	if _, err := Status(dir); !errors.Is(err, ErrUnsigned) {
		t.Errorf("after its death: %v", err)
	}
}

func TestAReaderFollowsAWriterThatIsFaster(t *testing.T) {
	dir := t.TempDir()
	m := running()
	f, err := m.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- f.Close()
				return
			default:
			}
			next, err := m.Write(dir)
			if err != nil {
				done <- err
				return
			}
			f.Close()
			f = next
		}
	}()
	for range 500 {
		if _, err := Status(dir); err != nil {
			t.Errorf("%v", err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotAMemoOfThisVersionIsNotRead(t *testing.T) {
	data, err := running().encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	head, rest, _ := strings.Cut(good, "\n")
	both := "both"
	for _, c := range []struct {
		name, content string
		who           string // who refuses it; else only a successor does
	}{
		{"empty", "", both},
		{"torn in the first line", good[:100], both},
		{"without the end of the first line", head, both},
		{"another version", strings.Replace(good, `{"version":6,`, `{"version":4,`, 1), both},
		{"an unknown member", strings.Replace(good, `{"version":6,`, `{"version":5,"more":1,`, 1), both},
		{"an unknown member of the status", strings.Replace(good, `"healthy":true`, `"healthy":true,"wealthy":true`, 1), both},
		{"a member of another kind", strings.Replace(good, `"generation":3`, `"generation":"3"`, 1), both},
		{"an unknown member of the counters", strings.Replace(good, `"seconds":0.119`, `"seconds":0.119,"hours":1`, 1), both},
		{"counters in other buckets", strings.Replace(good, `"buckets":[0,`, `"buckets":[`, 1), both},
		{"a negative counter", strings.Replace(good, `"refused":2`, `"refused":-2`, 1), both},
		{"no status", `{"version":6}` + "\n" + rest, both},
		{"two values in the first line", head + " 1\n" + rest, both},
		{"one line alone", head + "\n", ""},
		{"torn in the second line", good[:len(good)-10], ""},
		{"an unknown member of the second line", head + "\n" + `{"more":1,` + rest[1:], ""},
		{"a third line", good + "{}\n", ""},
		{"no profile", strings.Replace(good, `"Name":"demo"`, `"Name":""`, 1), ""},
		{"another start time", strings.Replace(good, `"identity":{"start":198616`, `"identity":{"start":198617`, 1), ""},
		{"too long", good + strings.Repeat(" ", MaxSize), ""},
		{"too long a first line", strings.Repeat(" ", MaxSize) + good, both},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.content == good {
				t.Fatal("nothing was changed")
			}
			dir := t.TempDir()
			put(t, dir, c.content)
			if m, err := Read(dir); err == nil || m != nil || !strings.Contains(err.Error(), filepath.Join(dir, Name)) {
				t.Errorf("a successor reads %+v, %v", m, err)
			}
			st, err := Status(dir)
			if c.who != both {
				if err != nil || st.PID != 3526 {
					t.Errorf("what is for clients is good, and not read: %v", err)
				}
			} else if err == nil || st != nil {
				t.Errorf("a client reads %+v", st)
			}
		})
	}
}

func TestALinkOrAPipeInTheMemosPlaceIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	elsewhere := t.TempDir()
	write(t, running(), elsewhere)
	path := filepath.Join(dir, Name)
	if err := os.Symlink(filepath.Join(elsewhere, Name), path); err != nil {
		t.Fatal(err)
	}
	if st, err := Status(dir); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %+v, %v", st, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := Status(dir); err == nil {
		t.Errorf("from a FIFO: %+v", st)
	}
}

func FuzzMemo(f *testing.F) {
	data, err := running().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":6,"status":{"state":"running"}}` + "\n" + `{"gateway":{"pid":1,"start_time":2},"identity":{"start":2},"profile":{"Name":"demo"}}`))
	f.Add([]byte(`{"version":6}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data)
		if err != nil {
			if m != nil {
				t.Error("a memo beside an error")
			}
			return
		}
		if m.Status.Generation < 0 || m.Counters.Check() != nil || m.Gateway != nil && m.Gateway.PID <= 0 {
			t.Errorf("accepted %+v", m)
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(again); err != nil {
			t.Errorf("accepted %s, but not as %s: %v", data, again, err)
		}
	})
}

func BenchmarkStatus(b *testing.B) {
	dir := b.TempDir()
	write(b, running(), dir)
	for b.Loop() {
		if _, err := Status(dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	dir, m := b.TempDir(), running()
	for b.Loop() {
		f, err := m.Write(dir)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
