//go:build integration

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// secretFile makes a file that only root reads, in a place of root's.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(host.Dir, uniqueID("secret"))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

func TestEveryKindOfListenerAndProbeIsProven(t *testing.T) {
	for name, c := range map[string]struct {
		listen string   // of the gateway
		tables string   // [[listen]]
		ready  string   // [ready]
		want   []string // addresses in the receipt
	}{
		"tcp probe": {
			"127.0.0.1:18789", "[[listen]]\nname = \"api\"\naddress = \"tcp://127.0.0.1:18789\"\n", "tcp = \"tcp://127.0.0.1:18789\"", []string{"tcp://127.0.0.1:18789"},
		},
		"tcp6": {
			"[::1]:18789", "[[listen]]\nname = \"api\"\naddress = \"tcp6://[::1]:18789\"\n", "http = \"http://[::1]:18789/health\"", []string{"tcp6://[::1]:18789"},
		},
		"wildcard": {
			"0.0.0.0:18789", "[[listen]]\nname = \"api\"\naddress = \"tcp://0.0.0.0:18789\"\n", "http = \"http://127.0.0.1:18789/health\"", []string{"tcp://0.0.0.0:18789"},
		},
		"unix socket": {
			"unix:///run/gw/api.sock", "[[listen]]\nname = \"api\"\naddress = \"unix:///run/gw/api.sock\"\n", "unix = \"/run/gw/api.sock\"", []string{"unix:///run/gw/api.sock"},
		},
		"settle time": {
			"127.0.0.1:18789", "[[listen]]\nname = \"api\"\naddress = \"tcp://127.0.0.1:18789\"\n", "http = \"http://127.0.0.1:18789/health\"\nsettle = \"300ms\"", []string{"tcp://127.0.0.1:18789"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &harness.Profile{
				Command: []string{"/usr/local/bin/testgateway", "--listen", c.listen}, Listen: c.tables, Ready: c.ready + "\ntimeout = \"5s\"",
				More: "[[state]]\ntarget = \"/run/gw\"\n",
			}
			r := run(t, options{profile: p}).restart()
			var got []string
			for _, l := range r.Listeners {
				got = append(got, l.Address)
				if l.Inode == 0 || l.OwnerPID != r.New.PID {
					t.Errorf("%+v is not the gateway's, PID %d", l, r.New.PID)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("listeners %v, want %v", got, c.want)
			}
			if strings.Contains(c.ready, "settle") && r.Millis.Total < 300 {
				t.Errorf("it took %v ms, less than the settle time", r.Millis.Total)
			}
		})
	}
}

func TestAGatewayThatDoesNotStayHealthyForTheSettleTimeIsNotReady(t *testing.T) {
	c, r := tryRun(t, options{profile: &harness.Profile{
		Args: []string{"--exit-after", "200ms", "--exit-code", "3"}, Ready: "http = \"http://127.0.0.1:18789/health\"\ntimeout = \"5s\"\nsettle = \"2s\"",
	}})
	if r.Status == 0 || !strings.Contains(r.Stderr, "exit status 3") || !strings.Contains(r.Stderr, string(code.LaunchFailed)) {
		t.Errorf("%s: %v", c.id, r)
	}
}

func TestAWorkloadThatDoesNotWaitForItsGatewayStartsAtOnce(t *testing.T) {
	begin := time.Now()
	c := run(t, options{profile: &harness.Profile{Args: []string{"--delay-bind", "2s"}, Start: "when = \"with-workload\""}})
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("the workload waited %v", took)
	}
	if s := c.status(); s.State != receipt.Starting {
		t.Errorf("the gateway is %s", s.State)
	}
	c.waitFor("the gateway is ready", func(s receipt.Status) bool { return s.State == receipt.Running })
}

