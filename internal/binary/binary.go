// Package binary finds and checks the gateway's program inside a container, by descriptor, and says how to exec it.
//
// What is checked is what is run: the launcher execs the descriptor that was checked, never the path again.
package binary

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/lookup"
)

// maxSize bounds what is hashed for a pin, in bytes.
const maxSize = 4 << 30

// Program is a checked program. Close it when it has been launched.
type Program struct {
	File *os.File // O_PATH, in the container's mount namespace
	Path string   // of File in the container, links resolved
	Args []string // what exec gets as arguments: the command, behind its interpreter if it is a script
	Dev  uint64
	Ino  uint64
}

// Container says what is root's in a container.
type Container struct {
	// Root is what UID 0 of the container's user namespace is here. What belongs to our own root is trusted too: nobody in the
	// container is that, unless it has our user namespace.
	Root uint32
	// RootWorkload: the workload runs as UID 0 of the container and owns what that owns. Then a program must lie on a read-only
	// mount, which a process without CAP_SYS_ADMIN can't change.
	RootWorkload bool
}

func (c Container) trusts(uid uint32) bool { return uid == 0 || uid == c.Root }

// Close lets the descriptor go.
func (p *Program) Close() { p.File.Close() }

// Open finds command[0] below root, a descriptor of the container's root directory, and checks it: a regular file,
// executable, owned by root, and like every directory above it not writable by anybody else; matching pin, the SHA-256 of
// its content in hexadecimal, unless that is empty.
//
// A script is checked, and so is its interpreter, which is what gets executed: the kernel would look the interpreter up by
// its path (execve(2), "Interpreter scripts"), and by descriptor it would hand it "/dev/fd/N" as the script's name.
//
// All errors are *code.Error with untrusted_binary.
func Open(root *os.File, command []string, pin string, c Container) (*Program, error) {
	f, err := c.open(root, command[0])
	if err != nil {
		return nil, err
	}
	if pin != "" {
		if err := f.match(pin); err != nil {
			f.Close()
			return nil, err
		}
	}
	interpreter, arg, err := f.shebang()
	if err != nil || interpreter == "" {
		if err != nil {
			f.Close()
			return nil, err
		}
		f.Args = command
		return f, nil
	}
	script := f
	defer script.Close()
	in, err := c.open(root, interpreter)
	if err != nil {
		return nil, code.Errorf(code.UntrustedBinary, code.StagePreflight, "interpreter of %s: %w", command[0], err)
	}
	if nested, _, err := in.shebang(); err != nil || nested != "" {
		in.Close()
		return nil, refuse(command[0], "its interpreter %s is a script itself: name a program in #!", interpreter)
	}
	in.Args = append([]string{interpreter}, arg...)
	in.Args = append(append(in.Args, script.Path), command[1:]...)
	return in, nil
}

func refuse(name, format string, args ...any) *code.Error {
	return code.Errorf(code.UntrustedBinary, code.StagePreflight, "cannot trust %s in the container: "+format, append([]any{name}, args...)...)
}

