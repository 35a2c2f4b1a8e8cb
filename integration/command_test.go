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

func TestTheCommandActsOnAContainerByIDByNamespaceAndByPrefix(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	name := host.Namespace + "/" + c.id
	for _, args := range [][]string{
		{"status", name}, {"probe", name}, {"logs", name}, {"receipts", name}, {"recover", name},
		{"restart", name}, {"restart", "--json", name}, {"restart", c.id},
	} {
		if r := gatewarden(t, args...); r.Status != 0 {
			t.Errorf("%v", r)
		}
	}
	all := c.receipts()
	if last := all[len(all)-1]; last.RequestedBy.Via != "cli" || last.RequestedBy.UID != 0 {
		t.Errorf("the receipt does not say that the command asked: %+v", last.RequestedBy)
	}
	refused(t, gatewarden(t, "restart", "nobody-of-this-name"), code.ExitNotManaged, string(code.NotManaged))
	if r := gatewarden(t, "restart", "--no-such-flag", name); r.Status != code.ExitUsage {
		t.Errorf("%v", r)
	}
	if r := gatewarden(t, "restart", "--quiet", name); r.Status != 0 || r.Stdout+r.Stderr != "" {
		t.Errorf("--quiet is not quiet:\n%v", r)
	}
}

func TestPsListsEveryManagedContainer(t *testing.T) {
	a := run(t, options{profile: &harness.Profile{}})
	b := run(t, options{profile: &harness.Profile{}})
	plain := run(t, options{})
	r := gatewarden(t, "ps")
	if r.Status != 0 || !strings.Contains(r.Stdout, a.id) || !strings.Contains(r.Stdout, b.id) || strings.Contains(r.Stdout, plain.id+" ") {
		t.Errorf("ps lists the wrong containers (want %s and %s, not %s):\n%v", a.id, b.id, plain.id, r)
	}
	list := decode[[]receipt.Status](t, gatewarden(t, "ps", "--json").Stdout)
	if len(list) != 2 {
		t.Fatalf("ps --json lists %d containers, want 2", len(list))
	}
	for _, s := range list {
		if s.State != receipt.Running || s.PID == 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestProfileCheckAcceptsTheProfilesOfPackages(t *testing.T) {
	profiles, err := filepath.Glob(filepath.Join(host.Repository, "packaging", "profiles", "*.toml"))
	if err != nil || len(profiles) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	for _, shipped := range profiles {
		data, err := os.ReadFile(shipped)
		if err != nil {
			t.Fatal(err)
		}
		// The checkout need not be root's alone.
		path := filepath.Join(host.ProfileDir, filepath.Base(shipped))
		writeFile(t, path, string(data), 0o644)
		if r := gatewarden(t, "profile", "check", path); r.Status != 0 {
			t.Errorf("%v", r)
		}
	}
}

func TestVersionsAndDoctorAnswer(t *testing.T) {
	if r := gatewarden(t, "version"); r.Status != 0 || strings.Contains(r.Stdout, "devel") {
		t.Errorf("the command has no version:\n%v", r)
	}
	ctx := t.Context()
	for _, args := range [][]string{{host.Bin("containerd-shim-gatewarden-v2"), "-v"}, {host.Bin("gatewarden-hook"), "version"}} {
		r, err := host.Run(ctx, args[0], args[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != 0 || strings.Contains(r.Stdout, "devel") {
			t.Errorf("%v", r)
		}
	}
	r := gatewarden(t, "doctor", "--json")
	type report struct {
		OK       bool `json:"ok"`
		Findings []struct{ Area, Name, Level, Detail, Remedy string }
	}
	got := decode[report](t, r.Stdout)
	if got.OK != (r.Status == 0) || len(got.Findings) == 0 {
		t.Errorf("%v", r)
	}
	for _, f := range got.Findings {
		if f.Level != "ok" && f.Remedy == "" {
			t.Errorf("no remedy for %s %s: %s", f.Area, f.Name, f.Detail)
		}
		if f.Level == "fail" {
			t.Errorf("this host, which runs gatewarden, lacks %s %s: %s", f.Area, f.Name, f.Detail)
		}
	}
}

func TestAFloodOfOutputNeitherBlocksTheGatewayNorFillsTheDisk(t *testing.T) {
	const flood = 64 << 20
	c := run(t, options{profile: &harness.Profile{Args: []string{"--flood", "67108864"}}})
	var log string
	eventually(t, commandTime, "the gateway has written all", func() bool {
		log = c.mustExec("gatewarden", "logs", "-n", "3")
		return strings.Contains(log, "flood over")
	}, func() string { return log })
	if lines := strings.Count(log, "\n"); lines != 3 {
		t.Errorf("logs -n 3 gives %d lines", lines)
	}
	var size int64
	files, err := filepath.Glob(c.logDir() + "/gateway.log*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size > flood*3/4 {
		t.Errorf("a flood of %d bytes takes %d bytes on the disk", flood, size)
	}
	c.ask()
	c.restart()
	// On a terminal the control characters are made harmless.
	r := c.ctr("task", "exec", "-t", "--exec-id", uniqueID("e"), c.id, "gatewarden", "logs", "-n", "50")
	if strings.Contains(r.Stdout, "\x1b[31m") || strings.Contains(r.Stdout, "\a") {
		t.Errorf("a terminal gets the gateway's control characters: %.400q", r.Stdout)
	}
}
