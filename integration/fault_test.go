//go:build integration

package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// matrix is docs/fault-matrix.md: the tests run these rows, and the document is written from them.
var matrix = []faults{
	queueFaults,
	stopFaults,
	policyFaults,
	wardenFaults,
	lostFaults,
	heldFaults,
	overlapFaults,
	listenerFaults,
	daemonFaults,
	shimFaults,
	pauseFaults,
	limitFaults,
	diskFaults,
	placeFaults,
	probeFaults,
	credentialFaults,
}

// faults are the rows of one section, and of one test.
type faults struct {
	test  string // the function that runs them
	title string
	about string // a paragraph on the section, for the document
	rows  []fault
}

// fault is one thing that goes wrong, what the operator is told, and what is there afterwards.
type fault struct {
	stage string // in which it strikes: a stage of the receipt, or "idle", "queued", …
	fault string // what happens

	// What the client of a command sees; where nobody asked, exit is noClient, and code and message are those of the status
	// afterwards. In the message "…" stands for what varies.
	exit    int
	code    code.Code
	message string

	state   receipt.State // afterwards; "": there is no container any more
	gateway string        // afterwards: theSame, aNewOne, none
	note    string        // what else is checked, for the document

	// do makes the container and the fault. It gives the container's status before and what the operator's command said.
	do func(t *testing.T) (c *container, before receipt.Status, said harness.Result)
}

// noClient is the exit of a fault that no command waits for.
const noClient = -1

// What becomes of the gateway.
const (
	theSame = "the same"
	aNewOne = "a new one"
	none    = "none"
)

// run makes each fault happen and checks what its row says.
func (f faults) run(t *testing.T) {
	if t.Name() != f.test {
		t.Fatalf("the rows of %s are run by %s", f.test, t.Name())
	}
	for _, row := range f.rows {
		t.Run(row.stage+", "+row.fault, func(t *testing.T) {
			c, before, said := row.do(t)
			row.check(t, c, before, said)
		})
	}
}

func (f fault) check(t *testing.T, c *container, before receipt.Status, said harness.Result) {
	t.Helper()
	if f.exit != noClient {
		if said.Status != f.exit {
			t.Errorf("exit status %d, want %d:\n%v", said.Status, f.exit, said)
		}
		gotCode, message := spoken(said)
		if gotCode != f.code {
			t.Errorf("code %q, want %q:\n%v", gotCode, f.code, said)
		}
		if !likeness(f.message).MatchString(message) {
			t.Errorf("message %q\nwant    %q", message, f.message)
		}
	}
	if f.state == "" {
		c.checkGone()
		return
	}
	after := c.waitFor("the gateway is "+string(f.state), func(s receipt.Status) bool {
		return s.State == f.state && (f.gateway != aNewOne || s.PID != before.PID)
	})
	if f.exit == noClient && (after.Code != f.code || !likeness(f.message).MatchString(after.Message)) {
		t.Errorf("the status says %q: %q\nwant            %q: %q", after.Code, after.Message, f.code, f.message)
	}
	got := c.gateways()
	switch f.gateway {
	case theSame:
		if after.PID != before.PID || after.StartTime != before.StartTime || !slices.Equal(got, []int{before.PID}) {
			t.Errorf("the gateways are %v, the status says %d; want process %d alone", got, after.PID, before.PID)
		}
	case aNewOne:
		if !slices.Equal(got, []int{after.PID}) {
			t.Errorf("the gateways are %v, want %d alone", got, after.PID)
		}
	case none:
		if after.PID != 0 || len(got) != 0 {
			t.Errorf("the gateways are %v, the status says %d; want none", got, after.PID)
		}
	default:
		t.Fatalf("the row says nothing of the gateway: %q", f.gateway)
	}
	if f.gateway != none && f.state == receipt.Running {
		if who := c.ask(); who.PID != after.NSPID {
			t.Errorf("process %d answers, the status says %d", who.PID, after.NSPID)
		}
	}
}

// spoken gives the code and message of what a command said: of its JSON, or of its last line "gatewarden: MESSAGE (CODE)".
func spoken(r harness.Result) (code.Code, string) {
	var said struct {
		receipt.Receipt
		Error *code.Error `json:"error"`
	}
	out := strings.TrimSpace(r.Stdout)
	if i := strings.LastIndexByte(out, '\n'); i >= 0 {
		out = out[i+1:]
	}
	if json.Unmarshal([]byte(out), &said) == nil {
		if said.Error != nil {
			return said.Error.Code, said.Error.Message
		}
		return said.Code, said.Message
	}
	for line := range strings.Lines(r.Stderr) {
		if m := complaint.FindStringSubmatch(line); m != nil {
			return code.Code(m[2]), m[1]
		}
	}
	return "", ""
}

