package process

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// What one look tells of the process that has a number, without taking hold of it, is for telling thousands of processes
// apart that need nothing more. Who is to be signalled, waited for or believed is to be held (see Open).

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

// ticksPerSecond is USER_HZ, in which the kernel tells times to user space on all architectures that Go knows (time(7)).
const ticksPerSecond = 100

// Now gives the present by the clock of Start: in ticks since boot, the time of a suspend included (CLOCK_BOOTTIME; proc_pid_stat(5)).
// A process that was started before has no later tick.
func Now() uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // which Linux has since 2.6.39
	return uint64(ts.Nano()) / (1e9 / ticksPerSecond)
}