func (c Container) open(root *os.File, name string) (*Program, error) {
	f, err := lookup.Open(int(root.Fd()), name, lookup.InRoot, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, refuse(name, "there is no such file; the path is one of the container's image or of a [[mount]]")
	case err != nil:
		return nil, refuse(name, "cannot open it: %w", err)
	}
	p := &Program{File: f}
	if err := p.check(root, name, c); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Program) check(root *os.File, name string, c Container) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.File.Fd()), &st); err != nil {
		return refuse(name, "cannot stat it: %w", err)
	}
	p.Dev, p.Ino = st.Dev, st.Ino
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse(name, "it is not a regular file")
	case !c.trusts(st.Uid):
		return refuse(name, "it is owned by UID %d, who could replace it: chown it to root", st.Uid)
	case st.Mode&0o022 != 0:
		return refuse(name, "its mode %04o lets others write to it: chmod go-w", st.Mode&0o7777)
	case st.Mode&0o111 == 0:
		return refuse(name, "its mode %04o lets nobody execute it: chmod +x", st.Mode&0o7777)
	case st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return refuse(name, "its mode %04o has a set-ID bit, which no gateway needs: chmod u-s,g-s", st.Mode&0o7777)
	}
	// The path of the descriptor is absolute in the container's mount namespace, with no link left in it.
	resolved, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(p.File.Fd())))
	if err != nil {
		return refuse(name, "cannot tell its path: %w", err)
	}
	p.Path = resolved
	for dir := path.Dir(resolved); ; dir = path.Dir(dir) {
		if err := c.checkDir(root, dir); err != nil {
			return refuse(name, "%w", err)
		}
		if dir == "/" {
			break
		}
	}
	// The walk above went by path. That it met the same file makes it the same path.
	var again unix.Stat_t
	f, err := lookup.Open(int(root.Fd()), resolved, lookup.InRootWithoutLinks, 0)
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &again)
		f.Close()
	}
	if err != nil || again.Dev != st.Dev || again.Ino != st.Ino {
		return refuse(name, "it was replaced while it was being checked")
	}
	if c.RootWorkload {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(p.File.Fd()), &fs); err != nil {
			return refuse(name, "cannot stat its filesystem: %w", err)
		}
		if fs.Flags&unix.ST_RDONLY == 0 {
			return refuse(name, "the workload runs as UID 0 or may become it (noNewPrivileges is off), so it owns the file, which does not lie on a "+
				"read-only mount: run the workload as another user with noNewPrivileges, make the root filesystem read-only, or deliver "+
				"the program by a [[mount]]")
		}
	}
	return nil
}

func (c Container) checkDir(root *os.File, dir string) error {
	f, err := lookup.Open(int(root.Fd()), dir, lookup.InRootWithoutLinks, 0)
	if err != nil {
		return fmt.Errorf("cannot open the directory %s above it: %w", dir, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot stat the directory %s above it: %w", dir, err)
	}
	if !c.trusts(st.Uid) {
		return fmt.Errorf("the directory %s above it is owned by UID %d, who could replace it: chown it to root", dir, st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("the directory %s above it has mode %04o, which lets others replace it: chmod go-w", dir, st.Mode&0o7777)
	}
	return nil
}

// reader opens the file itself for reading, not the path.
func (p *Program) reader() (*os.File, error) {
	return os.Open("/proc/self/fd/" + strconv.Itoa(int(p.File.Fd())))
}

func (p *Program) match(pin string) error {
	f, err := p.reader()
	if err != nil {
		return refuse(p.Path, "cannot read it: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxSize+1))
	if err != nil || n > maxSize {
		return refuse(p.Path, "cannot hash it: %d bytes read, %w", n, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != pin {
		return refuse(p.Path, "its SHA-256 is %s, and gateway.sha256 pins %s", got, pin)
	}
	return nil
}

// shebang gives the interpreter that the file's first line names, and its one optional argument.
func (p *Program) shebang() (string, []string, error) {
	f, err := p.reader()
	if err != nil {
		return "", nil, refuse(p.Path, "cannot read it: %w", err)
	}
	defer f.Close()
	head := make([]byte, 256) // BINPRM_BUF_SIZE, execve(2)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", nil, refuse(p.Path, "cannot read it: %w", err)
	}
	interpreter, arg, err := parseShebang(head[:n])
	if err != nil {
		return "", nil, refuse(p.Path, "%w", err)
	}
	return interpreter, arg, nil
}

func parseShebang(head []byte) (string, []string, error) {
	if !bytes.HasPrefix(head, []byte("#!")) {
		return "", nil, nil
	}
	line, _, ok := bytes.Cut(head[2:], []byte("\n"))
	if !ok && len(head) == 256 {
		return "", nil, errors.New("its #! line is longer than 256 bytes")
	}
	name, arg := strings.Trim(string(line), " \t"), ""
	if i := strings.IndexAny(name, " \t"); i >= 0 {
		name, arg = name[:i], name[i:]
	}
	if !path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return "", nil, fmt.Errorf("its #! line names %q, which is not an absolute path", name)
	}
	if arg = strings.Trim(arg, " \t"); arg == "" {
		return name, nil, nil
	}
	if strings.ContainsRune(arg, 0) {
		return "", nil, errors.New("its #! line holds a NUL byte")
	}
	return name, []string{arg}, nil
}
