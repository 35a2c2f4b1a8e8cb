// Package cgroup finds the cgroup of a container and reads what its warden needs: the member processes and whether they
// are frozen. What it writes is a cgroup below that one, by which the processes of one command are told from others;
// resources are the runtime's business.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
		if g.memory = dir; !g.v2 {
			// Without a group of its own there is no limit either, so nothing to tell.
			g.memory, _ = find(mounts, paths, "memory")
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
	if g.memory == "" {
		return 0
	}
	name := "memory.oom_control"
	if g.v2 {
		name = "memory.events"
	}
	data, err := read(filepath.Join(g.memory, name))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.Atoi(strings.TrimSpace(n))
			return kills
		}
	}
	return 0
}

// Procs lists the numbers of the processes in the cgroup and in those below it. A process can't leave them without
// writing to cgroupfs, which a container that is not privileged can't. The numbers are as of now: hold each process and
// check it before believing anything of it.
func (g Group) Procs() ([]int, error) {
	var pids []int
	dirs := 0
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != g.dir {
				return nil // a child cgroup was removed meanwhile
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if dirs++; dirs > maxDirs {
			return fmt.Errorf("more than %d cgroups below %s", maxDirs, g.dir)
		}
		data, err := read(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != g.dir {
				return fs.SkipDir
			}
			return err
		}
		for line := range strings.Lines(string(data)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				return fmt.Errorf("cannot read %s/cgroup.procs: %w", path, err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of cgroup %s: %w", g.dir, err)
	}
	return pids, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
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
