package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/notary"
)

func runVerify(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	exit = verify(args, &out, &errs)
	return exit, out.String(), errs.String()
}

func TestVerifyTellsPeopleAndProgramsTheSame(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chdir(here) }) // verify leaves it
	dir, err := os.MkdirTemp("/run", "gwv-")
	if err != nil {
		t.Fatal("this test needs root: ", err)
	}
	defer os.RemoveAll(dir)
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("/usr/bin/openssl", "genpkey", "-algorithm", "ed25519", "-out", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	private, err := notary.ReadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	log := audit.Log(dir)
	add := func(key ed25519.PrivateKey, n int) {
		t.Helper()
		for range n {
			if _, err := notary.Append(log, key, []byte(`{"id":"x"}`), notary.Patience); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(exit int, parts []string, args ...string) {
		t.Helper()
		got, stdout, stderr := runVerify(t, args...)
		for _, p := range parts {
			if !strings.Contains(stdout+stderr, p) {
				t.Errorf("%q: %q is missing in\n%s%s", args, p, stdout, stderr)
			}
		}
		if got != exit {
			t.Errorf("%q: exit %d, want %d\n%s%s", args, got, exit, stdout, stderr)
		}
	}
	whole := "audit:" + log.Path
	want(code.ExitOK, []string{log.Path + ": intact: no lines\n", "does not exist"}, whole)
	add(private, 3)
	want(code.ExitOK, []string{": intact: 3 lines in 1 file(s), seq 1 to 3, 3 signed and verified; the last is "}, "--key", key, whole)
	want(code.ExitOK, []string{"3 signed (not verified: no key was given)"}, whole)
	want(code.ExitRefused, []string{"cannot read the audit key", "signatures are not verified\n", ": intact: 3 lines"}, "--key", key+".absent", whole)
	want(code.ExitRefused, []string{"cannot read the public key"}, "--public-key", key+".absent", whole)
	want(code.ExitRefused, []string{"cannot verify " + dir + "/none: there is no such file"}, "file:"+dir+"/none")
	want(code.ExitOK, []string{": intact: 3 lines"}, "file:"+log.Path)
	add(nil, 1)
	want(code.ExitFailed, []string{": BROKEN (unsigned)\n", "chain     intact: 4 lines, up to seq 4\n"}, "--key", key, whole)
	want(code.ExitOK, []string{"note      1 line(s) have no signature"}, "--key", key, "--allow-unsigned", whole)
	data, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log.Path, bytes.Replace(data, []byte(`"x","seq":2`), []byte(`"y","seq":2`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	want(code.ExitFailed, []string{": BROKEN (edited)\n  at        " + log.Path + " line 3, seq 3\n  expected  prev ", "good      1 line(s), up to seq 1\n"}, whole)
	exit, stdout, _ := runVerify(t, "--json", "--key", key, whole, "journal:"+dir+"/receipts.jsonl")
	first, second, _ := strings.Cut(stdout, "\n")
	var r notary.Report
	if err := json.Unmarshal([]byte(first), &r); err != nil || exit != code.ExitFailed || r.Broken == nil || r.Broken.Kind != notary.Signature || r.Broken.Seq != 2 || !strings.Contains(second, `"intact":true`) {
		t.Errorf("exit %d, %+v, %v\n%s", exit, r, err, stdout)
	}
	for _, args := range [][]string{{}, {"audit:rel"}, {"x:/y"}, {"--what", whole}} {
		if exit, _, _ := runVerify(t, args...); exit != code.ExitUsage {
			t.Errorf("%q: exit %d", args, exit)
		}
	}
}
