//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// secretsDir makes a directory of root's for files of secrets, outside of all that the host of the tests has.
func secretsDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "gwt-secrets-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newSecret is a text that is nowhere else.
func newSecret() string { return "hunted-" + rand.Text() }

func putSecret(t *testing.T, path, secret string) string {
	t.Helper()
	writeFile(t, path, secret, 0o600)
	return path
}

func credentialsTable(name, path string) string {
	return fmt.Sprintf("[credentials]\n%s = %q\n\n", name, path)
}

// credential asks the gateway for the SHA-256 of its credential.
func (c *container) credential(name string) string {
	c.t.Helper()
	r := c.get("/credential?name=" + name)
	if r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
	return decode[string](c.t, r.Stdout)
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func TestAGatewayReadsItsCredentialsAsTheyAreAtItsStart(t *testing.T) {
	for name, p := range map[string]harness.Profile{
		"it binds itself":                 {},
		"inherited sockets come first":    *heldProfile("inherit"),
		"it binds, and gets a held one":   *heldProfile("transparent"),
		"beside the one that it replaces": *overlapProfile("inherit"),
	} {
		t.Run(name, func(t *testing.T) {
			path := putSecret(t, secretsDir(t)+"/token", "one")
			p.More += credentialsTable("token", path)
			c := run(t, options{profile: &p})
			before := c.parked()
			if got := c.credential("token"); got != hashOf("one") {
				t.Errorf("the credential's hash is %s", got)
			}
			env := decode[[]string](t, c.get("/env").Stdout)
			want := map[string]string{"it binds itself": "3", "it binds, and gets a held one": "4"}[name]
			if want == "" {
				want = "5" // after the socket and the carrier
			}
			if !slices.Contains(env, "CREDENTIALS_DIRECTORY=/proc/self/fd/"+want) {
				t.Errorf("the environment is %q, want descriptor %s", env, want)
			}
			if strings.HasPrefix(want, "5") && !slices.Contains(env, "LISTEN_FDS=1") {
				t.Errorf("the environment is %q: the directory counts as a socket", env)
			}
			if n := ramfsDescriptors(t, before.PID); n != 1 {
				t.Errorf("the gateway has %d descriptors of a filesystem in memory, want 1", n)
			}
			for what, pid := range map[string]int{"standby": before.Standby.PID, "warden": before.Warden.PID} {
				if n := ramfsDescriptors(t, pid); n != 0 {
					t.Errorf("the %s has %d descriptors of a filesystem in memory, want none", what, n)
				}
			}
			putSecret(t, path, "two")
			if got := c.credential("token"); got != hashOf("one") {
				t.Errorf("the running gateway's credential has changed")
			}
			c.restart()
			if got := c.credential("token"); got != hashOf("two") {
				t.Errorf("after a restart the credential's hash is %s", got)
			}
			putSecret(t, path, "three")
			at := c.parked()
			killProcess(t, at.PID)
			c.waitFor("the gateway is started again", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != at.PID })
			if got := c.credential("token"); got != hashOf("three") {
				t.Errorf("after a respawn the credential's hash is %s", got)
			}
			// A lost warden takes nothing with it.
			at = c.parked()
			killProcess(t, at.Warden.PID)
			after := c.supervised(at.Warden.PID)
			if got := c.credential("token"); after.PID != at.PID || got != hashOf("three") {
				t.Errorf("process %d became %d, and the credential's hash is %s", at.PID, after.PID, got)
			}
			if n := ramfsDescriptors(t, after.Standby.PID); n != 0 {
				t.Errorf("the successor's standby has %d descriptors of a filesystem in memory, want none", n)
			}
		})
	}
}

// ramfsDescriptors counts a process's descriptors of files in a ramfs.
func ramfsDescriptors(t *testing.T, pid int) (n int) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("process %d has no descriptors: %v", pid, err)
	}
	for _, link := range links {
		var st unix.Statfs_t
		if err := unix.Statfs(link, &st); err == nil && st.Type == unix.RAMFS_MAGIC {
			n++
		}
	}
	return n
}

// lastingly makes a command of a shell that goes on for as long as a test takes.
func lastingly(script string) []string {
	return []string{"/bin/sh", "-c", script + "; while :; do sleep 1; done"}
}

