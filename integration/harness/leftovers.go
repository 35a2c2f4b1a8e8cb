package harness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/netns"
)

// leaveTime is how long things may take to go once their container has gone.
const leaveTime = 5 * time.Second

// Process is a process of this host, as /proc described it.
type Process struct {
	PID     int
	Parent  int
	Command string
	Cgroup  string // path of its pids, or unified, cgroup
}

func (p Process) String() string {
	return fmt.Sprintf("%d (%s, cgroup %s)", p.PID, p.Command, p.Cgroup)
}

// Processes lists the processes of this host beside containerd: shims, runcs and wardens, which name the host's directory,
// whatever is in its containers' cgroups, and the descendants of all these.
func (h *Host) Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	ours := map[int]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok := readProcess(pid)
		if !ok || p.PID == os.Getpid() || h.daemon != nil && p.PID == h.daemon.Process.Pid {
			continue
		}
		all = append(all, p)
		if strings.Contains(p.Command, h.Dir+"/") || slices.Contains(strings.Split(p.Cgroup, "/"), h.Cgroup) {
			ours[pid] = true
		}
	}
	for more := true; more; {
		more = false
		for _, p := range all {
			if ours[p.Parent] && !ours[p.PID] {
				ours[p.PID], more = true, true
			}
		}
	}
	return slices.DeleteFunc(all, func(p Process) bool { return !ours[p.PID] }), nil
}

// readProcess reads a process; one that has ended, a zombie too, gives false.
func readProcess(pid int) (Process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, false
	}
	// PID (COMM) STATE PPID …; COMM may hold anything, ")" too.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return Process{}, false
	}
	p := Process{PID: pid}
	if p.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return Process{}, false
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, false
	}
	p.Command = strings.Join(strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"), " ")
	cgroups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return Process{}, false
	}
	for line := range strings.Lines(string(cgroups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[1] == "pids" || parts[1] == "" && p.Cgroup == "") {
			p.Cgroup = parts[2]
		}
	}
	return p, true
}

// ShimSocket is where containerd 2's shims listen for the container, or group of containers, id
// (containerd, pkg/shim.SocketAddress).
func (h *Host) ShimSocket(id string) string {
	sum := sha256.Sum256([]byte(filepath.Join(h.Address, h.Namespace, id)))
	return filepath.Join("/run/containerd/s", hex.EncodeToString(sum[:]))
}

// Mounts lists the mount points below the host's directory in this mount namespace.
func (h *Host) Mounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(h.Dir))
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points, nil
}

// Netns tells a network namespace from every other, also from a later one that was given its inode number.
type Netns struct{ Inode, Cookie uint64 }

// NetnsAt gives the network namespace of an nsfs file, such as /proc/PID/ns/net.
func NetnsAt(path string) (Netns, error) {
	ns, err := os.Open(path)
	if err != nil {
		return Netns{}, err
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return Netns{}, err
	}
	id := Netns{Inode: st.Ino}
	err = netns.Do(ns, func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		id.Cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) // Linux 5.14
		return err
	})
	return id, err
}

// HoldersOf lists who keeps a network namespace alive: processes in it, and descriptors of it.
func HoldersOf(id Netns) []string {
	want := fmt.Sprintf("net:[%d]", id.Inode)
	var holders []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, path := range append(links, descriptors...) {
		// What has gone meanwhile holds nothing.
		if target, err := os.Readlink(path); err != nil || target != want {
			continue
		}
		if now, err := NetnsAt(path); err == nil && now == id {
			holders = append(holders, path)
		}
	}
	return holders
}

// CheckClean waits for at most patience until nothing but containerd is left of this host's containers, and says what is.
func (h *Host) CheckClean(patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left, err := h.left()
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left behind %v after the last container:\n  %s", patience, strings.Join(left, "\n  "))
		}
	}
}

func (h *Host) left() ([]string, error) {
	var left []string
	processes, err := h.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		left = append(left, "process "+p.String())
	}
	mounts, err := h.Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m != h.RunDir || !h.runInMemory {
			left = append(left, "mount "+m)
		}
	}
	// Nothing of a container that is gone stays in run_dir or log_dir, but for the hooks' own log. [[state]] directories are meant to
	// stay in state_dir.
	for _, dir := range []string{h.RunDir, h.LogDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case path != dir && path != filepath.Join(h.LogDir, install.RefusalsName):
				left = append(left, "file "+path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	left = append(left, h.networksLeft()...)
	for _, c := range h.cgroups() {
		entries, err := os.ReadDir(c)
		if err != nil {
			continue
		}
		for _, e := range entries {
			// Podman has one for its monitors, and keeps it.
			if e.IsDir() && e.Name() != "conmon" {
				left = append(left, "cgroup "+filepath.Join(c, e.Name()))
			}
		}
	}
	return left, nil
}

// cgroups are the directories of the host in the cgroup hierarchies; ctr puts containers below these.
func (h *Host) cgroups() []string {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, _ := filepath.Glob(pattern + h.Cgroup)
		dirs = append(dirs, found...)
	}
	return dirs
}

func (h *Host) removeCgroups() error {
	var errs []error
	for _, dir := range h.cgroups() {
		// Deepest first: a cgroup directory goes with rmdir only, and its files do not count.
		var inner []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				inner = append(inner, path)
			}
			return nil
		})
		for _, path := range slices.Backward(inner) {
			if err := unix.Rmdir(path); err != nil && exists(path) {
				errs = append(errs, &os.PathError{Op: "rmdir", Path: path, Err: err})
			}
		}
	}
	return errors.Join(errs...)
}

// endProcesses kills what is left of this host, by handle: the process is looked at again once its pidfd is open.
func (h *Host) endProcesses() error {
	for range 50 {
		left, err := h.Processes()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, p := range left {
			if err := end(p); err != nil {
				return err
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("processes below %s cannot be ended", h.Dir)
}

func end(p Process) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of %v: %w", p, err)
	}
	defer unix.Close(fd)
	if now, ok := readProcess(p.PID); !ok || now.Command != p.Command || now.Cgroup != p.Cgroup {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %v: %w", p, err)
	}
	return nil
}

func (h *Host) unmount() error {
	mounts, err := h.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: m, Err: err})
		}
	}
	return errors.Join(errs...)
}