func TestTheEnvironmentFileIsReadAtEachStartAndReachesTheGatewayAlone(t *testing.T) {
	path := secretFile(t, "TOKEN=one\n")
	c := run(t, options{profile: &harness.Profile{Gateway: fmt.Sprintf("env = { MODE = \"x\" }\nenv_file = %q", path)}})
	environ := func() string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.status().PID))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), "\x00", " ")
	}
	if got := environ(); got != "MODE=x TOKEN=one " {
		t.Errorf("the environment is %q", got)
	}
	if err := os.WriteFile(path, []byte("TOKEN=two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if got := environ(); got != "MODE=x TOKEN=two " {
		t.Errorf("the environment after the restart is %q", got)
	}
	// A file that others may read is no secret any more: refused, and the gateway goes on.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	before := c.status().PID
	refused(t, c.tryRestart("--json"), code.ExitRefused, string(code.PreflightFailed))
	if after := c.status().PID; after != before {
		t.Errorf("the gateway changed from %d to %d", before, after)
	}
	for _, file := range []string{filepath.Join(c.stateDir(), "receipts.jsonl"), filepath.Join(c.logDir(), "warden.log"), filepath.Join(c.runDir(), "install.json")} {
		data, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "TOKEN") {
			t.Errorf("%s tells of the secret", file)
		}
	}
}

func TestAPinnedProgramRunsOnlyWithItsOwnContent(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", ".cache", "test", "testgateway"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	run(t, options{profile: &harness.Profile{Gateway: fmt.Sprintf("sha256 = %q", hex.EncodeToString(sum[:]))}}).restart()
	_, r := tryRun(t, options{profile: &harness.Profile{Gateway: fmt.Sprintf("sha256 = %q", strings.Repeat("0", 64))}})
	if r.Status == 0 || !strings.Contains(r.Stderr, "gateway.sha256 pins 0000") || !strings.Contains(r.Stderr, string(code.UntrustedBinary)) {
		t.Errorf("%v", r)
	}
}

func TestAGatewayMayBindAPrivilegedPortAndNothingMore(t *testing.T) {
	const listen = "[[listen]]\nname = \"web\"\naddress = \"tcp://127.0.0.1:80\"\n"
	r := run(t, options{profile: &harness.Profile{
		Command: []string{"/usr/local/bin/testgateway", "--listen", "127.0.0.1:80"}, Listen: listen, Ready: "http = \"http://127.0.0.1:80/health\"\ntimeout = \"5s\"",
		Gateway: "capabilities = [\"CAP_NET_BIND_SERVICE\"]\ngroups = [4711, 4712]",
	}}).restart()
	const bind = "400" // 1 << CAP_NET_BIND_SERVICE
	if r.New.Capabilities != (receipt.Capabilities{Effective: bind, Permitted: bind, Inheritable: bind, Bounding: bind, Ambient: bind}) {
		t.Errorf("capabilities %+v", r.New.Capabilities)
	}
	if got := procStatus(t, r.New.PID); strings.TrimLeft(got["CapEff"], "0") != bind || got["Groups"] != "4711 4712" {
		t.Errorf("the kernel says CapEff %s, Groups %q", got["CapEff"], got["Groups"])
	}
}

func TestAScriptIsRunByItsInterpreter(t *testing.T) {
	name := "test.local/script:latest"
	importImage(t, harness.Image{Name: name, Files: []harness.File{
		{Path: "/usr/local/bin/start", Mode: 0o755, Content: []byte("#!/bin/busybox sh\necho started as \"$0\" with \"$@\"\nexec /usr/local/bin/testgateway --listen 127.0.0.1:18789\n")},
	}})
	c := run(t, options{image: name, profile: &harness.Profile{Command: []string{"/usr/local/bin/start", "one", "two"}}})
	r := c.restart()
	if r.New.Exe != "/bin/busybox" {
		t.Errorf("executable %s, want the interpreter that was checked", r.New.Exe)
	}
	if out := c.mustExec("gatewarden", "logs"); !strings.Contains(out, "started as /usr/local/bin/start with one two\n") {
		t.Errorf("the log says %q", out)
	}
	// By now it is another program than the one that was launched, and the same gateway.
	before := c.status()
	killProcess(t, before.Warden.PID)
	if after := c.supervised(before.Warden.PID); after.PID != before.PID {
		t.Errorf("process %d was replaced by %d", before.PID, after.PID)
	}
}
