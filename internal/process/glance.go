package process

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Glance is what one look tells of the process that has a number, without taking hold of it. It is for telling thousands
// of processes apart that need nothing more; who is to be signalled, waited for or believed is to be held (see Open).
type Glance struct {
	UID          uint32 // effective
	Start        uint64 // clock ticks since boot
	PIDNamespace File   // of its first thread; zero if that has ended
}

// LookAt looks at the process that has the number pid. The number can change hands between two of the looks that this
// takes: then the start time is of one process and the rest may be of another. Start is looked at first.
func LookAt(pid int) (Glance, error) {
	stat, err := StatOf(pid)
	if err != nil {
		return Glance{}, err
	}
	g := Glance{Start: stat.Start}
	if g.UID, err = OwnerOf(pid); err != nil {
		return Glance{}, err
	}
	var st unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/pid", &st) == nil {
		g.PIDNamespace = File{st.Dev, st.Ino}
	}
	return g, nil
}

// StatOf reads the /proc/PID/stat of the process that has the number pid. The error is ErrGone if there is no such process.
func StatOf(pid int) (Stat, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	var buf [statSize]byte
	data, err := readPath(path, buf[:])
	if err != nil {
		return Stat{}, gone(err)
	}
	stat, err := parseStat(data)
	if err != nil {
		return Stat{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return stat, nil
}

// OwnerOf gives the effective UID of the process that has the number pid: the owner of its directory in procfs, who is not
// root's for being undumpable, as those of the files in it are (proc_pid(5); task_dump_owner in the kernel's fs/proc/base.c).
// The error is ErrGone if there is no such process.
func OwnerOf(pid int) (uint32, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot stat %s: %w", dir, gone(err))
	}
	return st.Uid, nil
}
