//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// disk is a small filesystem in the place of one of gatewarden's directories.
type disk struct {
	t   *testing.T
	dir string
}

// smallDisk mounts one of some pages over the part of base that the containers of the tests' namespace use.
func smallDisk(t *testing.T, base, options string) disk {
	t.Helper()
	dir := filepath.Join(base, host.Namespace)
	for _, d := range []string{base, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("gwt", dir, "tmpfs", 0, options+",mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
		os.Remove(dir)
	})
	return disk{t, dir}
}

// fill leaves no byte free.
func (d disk) fill() {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		if _, err := f.Write(page); err != nil {
			return
		}
	}
}

func (d disk) empty() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "filler")); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
}

// wardenLog is the container's warden.log.
func (c *container) wardenLog() string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.logDir(), "warden.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

// diskFaults fill gatewarden's directories.
var diskFaults = faults{
	test:  "TestFullDisks",
	title: "A disk is full",
	about: "No space left where gatewarden writes. What is only a record does not keep a gateway down; the one record without which a restart could go wrong, that of the intent, does refuse it.",
	rows: []fault{
		{
			stage: string(code.StageReceipt), fault: "`state_dir/NAMESPACE` is full", exit: 0,
			message: "this receipt is not in the journal: cannot append to …: …no space left on device",
			state:   receipt.Running, gateway: aNewOne, note: "warden.log tells it too; the audit log, on another disk here, has it; with space again the next receipt is recorded",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				d := smallDisk(t, host.StateDir, "size=64k")
				c := run(t, options{profile: &harness.Profile{}})
				t.Cleanup(d.empty)
				before := c.parked()
				d.fill()
				// What is left of the journal's last page is used up first.
				said := c.tryRestart("--reason", strings.Repeat("x", 1000))
				for n := 0; n < 8 && !strings.Contains(said.Stdout, "not in the journal"); n++ {
					said = c.tryRestart("--reason", strings.Repeat("x", 1000))
				}
				if log := c.wardenLog(); !strings.Contains(log, "cannot record the receipt") {
					t.Errorf("warden.log does not tell it:\n%s", log)
				}
				if last := c.status().Last; last.ID != decode[receipt.Receipt](t, said.Stdout).ID {
					t.Errorf("the status has another receipt: %+v", last)
				}
				// The audit log lies beside the containers' directories, here on another disk.
				if ids := c.audited(); ids[len(ids)-1] != decode[receipt.Receipt](t, said.Stdout).ID {
					t.Errorf("the audit log ends with %q", ids)
				}
				d.empty()
				r := c.restart()
				if all := c.receipts(); all[len(all)-1].ID != r.ID || r.Message != "" {
					t.Errorf("%+v", all[len(all)-1])
				}
				return c, before, said
			},
		},
		{
			stage: "running", fault: "`log_dir` is full", exit: 0, state: receipt.Running, gateway: aNewOne,
			note: "the gateway is never held up; the lines that are lost are counted in their place",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				d := smallDisk(t, host.LogDir, "size=1m")
				p := harness.Profile{}
				c := run(t, options{profile: &p})
				t.Cleanup(d.empty)
				before := c.parked()
				d.fill()
				p.Args = []string{"--flood", "500000", "--say", "nobody will read this"}
				writeProfile(t, c.id, p.TOML())
				said := c.tryRestart()
				c.parked()
				d.empty()
				p.Args = []string{"--say", "there is space again"}
				writeProfile(t, c.id, p.TOML())
				c.restart()
				log := ""
				eventually(t, eventTime, "the log goes on and tells the loss", func() bool {
					data, err := os.ReadFile(filepath.Join(c.logDir(), "gateway.log"))
					log = string(tail(data))
					return err == nil && strings.Contains(log, "there is space again") && strings.Contains(log, "lines of output here: ") && strings.Contains(log, "no space left on device")
				}, func() string { return log })
				return c, before, said
			},
		},
		{
			stage: string(code.StageStop), fault: "`run_dir` is full; asked for: restart", exit: 3, code: code.PreflightFailed,
			message: "cannot restart gateway …: cannot record in … that the gateway is to be stopped: …no space left on device; the directory has to be there and to have room; process … was not touched and goes on",
			state:   receipt.Running, gateway: theSame, note: "with space again the restart works",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				d := smallDisk(t, host.RunDir, "size=256k")
				c := run(t, options{profile: &harness.Profile{}})
				t.Cleanup(d.empty)
				before := c.parked()
				d.fill()
				said := c.tryRestart()
				d.empty()
				return c, before, said
			},
		},
		{
			stage: "running", fault: "`run_dir` is full, and the gateway is killed", exit: noClient, state: receipt.Running, gateway: aNewOne,
			note: "a dead gateway is replaced whatever can be recorded; with space again a restart works",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				d := smallDisk(t, host.RunDir, "size=256k")
				c := run(t, options{profile: &harness.Profile{}})
				t.Cleanup(d.empty)
				before := c.parked()
				d.fill()
				killProcess(t, before.PID)
				c.waitFor("the next gateway runs", func(s receipt.Status) bool {
					return s.State == receipt.Running && s.PID != before.PID && s.Standby.PID != 0
				})
				if log := c.wardenLog(); !strings.Contains(log, "cannot leave word for a successor") {
					t.Errorf("warden.log does not tell it:\n%s", log)
				}
				d.empty()
				c.restart()
				return c, before, harness.Result{}
			},
		},
	},
}

