package warden

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

const gatewayUID, workUID = 64990, 1000

// crowded is a warden of a container in a cgroup of its own, and a way to start a process there.
func crowded(t *testing.T) (w *Warden, sleeper func(uid uint32) *process.Process) {
	t.Helper()
	group, err := newCgroup(t).Child("container")
	if err != nil {
		t.Fatal("this test needs root and a cgroup to write in: ", err)
	}
	t.Cleanup(func() {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	})
	w = running(t)
	w.group, w.gateway = group, nil
	w.profile = &profile.Profile{Name: "demo", Gateway: profile.Gateway{User: gatewayUID}}
	self := ownProcess(t)
	if w.pidns, err = self.PIDNamespace(); err != nil {
		t.Fatal(err)
	}
	if w.maps, err = idmap.Of(self); err != nil {
		t.Fatal(err)
	}
	return w, func(uid uint32) *process.Process {
		t.Helper()
		cmd := exec.Command("/bin/sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := process.Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Kill()
			cmd.Wait()
			p.Close()
		})
		if err := group.Add(p.PID()); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func (w *Warden) kinOf(t *testing.T, known strangers) []int {
	t.Helper()
	all, err := w.membersOf(gatewayUID, known)
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range all {
		pids = append(pids, p.PID())
		p.Close()
	}
	slices.Sort(pids)
	return pids
}

func TestAStrangerIsBelievedOneForAMomentOnly(t *testing.T) {
	w, sleeper := crowded(t)
	kin, other, worker := sleeper(gatewayUID), sleeper(gatewayUID), sleeper(workUID)
	known := w.strangersAmong(crowd{pids: slices.Sorted(slices.Values([]int{kin.PID(), other.PID(), worker.PID()}))})
	if !slices.Equal(known.pids, []int{worker.PID()}) {
		t.Errorf("of %d, %d and the workload's %d are strangers: %v", kin.PID(), other.PID(), worker.PID(), known.pids)
	}
	both := []int{kin.PID(), other.PID()}
	slices.Sort(both)
	if got := w.kinOf(t, known); !slices.Equal(got, both) {
		t.Errorf("found %v, not %v", got, both)
	}
	// As if the number of a stranger had become the gateway's within the time in which that cannot be, and after it.
	known.pids, known.seen = []int{kin.PID()}, time.Now()
	if got := w.kinOf(t, known); !slices.Equal(got, []int{other.PID()}) {
		t.Errorf("a stranger that was just seen was looked at again: %v", got)
	}
	known.seen = time.Now().Add(-strangersTime - time.Millisecond)
	if got := w.kinOf(t, known); !slices.Equal(got, both) {
		t.Errorf("a stranger of long ago is believed one: %v", got)
	}
}

func TestTheWorkloadIsUnchangedIfAllOfItIsStillThere(t *testing.T) {
	w, sleeper := crowded(t)
	first, second, kin := sleeper(workUID), sleeper(0), sleeper(gatewayUID)
	before := w.workload()
	if both := slices.Sorted(slices.Values([]int{first.PID(), second.PID()})); !slices.Equal(before.pids, both) {
		t.Fatalf("the workload is %v, not %v", before.pids, both)
	}
	sleeper(workUID)
	if r := w.untouched(before); !r.Unchanged || r.Processes != 3 {
		t.Errorf("with a new process: %+v", r)
	}
	// Nobody is looked at twice who worked before, and a number that has become the gateway's is missed, not made up.
	w.worked = append(w.worked, kin.PID())
	slices.Sort(w.worked)
	before = w.workload()
	if !slices.Contains(before.pids, kin.PID()) || len(before.pids) != 4 {
		t.Errorf("who worked is looked at again: %v", before.pids)
	}
	if r := w.untouched(before); r.Unchanged || r.Processes != 3 {
		t.Errorf("with a number that is the gateway's now: %+v", r)
	}
	w.worked = append(w.worked, kin.PID())
	slices.Sort(w.worked)
	w.gateway = &gateway{proc: kin, profile: w.profile}
	if before = w.workload(); slices.Contains(before.pids, kin.PID()) {
		t.Errorf("the gateway itself counts as the workload: %v", before.pids)
	}
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if !first.AwaitFor(killGrace) {
		t.Fatal("it does not end")
	}
	if _, err := first.Reap(); err != nil {
		t.Fatal(err)
	}
	if r := w.untouched(before); r.Unchanged || r.Processes != 2 {
		t.Errorf("after an end: %+v", r)
	}
	w.gateway = nil
}
