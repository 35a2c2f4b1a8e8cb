package receipt

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
)

func TestTheExitStatusTellsWhatBecameOfTheOldGateway(t *testing.T) {
	for _, c := range []struct {
		outcome Outcome
		code    code.Code
		want    int
	}{
		{Replaced, "", code.ExitOK},
		{AlreadyRunning, "", code.ExitOK},
		{RolledBack, code.RolledBack, code.ExitRolledBack},
		{Refused, code.UntrustedBinary, code.ExitRefused},
		{Refused, code.Paused, code.ExitRefused},
		{Refused, code.Deadline, code.ExitDeadline},
		{Refused, code.Busy, code.ExitDeadline},
		{Refused, code.NotRunning, code.ExitNotManaged},
		{Failed, code.Deadline, code.ExitDeadline},
		{Failed, code.ProbeFailed, code.ExitFailed},
	} {
		if got := (&Receipt{Outcome: c.outcome, Code: c.code}).Exit(); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.outcome, c.code, got, c.want)
		}
	}
}

// Scripts read these names: none is left out when there is nothing to say.
func TestAReceiptHasEveryMemberOfTheDesign(t *testing.T) {
	data, err := json.Marshal(Receipt{Version: 1, New: &New{}, Old: &Old{}, Probe: &Probe{}, Listeners: []Listener{{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"version", "id", "container", "namespace", "init_pid", "init_start", "gateway", "action", "reason", "requested_by", "via", "uid", "outcome",
		"code", "stage", "retryable", "message", "generation", "old", "exit_code", "signal", "forced", "death_proof", "new", "pid", "ns_pid",
		"start_time", "exe", "exe_dev", "exe_ino", "gid", "groups", "capabilities", "effective", "permitted", "inheritable", "bounding", "ambient",
		"no_new_privs", "seccomp", "listeners", "name", "address", "mode", "inode", "owner_pid", "probe", "kind", "status", "millis", "workload",
		"processes", "unchanged", "queue", "preflight", "stop", "launch", "listen", "total", "unavailable", "time",
	} {
		if !strings.Contains(string(data), `"`+name+`":`) {
			t.Errorf("no member %q in %s", name, data)
		}
	}
	if data, _ = json.Marshal(Receipt{}); !strings.Contains(string(data), `"old":null,"new":null`) {
		t.Errorf("what was not stopped or started is not null: %s", data)
	}
}

func TestAStatusHasEveryMemberOfTheDesign(t *testing.T) {
	data, err := json.Marshal(Status{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"container", "gateway", "state", "code", "message", "pid", "ns_pid", "start_time", "since", "restarts", "asked", "unasked", "generation",
		"listeners", "healthy", "checked", "standby", "warden", "version", "last",
	} {
		if !strings.Contains(string(data), `"`+name+`":`) {
			t.Errorf("no member %q in %s", name, data)
		}
	}
	if !strings.Contains(string(data), `"healthy":null,"checked":null`) {
		t.Errorf("what nobody has looked at is not null: %s", data)
	}
}
