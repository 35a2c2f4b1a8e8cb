package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/verb"
)

// command runs one of the command's own verbs.
func command(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	exit = verb.Run(t.Context(), verb.Env{Config: config.Default(), Stdout: &out, Stderr: &errs, More: more("", nil)}, args)
	return exit, out.String(), errs.String()
}

func TestTheCommandStartsWithoutPackagesThatAreSlowToStart(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, "github.com/gatewarden/gatewarden/internal/verb") {
		t.Fatalf("go list gave %q", linked)
	}
	for _, slow := range []string{"crypto/rand", "crypto/sha256", "crypto/ed25519", "regexp", "net/http"} {
		if slices.Contains(linked, slow) {
			t.Errorf("%s is linked: every command initialises it, whether it is used or not", slow)
		}
	}
}

// profileFile makes a file that only root can change.
func profileFile(t *testing.T, content string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	dir, err := os.MkdirTemp("/run", "gwc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "demo.toml")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheConfigFileIsTakenFromAnywhereOnTheLine(t *testing.T) {
	for _, c := range []struct {
		args, rest []string
		path       string
		bad        bool
	}{
		{[]string{"ps"}, []string{"ps"}, "/env", false},
		{[]string{"--config", "/a", "ps"}, []string{"ps"}, "/a", false},
		{[]string{"ps", "--config=/a", "--json"}, []string{"ps", "--json"}, "/a", false},
		{[]string{"ps", "-config", "/a"}, []string{"ps"}, "/a", false},
		{[]string{"status", "--", "--config"}, []string{"status", "--", "--config"}, "/env", false},
		{[]string{"apply", "web", "--config", "/a"}, []string{"apply", "web", "--config", "/a"}, "/env", false},
		{[]string{"--config", "/a", "apply", "--config=/b", "web"}, []string{"apply", "--config=/b", "web"}, "/a", false},
		{[]string{"status", "apply", "--config", "/a"}, []string{"status", "apply"}, "/a", false},
		{[]string{"ps", "--config"}, nil, "", true},
		{[]string{"ps", "--config="}, nil, "", true},
	} {
		path, rest, err := takeConfig(c.args, "/env")
		if (err != nil) != c.bad {
			t.Errorf("%q: %v", c.args, err)
		}
		if err == nil && (path != c.path || !slices.Equal(rest, c.rest)) {
			t.Errorf("%q gives %q, %q", c.args, path, rest)
		}
	}
}

func TestOnlyATerminalIsOne(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	if err := unix.IoctlSetWinsize(int(ptmx.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 97}); err != nil {
		t.Fatal(err)
	}
	if width, is := terminal(ptmx); !is || width != 97 {
		t.Errorf("width %d, %v", width, is)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, is := terminal(w); is {
		t.Error("a pipe is taken for a terminal")
	}
}

func TestAGoodProfileIsExplained(t *testing.T) {
	path := profileFile(t, `version = 1
[gateway]
command = ["/bin/gw", "--serve"]
user = 64990
group = 64991
[[listen]]
name = "api"
address = "tcp://127.0.0.1:18789"
[[forward]]
address = "127.0.0.1:8080"
[[forward]]
name = "web"
address = "[::1]:8081"
http = "/health"
accept = [200, 401]
`)
	exit, stdout, stderr := command(t, "profile", "check", path)
	if exit != code.ExitOK || stderr != "" {
		t.Errorf("exit %d, %q", exit, stderr)
	}
	for _, part := range []string{`ok: gateway "demo" runs /bin/gw --serve as 64990:64991 without capabilities` + "\n", "listens on tcp://127.0.0.1:18789 (api)\n", "is ready when tcp://127.0.0.1:18789 accepts a connection",
		"is reached from the host at 127.0.0.1:8080 (127.0.0.1:8080) if a connection is accepted there\n", "is reached from the host at [::1]:8081 (web) if GET /health gets 200 or 401 there\n"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("%q is missing in:\n%s", part, stdout)
		}
	}
	exit, stdout, _ = command(t, "profile", "check", "--json", path)
	if want := `{"file":"` + path + `","ok":true,"problems":[]}` + "\n"; exit != code.ExitOK || stdout != want {
		t.Errorf("exit %d, %s", exit, stdout)
	}
}

func TestABadProfileIsRefusedWithEveryProblem(t *testing.T) {
	path := profileFile(t, "version = 1\n[gateway]\ncommand = [\"gw\"]\nuser = 0\ngroup = 1\n[ready]\nnone = true\n")
	exit, _, stderr := command(t, "profile", "check", path)
	if exit != code.ExitRefused || !strings.Contains(stderr, "demo.toml:3:") || !strings.Contains(stderr, "demo.toml:4:") || !strings.Contains(stderr, "problems (invalid_profile)\n") {
		t.Errorf("exit %d:\n%s", exit, stderr)
	}
	exit, stdout, _ := command(t, "profile", "check", "--json", path, path)
	if exit != code.ExitRefused || strings.Count(stdout, `"ok":false`) != 2 || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, `"line":3`) {
		t.Errorf("exit %d:\n%s", exit, stdout)
	}
	exit, stdout, stderr = command(t, "profile", "check", "-q", path)
	if exit != code.ExitRefused || stdout+stderr != "" {
		t.Errorf("exit %d, %q", exit, stdout+stderr)
	}
	exit, _, stderr = command(t, "profile", "check", path+".absent")
	if exit != code.ExitRefused || !strings.HasPrefix(stderr, "gatewarden: ") && !strings.Contains(stderr, "\ngatewarden: ") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
}

func TestTheCommandsOwnVerbsKnowTheirArguments(t *testing.T) {
	for _, args := range [][]string{{"profile"}, {"profile", "check"}, {"profile", "explain", "x"}, {"doctor", "x"}, {"version", "x"}} {
		if exit, _, stderr := command(t, args...); exit != code.ExitUsage || !strings.Contains(stderr, "(usage)\n") {
			t.Errorf("%q: exit %d, %s", args, exit, stderr)
		}
	}
	if exit, stdout, _ := command(t, "version"); exit != code.ExitOK || stdout != "gatewarden devel\n" {
		t.Errorf("exit %d, %q", exit, stdout)
	}
}

func TestDoctorsExitStatusTellsWhetherSomethingFails(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no runc there
	exit, stdout, _ := command(t, "doctor", "--address", filepath.Join(t.TempDir(), "none.sock"))
	if exit != code.ExitFailed || !strings.Contains(stdout, "fail  runtime runc ") || !strings.Contains(stdout, "→ apt-get install runc") {
		t.Errorf("exit %d:\n%s", exit, stdout)
	}
	exit, stdout, _ = command(t, "doctor", "--json")
	if exit != code.ExitFailed || !strings.HasPrefix(stdout, `{"findings":[{"area":"permissions","name":"user","level":"ok","detail":"root","remedy":""}`) || !strings.HasSuffix(stdout, `"ok":false}`+"\n") {
		t.Errorf("exit %d:\n%s", exit, stdout)
	}
}
