package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/bench/report"
)

// packages are the Debian packages of the peers.
var packages = []string{"s6", "runit", "supervisor", "conmon"}

// machine describes what it is measured on.
func (b *bench) machine(ctx context.Context) (report.Machine, error) {
	m := report.Machine{Cores: runtime.NumCPU(), Cgroup: "v1"}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	m.CPU = field(string(cpu), "model name")
	m.Virtual = strings.Contains(" "+field(string(cpu), "flags")+" ", " hypervisor ")
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	kb, err := strconv.ParseInt(strings.TrimSuffix(field(string(memory), "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.Memory = kb << 10
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return m, os.NewSyscallError("uname", err)
	}
	m.Kernel = unix.ByteSliceToString(uname.Release[:]) + " " + unix.ByteSliceToString(uname.Machine[:])
	if unified() {
		m.Cgroup = "v2"
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			m.System = strings.Trim(name, `"`)
		}
	}
	add := func(name string, cmd ...string) error {
		out, err := exec.CommandContext(ctx, cmd[0], cmd[1:]...).Output()
		if err != nil {
			return fmt.Errorf("the version of %s: %s: %w", name, strings.Join(cmd, " "), err)
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		m.Programs = append(m.Programs, report.Value{Name: name, Text: line})
		return nil
	}
	err = errors.Join(
		add("gatewarden", b.h.Bin("gatewarden"), "version"),
		add("containerd", b.h.Tool("containerd"), "--version"),
		add("runc", b.h.Runc(), "--version"),
	)
	for _, p := range packages {
		if !b.o.Alone {
			err = errors.Join(err, add(p, "dpkg-query", "-W", "-f", "${Version}", p))
		}
	}
	if err != nil {
		return m, err
	}
	m.Programs = append(m.Programs, report.Value{Name: "Go", Text: runtime.Version()})
	// A tree without git has no commit.
	out, err := exec.CommandContext(ctx, "git", "-C", b.h.Repository, "describe", "--always", "--dirty").Output()
	m.Commit = strings.TrimSpace(string(out))
	if err != nil {
		m.Commit = "unknown"
	}
	return m, nil
}

// field gives the first value of a name in a text of "name: value" lines.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// unified tells whether the host has cgroup v2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// loadAverage is that of the last minute.
func loadAverage() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}
