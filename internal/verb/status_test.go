package verb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestStatusShowsWhatTheWardenKnows(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", answerStatus("default/web"))
	exit, stdout, stderr := h.run("status", "web")
	want(t, exit, code.ExitOK, stdout, "container  default/web  (init pid 800)\n", "gateway    demo, generation 2\n", "state      running, healthy\n",
		"(3m ago)\n", "pid        845  (9 in the container)\n", "listen     api tcp://127.0.0.1:18789  (held by pid 845)\n",
		"restarts   1 asked, 0 unasked\n", "standby    pid 850\n", "warden     pid 812, version test\n", "last       restart replaced, 60s ago, in 11.2 ms\n")
	if stderr != "" || strings.Contains(stdout, "message") {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	exit, stdout, _ = h.run("status", "--json", "web")
	want(t, exit, code.ExitOK, stdout)
	if st := oneObject[receipt.Status](t, stdout); st.PID != 845 || st.Container.ID != "web" {
		t.Errorf("status %+v", st)
	}
}

func TestStatusExitsByTheState(t *testing.T) {
	for state, wantExit := range map[receipt.State]int{
		receipt.Starting: 0, receipt.Running: 0, receipt.Stopping: 0, receipt.Backoff: 0, receipt.FailedSt: 1, receipt.Stopped: 1,
	} {
		h := newHost(t)
		h.serve("default/web", func(_ control.Request, send func(control.Message)) {
			st := statusOf("default/web")
			st.State, st.PID, st.Healthy = state, 0, nil
			if state == receipt.FailedSt {
				st.Code, st.Message = code.CrashLoop, "6 exits in 1m\nlast words: boom"
			}
			send(control.Message{Status: st, Done: true})
		})
		exit, stdout, _ := h.run("status", "web")
		want(t, exit, wantExit, stdout, "state      "+string(state))
		if state == receipt.FailedSt {
			want(t, exit, wantExit, stdout, "code       crash_loop\n", "message    6 exits in 1m\n           last words: boom\n")
		}
	}
}

func TestStatusWithoutWardenTellsWhatTheInstallWroteDown(t *testing.T) {
	h := newHost(t)
	h.lose("default/web")
	exit, stdout, stderr := h.run("status", "web")
	want(t, exit, code.ExitFailed, stdout, "state      not known: the warden is lost\n", "gateway    demo", "(init pid 4242)", "code       warden_lost\n")
	want(t, exit, code.ExitFailed, stderr, "next: `gatewarden recover default/web`", h.env.Config.LogDir+"/default/web/warden.log")

	_, stdout, _ = h.run("status", "--json", "web")
	st := oneObject[receipt.Status](t, stdout)
	if st.State != receipt.FailedSt || st.Code != code.WardenLost || st.Gateway != "demo" || st.Container.InitPID != 4242 || st.Container.InitStart != 77 || st.Healthy != nil {
		t.Errorf("status %+v", st)
	}

	if err := os.WriteFile(filepath.Join(h.env.Config.RunDir, "default/web/install.json"), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, stdout, _ = h.run("status", "web")
	want(t, exit, code.ExitFailed, stdout, "not known", "gateway    -")
}

func TestStatusOfNoContainerExits6(t *testing.T) {
	h := newHost(t)
	exit, stdout, stderr := h.run("status", "--json", "web")
	want(t, exit, code.ExitNotManaged, stderr, `gatewarden: no container with a gateway is called "web"`, "(not_managed)\n")
	if e := oneObject[struct{ Error *code.Error }](t, stdout).Error; e == nil || e.Code != code.NotManaged {
		t.Errorf("error %+v", e)
	}
	exit, _, stderr = newHost(t).inside().run("status")
	want(t, exit, code.ExitNotManaged, stderr, "(not_managed)")
}

func TestStatusOfAHangingWardenExits5(t *testing.T) {
	h := newHost(t)
	release := make(chan struct{})
	h.serve("default/web", func(control.Request, func(control.Message)) { <-release })
	t.Cleanup(func() { close(release) })
	exit, _, stderr := h.run("status", "--timeout", "20ms", "web")
	want(t, exit, code.ExitDeadline, stderr, "(deadline)")
}
