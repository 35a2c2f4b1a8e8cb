// Package process holds processes by handle: a pidfd and the pinned /proc/PID directory, never a number.
//
// A number can be given to another process as soon as its owner is reaped; a pidfd and an open /proc/PID directory
// cannot (pidfd_open(2); reads through the directory of a reaped process give ESRCH). Everything that gatewarden signals,
// waits for or reports is a Process.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process has exited. A zombie has exited: nothing of it runs any more.
var ErrGone = errors.New("process is gone")

// maxProcFile bounds what is read from one file of /proc/PID. The longest, status, is under 4 KiB except for its Groups
// line, which can name 65536 groups.
const maxProcFile = 1 << 20

// Process is one process, for as long as it is open, even after its death.
type Process struct {
	pid   int
	start uint64
	pidfd *os.File
	dir   *os.File // /proc/PID, O_PATH

	once sync.Once
	done chan struct{}
}

// Open takes hold of the process that has the number pid now.
//
// Between two looks the number can change hands. The pidfd comes first; if its process has not been reaped after the
// directory was opened, the number was its own at that moment, and the directory too.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // PIDFD_NONBLOCK: Linux 5.10
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, gone(err))
	}
	return FromPidfd(os.NewFile(uintptr(fd), "pidfd"))
}

// FromPidfd takes hold of the process that pidfd refers to, and of pidfd itself, which must have O_NONBLOCK set.
func FromPidfd(pidfd *os.File) (*Process, error) {
	p, err := fromPidfd(pidfd, looks{numberOf, openDir})
	if err != nil {
		pidfd.Close()
	}
	return p, err
}

// looks are the two looks that bring a pidfd and a /proc/PID directory together. Tests put between them what can happen
// between them.
type looks struct {
	number func(pidfd *os.File) (int, error)
	dir    func(pid int) (*os.File, error)
}

func fromPidfd(pidfd *os.File, look looks) (*Process, error) {
	pid, err := look.number(pidfd)
	if err != nil {
		return nil, err
	}
	dir, err := look.dir(pid)
	if err != nil {
		return nil, err
	}
	p := &Process{pid: pid, pidfd: pidfd, dir: dir, done: make(chan struct{})}
	stat, err := p.Stat()
	if err == nil {
		// A pidfd of a reaped process has no number any more.
		_, err = look.number(pidfd)
	}
	if err != nil {
		p.dir.Close()
		return nil, err
	}
	p.start = stat.Start
	return p, nil
}

func openDir(pid int) (*os.File, error) {
	path := "/proc/" + strconv.Itoa(pid)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, gone(err))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// numberOf reads the number of a pidfd's process from fdinfo ("Pid:\t42"; -1 once it is reaped; proc_pid_fdinfo(5)).
func numberOf(pidfd *os.File) (int, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var buf [statSize]byte
	var info []byte
	if cerr := raw.Control(func(fd uintptr) { info, err = readPath("/proc/self/fdinfo/"+strconv.Itoa(int(fd)), buf[:]) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			var pid int
			if err := one(rest, &pid); err != nil {
				return 0, fmt.Errorf("cannot read the number of a pidfd: %w", err)
			}
			if pid <= 0 {
				return 0, ErrGone
			}
			return pid, nil
		}
	}
	return 0, errors.New("descriptor is not a pidfd")
}

// gone makes ErrGone of the errors by which /proc and pidfds say that a process is no more.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return ErrGone
	}
	return err
}

// PID is the process's number in the PID namespace of the caller. It is for people and records, never for signals.
func (p *Process) PID() int { return p.pid }

// Start is the time of the process's start in clock ticks since boot (proc_pid_stat(5), field 22).
func (p *Process) Start() uint64 { return p.start }

// Dir is the pinned /proc/PID directory, an O_PATH descriptor that stays the process's own.
func (p *Process) Dir() *os.File { return p.dir }

// Close lets go of the process. It does not end it.
func (p *Process) Close() {
	p.pidfd.Close()
	p.dir.Close()
}

// Signal sends sig to exactly this process. ErrGone says that it has exited already.
func (p *Process) Signal(sig unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("cannot send %s to process %d: %w", unix.SignalName(sig), p.pid, gone(err))
	}
	return nil
}

// Kill sends SIGKILL to exactly this process. One that has exited already is no error: it is as dead as it was to be.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return nil
}

