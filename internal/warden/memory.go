package warden

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack returns what an action needed and an idle warden does not: freed heap, and the resident pages of the program's
// own text. Those are clean pages of the file, shared by all wardens of the host; what is used again is mapped again,
// from the page cache, by a minor fault (madvise(2), MADV_DONTNEED).
func giveBack() {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // it was a favour
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "r-xp" || f[5] != self {
			continue // only what can't have been written to
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &start, &end); err == nil {
			unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}
