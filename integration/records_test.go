//go:build integration

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// verification is what `audit verify --json` prints.
type verification struct {
	Log     string
	Intact  bool
	Lines   int
	LastSeq uint64 `json:"last_seq"`
	Signed  int
	Notes   []string
	Broken  *notary.Break
}

// verified runs audit verify, which has to find the logs intact, and gives what it says of the last.
func verified(t *testing.T, args ...string) verification {
	t.Helper()
	r := gatewarden(t, append([]string{"audit", "verify", "--json"}, args...)...)
	if r.Status != 0 {
		t.Fatalf("%v", r)
	}
	all := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	v := decode[verification](t, all[len(all)-1])
	if !v.Intact || v.Broken != nil {
		t.Fatalf("exit status 0, and %+v", v)
	}
	return v
}

// broken runs audit verify, which has to find a break.
func broken(t *testing.T, args ...string) *notary.Break {
	t.Helper()
	r := gatewarden(t, append([]string{"audit", "verify", "--json"}, args...)...)
	v := decode[verification](t, r.Stdout)
	if r.Status != code.ExitFailed || v.Broken == nil {
		t.Fatalf("%v", r)
	}
	return v.Broken
}

// freshAudit lets the host's audit log begin anew.
func freshAudit(t *testing.T) chain.Log {
	t.Helper()
	log := audit.Log(host.StateDir)
	for k := 0; k <= log.Old; k++ {
		if err := os.Remove(log.Numbered(k)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	return log
}

// audited gives the ids of this container's receipts in the audit log, oldest first.
func (c *container) audited() []string {
	c.t.Helper()
	files, err := audit.Log(c.h.StateDir).OpenAll()
	if err != nil {
		c.t.Fatal(err)
	}
	defer chain.CloseAll(files)
	var all []string
	for _, f := range slices.Backward(files) {
		scanner := bufio.NewScanner(f)
		scanner.Buffer(nil, chain.MaxLine)
		for scanner.Scan() {
			var r receipt.Receipt
			if json.Unmarshal(scanner.Bytes(), &r) == nil && r.Container.ID == c.id {
				all = append(all, r.ID)
			}
		}
		if err := scanner.Err(); err != nil {
			c.t.Fatal(err)
		}
	}
	return all
}

// journaled gives the ids of the receipts in the journal, oldest first.
func (c *container) journaled() []string {
	c.t.Helper()
	all, err := journal.Read(c.journal(), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids
}

func (c *container) journal() string { return filepath.Join(c.stateDir(), journal.Name) }

// sameRecords checks that journal and audit log have the same receipts, each once, and that both verify.
func (c *container) sameRecords() {
	c.t.Helper()
	inJournal, inAudit := c.journaled(), c.audited()
	if !slices.Equal(inJournal, inAudit) {
		c.t.Errorf("the journal has %q, the audit log %q", inJournal, inAudit)
	}
	sorted := slices.Sorted(slices.Values(inJournal))
	if len(slices.Compact(sorted)) != len(inJournal) {
		c.t.Errorf("a receipt is there twice: %q", inJournal)
	}
	verified(c.t)
	if v := verified(c.t, c.name()); v.Lines != len(inJournal) {
		c.t.Errorf("%d lines, %d receipts", v.Lines, len(inJournal))
	}
}

func TestEveryReceiptIsInTheJournalAndInTheAuditLogWhichOutlivesTheContainer(t *testing.T) {
	log := freshAudit(t)
	c := run(t, options{profile: &harness.Profile{}})
	c.restart("--reason", "by exec")
	before := c.parked()
	killProcess(t, before.PID)
	c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if r := gatewarden(t, "recover", c.name()); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	var actions []string
	for _, r := range c.receipts() {
		actions = append(actions, string(r.Action))
	}
	if want := []string{"start", "restart", "respawn", "recover"}; !slices.Equal(actions, want) {
		t.Errorf("%q, want %q", actions, want)
	}
	c.sameRecords()
	if r := gatewarden(t, "receipts", "--json", c.name()); strings.Contains(r.Stdout, `"prev"`) || strings.Count(r.Stdout, "\n") != 4 {
		t.Errorf("receipts do not print what they did: %v", r)
	}
	info, err := os.Stat(log.Path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	c.delete()
	c.checkGone()
	if _, err := os.Lstat(c.journal()); !os.IsNotExist(err) {
		t.Errorf("the journal: %v", err)
	}
	if ids := c.audited(); len(ids) != 4 {
		t.Errorf("the audit log has %q", ids)
	}
	verified(t)
	// An operator who changes one word of what was done is found out.
	data, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, log.Path, strings.Replace(string(data), "by exec", "by eXec", 1), 0o600)
	if b := broken(t); b.Kind != notary.Edited || b.Line != 3 || b.Seq != 3 || b.File != log.Path {
		t.Errorf("%+v", b)
	}
	if b := broken(t, log.Path); b.Kind != notary.Edited {
		t.Errorf("%+v", b)
	}
	writeFile(t, log.Path, string(data), 0o600)
	if r := gatewarden(t, "audit", "verify", "--all"); r.Status != 0 || !strings.Contains(r.Stdout, log.Path+": intact: 4 lines") {
		t.Errorf("%v", r)
	}
	refused(t, gatewarden(t, "audit", "verify", "nobody-of-this-name"), code.ExitNotManaged, string(code.NotManaged))
}

func TestConcurrentRestartsOfSeveralContainersMakeOneChain(t *testing.T) {
	freshAudit(t)
	const containers, restarts = 4, 6
	all := make([]*container, containers)
	for i := range all {
		all[i] = run(t, options{profile: &harness.Profile{}})
	}
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() {
			for range restarts {
				if r := c.gatewardenInBackground("restart", c.name())(); r.Status != 0 {
					t.Errorf("%v", r)
				}
			}
		})
	}
	wg.Wait()
	if v := verified(t); v.Lines != containers*(restarts+1) || len(v.Notes) != 0 {
		t.Errorf("%+v", v)
	}
	for _, c := range all {
		c.sameRecords()
	}
}

func TestAWardenThatIsKilledWhileItRecordsLeavesEachReceiptOnceInBothLogs(t *testing.T) {
	withFailpoints(t)
	for _, point := range []string{"receipt", "audited"} {
		t.Run(point, func(t *testing.T) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.parked()
			c.arm(point, "kill")
			r := decode[receipt.Receipt](t, c.restartBy("gatewarden")().Stdout)
			c.supervised(before.Warden.PID)
			c.sameRecords()
			if ids := c.audited(); !slices.Contains(ids, r.ID) {
				t.Errorf("receipt %s is not among %q", r.ID, ids)
			}
		})
	}
}

