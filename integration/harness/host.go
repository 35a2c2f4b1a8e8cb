// Package harness runs a containerd of its own, with gatewarden's shim, hook and settings, for the integration tests and
// the demo. All of it lies below one directory that is root's alone, and Close ends all of it and says what was left.
package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"

	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/netns"
)

// Runtimes of the containers.
const (
	Gatewarden = "io.containerd.gatewarden.v2"
	Stock      = "io.containerd.runc.v2"
)

const (
	// base is where hosts are made. It has to be root's in every component, which /tmp is not.
	base      = "/var/lib"
	prefix    = "gwt-"
	readyTime = 20 * time.Second
	stopTime  = 10 * time.Second
)

// Host is a private containerd and everything around it.
type Host struct {
	Repository string // the checkout
	Dir        string // everything of this host
	Namespace  string // the containerd namespace that is used
	Address    string // containerd's socket
	ConfigFile string // gatewarden's settings
	ProfileDir string
	RunDir     string
	StateDir   string
	LogDir     string
	MountDir   string // root's alone: for what profiles mount
	Cgroup     string // the name of the cgroup above those of its containers, in each hierarchy

	release     Release
	cri         *cri // nil: its containerd does not serve CRI
	client      *containerd.Client
	snapshotter string
	daemon      *exec.Cmd
	runInMemory bool          // a filesystem in memory is mounted on RunDir
	daemonEnded chan struct{} // closed when daemon has been waited for
	daemonLog   *os.File
	engines     *os.File // mount namespace of EngineCommand; nil: not made yet
	madeCDIDir  bool     // /etc/cdi was made for it
}

// Start makes a host and starts its containerd. An empty namespace stands for one that no other host has, so that
// cgroups and runc's state are its own too.
func Start(ctx context.Context, namespace string) (*Host, error) {
	return start(ctx, namespace, Pinned, nil)
}

// StartRelease is Start with another containerd.
func StartRelease(ctx context.Context, namespace string, release Release) (*Host, error) {
	return start(ctx, namespace, release, nil)
}

