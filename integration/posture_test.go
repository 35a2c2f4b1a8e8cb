//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
)

// defaultCapabilities are those of containerd's default set by which a workload could reach the gateway.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETUID",
}

func dropFlags() []string {
	var flags []string
	for _, c := range defaultCapabilities {
		flags = append(flags, "--cap-drop", c)
	}
	return flags
}

func TestAContainerWhoseWorkloadCouldReachTheGatewayIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		o    options
		want []string // in the message
	}{
		{
			name: "a workload that is root holds CAP_KILL",
			o:    options{user: "0"},
			want: []string{"CAP_KILL", "--cap-drop", "docker", "Kubernetes", "drop", "workload-cap-kill"},
		},
		{
			name: "a workload that is root was granted CAP_SYS_PTRACE",
			o:    options{user: "0", flags: append(dropFlags(), "--cap-add", "CAP_SYS_PTRACE")},
			want: []string{"CAP_SYS_PTRACE", "--cap-drop CAP_SYS_PTRACE", "workload-cap-sys-ptrace"},
		},
		{
			name: "a workload that is root was granted CAP_SYS_ADMIN",
			o:    options{user: "0", flags: append(dropFlags(), "--cap-add", "CAP_SYS_ADMIN")},
			want: []string{"CAP_SYS_ADMIN", "workload-cap-sys-admin"},
		},
		{
			name: "noNewPrivileges is off",
			o:    options{flags: append(dropFlags(), "--allow-new-privs")},
			want: []string{"noNewPrivileges", "--allow-new-privs", "no-new-privileges", "allowPrivilegeEscalation", "workload-new-privileges"},
		},
		{
			name: "the PID namespace is the host's",
			o:    options{flags: []string{"--with-ns", fmt.Sprintf("pid:/proc/%d/ns/pid", os.Getpid())}},
			want: []string{"PID namespace", "--with-ns", "--pid", "hostPID", "workload-host-pid"},
		},
		{
			name: "the workload's UID is the gateway's",
			o:    options{user: "64990:1000"},
			want: []string{"64990", "UID", "--user", "runAsUser"},
		},
		{
			name: "the workload's group is the gateway's",
			o:    options{user: "1000:64990"},
			want: []string{"64990", "group", "--user", "supplementalGroups"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.profile = &harness.Profile{}
			c, r := tryRun(t, test.o)
			if r.Status != 1 {
				t.Errorf("exit status %d, want 1:\n%v", r.Status, r)
			}
			for _, want := range test.want {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("the message does not say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("%v", r)
			}
			if taskExists(t, c.id) {
				t.Error("the refused container has a task")
			}
			c.checkGone()
		})
	}
}

func TestWhatTheProfileAllowsIsAcceptedAndRecorded(t *testing.T) {
	const allow = "[posture]\nallow = [\"workload-new-privileges\"]\n"
	// A workload that may become root owns what root owns in the image, so the binary comes from the host.
	profile := mountedGateway(gatewayDir(t))
	profile.More += allow
	c := run(t, options{profile: profile, flags: append(dropFlags(), "--allow-new-privs")})
	if got := c.restart().PostureAllows; !slices.Equal(got, []string{"workload-new-privileges"}) {
		t.Errorf("the receipt's posture_allows are %v", got)
	}
	// What it allows and nobody uses is not worth a record.
	c = run(t, options{profile: &harness.Profile{More: allow}})
	if got := c.restart().PostureAllows; len(got) != 0 {
		t.Errorf("the receipt's posture_allows are %v, and the workload has none of it", got)
	}
}

func TestARootWorkloadsImageIsNotTrustedWithTheGatewaysBinary(t *testing.T) {
	_, r := tryRun(t, options{user: "0", flags: dropFlags(), profile: &harness.Profile{}})
	refused(t, r, 1, string(code.UntrustedBinary))
	c := run(t, options{user: "0", flags: dropFlags(), profile: mountedGateway(gatewayDir(t))})
	c.ask()
}