func TestALineThatIsTornByACrashIsRecognisedInBothLogs(t *testing.T) {
	log := freshAudit(t)
	c := run(t, options{profile: &harness.Profile{}})
	for _, path := range []string{log.Path, c.journal()} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(`{"version":1,"id":"torn`)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{nil, {c.name()}} {
		if v := verified(t, args...); len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "the last 23 bytes are torn") {
			t.Errorf("%q: %+v", args, v)
		}
	}
	c.restart()
	for _, args := range [][]string{nil, {c.name()}} {
		if v := verified(t, args...); v.Lines != 2 || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "23 bytes are torn") {
			t.Errorf("%q: %+v", args, v)
		}
	}
}

func TestAnAuditLogThatSomebodyKeepsLockedHoldsUpNoRestart(t *testing.T) {
	log := freshAudit(t)
	c := run(t, options{profile: &harness.Profile{}})
	f, err := chain.Open(log.Path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	r := c.restart()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if r.Outcome != receipt.Replaced || !strings.Contains(r.Message, "this receipt is not in the audit log: ") || !strings.Contains(r.Message, "locked") {
		t.Errorf("%+v", r)
	}
	f.Close()
	all := c.receipts()
	if last := all[len(all)-1]; last.ID != r.ID || last.Message != r.Message {
		t.Errorf("the journal's last is %+v", last)
	}
	c.restart()
	if v := verified(t); v.Lines != 2 {
		t.Errorf("%+v", v)
	}
}

// follower is a `gatewarden events` under way.
type follower struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
}

