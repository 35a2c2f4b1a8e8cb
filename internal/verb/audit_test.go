package verb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
)

// echoHook makes the hook a program that prints its arguments.
func (h *host) echoHook(status string) {
	h.t.Helper()
	h.env.Config.Hook = filepath.Join(h.t.TempDir(), "hook")
	if err := os.WriteFile(h.env.Config.Hook, []byte("#!/bin/sh\necho \"$@\"\nexit "+status+"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func TestAuditVerifyHandsWhatItHasLookedUpToTheHook(t *testing.T) {
	h := newHost(t)
	h.echoHook("0")
	state := h.env.Config.StateDir
	h.write(filepath.Join(state, "default/web/receipts.jsonl"), "")
	h.write(filepath.Join(state, "k8s.io/db/receipts.jsonl"), "")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"":                                "verify audit:" + state + "/audit.jsonl",
		"web":                             "verify journal:" + state + "/default/web/receipts.jsonl",
		"--json k8s.io/d":                 "verify --json journal:" + state + "/k8s.io/db/receipts.jsonl",
		"--all --allow-unsigned":          "verify --allow-unsigned audit:" + state + "/audit.jsonl journal:" + state + "/default/web/receipts.jsonl journal:" + state + "/k8s.io/db/receipts.jsonl",
		"/x/y --public-key a.pub":         "verify --public-key " + here + "/a.pub file:/x/y",
		"./x":                             "verify file:" + here + "/x",
		state + "/audit.jsonl":            "verify audit:" + state + "/audit.jsonl",
		"--public-key=/a --public-key=/b": "verify --public-key /a --public-key /b audit:" + state + "/audit.jsonl",
	} {
		exit, stdout, stderr := h.run(append([]string{"audit", "verify"}, strings.Fields(args)...)...)
		if exit != code.ExitOK || stdout != want+"\n" || stderr != "" {
			t.Errorf("%q: exit %d, %q, %q\nwant %q", args, exit, stdout, stderr, want)
		}
	}
	h.env.Config.AuditKey = "/etc/key"
	if _, stdout, _ := h.run("audit", "verify"); stdout != "verify --key /etc/key audit:"+state+"/audit.jsonl\n" {
		t.Errorf("%q", stdout)
	}
	if _, stdout, _ := h.run("audit", "verify", "--public-key", "/a"); strings.Contains(stdout, "--key") {
		t.Errorf("%q", stdout)
	}
	h.echoHook("1")
	if exit, _, _ := h.run("audit", "verify"); exit != code.ExitFailed {
		t.Errorf("exit %d", exit)
	}
	if exit, stdout, stderr := h.run("audit", "verify", "-q"); exit != code.ExitFailed || stdout+stderr != "" {
		t.Errorf("exit %d, %q", exit, stdout+stderr)
	}
	h.env.Config.Hook = "/no/such/hook"
	exit, _, stderr := h.run("audit", "verify")
	if exit == code.ExitOK || exit == code.ExitFailed || !strings.Contains(stderr, "no hook program at /no/such/hook") {
		t.Errorf("exit %d, %s", exit, stderr)
	}
}

func TestAuditKnowsItsArguments(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{"audit"}, {"audit", "web"}, {"audit", "verify", "a", "b"}, {"audit", "verify", "--all", "a"}, {"audit", "verify", "--public-key", ""}} {
		if exit, _, stderr := h.run(args...); exit != code.ExitUsage || !strings.Contains(stderr, "(usage)\n") {
			t.Errorf("%q: exit %d, %s", args, exit, stderr)
		}
	}
	exit, _, stderr := h.run("audit", "verify", "nobody")
	want(t, exit, code.ExitNotManaged, stderr, "(not_managed)")
}
