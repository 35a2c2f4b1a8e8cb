//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// stdio is one way in which a program's standard streams can be given to it.
type stdio struct {
	name string
	// give connects cmd's streams. It gives what /proc/PID/fd shows of who holds them, "" if nobody can, and what has been
	// written to them so far.
	give func(t *testing.T, cmd *exec.Cmd) (link string, written func() string)
}

func stdios() []stdio {
	nothing := func() string { return "" }
	return []stdio{
		{"null", func(*testing.T, *exec.Cmd) (string, func() string) { return "", nothing }},
		{"closed", func(t *testing.T, cmd *exec.Cmd) (string, func() string) {
			// os/exec opens /dev/null for what is nil, so a shell closes them.
			shell, err := exec.LookPath("sh")
			if err != nil {
				t.Fatal(err)
			}
			cmd.Args = append([]string{"sh", "-c", `exec "$0" "$@" <&- >&- 2>&-`, cmd.Path}, cmd.Args[1:]...)
			cmd.Path = shell
			return "", nothing
		}},
		{"FIFO", func(t *testing.T, cmd *exec.Cmd) (string, func() string) {
			path := filepath.Join(t.TempDir(), "fifo")
			mkfifo(t, path)
			// Not blocking, so that the open does not wait for a writer and a read has a deadline.
			r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			w, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.Close() })
			cmd.Stdout, cmd.Stderr = w, w
			return path, func() string { return readFor(t, r, 100*time.Millisecond) }
		}},
		{"terminal", func(t *testing.T, cmd *exec.Cmd) (string, func() string) {
			pty, path, err := console.NewPty()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pty.Close() })
			tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tty.Close() })
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			out := make(chan []byte)
			go func() {
				defer close(out)
				for {
					b := make([]byte, 4096)
					n, err := pty.Read(b)
					if err != nil {
						return
					}
					out <- b[:n]
				}
			}()
			return path, func() string {
				var all []byte
				for {
					select {
					case b, ok := <-out:
						if !ok {
							return string(all)
						}
						all = append(all, b...)
					case <-time.After(100 * time.Millisecond):
						return string(all)
					}
				}
			}
		}},
	}
}

// readFor reads what comes within d.
func readFor(t *testing.T, f *os.File, d time.Duration) string {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(data)
}

// holds tells whether a process has a descriptor that /proc shows as link.
func holds(t *testing.T, pid int, link string) bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && target == link {
			return true
		}
	}
	return false
}

// bundle makes a bundle with our hooks in its config.json, as for a runtime without containerd.
func bundle(t *testing.T, profile string) string {
	t.Helper()
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.Unpacked(rootfs); err != nil {
		t.Fatal(err)
	}
	hook := func(verb string) []specs.Hook {
		return []specs.Hook{{
			Path: host.Bin("gatewarden-hook"),
			Args: []string{"gatewarden-hook", verb, "--config", host.ConfigFile, "--namespace", host.Namespace, "--profile", profile},
			Env:  []string{"LD_PRELOAD=/nonexistent.so", "GODEBUG=gctrace=1", "NOTIFY_SOCKET=/run/nobody"},
		}}
	}
	spec := specs.Spec{
		Version: "1.0.2", // crun 1.8 refuses what is newer than 1.0
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			User: specs.User{UID: harness.WorkloadUID, GID: harness.WorkloadUID}, Cwd: "/", NoNewPrivileges: true,
			Args: []string{"/bin/sleep", "1000"}, Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Hooks: &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststop: hook("poststop")},
		Linux: &specs.Linux{
			CgroupsPath: "/" + host.Namespace + "/" + filepath.Base(dir),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
			},
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "config.json"), string(data), 0o644)
	return dir
}

// bareContainer is a container made by an OCI runtime alone, without an engine.
type bareContainer struct {
	t       *testing.T
	id      string
	program string // the runtime
	root    string // its directory
}

// plainRunc makes one with the pinned runc; with may connect the streams of runc create, and looks at them after it.
func plainRunc(t *testing.T, with func(create *exec.Cmd) (after func(error))) bareContainer {
	t.Helper()
	return plainRuncOf(t, harness.Profile{Select: "annotation = false"}, with)
}

// plainRuncOf is plainRunc with a profile of the test's own.
func plainRuncOf(t *testing.T, profile harness.Profile, with func(create *exec.Cmd) (after func(error))) bareContainer {
	t.Helper()
	return bareOf(t, host.Runc(), profile, with)
}

