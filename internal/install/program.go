package install

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/lookup"
	"github.com/gatewarden/gatewarden/internal/posture"
)

// maxCandidates bounds how many files are looked at to find the workload's program: one per directory of its PATH, and
// their interpreters.
const maxCandidates = 256

// maxInterpreters is the kernel's own limit of scripts that interpret scripts (execve(2)).
const maxInterpreters = 5

// checkProgram looks at the workload's program in the container for file capabilities.
//
// A runtime starts a workload that is not root with the specification's permitted set, and execve(2) keeps what the
// file's own set has in common with it. No_new_privs does not prevent that, since nothing is gained. So an image can keep
// for its program what a user without ambient capabilities would lose.
func (i *installation) checkProgram() (posture.Result, error) {
	if i.spec.Process == nil || len(i.spec.Process.Args) == 0 {
		return posture.Result{}, nil
	}
	host, err := i.init.OpenRoot()
	if err != nil {
		return posture.Result{}, err
	}
	defer host.Close()
	// The container's init has not pivoted yet: its root is the host's, in its own mount namespace.
	root, err := lookup.Open(int(host.Fd()), i.record.Rootfs, lookup.InRoot, unix.O_DIRECTORY)
	if err != nil {
		return posture.Result{}, fmt.Errorf("cannot open the container's root filesystem: %w", err)
	}
	defer root.Close()
	s := programSearch{root: root, left: maxCandidates}
	for _, file := range candidates(i.spec.Process.Args[0], i.spec.Process.Cwd, i.spec.Process.Env) {
		if err := s.visit(file, maxInterpreters); err != nil {
			return posture.Result{}, fmt.Errorf("cannot check the workload's program %s for file capabilities: %w", file, err)
		}
	}
	return posture.CheckProgram(i.spec, i.profile, i.maps.Apart, s.found, s.capabilities), nil
}

// candidates are the paths at which a runtime would look for program.
func candidates(program, cwd string, env []string) []string {
	if strings.Contains(program, "/") {
		if !path.IsAbs(program) {
			program = path.Join("/", cwd, program)
		}
		return []string{program}
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var files []string
	for dir := range strings.SplitSeq(search, ":") {
		if !path.IsAbs(dir) {
			dir = path.Join("/", cwd, dir)
		}
		files = append(files, path.Join(dir, program))
	}
	return files
}

// programSearch collects the file capabilities of programs and of their interpreters.
type programSearch struct {
	root         *os.File
	left         int
	found        string // the first file that has some
	capabilities uint64
}

func (s *programSearch) visit(file string, depth int) error {
	if s.left--; s.left < 0 {
		return fmt.Errorf("more than %d files to look at", maxCandidates)
	}
	f, err := lookup.Open(int(s.root.Fd()), file, lookup.InRoot, 0)
	if err != nil {
		// What cannot be found cannot be run either. Links that lead nowhere or through /proc are that too.
		for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.ENAMETOOLONG} {
			if errors.Is(err, e) {
				return nil
			}
		}
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	handle := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	capabilities, err := fileCapabilities(handle)
	if err != nil {
		return err
	}
	if capabilities != 0 {
		s.capabilities |= capabilities
		if s.found == "" {
			s.found = file
		}
	}
	if interpreter := interpreterOf(handle); interpreter != "" && depth > 0 {
		return s.visit(interpreter, depth-1)
	}
	return nil
}

// fileCapabilities gives the permitted and inheritable capabilities of a file's security.capability attribute.
func fileCapabilities(file string) (uint64, error) {
	buf := make([]byte, 64)
	n, err := unix.Getxattr(file, "security.capability", buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("getxattr security.capability", err)
	}
	return parseFileCapabilities(buf[:n]), nil
}

// parseFileCapabilities reads the kernel's struct vfs_cap_data: a version, then per 32 bits the permitted and the
// inheritable set, little-endian (linux/capability.h; capabilities(7), "File capability extended attribute versioning").
func parseFileCapabilities(data []byte) uint64 {
	var capabilities uint64
	for shift, at := 0, 4; shift < 64 && len(data) >= at+8; shift, at = shift+32, at+8 {
		permitted, inheritable := binary.LittleEndian.Uint32(data[at:]), binary.LittleEndian.Uint32(data[at+4:])
		capabilities |= uint64(permitted|inheritable) << shift
	}
	return capabilities
}

// interpreterOf gives the interpreter that a script names in its first line, or "".
func interpreterOf(file string) string {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	const size = 256 // BINPRM_BUF_SIZE of the kernel
	line, _ := bufio.NewReaderSize(io.LimitReader(f, size), size).ReadString('\n')
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return ""
	}
	words := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == 0 })
	if len(words) == 0 || !path.IsAbs(words[0]) {
		return ""
	}
	return words[0]
}
