package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hunter looks for texts in everything below some directories that its process may read: names, targets of links, contents of
// files; of processes what they show of themselves, what they have open, and their memory.
type hunter struct {
	wanted      map[string][]byte
	skip        *regexp.Regexp // paths to leave out
	descriptors bool           // also what processes have open, and their memory
	visited     map[[2]uint64]bool
	out         *json.Encoder
	seen        struct {
		Files       int    `json:"files"`
		Bytes       int64  `json:"bytes"`
		Denied      int    `json:"denied"`
		Processes   int    `json:"processes"`
		Descriptors int    `json:"descriptors"` // of other processes, that it could open
		Memories    int    `json:"memories"`    // of other processes, that it could read
		UID         int    `json:"uid"`
		CapEff      string `json:"cap_eff"`
	}
}

// found is one place where a text was found.
type found struct {
	What string `json:"what"`
	At   string `json:"at"`
}

const (
	maxHunted = 256 << 20 // bytes that are read of one file
	maxRegion = 64 << 20  // and of one region of memory
	chunk     = 256 << 10
)

// hunt says where it has found something, a line each, and last what it has looked at. The texts come in hexadecimal, so
// that it does not find its own command line.
func hunt(wanted map[string]string, skip string, descriptors bool, roots []string) error {
	h := hunter{wanted: map[string][]byte{}, descriptors: descriptors, visited: map[[2]uint64]bool{}, out: json.NewEncoder(os.Stdout)}
	for name, text := range wanted {
		data, err := hex.DecodeString(text)
		if err != nil || len(data) < 8 {
			return fmt.Errorf("--for %s: not 8 bytes or more in hexadecimal", name)
		}
		h.wanted[name] = data
	}
	if skip != "" {
		var err error
		if h.skip, err = regexp.Compile(skip); err != nil {
			return err
		}
	}
	if err := h.self(); err != nil {
		return err
	}
	if len(roots) == 0 {
		roots = []string{"/"}
	}
	for _, root := range roots {
		h.walk(root, false)
	}
	return h.out.Encode(h.seen)
}

// self notes with what rights it looks.
func (h *hunter) self() error {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			h.seen.CapEff = strings.TrimSpace(value)
		}
	}
	h.seen.UID = os.Getuid()
	return nil
}

func (h *hunter) denied(err error) {
	if errors.Is(err, fs.ErrPermission) {
		h.seen.Denied++
	}
}

// look tells of the texts that are in data.
func (h *hunter) look(data []byte, at string) {
	for name, text := range h.wanted {
		if bytes.Contains(data, text) {
			h.tell(name, at)
		}
	}
}

func (h *hunter) tell(name, at string) {
	if err := h.out.Encode(found{name, at}); err != nil {
		fmt.Fprintln(os.Stderr, "testworkload:", err)
	}
}

var (
	ofProcess    = regexp.MustCompile(`^/proc/([0-9]+)(/.*)?$`)
	ofDescriptor = regexp.MustCompile(`^/proc/[0-9]+(/task/[0-9]+)?/fd/[0-9]+$`)
	// neverEnding are files of procfs that have no end, or hold nothing but numbers of pages.
	neverEnding = regexp.MustCompile(`^/proc/(kmsg|kcore|kpage.*|.*/pagemap)$|trace_pipe$`)
)

// walk looks at everything below dir. Beyond is for what is reached through a descriptor: no directory is looked at twice there.
func (h *hunter) walk(dir string, beyond bool) {
	if h.skip != nil && h.skip.MatchString(dir) {
		return
	}
	own := false
	if m := ofProcess.FindStringSubmatch(dir); m != nil {
		own = m[1] == strconv.Itoa(os.Getpid())
		if m[2] == "" {
			h.seen.Processes++
		}
		// Its own descriptors are those of this walk, and its own memory holds the texts.
		if own && strings.Contains(m[2], "/fd") {
			return
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		h.denied(err)
		return
	}
	if beyond || !strings.HasPrefix(dir, "/proc/") {
		key := [2]uint64{st.Dev, st.Ino}
		if h.visited[key] {
			return
		}
		h.visited[key] = true
	}
	entries, err := os.ReadDir(dir)
	h.denied(err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		h.look([]byte(e.Name()), path+" (its name)")
		switch {
		case e.IsDir():
			h.walk(path, beyond)
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			h.denied(err)
			h.look([]byte(target), path+" (its target)")
			if h.descriptors && ofDescriptor.MatchString(path) {
				h.descriptor(path)
			}
		case e.Type().IsRegular() && e.Name() == "mem" && ofProcess.MatchString(path):
			if h.descriptors && !own && !strings.Contains(dir, "/task/") { // its threads have the same
				h.memory(dir)
			}
		case e.Type().IsRegular() && !neverEnding.MatchString(path):
			h.file(path)
		}
	}
}

// descriptor looks at what another process has open.
func (h *hunter) descriptor(path string) {
	st, err := os.Stat(path)
	if err != nil {
		h.denied(err)
		return
	}
	h.seen.Descriptors++
	switch {
	case st.IsDir():
		h.walk(path, true)
	case st.Mode().IsRegular():
		h.file(path)
	}
}

func (h *hunter) file(path string) {
	if h.skip != nil && h.skip.MatchString(path) {
		return
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		h.denied(err)
		return
	}
	defer f.Close()
	h.seen.Files++
	h.read(f, maxHunted, path)
}

// read looks at what r gives. A text that lies across two chunks is found too.
func (h *hunter) read(r io.Reader, most int64, at string) {
	longest := 0
	told := map[string]bool{}
	for _, text := range h.wanted {
		longest = max(longest, len(text))
	}
	buf := make([]byte, 0, longest+chunk)
	for total := int64(0); total < most; {
		n, err := r.Read(buf[len(buf):min(cap(buf), len(buf)+chunk)])
		buf = buf[:len(buf)+n]
		total += int64(n)
		h.seen.Bytes += int64(n)
		for name, text := range h.wanted {
			if !told[name] && bytes.Contains(buf, text) {
				told[name] = true
				h.tell(name, at)
			}
		}
		if keep := min(len(buf), longest-1); keep < len(buf) {
			copy(buf, buf[len(buf)-keep:])
			buf = buf[:keep]
		}
		if err != nil || n == 0 {
			h.denied(err)
			return
		}
	}
}

// memory looks at the memory of the process whose directory of procfs that is.
func (h *hunter) memory(dir string) {
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		h.denied(err)
		return
	}
	mem, err := os.Open(dir + "/mem")
	if err != nil {
		h.denied(err)
		return
	}
	defer mem.Close()
	h.seen.Memories++
	for line := range strings.Lines(string(maps)) {
		var low, high uint64
		if _, err := fmt.Sscanf(line, "%x-%x r", &low, &high); err != nil || strings.Contains(line, "[v") {
			continue // not readable, or the kernel's own
		}
		h.read(io.NewSectionReader(mem, int64(low), int64(high-low)), maxRegion, dir+"/mem")
	}
}
