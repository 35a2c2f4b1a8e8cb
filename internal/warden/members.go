package warden

import (
	"errors"
	"os"

	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// A workload may have thousands of processes, and each restart has to find the few among them that are the gateway's, and
// to tell that the others are untouched. So each is looked at with as little as proves it: one stat(2) where the UID
// decides, a glance where the start time does. Only who is to be signalled or to be believed is taken hold of.

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
// then, unless processes come and go all the time.
func (w *Warden) membersOf(uid uint32) (found []*process.Process, err error) {
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
		for _, pid := range pids {
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

// workload lists the container's processes that are not the gateway's or ours, with their start times.
func (w *Warden) workload() map[int]uint64 {
	pids, err := w.numbers()
	if err != nil {
		w.log.Warn("cannot list the workload", "err", err)
	}
	out := make(map[int]uint64, len(pids))
	for _, pid := range pids {
		if start, ok := w.works(pid); ok {
			out[pid] = start
		}
	}
	return out
}

// works tells whether the process with the number pid, which is from the cgroup's list, is one of the workload's, and when it
// started.
func (w *Warden) works(pid int) (start uint64, ok bool) {
	g, err := process.LookAt(pid)
	if err != nil || g.UID == w.profile.Gateway.User {
		return 0, false
	}
	if g.PIDNamespace == w.pidns {
		return g.Start, true
	}
	// A nested namespace's, one whose first thread has ended, a zombie, or a runtime's on its way in or out.
	p := w.member(pid)
	if p == nil {
		return 0, false
	}
	defer p.Close()
	return p.Start(), !p.Exited()
}

// untouched compares the workload with how it was: every process that was there still is. Processes that it started or
// ended of itself meanwhile can't be told from others, so an end counts as a change and a new process does not.
//
// A number that changed hands while it was looked at was given up by its process: then it is missing before or after, or
// its start time is another one. What was one of the workload's before need not be asked again whose it is, only whether it
// is a zombie by now, which is still in the list.
func (w *Warden) untouched(before map[int]uint64) receipt.Workload {
	pids, err := w.numbers()
	if err != nil {
		w.log.Warn("cannot list the workload", "err", err)
	}
	left, processes := len(before), 0
	for _, pid := range pids {
		then, was := before[pid]
		if was {
			if stat, err := process.StatOf(pid); err == nil && stat.Start == then && stat.State != 'Z' {
				left--
				processes++
				continue
			}
		}
		if start, ok := w.works(pid); ok {
			processes++
			if was && start == then {
				left-- // its first thread has ended, and it has not
			}
		}
	}
	return receipt.Workload{Processes: processes, Unchanged: left == 0}
}
