//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// ociRuntimes are the programs that make containers here: the pinned runc, and what Debian 12 has.
func ociRuntimes() map[string]string {
	return map[string]string{"runc 1.5": host.Runc(), "runc 1.1": "/usr/sbin/runc", "crun 1.8": "/usr/bin/crun"}
}

// bareProfile asks for all that is done by joining: the gateway, its standby, a check in a mount namespace of its own, and an
// intercepted bind.
func bareProfile(source string) harness.Profile {
	p := configuredProfile(source)
	p.Listen = heldProfile("transparent").Listen
	p.Select = "annotation = false"
	p.More += "\n[[state]]\ntarget = \"/var/lib/gateway\"\n"
	return *p
}

func TestAGatewayWithoutOurShimIsInstalledProvenRestartedAndRemovedWithAnyRuntime(t *testing.T) {
	for name, program := range ociRuntimes() {
		t.Run(name, func(t *testing.T) {
			source := mountDir(t)
			writeFile(t, filepath.Join(source, "conf"), goodConf, 0o644)
			p := bareOf(t, program, bareProfile(source), nil)
			first := p.running()
			checkPosture(t, "gateway", first.PID, true) // by the filter that intercepts bind
			p.mustOCI("start", p.id)
			operator := func(verb string, flags ...string) harness.Result {
				return gatewarden(t, append(append([]string{verb}, flags...), p.name())...)
			}
			replaced := func(verb string, flags ...string) receipt.Receipt {
				t.Helper()
				r := operator(verb, append(flags, "--json")...)
				if r.Status != code.ExitOK {
					t.Fatal(r)
				}
				got := decode[receipt.Receipt](t, r.Stdout)
				if got.Outcome != receipt.Replaced || got.New == nil || !got.New.NoNewPrivs || !got.Workload.Unchanged {
					t.Errorf("%+v", got)
				}
				return got
			}
			last := first.PID
			for range 3 {
				got := replaced("restart")
				if got.Old.PID != last || got.New.PID == last || got.Old.DeathProof != "waitid" {
					t.Errorf("process %d was replaced: %+v", last, got)
				}
				last = got.New.PID
				checkPosture(t, "successor", last, true)
			}

			if got := replaced("apply", "--config", confDir(t, otherConf)); got.Generation != 2 {
				t.Errorf("%+v", got)
			}
			r := operator("apply", "--config", confDir(t, badConf))
			refused(t, r, code.ExitRefused, "preflight_failed")
			if !strings.Contains(r.Stderr, "the configuration is not valid") {
				t.Errorf("the preflight command's words are missing: %v", r)
			}

			// As a crash is: asked for by nobody.
			last = p.running().PID
			killProcess(t, last)
			p.until("the gateway has come back", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != last })

			p.mustOCI("pause", p.id)
			refused(t, operator("restart"), code.ExitRefused, "paused")
			p.mustOCI("resume", p.id)
			p.until("a standby is there", func(s receipt.Status) bool { return s.Standby.PID != 0 })
			replaced("restart")

			// The warden's successor joins too.
			warden := p.running().Warden.PID
			killProcess(t, warden)
			if r := operator("recover"); r.Status != code.ExitOK {
				t.Error(r)
			}
			p.until("another warden supervises", func(s receipt.Status) bool {
				return s.State == receipt.Running && s.Warden.PID != warden && s.Standby.PID != 0
			})
			replaced("restart")
		})
	}
}

// Runc's state file has no version, and its form changes with runc's. Here it gets a member that another version could have.
func TestAStateFileThatLibcontainerCannotReadLeavesTheJoiningToTheRuntime(t *testing.T) {
	p := bareOf(t, "/usr/sbin/runc", harness.Profile{Select: "annotation = false"}, nil)
	p.until("a standby is there", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	path := filepath.Join(p.root, p.id, "state.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Runc 1.1 does not know it; to libcontainer it is an object.
	other := strings.Replace(string(data), `"config":{`, `"config":{"io_priority":"of another form",`, 1)
	if other == string(data) {
		t.Fatalf("the state file is not as it was: %.200s", data)
	}
	writeFile(t, path, other, 0o600)
	for range 2 {
		// The first one takes the standby of before.
		if r := gatewarden(t, "restart", p.name()); r.Status != code.ExitOK {
			t.Fatal(r)
		}
		s := p.until("the next standby is there", func(s receipt.Status) bool { return s.Standby.PID != 0 })
		checkPosture(t, "gateway", s.PID, false)
	}
}
