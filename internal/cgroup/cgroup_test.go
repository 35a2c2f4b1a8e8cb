package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// member starts a process in a new cgroup of the host's freezer hierarchy (v1) or unified one (v2).
func member(t *testing.T) (Group, int) {
	t.Helper()
	// The test's own cgroup may be the root. Below a hierarchy's root there is always room for one.
	base := "/sys/fs/cgroup"
	if _, err := os.Stat(base + "/freezer"); err == nil {
		base += "/freezer"
	}
	dir, err := os.MkdirTemp(base, "gwt-")
	if err != nil {
		t.Fatal("this test needs root and a cgroup to write in: ", err)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "echo $$ > "+sub+"/cgroup.procs && echo ok && exec sleep 60")
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	var pidfd int
	cmd.SysProcAttr = &unix.SysProcAttr{PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		cmd.Wait()
		unix.Close(pidfd)
		os.Remove(sub)
		os.Remove(dir)
	})
	if _, err := ready.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := Of(data)
	if err != nil {
		t.Fatal(err)
	}
	if g.Dir() != sub {
		t.Fatalf("cgroup is %s, want %s", g.Dir(), sub)
	}
	return Group{dir: dir, v2: g.v2}, cmd.Process.Pid
}

func TestProcsFindsMembersOfSubCgroupsToo(t *testing.T) {
	g, pid := member(t)
	pids, err := g.Procs()
	if err != nil || !slices.Equal(pids, []int{pid}) {
		t.Errorf("got %v, %v; want %d", pids, err, pid)
	}
}

func TestFrozenFollowsTheFreezer(t *testing.T) {
	g, _ := member(t)
	file, on, off := "freezer.state", "FROZEN", "THAWED"
	if g.v2 {
		file, on, off = "cgroup.freeze", "1", "0"
	}
	for _, c := range []struct {
		write string
		want  bool
	}{{on, true}, {off, false}} {
		if err := os.WriteFile(filepath.Join(g.Dir(), file), []byte(c.write), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := g.Frozen(); got != c.want || err != nil {
			t.Errorf("after %q: %v, %v", c.write, got, err)
		}
	}
}

// controlled makes a cgroup in which that controller works, of either version.
func controlled(t *testing.T, controller string) (dir string, v2 bool) {
	t.Helper()
	base := filepath.Join("/sys/fs/cgroup", controller)
	if _, err := os.Stat(base); err != nil {
		base, v2 = "/sys/fs/cgroup", true
		if err := os.WriteFile(base+"/cgroup.subtree_control", []byte("+"+controller), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp(base, "gwt-")
	if err != nil {
		t.Fatal("this test needs root and a cgroup to write in: ", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir, v2
}

func set(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedForksAreCounted(t *testing.T) {
	dir, v2 := controlled(t, "pids")
	g := Group{pids: dir, v2: v2}
	set(t, dir+"/pids.max", "1")
	if n := g.ForksRefused(); n != 0 || g.MaxPids() != "1" {
		t.Fatalf("%d refused at pids.max %s", n, g.MaxPids())
	}
	if err := exec.Command("/bin/sh", "-c", "echo $$ > "+dir+"/cgroup.procs && /bin/true; exit 0").Run(); err == nil {
		t.Error("the fork was not refused")
	}
	if n := g.ForksRefused(); n == 0 {
		t.Error("the refusal is not counted")
	}
}

func TestMemoryLimitsAndKillsAreRead(t *testing.T) {
	dir, v2 := controlled(t, "memory")
	g := Group{memory: dir, v2: v2}
	if left := g.MemoryLeft(); left < 1<<40 {
		t.Errorf("%d bytes are left without a limit", left)
	}
	file := "memory.limit_in_bytes"
	if v2 {
		file = "memory.max"
	}
	set(t, filepath.Join(dir, file), "16777216")
	if left := g.MemoryLeft(); left > 16<<20 || left < 15<<20 || g.MaxMemory() != "16777216" {
		t.Errorf("%d bytes of %s are left in an empty group", left, g.MaxMemory())
	}
	if n := g.OOMKills(); n != 0 {
		t.Errorf("%d kills", n)
	}
	// dd's one block is more than there is.
	if err := exec.Command("/bin/sh", "-c", "echo $$ > "+dir+"/cgroup.procs && exec dd if=/dev/zero of=/dev/null bs=64M count=1").Run(); err == nil {
		t.Error("the kernel did not end it")
	}
	if n := g.OOMKills(); n != 1 {
		t.Errorf("%d kills are counted", n)
	}
}

func TestWithoutAControllerNothingIsTold(t *testing.T) {
	var g Group
	if g.OOMKills() != 0 || g.ForksRefused() != 0 || g.MaxPids() != "" || g.MaxMemory() != "" || g.MemoryLeft() < 1<<40 {
		t.Errorf("%d %d %q %q %d", g.OOMKills(), g.ForksRefused(), g.MaxPids(), g.MaxMemory(), g.MemoryLeft())
	}
}

func TestTheRootCgroupIsNobodysOwn(t *testing.T) {
	for _, data := range []string{"3:freezer:/\n0::/\n", "0::/\n"} {
		if g, err := Of([]byte(data)); !errors.Is(err, ErrRoot) {
			t.Errorf("%q: %+v, %v; want ErrRoot", data, g, err)
		}
	}
}

func TestAZombieIsShownInTheRootCgroupAndSoHasNone(t *testing.T) {
	_, pid := member(t)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if g, err := Of(data); !errors.Is(err, ErrRoot) {
		t.Errorf("%s: %+v, %v; want ErrRoot", data, g, err)
	}
}

func TestParseRefusesLinesThatAreNotCgroups(t *testing.T) {
	for _, bad := range []string{"x", "1:freezer", "1:freezer:relative"} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	got, err := parse([]byte("3:cpu,cpuacct:/a\n2:freezer:/b:c\n0::/d\n"))
	if err != nil || got["cpuacct"] != "/a" || got["freezer"] != "/b:c" || got[""] != "/d" {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("3:cpu,cpuacct:/a\n0::/d\n"))
	f.Fuzz(func(t *testing.T, data []byte) { parse(data) })
}

func FuzzProcs(f *testing.F) {
	f.Add([]byte("1\n4044\n"))
	f.Add([]byte("0\n-1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pids, err := parseProcs(data)
		if err != nil && pids != nil {
			t.Error("processes beside an error")
		}
		for _, pid := range pids {
			if pid <= 0 {
				t.Errorf("%q holds process %d", data, pid)
			}
		}
	})
}

func FuzzCounter(f *testing.F) {
	f.Add([]byte("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"))
	f.Add([]byte("low 0\nhigh 0\nmax 17\noom 2\noom_kill 2\noom_group_kill 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, key := range []string{"oom_kill", "max", "total_inactive_file"} {
			if n := parseCounter(data, key); n < 0 {
				t.Errorf("%q tells of %s %d", data, key, n)
			}
		}
	})
}
