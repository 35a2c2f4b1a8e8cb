package warden

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/process"
)

// accusation says who holds the gateway's addresses, and what to do about it.
func (w *Warden) accusation(contested []contest) string {
	var said []string
	for _, c := range contested {
		what := fmt.Sprintf("%s (%s)", c.listen.Address, c.listen.Name)
		switch {
		case c.own:
			said = append(said, fmt.Sprintf("the gateway itself has a socket too many on %s, %s, so that nobody can tell which of them answers: let it bind the address once",
				what, c.socket))
		case c.socket.Inode == listener.NoSocket:
			said = append(said, fmt.Sprintf("%s does not lead to the gateway's socket but to %s: see who may write in that directory, remove the file, and restart the gateway",
				what, c.socket))
		default:
			said = append(said, fmt.Sprintf("%s is held by %s, or give the gateway another address", what, w.holder(c.socket)))
		}
	}
	return strings.Join(said, "; ")
}

// holder names the process that holds a foreign socket: one of the container's, else any other on this host that shares
// its network namespace or was handed the socket.
func (w *Warden) holder(s listener.Socket) string {
	const advice = ": end that process"
	if all, err := w.members(); err != nil {
		w.log.Warn("cannot look for the holder of a socket", "err", err)
	} else {
		name := ""
		for _, p := range all {
			if name == "" && holds(int(p.Dir().Fd()), s) {
				if po, err := p.Posture(); err == nil {
					name = fmt.Sprintf("process %d (%d in the container, %s, UID %d) with %s", p.PID(), po.NSPID, program(p), po.UID[0], s)
				}
			}
			p.Close()
		}
		if name != "" {
			return name + advice
		}
	}
	if p := holderOnHost(s); p != nil {
		defer p.Close()
		if po, err := p.Posture(); err == nil {
			return fmt.Sprintf("process %d outside the container (%s, UID %d) with %s%s", p.PID(), program(p), po.UID[0], s, advice)
		}
	}
	return fmt.Sprintf("no process that can be seen, with %s: it is on its way between processes, or the kernel's; end the processes of that UID in the network namespace", s)
}

// searchTime bounds the search for a holder among all processes of the host.
const searchTime = 250 * time.Millisecond

// holderOnHost takes hold of a process that holds the socket, if one is found in time.
func holderOnHost(s listener.Socket) *process.Process {
	deadline := time.Now().Add(searchTime)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if time.Now().After(deadline) {
			return nil
		}
		// By the directory alone: most processes are not it, and a handle of each would cost more than the look.
		dir, err := unix.Open("/proc/"+e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		found := holds(dir, s)
		unix.Close(dir)
		if !found {
			continue
		}
		p, err := process.Open(pid)
		if err != nil {
			continue
		}
		if holds(int(p.Dir().Fd()), s) { // the number may have changed hands
			return p
		}
		p.Close()
	}
	return nil
}

func holds(procDir int, s listener.Socket) bool {
	inodes, err := listener.Inodes(procDir)
	_, ok := inodes[s.Inode]
	return ok && err == nil
}

// maxShown bounds what a message shows of a path that the workload chose, in bytes.
const maxShown = 200

// program names what a process runs, as it sees it. Anybody can give a program any name.
func program(p *process.Process) string {
	path, _, err := p.Exe()
	if err != nil {
		return "program unknown"
	}
	if len(path) > maxShown {
		path = path[:maxShown] + "…"
	}
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