var complaint = regexp.MustCompile(`^(?:gatewarden|ctr): (.*) \(([a-z_]+)\)\n?$`)

// likeness is a message in which "…" stands for anything.
func likeness(message string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(message), "…", "(?s:.*)") + "$")
}

// arm makes the container's warden fail at a point, once.
func (c *container) arm(point, action string) {
	c.t.Helper()
	writeFile(c.t, filepath.Join(c.runDir(), failpoint.Name), point+" "+action+"\n", 0o600)
}

// hold makes the container's warden stop at a point. It gives two functions: one waits until it has come there, the other
// lets it go on.
func (c *container) hold(point string) (reached, release func()) {
	c.t.Helper()
	c.arm(point, "hold")
	held := filepath.Join(c.runDir(), failpoint.Held)
	reached = func() {
		c.t.Helper()
		eventually(c.t, eventTime, "the warden is held at "+point, func() bool {
			_, err := os.Lstat(held)
			return err == nil
		}, func() string { return "" })
	}
	release = func() {
		if err := os.Remove(held); err != nil && !os.IsNotExist(err) {
			c.t.Error(err)
		}
	}
	c.t.Cleanup(release)
	return reached, release
}

// restartPoint is a failpoint, the stage that it is in, and what that means.
type restartPoint struct {
	stage code.Stage
	point string
	when  string
}

// restartPoints are the failpoints inside a restart, in their order.
var restartPoints = []restartPoint{
	{code.StageQueue, "queue", "its turn has come"},
	{code.StagePreflight, "preflight", "before preflight"},
	{code.StageStop, "intent", "the intent is recorded, no signal sent"},
	{code.StageStop, "signalled", "the signal is sent"},
	{code.StageStop, "dead", "the gateway is dead and not yet reaped"},
	{code.StageAbsence, "stopped", "between stop and launch"},
	{code.StageLaunch, "release", "before the go"},
	{code.StageListen, "launched", "after exec"},
	{code.StageProbe, "probe", "while probing"},
	{code.StageReceipt, "proven", "the successor is proven"},
	{code.StageReceipt, "receipt", "before the receipt is written"},
	{code.StageReceipt, "audited", "the receipt is in the audit log and not yet in the journal"},
}

var update = flag.Bool("update", false, "write the documents that are made from the tests")

// matrixFile is made by this package's tests: go test -tags integration -run TestTheFaultMatrix -update ./integration
const matrixFile = "../docs/fault-matrix.md"

func TestTheFaultMatrixOfTheDocumentsIsThatOfTheTests(t *testing.T) {
	want := writeMatrix()
	if *update {
		writeFile(t, matrixFile, want, 0o644)
	}
	got, err := os.ReadFile(matrixFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the tests say: write it anew with make docs", matrixFile)
	}
	// A row counts only if its test is there to run it.
	sources, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, s := range sources {
		data, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	for _, f := range matrix {
		if !strings.Contains(all.String(), "\nfunc "+f.test+"(t *testing.T) {") {
			t.Errorf("there is no test %s", f.test)
		}
	}
}

func writeMatrix() string {
	var b strings.Builder
	b.WriteString(`# Fault matrix

What happens when something goes wrong: what the operator's command says, and what is there afterwards. The rows are those
of the integration tests, which make each of these faults happen with real containerd and runc and check every cell; this
file is written by ` + "`make docs`" + ` and compared with the tests by ` + "`make test`" + `. "…" stands for what varies.

Stages are those of a receipt. *State* is what ` + "`gatewarden status`" + ` says afterwards, once things have settled.
`)
	for _, f := range matrix {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\nTest: `%s`\n\n", f.title, f.about, f.test)
		b.WriteString("| stage | fault | exit | code | message | state | gateway | also |\n|---|---|---|---|---|---|---|---|\n")
		for _, r := range f.rows {
			exit, state := fmt.Sprint(r.exit), string(r.state)
			if r.exit == noClient {
				exit = "–"
			}
			if state == "" {
				state = "(container gone)"
			}
			cells := []string{r.stage, r.fault, exit, mono(string(r.code)), r.message, state, r.gateway, r.note}
			for i, c := range cells {
				cells[i] = strings.ReplaceAll(c, "|", "\\|")
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	return b.String()
}

func mono(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