// Done is closed when the process has exited (a zombie has). The runtime's poller waits: no thread, no timer.
func (p *Process) Done() <-chan struct{} {
	p.once.Do(func() {
		raw, err := p.pidfd.SyscallConn()
		if err != nil {
			return
		}
		go func() {
			if raw.Read(func(fd uintptr) bool { return readable(int(fd)) }) == nil {
				close(p.done)
			}
		}()
	})
	return p.done
}

// Exited tells whether the process has exited, without waiting.
func (p *Process) Exited() bool {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	var exited bool
	raw.Control(func(fd uintptr) { exited = readable(int(fd)) })
	return exited
}

func readable(fd int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n == 1
	}
}

// Exit is how a process ended.
type Exit struct {
	Code    int         // exit status; -1 when a signal ended it, or when it is not known
	Signal  unix.Signal // 0 when it exited by itself
	Unknown bool        // its parent collected the status, and this kernel does not tell others
}

// Status gives 128+signal for a process that a signal ended, as shells and containerd do, else the exit status.
// One that is not known is 255, containerd's word for it.
func (e Exit) Status() int {
	switch {
	case e.Unknown:
		return 255
	case e.Signal != 0:
		return 128 + int(e.Signal)
	}
	return e.Code
}

// SignalName is empty when the process exited by itself.
func (e Exit) SignalName() string {
	if e.Signal == 0 {
		return ""
	}
	return unix.SignalName(e.Signal)
}

func (e Exit) String() string {
	if e.Unknown {
		return "exit status unknown"
	}
	if e.Signal != 0 {
		return "killed by " + e.SignalName()
	}
	return "exit status " + strconv.Itoa(e.Code)
}

// Reap collects the exit status of an exited child of the caller: waitid(2) with P_PIDFD (Linux 5.4), which can't
// take another child's. It never blocks; before Done it fails with EAGAIN.
func (p *Process) Reap() (Exit, error) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return Exit{}, err
	}
	var info siginfo
	if cerr := raw.Control(func(fd uintptr) {
		for {
			err = unix.Waitid(unix.P_PIDFD, int(fd), info.unix(), unix.WEXITED|unix.WNOHANG, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}); cerr != nil {
		return Exit{}, cerr
	}
	if err != nil {
		return Exit{}, fmt.Errorf("cannot collect the exit status of process %d: %w", p.pid, err)
	}
	if info.pid == 0 {
		return Exit{}, fmt.Errorf("cannot collect the exit status of process %d: %w", p.pid, unix.EAGAIN)
	}
	return info.exit(), nil
}

// How the death of a process is known (receipt.Old).
const (
	ByWaitid = "waitid" // the kernel handed its exit status to the caller, its parent
	ByPidfd  = "pidfd"  // its pidfd became readable (pidfd_open(2)); somebody else was its parent
)

// exitPatience is how long Ending waits for the parent of a process to collect it. Until then the kernel does not tell
// others how it ended.
const exitPatience = 200 * time.Millisecond

// Ending tells how an exited process ended, and how that is known. It collects a child of the caller's. Of another
// process, one that was adopted, it asks the pidfd (PIDFD_INFO_EXIT, Linux 6.15); if that does not tell, the Exit is
// Unknown, and only that the process is dead is proven. Before Done it fails with EAGAIN.
func (p *Process) Ending() (Exit, string, error) {
	exit, err := p.Reap()
	if err == nil || !errors.Is(err, unix.ECHILD) {
		return exit, ByWaitid, err
	}
	if !p.Exited() {
		return Exit{}, "", fmt.Errorf("cannot tell how process %d ended: %w", p.pid, unix.EAGAIN)
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return Exit{}, "", err
	}
	for deadline := time.Now().Add(exitPatience); ; time.Sleep(2 * time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if cerr := raw.Control(func(fd uintptr) { err = unix.IoctlPidfdInfo(int(fd), &info) }); cerr != nil {
			return Exit{}, "", cerr
		}
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return exitOf(unix.WaitStatus(info.Exit_code)), ByPidfd, nil
		}
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || time.Now().After(deadline) {
			return Exit{Code: -1, Unknown: true}, ByPidfd, nil
		}
	}
}

func exitOf(s unix.WaitStatus) Exit {
	if s.Signaled() {
		return Exit{Code: -1, Signal: s.Signal()}
	}
	return Exit{Code: s.ExitStatus()}
}