func TestProgramsAndTheirChildrenFindCredentialsByPath(t *testing.T) {
	if err := importPrograms(); err != nil {
		t.Fatal(err)
	}
	const out = "/var/lib/gateway/out"
	for name, command := range map[string][]string{
		"a shell":         lastingly(`read x <$CREDENTIALS_DIRECTORY/token; echo -n "$x" >` + out),
		"a shell's child": lastingly(`cat $CREDENTIALS_DIRECTORY/token >` + out),
		"python": {
			harness.Python, "-c", `import os, time; open('` + out + `', 'w').write(open(os.environ['CREDENTIALS_DIRECTORY'] + '/token').read()); time.sleep(600)`,
		},
		"python's child, which inherits descriptors": {
			harness.Python, "-c", `import subprocess, time; subprocess.run('cat $CREDENTIALS_DIRECTORY/token >` + out + `', shell=True, close_fds=False); time.sleep(600)`,
		},
		"node": {
			harness.Node, "-e", `const fs = require('fs'); fs.writeFileSync('` + out + `', fs.readFileSync(process.env.CREDENTIALS_DIRECTORY + '/token')); setTimeout(() => {}, 600000)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			secret := newSecret()
			path := putSecret(t, secretsDir(t)+"/token", secret)
			c := run(t, options{image: harness.ProgramsImage, profile: quietProfile(command, credentialsTable("token", path))})
			c.awaitFile("out", secret)
		})
	}
}

// quietProfile is of a gateway that listens nowhere and has a directory of its own.
func quietProfile(command []string, more string) *harness.Profile {
	return &harness.Profile{
		Command: command, Listen: "\n", Ready: "none = true", Gateway: "cwd = \"/var/lib/gateway\"",
		More: more + "[[state]]\ntarget = \"/var/lib/gateway\"\n",
	}
}

// gatewayState is that directory on the host.
func (c *container) gatewayState() string {
	return filepath.Join(c.stateDir(), "state", "var%2Flib%2Fgateway")
}

// awaitFile waits until a file of the gateway's directory holds text.
func (c *container) awaitFile(name, text string) {
	c.t.Helper()
	var data []byte
	eventually(c.t, eventTime, "the gateway has written "+name, func() bool {
		data, _ = os.ReadFile(filepath.Join(c.gatewayState(), name))
		return string(data) == text
	}, func() string { return fmt.Sprintf("%q", data) })
}

func TestAReadinessCommandFindsTheCredentialsToo(t *testing.T) {
	dir := probeDir(t)
	secret := newSecret()
	path := putSecret(t, secretsDir(t)+"/token", secret)
	writeFile(t, dir+"/check", "#!/bin/sh\ntest \"$(cat $CREDENTIALS_DIRECTORY/token)\" = "+secret+" && grep -q 'core file size *1 *1 ' /proc/self/limits\n", 0o755)
	p := probedProfile(dir, askExec)
	p.More += credentialsTable("token", path)
	c := run(t, options{profile: p, flags: []string{"--seccomp"}})
	c.restart()
	putSecret(t, path, "another")
	if r := c.exec("gatewarden", "probe", "--json"); r.Status == 0 {
		t.Errorf("a check that reads another credential finds the gateway well:\n%v", r)
	}
}

// credentialFaults are of files of secrets that cannot be read.
var credentialFaults = faults{
	test:  "TestSecretsThatCannotBeRead",
	title: "A file of secrets cannot be read",
	about: "The files of `[credentials]` and `env_file` are read anew for each start, and before a restart stops the old gateway. Messages name the credential and its file, and nothing of what it holds. A start that nobody asked for is tried again by its policy while a file is not there or changes, since it may be in the midst of being replaced.",
	rows: []fault{
		unreadable("a credential's file is gone", true, func(t *testing.T, path string) { remove(t, path) },
			"open …: … does not exist (no such file or directory)"),
		unreadable("others may read a credential's file", true, func(t *testing.T, path string) { chmod(t, path, 0o640) },
			"… is not trusted: … holds secrets, and group or others have access to it (mode 0640); chmod 0600 …"),
		unreadable("a credential's file is not root's", true, func(t *testing.T, path string) { chown(t, path, harness.WorkloadUID) },
			"… is not trusted: … belongs to UID 1000, not to root; chown root …"),
		unreadable("a credential's file is a link", true, func(t *testing.T, path string) {
			if err := os.Rename(path, path+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
		}, "… is not trusted: … is a symbolic link; use the path that it leads to"),
		unreadable("a credential is too long", true, func(t *testing.T, path string) { putSecret(t, path, "TOKEN="+strings.Repeat("x", 1<<20)) },
			"… is not trusted: … is 1048582 bytes long; at most 1048576 are read"),
		unreadable("`env_file` is gone", false, func(t *testing.T, path string) { remove(t, path) },
			"open …: … does not exist (no such file or directory)"),
		unreadable("a line of `env_file` is none", false, func(t *testing.T, path string) { putSecret(t, path, newSecret()) },
			"…:1: has no =; write KEY=VALUE, or begin a comment with #"),
		unstarted("a credential's file is gone when the gateway is started again", true),
		unstarted("`env_file` is gone when the gateway is started again", false),
	},
}

func TestSecretsThatCannotBeRead(t *testing.T) { credentialFaults.run(t) }

// secretProfile is of a gateway whose secret is a credential, or a line of its env_file.
func secretProfile(path string, credential bool) *harness.Profile {
	if credential {
		return &harness.Profile{More: credentialsTable("api-token", path)}
	}
	return &harness.Profile{Gateway: fmt.Sprintf("env_file = %q", path)}
}

// unreadable is a restart whose secrets were spoiled before.
func unreadable(what string, credential bool, spoil func(t *testing.T, path string), why string) fault {
	message := "cannot restart gateway … of …: cannot read the gateway's environment: …" + why
	if credential {
		message = "cannot restart gateway … of …: cannot prepare the gateway's credentials: [credentials] of profile …: credential api-token: " + why
	}
	return fault{
		stage: string(code.StagePreflight), fault: what, exit: code.ExitRefused, code: code.PreflightFailed,
		message: message + "; process … was not touched and goes on", state: receipt.Running, gateway: theSame,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			secret := "TOKEN=" + newSecret()
			path := putSecret(t, secretsDir(t)+"/token", secret)
			c := run(t, options{profile: secretProfile(path, credential)})
			before := c.parked()
			spoil(t, path)
			said := c.tryRestart()
			if strings.Contains(said.Stdout+said.Stderr, "hunted-") {
				t.Errorf("the secret is told:\n%v", said)
			}
			if !strings.Contains(said.Stdout, path) {
				t.Errorf("the file %s is not named:\n%v", path, said)
			}
			if credential && c.credential("api-token") != hashOf(secret) {
				t.Error("the gateway has another credential now")
			}
			if n := ramfsDescriptors(t, before.Warden.PID); n != 0 {
				t.Errorf("the warden keeps %d descriptors of a filesystem in memory", n)
			}
			return c, before, said
		},
	}
}

// unstarted is a start by the policy without a file of secrets, which comes back in time.
func unstarted(what string, credential bool) fault {
	return fault{
		stage: "running", fault: what, exit: noClient, state: receipt.Running, gateway: aNewOne,
		note: "until the file is there again `status` says `backoff`, `preflight_failed`",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			path := putSecret(t, secretsDir(t)+"/token", "TOKEN=one")
			profile := secretProfile(path, credential)
			profile.Restart = "backoff = { initial = \"200ms\", max = \"200ms\" }\nburst = 100"
			c := run(t, options{profile: profile})
			before := c.parked()
			remove(t, path)
			killProcess(t, before.PID)
			s := c.waitFor("the start was tried", func(s receipt.Status) bool { return s.State == receipt.Backoff && s.Code == code.PreflightFailed })
			if !strings.Contains(s.Message, path) || !strings.Contains(s.Message, "does not exist") || !strings.Contains(s.Message, "next start in") {
				t.Errorf("the status says %q", s.Message)
			}
			putSecret(t, path, "TOKEN=two")
			return c, before, harness.Result{}
		},
	}
}

// hunted is one place where a hunt has found something.
type hunted struct{ What, At string }

// scope is what a hunt has looked at.
type scope struct {
	Files, Bytes, Denied, Processes, Descriptors, Memories int
	UID                                                    int    `json:"uid"`
	CapEff                                                 string `json:"cap_eff"`
}

func huntResult(t *testing.T, r harness.Result) (found []hunted, seen scope) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if r.Status != 0 || len(lines) == 0 {
		t.Fatalf("%v", r)
	}
	for _, line := range lines[:len(lines)-1] {
		found = append(found, decode[hunted](t, line))
	}
	return found, decode[scope](t, lines[len(lines)-1])
}

func wantedFlags(wanted map[string]string) (flags []string) {
	for name, text := range wanted {
		flags = append(flags, "--for", name+"="+hex.EncodeToString([]byte(text)))
	}
	return flags
}

// huntAs looks for texts from inside the container, in all that a process of that user may read there.
func (c *container) huntAs(user string, wanted map[string]string) ([]hunted, scope) {
	c.t.Helper()
	args := append([]string{"task", "exec", "--user", user, "--exec-id", uniqueID("h"), c.id, "testworkload", "hunt"}, wantedFlags(wanted)...)
	return huntResult(c.t, c.ctr(args...))
}

// huntHost looks for texts as root of the host.
func huntHost(t *testing.T, wanted map[string]string, args ...string) ([]hunted, scope) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*commandTime)
	defer cancel()
	r, err := host.Run(ctx, host.TestProgramPath("testworkload"), append(append([]string{"hunt"}, wantedFlags(wanted)...), args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return huntResult(t, r)
}

// of gives the places where one text was found.
func of(found []hunted, what string) (at []string) {
	for _, f := range found {
		if f.What == what {
			at = append(at, f.At)
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

func TestNobodyButTheGatewayFindsItsSecrets(t *testing.T) {
	secret, fromEnv, control := newSecret(), newSecret(), newSecret()
	wanted := map[string]string{"credential": secret, "env_file": fromEnv, "control": control}
	dir := secretsDir(t)
	path := putSecret(t, dir+"/token", secret)
	env := putSecret(t, dir+"/env", "TOKEN="+fromEnv+"\n")
	profile := &harness.Profile{
		Gateway: fmt.Sprintf("env_file = %q", env),
		More:    credentialsTable("token", path) + "[[state]]\ntarget = \"/var/lib/gateway\"\n",
	}
	// The workload has the control in its arguments, its environment, an open file that has no name, and its memory.
	c := run(t, options{profile: profile, flags: []string{"--env", "CONTROL=" + control}, command: []string{
		"sh", "-c", "echo -n $CONTROL >/tmp/x; exec 7</tmp/x; rm /tmp/x; while :; do sleep 1; done", control,
	}})
	// All that can be said of it is said while we look: restarts, a refusal, a readiness that fails, a crash, a status.
	c.restart("--reason", "hunt")
	remove(t, path)
	var said bytes.Buffer
	note := func(r harness.Result) { fmt.Fprintf(&said, "%s\n%s\n", r.Stdout, r.Stderr) }
	note(c.tryRestart())
	putSecret(t, path, secret)
	putSecret(t, env, "TOKEN="+fromEnv+" \nTOKEN "+fromEnv+"\n"+fromEnv+"=x\n")
	note(c.tryRestart())
	putSecret(t, env, "TOKEN="+fromEnv+"\n")
	before := c.parked()
	killProcess(t, before.PID)
	c.waitFor("the gateway is started again", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	s := c.parked()
	for _, args := range [][]string{
		{"status", "--json"}, {"status"}, {"receipts"}, {"receipts", "--json"}, {"logs"}, {"probe", "--json"},
	} {
		note(c.exec(append([]string{"gatewarden"}, args...)...))
	}
	failing := *profile
	failing.Command, failing.Args = nil, []string{"--crash"}
	failed, r := tryRun(t, options{profile: &failing})
	if r.Status == 0 || !strings.Contains(r.Stderr, string(code.LaunchFailed)) {
		t.Errorf("%s starts with a gateway that crashes:\n%v", failed.id, r)
	}
	note(r)
	note(gatewarden(t, "ps", "--json"))
	note(gatewarden(t, "doctor"))
	note(gatewarden(t, "profile", "check", filepath.Join(host.ProfileDir, c.id+".toml")))
	note(c.ctr("task", "ps", c.id))
	note(c.ctr("container", "info", c.id))
	if said.Len() < 2000 {
		t.Errorf("not much was said:\n%s", &said)
	}
	for what, text := range map[string]string{"credential": secret, "env_file": fromEnv} {
		if strings.Contains(said.String(), text) {
			t.Errorf("the %s is in what the commands say:\n%s", what, &said)
		}
	}

	t.Run("the workload's user", func(t *testing.T) {
		c := c.in(t)
		found, seen := c.huntAs(strconv.Itoa(harness.WorkloadUID), wanted)
		t.Logf("looked at %+v", seen)
		for _, what := range []string{"credential", "env_file"} {
			if at := of(found, what); len(at) != 0 {
				t.Errorf("it finds the %s at %q", what, at)
			}
		}
		init := "/proc/1/"
		controlled(t, of(found, "control"), init+"cmdline", init+"environ", init+"fd/7", init+"mem")
		if seen.UID != harness.WorkloadUID || seen.Processes < 4 || seen.Files < 500 || seen.Denied == 0 {
			t.Errorf("it looked at %+v", seen)
		}
	})
	t.Run("the container's root", func(t *testing.T) {
		c := c.in(t)
		c.ctr("task", "exec", "--user", "0", "--exec-id", uniqueID("e"), c.id, "sh", "-c", "umask 077; mkdir /etc/deep; echo "+control+" >/etc/deep/file; chmod 0 /etc/deep/file")
		found, seen := c.huntAs("0", wanted)
		t.Logf("looked at %+v", seen)
		for _, what := range []string{"credential", "env_file"} {
			if at := of(found, what); len(at) != 0 {
				t.Errorf("it finds the %s at %q", what, at)
			}
		}
		controlled(t, of(found, "control"), "/etc/deep/file", "/proc/1/cmdline")
		caps, err := strconv.ParseUint(seen.CapEff, 16, 64)
		if err != nil || caps&(1<<unix.CAP_DAC_OVERRIDE) == 0 || caps&(1<<unix.CAP_SYS_PTRACE) != 0 {
			t.Errorf("it looked with the capabilities %s, %v: not those of containerd", seen.CapEff, err)
		}
		if seen.UID != 0 || seen.Processes < 4 || seen.Files < 500 {
			t.Errorf("it looked at %+v", seen)
		}
	})
	t.Run("the gateway's own user, as a control", func(t *testing.T) {
		c := c.in(t)
		found, seen := c.huntAs(fmt.Sprintf("%d:%d", harness.GatewayUID, harness.GatewayUID), wanted)
		t.Logf("looked at %+v", seen)
		ns := fmt.Sprintf("/proc/%d/", s.NSPID)
		controlled(t, of(found, "credential"), ns+"fd/3/token")
		controlled(t, of(found, "env_file"), ns+"environ", ns+"mem")
	})
	t.Run("files of the host", func(t *testing.T) {
		planted := filepath.Join(c.logDir(), "planted")
		writeFile(t, planted, control+"\n", 0o600)
		defer os.Remove(planted)
		// Everything of containerd, its shims, their bundles and ours is below the one; what runc keeps below the other.
		found, seen := huntHost(t, wanted, host.Dir, filepath.Join("/run/containerd/runc", host.Namespace))
		t.Logf("looked at %+v", seen)
		for _, what := range []string{"credential", "env_file"} {
			if at := of(found, what); len(at) != 0 {
				t.Errorf("the %s is at %q", what, at)
			}
		}
		// The workload's environment and arguments are in its bundle: that the hunt sees it, and what we wrote.
		at := of(found, "control")
		controlled(t, at, planted)
		if !slices.ContainsFunc(at, func(p string) bool { return strings.HasSuffix(p, c.id+"/config.json") }) {
			t.Errorf("the bundle was not looked at: %q", at)
		}
		if seen.Files < 30 || seen.Denied != 0 {
			t.Errorf("it looked at %+v", seen)
		}
	})
	t.Run("what the host's procfs shows", func(t *testing.T) {
		found, seen := huntHost(t, wanted, "--shallow", "--skip", "^/proc/([0-9]+/task|[0-9]+/net|sys|irq|bus|fs|tty|driver|scsi|acpi|asound)$", "/proc")
		t.Logf("looked at %+v", seen)
		if at := of(found, "credential"); len(at) != 0 {
			t.Errorf("the credential is at %q", at)
		}
		if at, want := of(found, "env_file"), []string{fmt.Sprintf("/proc/%d/environ", s.PID)}; !slices.Equal(at, want) {
			t.Errorf("the env_file is at %q, want %q alone", at, want)
		}
		init := fmt.Sprintf("/proc/%d/", c.init())
		controlled(t, of(found, "control"), init+"cmdline", init+"environ")
	})
	t.Run("memory and descriptors of the warden and the standby", func(t *testing.T) {
		now := c.in(t).parked()
		for what, pid := range map[string]int{"warden": now.Warden.PID, "standby": now.Standby.PID} {
			found, seen := huntHost(t, wanted, fmt.Sprintf("/proc/%d", pid))
			t.Logf("%s: looked at %+v", what, seen)
			if at := of(found, "credential"); len(at) != 0 {
				t.Errorf("the %s has the credential at %q", what, at)
			}
			if seen.Memories == 0 || seen.Descriptors == 0 {
				t.Errorf("of the %s it looked at %+v", what, seen)
			}
		}
		found, _ := huntHost(t, wanted, fmt.Sprintf("/proc/%d", now.PID))
		controlled(t, of(found, "credential"), fmt.Sprintf("/proc/%d/fd/3/token", now.PID))
		controlled(t, of(found, "env_file"), fmt.Sprintf("/proc/%d/mem", now.PID))
	})
}

// in is the container in a part of the test.
func (c *container) in(t *testing.T) *container {
	part := *c
	part.t = t
	return &part
}

// controlled checks that a hunt has found what was there to be found.
func controlled(t *testing.T, at []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(at, w) {
			t.Errorf("the hunt is blind: it did not find what is at %s, only %q", w, at)
		}
	}
}

// The cores of this test are files: /proc/sys/kernel/core_pattern is the whole host's, and left as it is.
func TestACrashedGatewayLeavesNoSecretInACoreFile(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(pattern[:1], "|@/") {
		t.Fatalf("kernel.core_pattern is %q; this test needs one that makes a file in the working directory, such as core", pattern)
	}
	const hold = `S=$(cat $CREDENTIALS_DIRECTORY/token); T=$TOKEN; echo -n held >/var/lib/gateway/held`
	bare := strings.ReplaceAll(hold, "$(cat $CREDENTIALS_DIRECTORY/token)", "$SECRET")
	for name, c := range map[string]struct {
		secrets bool   // it is given them as such
		script  string // which holds them
		core    bool   // there is a file
		found   int    // of the two are in it
	}{
		"secrets":                       {true, hold, false, 0},
		"secrets, and no limit wanted":  {true, "ulimit -c unlimited 2>/dev/null; " + hold, false, 0},
		"none, and no limit: a control": {false, "ulimit -c unlimited; " + bare, true, 2},
		// What is left when the limit is lost.
		"none, no limit, and the filter that a gateway with secrets has": {false, "echo 0 >/proc/self/coredump_filter; ulimit -c unlimited; " + bare, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			secret, fromEnv := newSecret(), newSecret()
			dir := secretsDir(t)
			p := quietProfile(lastingly(c.script), "")
			if c.secrets {
				p.More += credentialsTable("token", putSecret(t, dir+"/token", secret))
				p.Gateway += fmt.Sprintf("\nenv_file = %q", putSecret(t, dir+"/env", "TOKEN="+fromEnv+"\n"))
			} else {
				p.Gateway += fmt.Sprintf("\nenv = { SECRET = %q, TOKEN = %q }", secret, fromEnv)
			}
			p.Restart = "policy = \"never\""
			ct := run(t, options{profile: p})
			ct.awaitFile("held", "held")
			pid := ct.status().PID
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
			if err != nil {
				t.Fatal(err)
			}
			_, limit, _ := strings.Cut(string(limits), "Max core file size")
			limit, _, _ = strings.Cut(limit, "\n")
			limit = strings.Join(strings.Fields(limit), " ")
			filter, err := os.ReadFile(fmt.Sprintf("/proc/%d/coredump_filter", pid))
			if err != nil {
				t.Fatal(err)
			}
			if limited := limit == "1 1 bytes"; limited != c.secrets || limited && strings.TrimSpace(string(filter)) != "00000000" {
				t.Errorf("RLIMIT_CORE is %s, the filter %s", limit, filter)
			}
			signalProcess(t, pid, unix.SIGSEGV)
			s := ct.waitFor("the gateway has ended", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
			if !strings.Contains(s.Message, "SIGSEGV") {
				t.Errorf("it ended otherwise: %s", s.Message)
			}
			cores, err := filepath.Glob(filepath.Join(ct.gatewayState(), "core*"))
			if err != nil {
				t.Fatal(err)
			}
			if (len(cores) > 0) != c.core {
				t.Errorf("core files: %q, want some: %v", cores, c.core)
			}
			found := 0
			for _, core := range cores {
				data, err := os.ReadFile(core)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s has %d bytes", core, len(data))
				for _, text := range []string{secret, fromEnv} {
					if bytes.Contains(data, []byte(text)) {
						found++
					}
				}
			}
			if found != c.found {
				t.Errorf("%d of the two are in the core, want %d", found, c.found)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
