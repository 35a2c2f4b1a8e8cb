package metrics

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
)

// Memory is what a process has in memory, in bytes; 0 is not known.
type Memory struct {
	Resident     int64 // VmRSS
	Proportional int64 // its part of what it shares with others: PSS
}

// ReadMemory reads it from /proc/PID/smaps_rollup (Linux 4.14), which takes the right to trace the process, else what is in
// /proc/PID/statm, which anybody may read (proc(5)). It gives nil if the process is gone.
func ReadMemory(pid int) *Memory {
	dir := fmt.Sprintf("/proc/%d/", pid)
	m := &Memory{}
	if rollup, err := read(dir + "smaps_rollup"); err == nil {
		for line := range bytes.Lines(rollup) {
			f := bytes.Fields(line)
			if len(f) < 2 {
				continue
			}
			kib, _ := strconv.ParseInt(string(f[1]), 10, 64)
			switch string(f[0]) {
			case "Rss:":
				m.Resident = kib << 10
			case "Pss:":
				m.Proportional = kib << 10
				return m // it comes after Rss, and before twenty lines that nobody wants
			}
		}
	}
	statm, err := read(dir + "statm")
	if err != nil {
		return nil
	}
	if f := bytes.Fields(statm); len(f) > 1 {
		pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
		m.Resident = pages * int64(os.Getpagesize())
	}
	return m
}

// read reads what the kernel writes; both files are much smaller than the bound.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 16<<10))
}
