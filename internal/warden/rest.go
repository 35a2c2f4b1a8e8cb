package warden

import (
	"os"
	"slices"
	"strconv"
)

// monitorSlack is by how many nanoseconds the Go runtime's monitor thread may sleep longer than it means to.
const monitorSlack = 1_000_000

// slowMonitor lets the Go runtime's monitor sleep longer. As long as any goroutine runs it looks after them each 20 µs, for whole
// systems of processors and goroutines; here it would take the core on which the gateway starts, a third of all the warden's time.
// Goroutines that wait for one that is in a long system call wait by so much longer.
//
// The monitor is the first thread that package runtime starts (runtime.main). If it were another, that one's timers would be
// late. See proc_pid_timerslack_ns(5), Linux 4.6.
func slowMonitor() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	var others []int
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil && tid != os.Getpid() {
			others = append(others, tid)
		}
	}
	if len(others) > 0 {
		os.WriteFile("/proc/"+strconv.Itoa(slices.Min(others))+"/timerslack_ns", []byte(strconv.Itoa(monitorSlack)), 0)
	}
}
