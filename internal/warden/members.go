package warden

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// A workload may have thousands of processes, and each restart has to find the few among them that are the gateway's, and
// to tell that the others are untouched. So each is looked at with as little as proves it: one stat(2) where the UID
// decides, while the old gateway ends if that can be; and when it started only once nobody waits for that. Only who is to be
// signalled or to be believed is taken hold of.

// numbers lists the processes in the container's cgroup, as of now. There are none once it is gone.
func (w *Warden) numbers() ([]int, error) {
	pids, err := w.group.Procs()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// members takes hold of the processes in the container's cgroup that live in its PID namespace. The caller closes them.
func (w *Warden) members() ([]*process.Process, error) {
	pids, err := w.numbers()
	if err != nil {
		return nil, err
	}
	var out []*process.Process
	for _, pid := range pids {
		if p := w.member(pid); p != nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// membersOf is members for those that run under one UID, which has to be the gateway's: what has that one as its effective
// UID has it as its real one too, since nothing but the gateway's own processes has either, and these can't change theirs
// (posture, no_new_privs and no capabilities).
//
// One that ended between the list and the look may have left a child that came too late for the list; so it is listed again
// then, unless processes come and go all the time. Who is among the strangers is not looked at again.
func (w *Warden) membersOf(uid uint32, known strangers) (found []*process.Process, err error) {
	for range maxListings {
		for _, p := range found {
			p.Close()
		}
		found = nil
		pids, err := w.numbers()
		if err != nil {
			return nil, err
		}
		vanished := false
		// The list is younger than the look at the strangers.
		others := known.now()
		for _, pid := range pids {
			if _, is := slices.BinarySearch(others, pid); is {
				continue
			}
			owner, err := process.OwnerOf(pid)
			if err != nil || owner != uid {
				vanished = vanished || err != nil
				continue
			}
			p := w.member(pid)
			if p == nil {
				vanished = true
				continue
			}
			if po, err := p.Posture(); err != nil || po.UID[0] != uid {
				p.Close() // the number has become somebody else's, or it ended
				vanished = true
				continue
			}
			found = append(found, p)
		}
		if !vanished {
			break
		}
	}
	return found, nil
}

// maxListings bounds how often the processes are listed for one look.
const maxListings = 4

// member takes hold of the process with the number pid, which is from the cgroup's list, if it lives in the container's PID
// namespace. It gives nil for one that has ended since, and for one that has taken the number.
func (w *Warden) member(pid int) *process.Process {
	p, err := process.Open(pid)
	if err != nil {
		return nil
	}
	if in, err := p.InPIDNamespace(w.pidns); err != nil || !in {
		p.Close()
		return nil
	}
	return p
}

// strangers are processes of which somebody has just seen that they are not the gateway's.
type strangers struct {
	pids []int // in ascending order
	seen time.Time
}

// strangersTime is how long a number stands for the process that was seen to have it. The kernel gives numbers out in turn
// (alloc_pid, which calls idr_alloc_cyclic, in kernel/pid.c), so that all others come before one is given again: more than 30,000
// (PID_MAX_DEFAULT), and no machine starts a million processes in a second.
const strangersTime = 20 * time.Millisecond

// now gives those of them that are strangers still: all, or nobody.
func (s strangers) now() []int {
	if time.Since(s.seen) > strangersTime {
		return nil
	}
	return s.pids
}

// strangersAmong looks at the workload of a moment ago, for the next look for who is the gateway's.
func (w *Warden) strangersAmong(c crowd) strangers {
	s := strangers{seen: time.Now(), pids: make([]int, 0, len(c.pids))}
	for _, pid := range c.pids {
		if w.works(pid) {
			s.pids = append(s.pids, pid)
		}
	}
	return s
}

// crowd is the workload at one moment: its processes' numbers, and when that was. Whoever has one of them later and started
// before then is still the same process; so nobody has to be asked when it started while clients wait for the gateway.
type crowd struct {
	pids []int  // in ascending order
	at   uint64 // clock ticks since boot
}

// workload lists the container's processes that are not the gateway's or ours.
//
// A number that was the workload's after the action before is not looked at again. If it has become a process of the gateway's
// meanwhile, it is missed after this action: the receipt says of an untouched workload that it has changed, never the reverse.
func (w *Warden) workload() crowd {
	pids, err := w.numbers()
	if err != nil {
		w.log.Warn("cannot list the workload", "err", err)
	}
	c := crowd{pids: make([]int, 0, len(pids))}
	for _, pid := range pids {
		if _, known := slices.BinarySearch(w.worked, pid); known && !w.ours(pid) || w.works(pid) {
			c.pids = append(c.pids, pid)
		}
	}
	slices.Sort(c.pids) // as cgroup v1 lists them, v2 does not
	c.at = process.Now()
	return c
}

// ours tells whether pid is a process that the warden itself holds.
func (w *Warden) ours(pid int) bool {
	return w.gateway != nil && pid == w.gateway.proc.PID() || w.standby != nil && pid == w.standby.proc.PID()
}

// works tells whether the process with the number pid, which is from the cgroup's list, is one of the workload's, or of a
// runtime's that is about to be or was.
func (w *Warden) works(pid int) bool {
	owner, err := process.OwnerOf(pid)
	return err == nil && owner != w.uidOf(w.profile)
}

// untouched compares the workload with how it was: every process that was there still is. Processes that it started or
// ended of itself meanwhile can't be told from others, so an end counts as a change and a new process does not.
func (w *Warden) untouched(before crowd) receipt.Workload {
	pids, err := w.numbers()
	if err != nil {
		w.log.Warn("cannot list the workload", "err", err)
	}
	left := len(before.pids)
	w.worked = make([]int, 0, len(pids))
	for _, pid := range pids {
		if !w.works(pid) {
			continue
		}
		w.worked = append(w.worked, pid)
		if _, was := slices.BinarySearch(before.pids, pid); was {
			if stat, err := process.StatOf(pid); err == nil && stat.Start <= before.at {
				left--
			}
		}
	}
	slices.Sort(w.worked)
	return receipt.Workload{Processes: len(w.worked), Unchanged: left == 0}
}
