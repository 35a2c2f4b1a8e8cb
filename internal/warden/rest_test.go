package warden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// switches counts how often a thread has gone to sleep by itself.
func switches(t *testing.T, tid string) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/task/" + tid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			fmt.Sscan(rest, &n)
		}
	}
	return n
}

func TestTheThreadThatMaySleepLongerIsTheMonitor(t *testing.T) {
	slowMonitor()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	var slow []string
	for _, dir := range threads {
		tid := filepath.Base(dir)
		slack, err := os.ReadFile("/proc/" + tid + "/timerslack_ns")
		if err != nil {
			continue // it has ended
		}
		if strings.TrimSpace(string(slack)) == fmt.Sprint(monitorSlack) {
			slow = append(slow, tid)
			defer os.WriteFile("/proc/"+tid+"/timerslack_ns", []byte("0"), 0) // the default again
		}
	}
	if len(slow) != 1 {
		t.Fatalf("the threads %q may sleep longer, of %d", slow, len(threads))
	}
	// While a goroutine computes, the monitor alone sleeps and wakes up, each 10 ms at least.
	before := switches(t, slow[0])
	n := 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); n++ {
	}
	if got := switches(t, slow[0]) - before; got < 15 || got > 600 {
		t.Errorf("it slept %d times in 300 ms of work (%d rounds)", got, n)
	}
}