func follow(t *testing.T, args ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*commandTime)
	t.Cleanup(cancel)
	cmd := host.Command(ctx, host.Bin("gatewarden"), append([]string{"events"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &follower{t, cmd, make(chan string, 10_000)}
	go func() {
		defer close(f.lines)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, chain.MaxLine)
		for scanner.Scan() {
			f.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() { cancel(); cmd.Wait() })
	return f
}

// next gives the next line.
func (f *follower) next() string {
	f.t.Helper()
	select {
	case line, ok := <-f.lines:
		if !ok {
			f.t.Fatal("the command has ended")
		}
		return line
	case <-time.After(eventTime):
		f.t.Fatal("nothing comes")
	}
	return ""
}

// end interrupts the command, which has to end well.
func (f *follower) end() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(unix.SIGINT); err != nil {
		f.t.Fatal(err)
	}
	for range f.lines {
	}
	if err := f.cmd.Wait(); err != nil {
		f.t.Errorf("interrupted, it ends with %v", err)
	}
}

func TestEventsSinceAReceiptMissNothingAcrossARotationAndTheLossOfAWarden(t *testing.T) {
	log := freshAudit(t)
	c := run(t, options{profile: &harness.Profile{}})
	first := c.receipts()[0].ID
	// So much of others that the log is full after the next receipt or two.
	for _, size := range []int{60 << 10, 1 << 10} {
		for {
			info, err := os.Stat(log.Path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size()+int64(size)+3000 > log.MaxFile {
				break
			}
			body, err := json.Marshal(receipt.Receipt{Version: 1, ID: "other", Container: receipt.Container{Namespace: "x", ID: "other"}, Message: strings.Repeat("m", size-900)})
			if err == nil {
				_, err = notary.Append(log, nil, body, notary.Patience)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	live := follow(t, c.name(), "--since", first)
	for i := range 4 {
		r := c.restart()
		if line := live.next(); !strings.Contains(line, `"id":"`+r.ID+`"`) {
			t.Fatalf("restart %d has receipt %s, and the event is %s", i, r.ID, line)
		}
	}
	if _, err := os.Stat(log.Numbered(1)); err != nil {
		t.Errorf("it was not enough to rotate: %v", err)
	}
	before := c.parked()
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	c.restart()
	want := c.journaled()[1:]
	for _, id := range want[4:] {
		if line := live.next(); !strings.Contains(line, `"id":"`+id+`"`) {
			t.Fatalf("%s, want %s", line, id)
		}
	}
	live.end()
	for i, id := range want[:len(want)-1] { // each has something to print: it has begun when it is interrupted
		again := follow(t, c.name(), "--since", id)
		for _, id := range want[i+1:] {
			if line := again.next(); !strings.Contains(line, `"id":"`+id+`"`) {
				t.Fatalf("since %s: %s, want %s", want[i], line, id)
			}
		}
		again.end()
	}
	c.sameRecords()
	refused(t, gatewarden(t, "events", "--all", "--since", "nobody's"), code.ExitNotManaged, string(code.NotManaged))
}

func TestReceiptsAreAmongTheEventsThatCtrShows(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*commandTime)
	defer cancel()
	stream, errs := subscribe(t, ctx, `topic=="/gatewarden/receipt"`)
	ctr := host.Command(ctx, host.Tool("ctr"), "events")
	out, err := ctr.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ctr.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); ctr.Wait() }()
	shown := make(chan string, 1000)
	go func() {
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			if strings.Contains(scanner.Text(), "/gatewarden/receipt") {
				shown <- scanner.Text()
			}
		}
	}()
	time.Sleep(500 * time.Millisecond) // ctr does not say when it has subscribed
	c := run(t, options{profile: &harness.Profile{}})
	c.restart("--reason", "for ctr")
	before := c.parked()
	// What is recorded while nobody watches is told afterwards.
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	last := c.restart()
	want := c.receipts()
	for i, r := range want {
		var got *eventsapi.ContainerUpdate
		select {
		case e := <-stream:
			v, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				t.Fatal(err)
			}
			got = v.(*eventsapi.ContainerUpdate)
		case err := <-errs:
			t.Fatal(err)
		case <-time.After(eventTime):
			t.Fatalf("no event for receipt %d of %d", i+1, len(want))
		}
		inside := decode[receipt.Receipt](t, got.Labels["receipt"])
		if got.ID != c.id || got.Labels["id"] != r.ID || got.Labels["action"] != string(r.Action) || got.Labels["seq"] != fmt.Sprint(i+1) || inside.ID != r.ID {
			t.Errorf("event %d is %+v, want receipt %s", i, got, r.ID)
		}
		select {
		case line := <-shown:
			if !strings.Contains(line, r.ID) || !strings.Contains(line, `"outcome":"`+string(r.Outcome)+`"`) {
				t.Errorf("ctr shows %s", line)
			}
		case <-time.After(eventTime):
			t.Fatalf("ctr does not show receipt %d of %d", i+1, len(want))
		}
	}
	if want[len(want)-1].ID != last.ID {
		t.Errorf("the journal ends with %s", want[len(want)-1].ID)
	}
	select {
	case e := <-stream:
		t.Errorf("one more event: %+v", e)
	case <-time.After(300 * time.Millisecond):
	}
}

