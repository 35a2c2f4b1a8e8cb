package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// File names a file, a namespace's too (namespaces(7)), by its device and inode. The zero File stands for one that is not
// known.
type File struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// kinds are the namespaces that a gateway shares with its container (namespaces(7)).
var kinds = [...]string{"user", "pid", "net", "mnt", "ipc", "uts", "cgroup"}

// Namespaces names a process's namespaces.
type Namespaces [len(kinds)]File

// Differ gives the kind of the first namespace in which n and o differ, or "".
func (n Namespaces) Differ(o Namespaces) string {
	for i, kind := range kinds {
		if n[i] != o[i] {
			return kind
		}
	}
	return ""
}

// With gives n with the namespace of that kind taken from o.
func (n Namespaces) With(kind string, o Namespaces) Namespaces {
	if i := slices.Index(kinds[:], kind); i >= 0 {
		n[i] = o[i]
	}
	return n
}

// Identity is what the kernel says that a process is, beyond the handle: what a process that took its number, or that the
// program itself made of it, would have otherwise.
type Identity struct {
	Start      uint64     `json:"start"` // clock ticks since boot, proc_pid_stat(5) field 22
	UID        [4]uint32  `json:"uid"`   // real, effective, saved, filesystem
	GID        [4]uint32  `json:"gid"`
	Namespaces Namespaces `json:"namespaces"`
	Exe        File       `json:"exe"` // zero: any
}

// ErrChanged says that a process is not, or not any more, what it was proven to be. It is final: no second look is taken.
var ErrChanged = errors.New("process has changed")

// is compares the identity now with what was proven before.
func (now Identity) is(then Identity) error {
	changed := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrChanged, fmt.Sprintf(format, args...))
	}
	kind := now.Namespaces.Differ(then.Namespaces)
	switch {
	case now.Start != then.Start:
		return changed("it started at %d, not at %d", now.Start, then.Start)
	case now.UID != then.UID:
		return changed("its UIDs are %v, not %v", now.UID, then.UID)
	case now.GID != then.GID:
		return changed("its GIDs are %v, not %v", now.GID, then.GID)
	case kind != "":
		return changed("its %s namespace is another one", kind)
	case then.Exe != File{} && now.Exe != then.Exe:
		return changed("it runs another program (device %d, inode %d, not %d, %d)", now.Exe.Dev, now.Exe.Ino, then.Exe.Dev, then.Exe.Ino)
	}
	return nil
}

const (
	// provePatience bounds the looks at a process that is proven already and is in the middle of something, such as an exec.
	provePatience = time.Second
	provePause    = time.Millisecond
)

// errUnsettled says that two readings of one process differ.
var errUnsettled = errors.New("process is changing")

// Identify reads what the process is now. All of it is read twice, through the pinned directory: a process that executes
// another program meanwhile would show parts of both. ErrGone says that it has exited.
func (p *Process) Identify() (Identity, error) {
	first, err := p.identify()
	if err != nil {
		return Identity{}, err
	}
	second, err := p.identify()
	if err != nil {
		return Identity{}, err
	}
	if first != second {
		return Identity{}, fmt.Errorf("cannot tell what process %d is: %w", p.pid, errUnsettled)
	}
	return first, nil
}

func (p *Process) identify() (Identity, error) {
	id, err := p.readIdentity()
	if err != nil && p.Exited() {
		// Of a zombie /proc shows a part only, with errors that differ from file to file.
		return Identity{}, fmt.Errorf("cannot tell what process %d is: %w", p.pid, ErrGone)
	}
	return id, err
}

func (p *Process) readIdentity() (Identity, error) {
	of, done, err := p.standIn()
	if err != nil {
		return Identity{}, err
	}
	defer done()
	po, err := of.Posture()
	if err != nil {
		return Identity{}, err
	}
	ns, err := of.Namespaces()
	if err != nil {
		return Identity{}, err
	}
	exe, err := of.stat("exe")
	if err != nil {
		return Identity{}, err
	}
	return Identity{Start: p.start, UID: po.UID, GID: po.GID, Namespaces: ns, Exe: exe}, nil
}

// standIn gives what /proc shows of the process: itself; or, if its first thread has ended (pthread_exit in main) and the
// process has not, another thread: the first one is shown as a zombie with nothing to it.
func (p *Process) standIn() (of *Process, done func(), err error) {
	stat, err := p.Stat()
	if err != nil {
		return nil, nil, err
	}
	if stat.State != 'Z' || p.Exited() {
		return p, func() {}, nil
	}
	t, err := p.thread()
	if err != nil {
		return nil, nil, err
	}
	return t, func() { t.dir.Close() }, nil
}

// maxThreads bounds the threads that are looked at for one that lives.
const maxThreads = 1024

// thread gives a thread of the process that has not ended, for reading: it has a directory and no pidfd.
func (p *Process) thread() (*Process, error) {
	task, err := p.openat("task", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer task.Close()
	names, err := task.Readdirnames(maxThreads)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot list the threads of process %d: %w", p.pid, gone(err))
	}
	for _, name := range names {
		fd, err := unix.Openat(int(task.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it has ended since
		}
		t := &Process{pid: p.pid, dir: os.NewFile(uintptr(fd), name)}
		if stat, err := t.Stat(); err == nil && stat.State != 'Z' {
			return t, nil
		}
		t.dir.Close()
	}
	return nil, fmt.Errorf("process %d has no thread that lives: %w", p.pid, errUnsettled)
}

// Prove compares the process with what it was proven to be before, and gives what it is now. ErrChanged and ErrGone are
// final. Only a reading that contradicts itself, or fails, is repeated, for at most a second.
func (p *Process) Prove(then Identity) (Identity, error) {
	// A reading in which each part is as it was can't be of two programs. Only one that differs needs a second, to tell a
	// change from a moment in the middle of one.
	if now, err := p.identify(); err == nil && now == then {
		return now, nil
	}
	return prove(then, p.Identify, time.Now().Add(provePatience))
}

func prove(then Identity, identify func() (Identity, error), deadline time.Time) (Identity, error) {
	for {
		now, err := identify()
		if err == nil {
			return now, now.is(then)
		}
		if errors.Is(err, ErrGone) || time.Now().After(deadline) {
			return Identity{}, err
		}
		time.Sleep(provePause)
	}
}

// Namespaces reads which namespaces the process is in. A process that has exited is in none.
func (p *Process) Namespaces() (Namespaces, error) {
	var all Namespaces
	for i, kind := range kinds {
		id, err := p.namespace(kind)
		if err != nil {
			return Namespaces{}, err
		}
		all[i] = id
	}
	return all, nil
}

func (p *Process) namespace(kind string) (File, error) { return p.stat("ns/" + kind) }