func TestFullDisks(t *testing.T) { diskFaults.run(t) }

func TestAnInstallOnAFullDiskFailsTheCreateWithOneLineAndLeavesNothing(t *testing.T) {
	for name, base := range map[string]string{"run_dir": host.RunDir, "log_dir": host.LogDir, "state_dir": host.StateDir} {
		t.Run(name, func(t *testing.T) {
			d := smallDisk(t, base, "size=16k,nr_inodes=2")
			d.fill() // the second inode
			c, r := tryRun(t, options{profile: &harness.Profile{More: "[[state]]\ntarget = \"/var/lib/gateway\"\n"}})
			_, line, _ := strings.Cut(r.Stderr, "ctr: ") // a warning of ctr's own may come before
			if r.Status == 0 || !strings.Contains(line, "gatewarden: cannot install gateway") || !strings.HasSuffix(line, ": no space left on device\n") ||
				strings.Count(line, "\n") != 1 {
				t.Errorf("%v", r)
			}
			c.checkGone()
			if left, err := os.ReadDir(d.dir); err != nil || len(left) != 1 {
				t.Errorf("left: %v, %v", left, err)
			}
			if _, err := os.Stat(c.stateDir()); err == nil {
				t.Errorf("left: %s", c.stateDir())
			}
			d.empty()
		})
	}
}

// placeFaults take the run directory away.
var placeFaults = faults{
	test:  "TestTheRunDirectoryIsTakenAway",
	title: "The run directory is removed or replaced",
	about: "By root, while the container runs. Gateway, workload and warden go on; the warden notices and makes its directory, lock, record and socket anew.",
	rows: []fault{
		placeRow("the container's directory is removed", func(t *testing.T, c *container) { remove(t, c.runDir()) }),
		placeRow("the whole `run_dir` is removed", func(t *testing.T, c *container) { remove(t, c.h.RunDir) }),
		placeRow("the socket alone is removed", func(t *testing.T, c *container) { remove(t, filepath.Join(c.runDir(), "control.sock")) }),
		placeRow("the lock alone is removed", func(t *testing.T, c *container) { remove(t, filepath.Join(c.runDir(), "lock")) }),
		placeRow("the container's directory is moved away, and another one with another socket put there", func(t *testing.T, c *container) {
			away := filepath.Join(c.h.Dir, "moved-away")
			rename(t, c.runDir(), away)
			t.Cleanup(func() { remove(t, away) })
			other := filepath.Join(c.h.Dir, "other")
			if err := os.Mkdir(other, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(other, "control.sock"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			rename(t, other, c.runDir())
		}),
		placeRow("the whole `run_dir` is moved away", func(t *testing.T, c *container) {
			away := filepath.Join(c.h.Dir, "moved-away")
			rename(t, c.h.RunDir, away)
			t.Cleanup(func() { remove(t, away) })
		}),
		{
			stage: "idle", fault: "the container's directory is removed, and the warden killed before it has made it anew", exit: 6, code: code.NotManaged, message: "no gateway is managed at …",
			gateway: none, note: "nobody knows the gateway any more; it goes on until the container ends, which leaves nothing",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{}})
				before := c.parked()
				remove(t, c.runDir())
				killProcess(t, before.Warden.PID)
				if got := c.gateways(); !slices.Equal(got, []int{before.PID}) {
					t.Errorf("the gateways are %v, want %d alone", got, before.PID)
				}
				said := c.exec("gatewarden", "restart", "--json")
				c.delete()
				return c, before, said
			},
		},
	},
}

func placeRow(what string, take func(*testing.T, *container)) fault {
	return fault{
		stage: "idle", fault: what, exit: 0, state: receipt.Running, gateway: aNewOne,
		note: "gateway and warden are the same until the restart; a warden killed later is replaced; the container's end leaves nothing",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.parked()
			take(t, c)
			var r harness.Result
			eventually(t, eventTime, "the warden answers in its place", func() bool {
				r = gatewarden(t, "status", "--json", c.name())
				return r.Status == 0 && strings.Contains(r.Stdout, `"standby"`)
			}, func() string { return fmt.Sprint(r) })
			if s := decode[receipt.Status](t, r.Stdout); s.PID != before.PID || s.Warden.PID != before.Warden.PID || s.Generation != before.Generation {
				t.Errorf("before %+v\nafter  %+v", before, s)
			}
			if got := c.gateways(); !slices.Equal(got, []int{before.PID}) {
				t.Errorf("the gateways are %v, want %d alone", got, before.PID)
			}
			c.restart()
			said := gatewarden(t, "restart", "--json", c.name())
			s := c.parked()
			killProcess(t, s.Warden.PID)
			c.supervised(s.Warden.PID)
			c.restart()
			return c, before, said
		},
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestTheRunDirectoryIsTakenAway(t *testing.T) { placeFaults.run(t) }

func TestAMemoThatCannotBeReadCostsAGatewayAndNotTheContainer(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	for _, content := range []string{"", "{", `{"version":99}`} {
		before := c.parked()
		workload := c.workload()
		writeFile(t, filepath.Join(c.runDir(), "warden.json"), content, 0o600)
		killProcess(t, before.Warden.PID)
		after := c.supervised(before.Warden.PID)
		if after.PID == before.PID {
			t.Errorf("%q: process %d cannot have been recognised", content, after.PID)
		}
		if now := c.workload(); !slices.Equal(now, workload) {
			t.Errorf("the workload is %v, and was %v", now, workload)
		}
		c.restart()
	}
}