// ReapOther collects one exited child of the caller for which keep is false, and gives its number; 0 when there is none.
// It is for a subreaper, which gets children that it never started: nobody else collects those, and a zombie keeps its
// PID namespace's init from exiting (pid_namespaces(7)).
//
// The kernel shows exited children one at a time, so one that is kept can hide others until it is reaped.
func ReapOther(keep func(pid int) bool) int {
	for {
		var info siginfo
		err := unix.Waitid(unix.P_ALL, 0, info.unix(), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		pid := int(info.pid)
		if err != nil || pid == 0 || keep(pid) {
			return 0
		}
		// Until it is reaped, and only we can, its number is its own.
		unix.Wait4(pid, nil, unix.WNOHANG, nil)
		return pid
	}
}

// Await waits until the process has exited or ctx ends.
func (p *Process) Await(ctx context.Context) error {
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// AwaitFor is Await with a duration.
func (p *Process) AwaitFor(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.Done():
		return true
	case <-t.C:
		return false
	}
}

// Read gives the content of a file of /proc/PID. It fails with ErrGone when the process has been reaped.
func (p *Process) Read(name string) ([]byte, error) { return p.read(name, nil) }

// read is Read with a buffer that is used if the content fits: so much is read with each proof that it must not be garbage.
func (p *Process) read(name string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	defer unix.Close(fd)
	data, err := readAll(fd, buf)
	if err != nil {
		return nil, fmt.Errorf("cannot read /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	return data, nil
}

// Write writes a file of /proc/PID in one write(2), as the kernel wants it. It fails with ErrGone when the process has been reaped.
func (p *Process) Write(name, text string) error {
	fd, err := unix.Openat(int(p.dir.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("cannot open /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return fmt.Errorf("cannot write /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	return nil
}

// readAll reads a file of /proc to its end, or to maxProcFile. The files of a process that gatewarden reads are made whole by
// the kernel at the first read (single_open in its fs/proc), so less than was asked for is all there is.
func readAll(fd int, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for len(buf) < maxProcFile {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, max(4096, 2*cap(buf))), buf...)
		}
		room := buf[len(buf):min(cap(buf), maxProcFile)]
		n, err := unix.Read(fd, room)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		buf = buf[:len(buf)+n]
		if n < len(room) {
			return buf, nil
		}
	}
	return buf, nil
}

func readPath(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	data, err := readAll(fd, buf)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return data, nil
}

// Sizes of buffers into which the two files fit whole, but for a process in very many groups.
const (
	statSize   = 1 << 10
	statusSize = 4 << 10
)

// Stat is what gatewarden reads from /proc/PID/stat.
type Stat struct {
	State byte // 'R', 'S', 'D', 'T', 'Z', …
	PPID  int
	Start uint64
}

// Stat reads /proc/PID/stat.
func (p *Process) Stat() (Stat, error) {
	var buf [statSize]byte
	data, err := p.read("stat", buf[:])
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(data)
	if err != nil {
		return Stat{}, fmt.Errorf("cannot read /proc/%d/stat: %w", p.pid, err)
	}
	return s, nil
}

// parseStat splits after the last ')': the command's name, field 2, can hold any byte, parentheses and newlines too.
func parseStat(data []byte) (Stat, error) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return Stat{}, errors.New("no command name")
	}
	var s Stat
	fields := 0
	for f := range bytes.FieldsSeq(data[i+1:]) {
		var err error
		switch fields { // fields 3, 4 and 22 of proc_pid_stat(5)
		case 0:
			if len(f) != 1 || f[0] < 'A' || f[0] > 'z' || f[0] > 'Z' && f[0] < 'a' {
				return Stat{}, fmt.Errorf("%q is not a state", f)
			}
			s.State = f[0]
		case 1:
			if s.PPID, err = strconv.Atoi(string(f)); err != nil {
				return Stat{}, fmt.Errorf("parent: %w", err)
			}
		case 19:
			if s.Start, err = strconv.ParseUint(string(f), 10, 64); err != nil {
				return Stat{}, fmt.Errorf("start time: %w", err)
			}
			return s, nil
		}
		fields++
	}
	return Stat{}, fmt.Errorf("%d fields after the command name", fields)
}

// Exe gives the path, as the process sees it, and the file of its executable.
func (p *Process) Exe() (path string, file File, err error) {
	if file, err = p.stat("exe"); err != nil {
		return "", File{}, err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(p.dir.Fd()), "exe", buf)
	if err != nil {
		return "", File{}, fmt.Errorf("cannot read /proc/%d/exe: %w", p.pid, gone(err))
	}
	return string(buf[:n]), file, nil
}

// stat gives the file that a link of /proc/PID leads to.
func (p *Process) stat(name string) (File, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(p.dir.Fd()), name, &st, 0); err != nil {
		return File{}, fmt.Errorf("cannot stat /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	return File{st.Dev, st.Ino}, nil
}

// PIDNamespace names the process's PID namespace. It has to be asked while the process lives.
func (p *Process) PIDNamespace() (File, error) { return p.namespace("pid") }

// UserNamespace names the process's user namespace. It has to be asked while the process lives.
func (p *Process) UserNamespace() (File, error) { return p.namespace("user") }

// InPIDNamespace tells whether the process lives in that PID namespace, or in one below it. Nothing that is born in a PID
// namespace ever leaves it upwards (pid_namespaces(7)).
func (p *Process) InPIDNamespace(id File) (bool, error) {
	of, done, err := p.standIn()
	if err != nil {
		return false, err
	}
	defer done()
	ns, err := of.OpenNamespace("pid")
	if err != nil {
		return false, err
	}
	for {
		var st unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
			ns.Close()
			return false, err
		}
		if (File{st.Dev, st.Ino}) == id {
			ns.Close()
			return true, nil
		}
		parent, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT) // Linux 4.9
		ns.Close()
		if errors.Is(err, unix.EPERM) {
			return false, nil // the parent is above the caller's own
		}
		if err != nil {
			return false, fmt.Errorf("cannot find the parent of the PID namespace of process %d: %w", p.pid, err)
		}
		ns = os.NewFile(uintptr(parent), "pid namespace")
	}
}

