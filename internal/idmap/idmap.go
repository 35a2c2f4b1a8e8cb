// Package idmap translates user and group IDs between a container's user namespace and this one (user_namespaces(7)).
//
// A profile's numbers are those inside the container. Outside, everything that the kernel tells of the gateway, and everything
// that is to belong to it, has the numbers to which the container's user namespace maps them. They are read from the kernel,
// not from the container's specification, which only says what was asked for.
package idmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/process"
)

// None is nobody's ID: (uid_t)-1 and (gid_t)-1, which the kernel gives to no process and no file.
const None = 1<<32 - 1

// maxRanges is how many lines a map can have (user_namespaces(7): 340 since Linux 4.15).
const maxRanges = 340

// Range maps Count IDs, from Inside on in the user namespace, to as many from Host on in this one.
type Range struct {
	Inside, Host, Count uint32
}

// Ranges is what /proc/PID/uid_map or gid_map tells.
type Ranges []Range

// Parse reads uid_map or gid_map, as the kernel shows it to this process. A map that was not written yet has no line; one that
// this user namespace cannot tell has lines that lead nowhere. Both are errors: with them nobody's ID is known.
func Parse(data []byte) (Ranges, error) {
	var all Ranges
	for line := range bytes.Lines(data) {
		if len(all) == maxRanges {
			return nil, fmt.Errorf("more than %d lines", maxRanges)
		}
		var n [3]uint32
		i := 0
		for f := range bytes.FieldsSeq(line) {
			if i == len(n) {
				return nil, fmt.Errorf("line %d has more than %d numbers", len(all)+1, len(n))
			}
			v, err := strconv.ParseUint(string(f), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", len(all)+1, err)
			}
			n[i] = uint32(v)
			i++
		}
		r := Range{n[0], n[1], n[2]}
		switch {
		case i != len(n):
			return nil, fmt.Errorf("line %d has %d numbers, not %d", len(all)+1, i, len(n))
		case r.Host == None:
			return nil, fmt.Errorf("the IDs from %d on are none of this user namespace", r.Inside)
		case r.Count == 0 || r.Inside > None-r.Count || r.Host > None-r.Count:
			return nil, fmt.Errorf("%d IDs from %d on, to %d, are no range", r.Count, r.Inside, r.Host)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("it maps nothing yet")
	}
	return all, nil
}

// Host gives what id of the user namespace is here, and whether it is anything.
func (r Ranges) Host(id uint32) (uint32, bool) {
	for _, m := range r {
		if id >= m.Inside && id-m.Inside < m.Count {
			return m.Host + (id - m.Inside), true
		}
	}
	return None, false
}

// HostOrNone is Host, with None for what is nothing here.
func (r Ranges) HostOrNone(id uint32) uint32 {
	host, _ := r.Host(id)
	return host
}

// Identity tells whether each ID is the same here: the map of the initial user namespace, or of one that maps all of it.
func (r Ranges) Identity() bool { return slices.Equal(r, Ranges{{0, 0, None}}) }

// String gives the ranges as "0-65535 (200000-265535 here)".
func (r Ranges) String() string {
	var all []string
	for _, m := range r {
		all = append(all, fmt.Sprintf("%s (%s here)", span(m.Inside, m.Count), span(m.Host, m.Count)))
	}
	return strings.Join(all, ", ")
}

func span(first, count uint32) string {
	if count == 1 {
		return strconv.FormatUint(uint64(first), 10)
	}
	return fmt.Sprintf("%d-%d", first, first+(count-1))
}

// Maps are the maps of a process's user namespace.
type Maps struct {
	UIDs, GIDs Ranges
	// Apart: it is another user namespace than ours.
	Apart bool
}

// Of reads the maps of p's user namespace.
func Of(p *process.Process) (Maps, error) {
	m, err := read(p.Read)
	if err != nil {
		return Maps{}, fmt.Errorf("cannot tell which IDs process %d has here: %w", p.PID(), err)
	}
	theirs, err := p.UserNamespace()
	if err != nil {
		return Maps{}, err
	}
	var ours unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &ours); err != nil {
		return Maps{}, fmt.Errorf("cannot tell our own user namespace: %w", err)
	}
	m.Apart = theirs != process.File{Dev: ours.Dev, Ino: ours.Ino}
	return m, nil
}

func read(file func(name string) ([]byte, error)) (m Maps, err error) {
	for _, f := range []struct {
		name string
		into *Ranges
	}{{"uid_map", &m.UIDs}, {"gid_map", &m.GIDs}} {
		data, err := file(f.name)
		if err == nil {
			*f.into, err = Parse(data)
		}
		if err != nil {
			return Maps{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return m, nil
}

// Initial checks that this process lives in the initial user namespace, or in one that has all of its IDs: only there root is
// everybody's. The error tells the map that says otherwise.
func Initial() error {
	var texts []string
	m, err := read(func(name string) ([]byte, error) {
		data, err := os.ReadFile("/proc/self/" + name)
		texts = append(texts, fmt.Sprintf("/proc/self/%s says %q", name, strings.Join(strings.Fields(string(data)), " ")))
		return data, err
	})
	if err == nil && m.UIDs.Identity() && m.GIDs.Identity() {
		return nil
	}
	return fmt.Errorf("it lives in a user namespace that is not the host's (%s)", strings.Join(texts, ", "))
}

// ID is a user with its groups.
type ID struct {
	UID, GID uint32
	Groups   []uint32
}

// Host gives what id of the user namespace is here. Of what it does not map ok is false, and the result has None.
func (m Maps) Host(id ID) (host ID, ok bool) {
	uid, hasUID := m.UIDs.Host(id.UID)
	gid, hasGID := m.GIDs.Host(id.GID)
	host, ok = ID{UID: uid, GID: gid}, hasUID && hasGID
	for _, g := range id.Groups {
		here, has := m.GIDs.Host(g)
		host.Groups, ok = append(host.Groups, here), ok && has
	}
	return host, ok
}
