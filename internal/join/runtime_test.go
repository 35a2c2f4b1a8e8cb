package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/mount"
)

func TestTheRuntimeIsAskedForAProcessLikeTheContainersOwnWithTheGatewaysIdentity(t *testing.T) {
	bundle := t.TempDir()
	config := `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{
		"terminal":true,"user":{"uid":0,"gid":0,"additionalGids":[4]},"args":["/bin/sh"],"env":["SECRET=1"],"cwd":"/root",
		"capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"]},"oomScoreAdj":-500,
		"rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":512}],"apparmorProfile":"strict","selinuxLabel":"s0:c1"}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, caps := range [][]string{nil, {"CAP_NET_BIND_SERVICE"}} {
		data, err := execProcess(Request{Bundle: bundle, ID: "web", UID: 64990, GID: 64991, Groups: []uint32{7}, Capabilities: caps})
		if err != nil {
			t.Fatal(err)
		}
		var p specs.Process
		if err := json.Unmarshal(data, &p); err != nil {
			t.Fatal(err)
		}
		if p.User.UID != 64990 || p.User.GID != 64991 || !slices.Equal(p.User.AdditionalGids, []uint32{7}) || !p.NoNewPrivileges {
			t.Errorf("its identity is %+v, no_new_privs %v", p.User, p.NoNewPrivileges)
		}
		if p.Terminal || p.Cwd != "/" || !slices.Equal(p.Args, []string{launcherPath}) || len(p.Env) != 0 || p.OOMScoreAdj != nil {
			t.Errorf("it has something of the workload: %s", data)
		}
		if len(p.Rlimits) != 1 || p.Rlimits[0].Soft != 512 || p.ApparmorProfile != "strict" || p.SelinuxLabel != "s0:c1" {
			t.Errorf("the container's limits and labels are not its own: %s", data)
		}
		// An absent member would stand for the container's own sets.
		if p.Capabilities == nil {
			t.Fatalf("its capabilities are left to the runtime: %s", data)
		}
		for _, set := range [][]string{p.Capabilities.Bounding, p.Capabilities.Effective, p.Capabilities.Permitted, p.Capabilities.Inheritable, p.Capabilities.Ambient} {
			if !slices.Equal(set, caps) {
				t.Errorf("capabilities %v: %s", caps, data)
			}
		}
	}
}

func TestTheRuntimesContainerMustBeTheOneOfTheInstallation(t *testing.T) {
	req := Request{ID: "web", InitPID: 7}
	for _, c := range []struct {
		state specs.State
		want  code.Code
	}{
		{specs.State{ID: "web", Pid: 7, Status: specs.StateCreated}, ""},
		{specs.State{ID: "web", Pid: 7, Status: specs.StateRunning}, ""},
		{specs.State{ID: "web", Pid: 8, Status: specs.StateRunning}, code.NotRunning},
		{specs.State{ID: "webs", Pid: 7, Status: specs.StateRunning}, code.NotRunning},
		{specs.State{ID: "web", Pid: 0, Status: specs.StateStopped}, code.NotRunning},
		{specs.State{ID: "web", Pid: 7, Status: specs.StateStopped}, code.NotRunning},
		{specs.State{ID: "web", Pid: 7, Status: "paused"}, code.Paused},
	} {
		err := cli{path: "/usr/bin/crun"}.checkState(c.state, req)
		e, _ := errors.AsType[*code.Error](err)
		if c.want == "" && err != nil || c.want != "" && (e == nil || e.Code != c.want) {
			t.Errorf("%+v: got %v, want %q", c.state, err, c.want)
		}
	}
}

func TestAStateOfAnotherFormIsNotLibcontainers(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	req := Request{Root: root, ID: "web", InitPID: 7, InitStart: 8}
	if _, err := load(req, crunState); !errors.Is(err, errForeignState) {
		t.Errorf("crun's: %v", err)
	}
	for name, state := range map[string]string{
		"not JSON": "hello", "a member of another type": `{"id":"web","init_process_pid":7,"init_process_start":8,"config":[]}`,
		"a member is missing": `{"id":"web","init_process_pid":7,"init_process_start":8}`, "no init": `{"id":"web","config":{"cgroups":{}}}`,
	} {
		if err := os.WriteFile(filepath.Join(root, "web", runcState), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(req, runcState); !errors.Is(err, errForeignState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that is read and names another init is nobody else's to judge.
	if err := os.WriteFile(filepath.Join(root, "web", runcState), []byte(`{"id":"web","init_process_pid":9,"init_process_start":8,"config":{"cgroups":{}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*code.Error](func() error { _, err := load(req, runcState); return err }()); !ok || e.Code != code.NotRunning {
		t.Errorf("another init: %v", e)
	}
}

func TestTheLastThatTheRuntimeLoggedIsItsComplaint(t *testing.T) {
	dir, err := mount.Memory("tmpfs", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r := cli{dir: dir}
	if got := r.complaint(); got != "" {
		t.Errorf("without a log: %q", got)
	}
	log := fmt.Sprintln(`{"msg":"first","level":"warning"}`) + fmt.Sprintln(`{"msg":"exec failed: no such thing","level":"error"}`) + "not JSON\n"
	if err := os.WriteFile(r.file("log"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.complaint(); got != ": exec failed: no such thing" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(r.file("log"), []byte(strings.Repeat(" ", maxRuntimeLog+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.complaint(); got != "" {
		t.Errorf("endless: %q", got)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.0.0","id":"web","pid":24427,"status":"created","bundle":"/b","rootfs":"rootfs","created":"2026-11-26T05:24:47Z","owner":"root"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseState(data); err == nil && (s.ID == "" || s.Pid < 0) {
			t.Errorf("%q gives %+v", data, s)
		}
	})
}