// bareOf is plainRuncOf for any OCI runtime.
func bareOf(t *testing.T, program string, profile harness.Profile, with func(create *exec.Cmd) (after func(error))) bareContainer {
	t.Helper()
	id := uniqueID(filepath.Base(program))
	p := bareContainer{t, id, program, filepath.Join(host.Dir, "oci", id)}
	writeProfile(t, p.id, profile.TOML())
	dir := bundle(t, p.id)
	t.Cleanup(func() {
		if out, err := p.oci("delete", "--force", p.id).CombinedOutput(); err != nil {
			t.Errorf("delete: %v\n%s", err, out)
		}
		if err := host.CheckClean(goneTime); err != nil {
			t.Error(err)
		}
	})
	create := p.oci("create", "--bundle", dir, p.id)
	// Into a file: whoever inherits it keeps nobody waiting.
	said, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	create.Stdout, create.Stderr = said, said
	after := func(err error) {
		if err != nil {
			output, _ := os.ReadFile(said.Name())
			t.Fatalf("create: %v\n%sthe hooks noted: %s", err, output, host.HookLog())
		}
	}
	if with != nil {
		after = with(create)
	}
	after(create.Run())
	return p
}

// oci is a command of the container's runtime.
func (p bareContainer) oci(args ...string) *exec.Cmd {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	p.t.Cleanup(cancel)
	cmd, err := host.EngineCommand(ctx, p.program, append([]string{"--root", p.root}, args...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return cmd
}

func (p bareContainer) mustOCI(args ...string) {
	p.t.Helper()
	if out, err := p.oci(args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s %v: %v\n%s", p.program, args, err, out)
	}
}

func (p bareContainer) name() string { return host.Namespace + "/" + p.id }

// running waits until the gateway runs.
func (p bareContainer) running() receipt.Status {
	p.t.Helper()
	return p.until("the gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running })
}

// until waits for a status of the gateway.
func (p bareContainer) until(what string, ok func(receipt.Status) bool) (s receipt.Status) {
	p.t.Helper()
	var last harness.Result
	eventually(p.t, eventTime, what, func() bool {
		last = gatewarden(p.t, "status", "--json", p.name())
		s = receipt.Status{}
		return json.Unmarshal([]byte(last.Stdout), &s) == nil && ok(s)
	}, func() string { return last.String() })
	return s
}

func TestTheHookWorksWithAnyStdioOfAPlainRunc(t *testing.T) {
	for _, std := range stdios() {
		t.Run(std.name, func(t *testing.T) {
			var link string
			p := plainRunc(t, func(create *exec.Cmd) func(error) {
				var written func() string
				link, written = std.give(t, create)
				begin := time.Now()
				return func(err error) {
					if took := time.Since(begin); took > 10*time.Second {
						t.Errorf("runc create took %v: somebody holds its streams", took)
					}
					if err != nil {
						t.Fatalf("runc create: %v\n%s", err, written())
					}
					if out := written(); strings.Contains(out, "gatewarden") {
						t.Errorf("the hook wrote to the user's streams: %q", out)
					}
				}
			})
			s := p.running()
			checkPosture(t, "gateway", s.PID, false)
			// The container's own process has runc's streams; nothing of ours may.
			for what, pid := range map[string]int{"warden": s.Warden.PID, "gateway": s.PID} {
				if link != "" && holds(t, pid, link) {
					t.Errorf("the %s holds %s", what, link)
				}
			}
			p.mustOCI("start", p.id)
			if r := gatewarden(t, "restart", p.name()); r.Status != 0 {
				t.Errorf("%v", r)
			}
		})
	}
}

func TestAWardenThatWasNotStartedByAHookSaysSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	out, err := host.Command(ctx, host.Bin("gatewarden-hook"), "warden").CombinedOutput()
	if err == nil || ctx.Err() != nil || !strings.HasPrefix(string(out), "gatewarden-hook warden: nobody has given it a container: ") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestTheHookRefusesWhatIsNotAStateInOneLine(t *testing.T) {
	for name, stdin := range map[string]string{
		"empty": "", "not JSON": "hello", "a list": "[]", "no pid": `{"ociVersion":"1.0.0","id":"x","status":"creating","bundle":"/tmp"}`,
		"endless": strings.Repeat(" ", 8<<20), "a pid of nobody": `{"ociVersion":"1.0.0","id":"x","status":"creating","pid":4194304,"bundle":"/"}`,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), commandTime)
			defer cancel()
			cmd := host.Command(ctx, host.Bin("gatewarden-hook"), "createRuntime", "--config", host.ConfigFile, "--profile", "none")
			cmd.Stdin = strings.NewReader(stdin)
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Errorf("the hook accepts it, or hangs: %v", err)
			}
			if lines := strings.Count(string(out), "\n"); lines != 1 || !strings.HasPrefix(string(out), "gatewarden: ") {
				t.Errorf("the hook does not say one line of its own: %q", out)
			}
		})
	}
	for _, std := range stdios() {
		if std.name == "terminal" || std.name == "FIFO" {
			continue // nobody ends these, and a runtime never gives them to a hook as its input
		}
		t.Run("stdin "+std.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), commandTime)
			defer cancel()
			cmd := host.Command(ctx, host.Bin("gatewarden-hook"), "createRuntime", "--config", host.ConfigFile)
			std.give(t, cmd)
			if err := cmd.Run(); err == nil || ctx.Err() != nil {
				t.Errorf("the hook accepts it, or hangs: %v", err)
			}
		})
	}
}