func start(ctx context.Context, namespace string, release Release, cri *cri) (_ *Host, err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("this needs root")
	}
	repository, err := FindRepository()
	if err != nil {
		return nil, err
	}
	var id [3]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	name := prefix + hex.EncodeToString(id[:])
	if namespace == "" {
		namespace = name
	}
	dir := filepath.Join(base, name)
	h := &Host{
		release:    release,
		Repository: repository,
		Dir:        dir,
		Namespace:  namespace,
		Address:    filepath.Join(dir, "containerd.sock"),
		ConfigFile: filepath.Join(dir, "config.toml"),
		ProfileDir: filepath.Join(dir, "gateways.d"),
		RunDir:     filepath.Join(dir, "run"),
		StateDir:   filepath.Join(dir, "lib"),
		LogDir:     filepath.Join(dir, "log"),
		MountDir:   filepath.Join(dir, "mounts"),
		Cgroup:     namespace,
		cri:        cri,
	}
	for _, tool := range []string{
		h.tool("containerd"), h.tool("ctr"), h.tool("containerd-shim-runc-v2"), h.tool("runc"),
		h.Bin("gatewarden-hook"), h.Bin("containerd-shim-gatewarden-v2"), h.Bin("gatewarden"),
		h.testProgram("testgateway"), h.testProgram("testworkload"), h.FailpointsHook(),
	} {
		if _, err := os.Stat(tool); err != nil {
			return nil, fmt.Errorf("%w: run make toolchain build testbin", err)
		}
	}
	for _, name := range []string{"containerd", "ctr"} {
		if _, err := os.Stat(h.program(name)); err != nil {
			return nil, fmt.Errorf("%s: %w: run make releases, for make compat also make compat-releases", release.Name, err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := h.makeFiles(); err != nil {
		return nil, err
	}
	if err := h.startDaemon(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// RunInMemory puts RunDir into memory, where /run is on a machine with an init. It is for measurements, before the first
// container; tests that move RunDir, or fill it, have it where it is.
func (h *Host) RunInMemory() error {
	if err := os.MkdirAll(h.RunDir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("run", h.RunDir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("cannot put %s into memory: %w", h.RunDir, err)
	}
	h.runInMemory = true
	return nil
}

// FindRepository finds the checkout above the working directory.
func FindRepository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		data, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module github.com/gatewarden/gatewarden\n")) {
			return at, nil
		}
		if at == "/" {
			return "", fmt.Errorf("%s is not inside a checkout of gatewarden", dir)
		}
	}
}

// Bin is the path of one of gatewarden's programs.
func (h *Host) Bin(name string) string { return filepath.Join(h.Repository, "bin", name) }

// Runc is the path of runc.
func (h *Host) Runc() string { return h.tool("runc") }

// Tool is the path of one of the pinned tools: containerd, ctr, containerd-shim-runc-v2, runc.
func (h *Host) Tool(name string) string { return h.tool(name) }

func (h *Host) tool(name string) string { return filepath.Join(h.Repository, ".cache", "bin", name) }

func (h *Host) testProgram(name string) string {
	return filepath.Join(h.Repository, ".cache", "test", name)
}

// path is the search path of containerd, and so of its shims: the release's first, ours, then the pinned tools.
func (h *Host) path() string {
	var dirs []string
	for _, dir := range h.release.Path {
		dirs = append(dirs, h.inCache(dir))
	}
	return strings.Join(append(dirs,
		filepath.Join(h.Repository, "bin"), filepath.Join(h.Repository, ".cache", "bin"),
		"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
	), ":")
}

// containerdConfig leaves out all that a host has only once (CRI's streams, NRI's socket, /opt), and snapshotters that need devices.
const containerdConfig = `version = %d
root = %q
state = %q
imports = [%q]
disabled_plugins = [
  %s"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = %q

[ttrpc]
  address = %q

[debug]
  level = "info"
%s`

// criPlugins are those of containerd that serve CRI.
const criPlugins = `"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
  "io.containerd.podsandbox.controller.v1.podsandbox", `

const gatewardenConfig = `version     = 1
profile_dir = %q
run_dir     = %q
state_dir   = %q
log_dir     = %q
hook        = %q
`

func (h *Host) makeFiles() error {
	if err := os.Mkdir(h.Dir, 0o755); err != nil {
		return err
	}
	conf := filepath.Join(h.Dir, "conf.d")
	for _, dir := range []string{h.ProfileDir, h.MountDir, conf} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := h.UseHook(h.Bin("gatewarden-hook")); err != nil {
		return err
	}
	root := filepath.Join(h.Dir, "containerd")
	if err := os.Mkdir(root, 0o711); err != nil {
		return err
	}
	h.snapshotter = "overlayfs"
	if err := overlayutils.Supported(root); err != nil {
		// The checkout of a CI job may be on an overlay itself.
		h.snapshotter = "native"
	}
	if err := h.writeDaemonConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(h.Dir, "containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	h.daemonLog = log
	return nil
}

func (h *Host) writeDaemonConfig() error {
	disabled, more := criPlugins, ""
	if h.cri != nil {
		if err := h.prepareCRI(); err != nil {
			return err
		}
		disabled, more = "", h.cri.config
	}
	config := fmt.Sprintf(containerdConfig, h.release.configVersion(), filepath.Join(h.Dir, "containerd"), filepath.Join(h.Dir, "state"),
		filepath.Join(h.Dir, "conf.d", "*.toml"), disabled, h.Address, h.Address+".ttrpc", more)
	return os.WriteFile(filepath.Join(h.Dir, "containerd.toml"), []byte(config), 0o644)
}

// UseHook makes path the hook of the containers that are created from now on.
func (h *Host) UseHook(path string) error {
	settings := fmt.Sprintf(gatewardenConfig, h.ProfileDir, h.RunDir, h.StateDir, h.LogDir, path)
	return os.WriteFile(h.ConfigFile, []byte(settings), 0o644)
}

// UseAuditKey makes the containers that are created from now on sign their receipts with the key at path, until UseHook is
// called.
func (h *Host) UseAuditKey(path string) error {
	settings := fmt.Sprintf(gatewardenConfig, h.ProfileDir, h.RunDir, h.StateDir, h.LogDir, h.Bin("gatewarden-hook"))
	return os.WriteFile(h.ConfigFile, fmt.Appendf([]byte(settings), "audit_key   = %q\n", path), 0o644)
}

// FailpointsHook is the hook's program built with failpoints.
func (h *Host) FailpointsHook() string { return h.testProgram("gatewarden-hook-failpoints") }

// environment is that of containerd, and so of its shims.
func (h *Host) environment() []string {
	return []string{"PATH=" + h.path(), "HOME=" + h.Dir, "GATEWARDEN_CONFIG=" + h.ConfigFile}
}

func (h *Host) startDaemon(ctx context.Context) error {
	cmd := exec.Command(h.program("containerd"), "--config", filepath.Join(h.Dir, "containerd.toml"))
	cmd.Env = h.environment()
	cmd.Dir = h.Dir
	cmd.Stdout, cmd.Stderr = h.daemonLog, h.daemonLog
	// Ctrl-C is for us; the containers are ended before their daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := cmd.Start
	if h.cri != nil {
		begin = func() error { return netns.Do(h.cri.network, cmd.Start) }
	}
	if err := begin(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	h.daemon, h.daemonEnded = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		// How it ended is in its log.
		_ = cmd.Wait()
		close(ended)
	}(h.daemonEnded)
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		if client, err := containerd.New(h.Address, containerd.WithDefaultNamespace(h.Namespace)); err == nil {
			if ok, err := client.IsServing(ctx); err == nil && ok {
				h.client = client
				return nil
			}
			client.Close()
		}
		select {
		case <-h.daemonEnded:
			h.daemon = nil
			return fmt.Errorf("containerd ended at once; its log:\n%s", h.DaemonLog())
		case <-ctx.Done():
			return fmt.Errorf("containerd does not serve %s; its log:\n%s", h.Address, h.DaemonLog())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// DaemonLog gives the end of what containerd and its shims logged.
func (h *Host) DaemonLog() string { return endOf(filepath.Join(h.Dir, "containerd.log")) }

// endOf gives the end of a log.
func endOf(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(data[max(0, len(data)-most):])
}

// HookLog gives the end of what hooks noted.
func (h *Host) HookLog() string { return endOf(filepath.Join(h.LogDir, install.RefusalsName)) }

// stopDaemon sends containerd sig and waits for its end.
func (h *Host) stopDaemon(sig syscall.Signal) error {
	if h.daemon == nil {
		return nil
	}
	daemon, ended := h.daemon, h.daemonEnded
	h.daemon = nil
	if h.client != nil {
		h.client.Close()
		h.client = nil
	}
	if err := daemon.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopTime):
	}
	err := daemon.Process.Kill()
	<-ended
	return errors.Join(fmt.Errorf("containerd did not end within %v of %v", stopTime, sig), err)
}

// CrashDaemon kills containerd (SIGKILL) and starts it again.
func (h *Host) CrashDaemon(ctx context.Context) error {
	if err := h.stopDaemon(syscall.SIGKILL); err != nil {
		return err
	}
	return h.startDaemon(ctx)
}

// Client is a client of the running containerd, in the host's namespace. It is invalid after CrashDaemon.
func (h *Host) Client() *containerd.Client { return h.client }

// Snapshotter is the snapshotter that works here.
func (h *Host) Snapshotter() string { return h.snapshotter }

// Context adds the host's namespace to ctx.
func (h *Host) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, h.Namespace)
}

// WriteProfile writes the profile name.
func (h *Host) WriteProfile(name, toml string) error {
	return os.WriteFile(filepath.Join(h.ProfileDir, name+".toml"), []byte(toml), 0o644)
}

// TestProgramPath is the path of one of the test programs.
func (h *Host) TestProgramPath(name string) string { return h.testProgram(name) }

// TestProgram gives the content of one of the test programs.
func (h *Host) TestProgram(name string) ([]byte, error) { return os.ReadFile(h.testProgram(name)) }

// Close ends every container, then containerd, and removes the host's files. The error tells everything that was left
// behind: processes, mounts, files. All of that has then been ended and removed too.
func (h *Host) Close() error {
	ctx, cancel := context.WithTimeout(h.Context(context.Background()), time.Minute)
	defer cancel()
	var errs []error
	if h.client != nil {
		errs = append(errs, h.removeContainers(ctx))
	}
	errs = append(errs, h.CheckClean(leaveTime))
	errs = append(errs, h.endProcesses())
	errs = append(errs, h.stopDaemon(syscall.SIGTERM))
	if h.daemonLog != nil {
		h.daemonLog.Close()
	}
	errs = append(errs, h.closeEngines())
	errs = append(errs, h.unmount(), h.removeCgroups(), h.closeCRI())
	// Only if empty: runc's own directory for the namespace.
	os.Remove(filepath.Join("/run/containerd/runc", h.Namespace))
	if err := os.RemoveAll(h.Dir); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (h *Host) removeContainers(ctx context.Context) error {
	containers, err := h.client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range containers {
		errs = append(errs, h.Remove(ctx, c.ID()))
	}
	return errors.Join(errs...)
}

// exists tells whether path is there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