// OpenNamespace opens one of the process's namespaces ("net").
func (p *Process) OpenNamespace(kind string) (*os.File, error) {
	return p.openat("ns/"+kind, unix.O_RDONLY)
}

// maxDescriptors bounds what Copy looks through: the kernel's default of fs.nr_open.
const maxDescriptors = 1 << 20

// Copy gives a copy of the descriptor that the process has open on the object which procfs names link, such as "socket:[7]"
// (pidfd_getfd(2), Linux 5.6). None gives an error that wraps os.ErrNotExist.
func (p *Process) Copy(link string) (*os.File, error) {
	dir, err := p.openat("fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxDescriptors)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, gone(err)
	}
	var target [64]byte
	for _, name := range names {
		if n, err := unix.Readlinkat(int(dir.Fd()), name, target[:]); err != nil || string(target[:n]) != link {
			continue
		}
		number, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		f, err := p.Descriptor(number)
		switch {
		case errors.Is(err, unix.EBADF):
			continue // closed since
		case err != nil:
			return nil, err
		}
		// What is copied is what counts, not what was there when it was looked at.
		if n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), target[:]); err != nil || string(target[:n]) != link {
			f.Close()
			continue
		}
		return f, nil
	}
	return nil, fmt.Errorf("process %d has no %s open: %w", p.pid, link, os.ErrNotExist)
}

// Descriptor gives a copy of the process's descriptor number n (pidfd_getfd(2)). It refers to the same open file, whose events
// are the process's own: they do not wake us.
func (p *Process) Descriptor(n int) (*os.File, error) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	if cerr := raw.Control(func(fd uintptr) { copied, err = unix.PidfdGetfd(int(fd), n, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("cannot copy descriptor %d of process %d: %w", n, p.pid, gone(os.NewSyscallError("pidfd_getfd", err)))
	}
	defer unix.Close(copied)
	return Unwatched(copied, "descriptor "+strconv.Itoa(n))
}

// Unwatched gives a File of a duplicate of fd that the runtime's poller does not watch. Os.NewFile has it watch whatever is in
// non-blocking mode, and that mode is the open file's, which is not ours to change.
func Unwatched(fd int, name string) (*os.File, error) {
	place, err := unix.Eventfd(0, unix.EFD_CLOEXEC) // in blocking mode
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(place), name)
	if err := unix.Dup3(fd, place, unix.O_CLOEXEC); err != nil {
		f.Close()
		return nil, os.NewSyscallError("dup3", err)
	}
	return f, nil
}

// pidfsMagic is PID_FS_MAGIC of <linux/magic.h>.
const pidfsMagic = 0x50494446

// PidfdID gives the inode number of the process's pidfds, which no other process ever has (LISTEN_PIDFDID of
// sd_listen_fds(3)). Kernels before Linux 6.9 have none: false.
func (p *Process) PidfdID() (uint64, bool) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, false
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	cerr := raw.Control(func(fd uintptr) {
		if err = unix.Fstatfs(int(fd), &fs); err == nil {
			err = unix.Fstat(int(fd), &st)
		}
	})
	return st.Ino, cerr == nil && err == nil && fs.Type == pidfsMagic
}