// auditKey makes a key with openssl, as the documents say, and its public half.
func auditKey(t *testing.T) (private, public string) {
	t.Helper()
	private = filepath.Join(host.Dir, uniqueID("audit")+".key")
	public = private + ".pub"
	for _, args := range [][]string{{"genpkey", "-algorithm", "ed25519", "-out", private}, {"pkey", "-in", private, "-pubout", "-out", public}} {
		if r, err := host.Run(t.Context(), "openssl", args...); err != nil || r.Status != 0 {
			t.Fatalf("%v %v", r, err)
		}
	}
	if err := os.Chmod(private, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(private); os.Remove(public) })
	return private, public
}

// signing makes containers sign with the key at path, until the test ends.
func signing(t *testing.T, path string) {
	t.Helper()
	if err := host.UseAuditKey(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.UseHook(host.Bin("gatewarden-hook")); err != nil {
			t.Error(err)
		}
	})
}

func TestReceiptsAreSignedWithTheHostsKeyAndVerifiedWithItsPublicHalf(t *testing.T) {
	log := freshAudit(t)
	private, public := auditKey(t)
	signing(t, private)
	c := run(t, options{profile: &harness.Profile{}})
	c.restart("--reason", "signed")
	before := c.parked()
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	for _, args := range [][]string{nil, {"--public-key", public}, {c.name()}, {"--all", "--public-key", public}} {
		if v := verified(t, args...); v.Lines != 3 || v.Signed != 3 || len(v.Notes) != 0 {
			t.Errorf("%q: %+v", args, v)
		}
	}
	_, other := auditKey(t)
	if b := broken(t, "--public-key", other); b.Kind != notary.Signature || b.Seq != 1 {
		t.Errorf("with another's key: %+v", b)
	}
	// Who has no key can make a chain that holds, and no signature.
	body, err := json.Marshal(receipt.Receipt{Version: 1, ID: "forged", Container: receipt.Container{Namespace: c.h.Namespace, ID: c.id}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := notary.Append(log, nil, body, notary.Patience); err != nil {
		t.Fatal(err)
	}
	if b := broken(t); b.Kind != notary.Unsigned || b.Line != 4 || !strings.Contains(b.Found, c.name()) {
		t.Errorf("%+v", b)
	}
	// The last line has nobody after it: its signature tells.
	freshAudit(t)
	c.restart("--reason", "the last one")
	data, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, log.Path, strings.Replace(string(data), "the last one", "the lost one", 1), 0o600)
	if b := broken(t); b.Kind != notary.Signature || b.Line != 1 {
		t.Errorf("%+v", b)
	}
	freshAudit(t)
}

func TestAKeyThatCannotBeReadKeepsNoGatewayDown(t *testing.T) {
	freshAudit(t)
	private, public := auditKey(t)
	signing(t, private)
	c := run(t, options{profile: &harness.Profile{}})
	if err := os.Chmod(private, 0o644); err != nil {
		t.Fatal(err)
	}
	c.restart() // the warden has read it at its start
	verified(t, "--public-key", public)
	before := c.parked()
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	r := c.restart()
	if r.Outcome != receipt.Replaced {
		t.Errorf("%+v", r)
	}
	b := broken(t, "--public-key", public)
	if b.Kind != notary.Unsigned || b.Seq != 3 || !strings.Contains(b.Found, c.name()) || !strings.Contains(b.Found, "Z)") {
		t.Errorf("%+v", b)
	}
	data, err := os.ReadFile(filepath.Join(c.logDir(), "warden.log"))
	if err != nil || !strings.Contains(string(data), "NOT SIGNED") || !strings.Contains(string(data), "chmod 0600 "+private) {
		t.Errorf("the warden's log does not tell: %s, %v", tail(data), err)
	}
	refused(t, gatewarden(t, "audit", "verify"), code.ExitRefused, "chmod 0600 "+private)
	refused(t, gatewarden(t, "doctor"), code.ExitFailed, "chmod 0600 "+private)
	if err := os.Chmod(private, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := gatewarden(t, "upgrade-warden", c.name()); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	c.restart()
	if v := verified(t, "--allow-unsigned"); v.Signed < 3 || len(v.Notes) != 1 {
		t.Errorf("%+v", v)
	}
	freshAudit(t)
}
