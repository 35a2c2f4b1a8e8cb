// Package cgroup finds the cgroup of a container and reads what its warden needs: the member processes, whether they are
// frozen, and whether a limit has been met. What it writes is a cgroup below that one, by which the processes of one
// command are told from others; resources are the runtime's business.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Bounds of what is read: of one cgroup file in bytes, and of the processes of one container.
const (
	maxFile = 4 << 20
	maxDirs = 4096
)

// Group is the cgroup of one container, on a v1 controller that has the freezer, or on the v2 hierarchy.
type Group struct {
	dir    string
	memory string // of the memory controller; "": none
	pids   string // of the pids controller; "": none
	v2     bool
}

// ErrRoot says that a process has no cgroup of its own: it is in the root of its hierarchy, with everybody else.
var ErrRoot = errors.New("it is in the root cgroup")

// Of finds the cgroup of a process from the content of its /proc/PID/cgroup (cgroups(7)) and the cgroup mounts of the
// caller. Read it while the process lives: a zombie is shown in the root cgroup, whose members are all of the host's.
// The root is refused with ErrRoot.
//
// A hybrid host has v1 controllers beside an empty v2 hierarchy: v1 wins where it has the freezer, since the
// container runtimes put the container's processes there.
func Of(procCgroup []byte) (Group, error) {
	paths, err := parse(procCgroup)
	if err != nil {
		return Group{}, fmt.Errorf("cannot read the container's cgroup: %w", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return Group{}, fmt.Errorf("cannot list the host's cgroup mounts: %w", err)
	}
	for _, want := range []string{"freezer", ""} {
		dir, err := find(mounts, paths, want)
		if err != nil {
			return Group{}, err
		}
		if dir == "" {
			continue
		}
		g := Group{dir: dir, v2: want == ""}
		if g.memory, g.pids = dir, dir; !g.v2 {
			// Without a group of its own there is no limit either, so nothing to tell.
			g.memory, _ = find(mounts, paths, "memory")
			g.pids, _ = find(mounts, paths, "pids")
		}
		return g, nil
	}
	return Group{}, errors.New("cannot find the container's cgroup: no freezer (v1) and no cgroup2 hierarchy is mounted here")
}

// find gives the directory of the group in the hierarchy of a v1 controller, or "" (v2); "" if there is no such hierarchy.
func find(mounts []*mountinfo.Info, paths map[string]string, controller string) (string, error) {
	path, ok := paths[controller]
	if !ok {
		return "", nil
	}
	for _, m := range mounts {
		if v2 := m.FSType == "cgroup2"; v2 != (controller == "") || (!v2 && !hasOption(m.VFSOptions, controller)) {
			continue
		}
		rel, err := filepath.Rel(m.Root, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if path == "/" || rel == "." {
			return "", fmt.Errorf("cannot use the container's cgroup: %w", ErrRoot)
		}
		return filepath.Join(m.Mountpoint, rel), nil
	}
	return "", nil
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

// parse gives the path for each controller; the v2 hierarchy is the controller "".
func parse(data []byte) (map[string]string, error) {
	paths := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.SplitN(sc.Text(), ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			return nil, fmt.Errorf("line %q is not HIERARCHY:CONTROLLERS:PATH", sc.Text())
		}
		for c := range strings.SplitSeq(f[1], ",") {
			paths[c] = f[2]
		}
	}
	return paths, sc.Err()
}

// Dir is the cgroup's directory on the host.
func (g Group) Dir() string { return g.dir }

// Frozen tells whether the container is paused: asked to be, or already.
func (g Group) Frozen() (bool, error) {
	if g.v2 {
		events, err := read(filepath.Join(g.dir, "cgroup.freeze"))
		return strings.TrimSpace(string(events)) == "1", err
	}
	state, err := read(filepath.Join(g.dir, "freezer.state"))
	s := strings.TrimSpace(string(state))
	return s == "FROZEN" || s == "FREEZING", err
}

// OOMKills counts the processes of the group that the kernel has killed for want of memory: oom_kill in
// memory.oom_control (v1, Linux 4.13) or in memory.events (v2). 0 if the kernel does not tell.
func (g Group) OOMKills() int {
	if g.v2 {
		return counter(g.memory, "memory.events", "oom_kill")
	}
	return counter(g.memory, "memory.oom_control", "oom_kill")
}

// ForksRefused counts how often the kernel has refused the group another process or thread because pids.max was reached
// ("max" in pids.events, Linux 4.10). 0 if the kernel does not tell.
func (g Group) ForksRefused() int { return counter(g.pids, "pids.events", "max") }

// MaxPids is the limit of processes and threads together, pids.max: a number or "max"; "" if there is none.
func (g Group) MaxPids() string { return value(g.pids, "pids.max") }

// MaxMemory is the memory limit in bytes: a number, in v2 also "max"; "" if there is none.
func (g Group) MaxMemory() string {
	if g.v2 {
		return value(g.memory, "memory.max")
	}
	return value(g.memory, "memory.limit_in_bytes")
}

// MemoryLeft is what the group can still use below its own memory limit, in bytes, counting as free what the kernel drops
// first (inactive_file in memory.stat). Without a limit it is math.MaxInt64.
func (g Group) MemoryLeft() int64 {
	limit, err := strconv.ParseInt(g.MaxMemory(), 10, 64)
	if err != nil {
		return math.MaxInt64 // "max", or no such controller
	}
	name, key := "memory.usage_in_bytes", "total_inactive_file"
	if g.v2 {
		name, key = "memory.current", "inactive_file"
	}
	used, err := strconv.ParseInt(value(g.memory, name), 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return limit - used + int64(counter(g.memory, "memory.stat", key))
}

// counter reads a number from a file of lines "KEY NUMBER".
func counter(dir, name, key string) int { return parseCounter([]byte(value(dir, name)), key) }

// parseCounter reads the number of the first line "KEY NUMBER". One that makes no sense is 0.
func parseCounter(data []byte, key string) int {
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, key+" "); ok {
			count, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil || count < 0 {
				return 0
			}
			return count
		}
	}
	return 0
}

func value(dir, name string) string {
	if dir == "" {
		return ""
	}
	data, err := read(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Procs lists the numbers of the processes in the cgroup and in those below it. A process can't leave them without
// writing to cgroupfs, which a container that is not privileged can't. The numbers are as of now: hold each process and
// check it before believing anything of it.
func (g Group) Procs() ([]int, error) {
	var pids []int
	dirs := []string{g.dir}
	for i := 0; i < len(dirs); i++ {
		found, below, err := procsOf(dirs[i])
		switch {
		case errors.Is(err, fs.ErrNotExist) && i > 0: // it was removed meanwhile
		case err != nil:
			return nil, fmt.Errorf("cannot list the processes of cgroup %s: %w", g.dir, err)
		}
		pids, dirs = append(pids, found...), append(dirs, below...)
		if len(dirs) > maxDirs {
			return nil, fmt.Errorf("cannot list the processes of cgroup %s: more than %d cgroups are below it", g.dir, maxDirs)
		}
	}
	return pids, nil
}

// procsOf lists the numbers of the processes in one cgroup, and the directories of those below it.
func procsOf(dir string) (pids []int, below []string, err error) {
	data, err := read(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, nil, err
	}
	if pids, err = parseProcs(data); err != nil {
		return nil, nil, fmt.Errorf("cannot read %s/cgroup.procs: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	// As many links as directories are in it, and two (kernfs_refresh_inode in the kernel's fs/kernfs/inode.c). Most have none, and to
	// read one, with all its files, takes longer than the rest.
	if st.Nlink == 2 {
		return pids, nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			below = append(below, filepath.Join(dir, e.Name()))
		}
	}
	return pids, below, nil
}

// parseProcs reads a number per line. A process of another PID namespace than the reader's is shown as 0 and can't be held:
// it is left out.
func parseProcs(data []byte) ([]int, error) {
	var pids []int
	for line := range strings.Lines(string(data)) {
		pid, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
		switch {
		case err != nil:
			return nil, err
		case pid < 0:
			return nil, fmt.Errorf("%d is not a process", pid)
		case pid > 0:
			pids = append(pids, int(pid))
		}
	}
	return pids, nil
}

// read gives the content of a file of cgroupfs, at most maxFile of it. Several are read for each restart, and none of them ever
// blocks: what os.File does for files that do (the runtime's poller) costs more here than the reading.
func read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	data := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if data = data[:len(data)+n]; n == 0 || len(data) >= maxFile {
			return data, nil
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}

// Child makes a cgroup of that name below g, or takes the one that is there. It sets no limits: what its members use is
// counted with g's.
func (g Group) Child(name string) (Group, error) {
	c := Group{dir: filepath.Join(g.dir, name), v2: g.v2}
	if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return Group{}, fmt.Errorf("cannot make a cgroup: %w", err)
	}
	return c, nil
}

// Add moves the process with the number pid into g; what it starts from then on is in g too. The number must be its own:
// that of a child of the caller's that has not been reaped.
func (g Group) Add(pid int) error {
	if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("cannot move process %d into a cgroup: %w", pid, err)
	}
	return nil
}

// Remove removes g, which has to be empty.
func (g Group) Remove() error {
	if err := unix.Rmdir(g.dir); err != nil {
		return fmt.Errorf("cannot remove cgroup %s: %w", g.dir, err)
	}
	return nil
}