// OpenRoot opens the process's root directory, an O_PATH descriptor in its mount namespace.
func (p *Process) OpenRoot() (*os.File, error) {
	return p.openat("root", unix.O_PATH|unix.O_DIRECTORY)
}

func (p *Process) openat(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /proc/%d/%s: %w", p.pid, name, gone(err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Posture is what the kernel says of a process's rights (proc_pid_status(5)).
type Posture struct {
	UID, GID   [4]uint32 // real, effective, saved, filesystem
	Groups     []uint32
	Effective  uint64
	Permitted  uint64
	Inherit    uint64
	Bounding   uint64
	Ambient    uint64
	NoNewPrivs bool
	Seccomp    int
	NSPID      int // the number in the innermost PID namespace
}

// Posture reads the process's rights from /proc/PID/status.
func (p *Process) Posture() (Posture, error) {
	var buf [statusSize]byte
	data, err := p.read("status", buf[:])
	if err != nil {
		return Posture{}, err
	}
	po, err := parseStatus(data)
	if err != nil {
		return Posture{}, fmt.Errorf("cannot read /proc/%d/status: %w", p.pid, err)
	}
	return po, nil
}

// What a Posture needs of /proc/PID/status.
const (
	seenUID = 1 << iota
	seenGID
	seenGroups
	seenInheritable
	seenPermitted
	seenEffective
	seenBounding
	seenAmbient
	seenNoNewPrivs
	seenSeccomp
	seenNSPID
	seenAll = 1<<iota - 1
)

// parseStatus insists on every line that a Posture needs: a kernel that does not tell can't prove.
func parseStatus(data []byte) (Posture, error) {
	var po Posture
	seen := 0
	for line := range bytes.Lines(data) {
		key, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		var bit int
		var err error
		switch string(key) {
		case "Uid":
			bit, err = seenUID, four(rest, &po.UID)
		case "Gid":
			bit, err = seenGID, four(rest, &po.GID)
		case "Groups":
			bit, po.Groups = seenGroups, nil
			for f := range bytes.FieldsSeq(rest) {
				var g uint64
				if g, err = strconv.ParseUint(string(f), 10, 32); err != nil {
					break
				}
				po.Groups = append(po.Groups, uint32(g))
			}
		case "CapInh":
			bit, err = seenInheritable, hex(rest, &po.Inherit)
		case "CapPrm":
			bit, err = seenPermitted, hex(rest, &po.Permitted)
		case "CapEff":
			bit, err = seenEffective, hex(rest, &po.Effective)
		case "CapBnd":
			bit, err = seenBounding, hex(rest, &po.Bounding)
		case "CapAmb":
			bit, err = seenAmbient, hex(rest, &po.Ambient)
		case "NoNewPrivs":
			var n int
			bit, err = seenNoNewPrivs, one(rest, &n)
			po.NoNewPrivs = n == 1
		case "Seccomp":
			bit, err = seenSeccomp, one(rest, &po.Seccomp)
		case "NSpid":
			bit, err = seenNSPID, last(rest, &po.NSPID)
		default:
			continue
		}
		if err == nil && seen&bit != 0 {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return Posture{}, fmt.Errorf("%s: %w", key, err)
		}
		seen |= bit
	}
	if seen != seenAll {
		return Posture{}, fmt.Errorf("lines that tell its rights are missing (%#x of %#x)", seen, seenAll)
	}
	return po, nil
}

func four(text []byte, ids *[4]uint32) error {
	n := 0
	for f := range bytes.FieldsSeq(text) {
		if n == len(ids) {
			return errors.New("more than 4 numbers")
		}
		id, err := strconv.ParseUint(string(f), 10, 32)
		if err != nil {
			return err
		}
		ids[n] = uint32(id)
		n++
	}
	if n != len(ids) {
		return fmt.Errorf("%d numbers, not 4", n)
	}
	return nil
}

func hex(text []byte, n *uint64) (err error) {
	*n, err = strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 64)
	return err
}

func one(text []byte, n *int) (err error) {
	*n, err = strconv.Atoi(string(bytes.TrimSpace(text)))
	return err
}

// last reads the last number of several.
func last(text []byte, n *int) error {
	text = bytes.TrimSpace(text)
	return one(text[bytes.LastIndexAny(text, " \t")+1:], n)
}