func TestAWorkloadThatIsNotRootMayHaveCapabilitiesInItsBoundingSet(t *testing.T) {
	run(t, options{profile: &harness.Profile{}, flags: []string{"--cap-add", "CAP_SYS_PTRACE", "--cap-add", "CAP_SYS_ADMIN"}})
}

func TestAnAnnotationCannotNameAProfileThatDoesNotAllowIt(t *testing.T) {
	for _, test := range []struct {
		name, lines, want string
	}{
		{"no annotation may", "annotation = false", "annotation"},
		{"not in this namespace", "annotation = true\nnamespaces = [\"k8s.io\"]", "k8s.io"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, r := tryRun(t, options{profile: &harness.Profile{Select: test.lines}})
			if r.Status != 1 || !strings.Contains(r.Stderr, test.want) {
				t.Errorf("the refusal does not say %q:\n%v", test.want, r)
			}
			c.checkGone()
		})
	}
}

func TestAContainerWithABrokenProfileIsRefusedAndLeavesNothingBehind(t *testing.T) {
	good := harness.Profile{}.TOML()
	for _, test := range []struct {
		name  string
		write func(t *testing.T, path string)
		want  []string // in the message
	}{
		{"there is none", func(*testing.T, string) {}, []string{"no such file"}},
		{"an unknown key", content(good + "\n[gatway]\nuser = 1\n"), []string{"gatway"}},
		{"a wrong type", content(strings.Replace(good, "user = 64990", "user = \"gw\"", 1)), []string{":5:", "user"}},
		{"a bad unit", content(good + "\n[stop]\ntimeout = \"5 parsecs\"\n"), []string{"timeout"}},
		{"a relative path", content(strings.Replace(good, "/usr/local/bin/testgateway", "testgateway", 1)), []string{":4:", "testgateway"}},
		{"a syntax error", content("version = \n"), []string{":1:"}},
		{"writable by others", func(t *testing.T, path string) {
			writeFile(t, path, good, 0o644)
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
		}, []string{"writ"}},
		{"not root's", func(t *testing.T, path string) {
			writeFile(t, path, good, 0o644)
			chown(t, path, harness.WorkloadUID)
		}, []string{"1000"}},
		{"a symbolic link", func(t *testing.T, path string) {
			writeFile(t, path+".target", good, 0o644)
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		}, []string{"link"}},
		{"too large", content(good + strings.Repeat("# padding\n", 100_000)), []string{"bytes"}},
		{"a FIFO", func(t *testing.T, path string) { mkfifo(t, path) }, []string{"regular"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := uniqueID("broken")
			test.write(t, filepath.Join(host.ProfileDir, name+".toml"))
			c, r := tryRun(t, options{flags: []string{"--annotation", "io.gatewarden.gateway=" + name}})
			if r.Status != 1 || !strings.Contains(r.Stderr, name) {
				t.Errorf("the container is not refused with its profile's name:\n%v", r)
			}
			for _, want := range test.want {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("the message does not say %q:\n%v", want, r)
				}
			}
			if taskExists(t, c.id) {
				t.Error("the refused container has a task")
			}
			c.checkGone()
			if _, err := os.Lstat(c.stateDir()); err == nil {
				t.Errorf("%s was left behind", c.stateDir())
			}
			// The operator's command says the same beforehand.
			check := gatewarden(t, "profile", "check", filepath.Join(host.ProfileDir, name+".toml"))
			if check.Status != code.ExitRefused {
				t.Errorf("profile check does not see the problem:\n%v", check)
			}
		})
	}
}

func content(data string) func(*testing.T, string) {
	return func(t *testing.T, path string) { writeFile(t, path, data, 0o644) }
}

func TestAnAnnotationThatIsNotAProfilesNameIsRefused(t *testing.T) {
	for _, name := range []string{"", "../../etc/passwd", "UPPER", "a/b", ".hidden", strings.Repeat("x", 64)} {
		c, r := tryRun(t, options{flags: []string{"--annotation", "io.gatewarden.gateway=" + name}})
		if r.Status != 1 || !strings.Contains(r.Stderr, "io.gatewarden.gateway") {
			t.Errorf("%q is not refused:\n%v", name, r)
		}
		c.checkGone()
	}
}
