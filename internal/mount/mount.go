// Package mount places host directories and files into a container's mount namespace, by descriptor, and checks later
// that they are still there.
//
// The container's root filesystem is an image, written by somebody else, and its volumes can change while this runs. So
// no path inside it is ever resolved in one piece: each component is opened below the descriptor of the one before, links
// are refused, and the mount is attached to the descriptor that was checked.
//
// It needs Linux 5.12: open_tree(2) and move_mount(2) came with 5.2, openat2(2) with 5.6, mount_setattr(2) with 5.12.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/lookup"
	"github.com/gatewarden/gatewarden/internal/process"
)

// Source is one thing to place.
type Source struct {
	File     *os.File // O_PATH descriptor of a directory or regular file in the caller's mount namespace
	Path     string   // its path on the host, for messages and the record
	Target   string   // absolute, clean path in the container
	Writable bool     // [[state]]: writable but noexec; else read-only
	Unlocked bool     // a read-only one that can be written for a while
}

// Placed is one mount as the kernel reports it.
type Placed struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable"`
	Unlocked bool   `json:"unlocked,omitempty"`
	Dev      uint64 `json:"dev"`
	Ino      uint64 `json:"ino"`
	MountID  uint64 `json:"mount_id"` // of mountinfo (proc_pid_mountinfo(5), field 1)
}

// Options say what the workload could do to the directories above a target.
type Options struct {
	// PinParents makes each directory above a target a mount of its own, onto itself, so that it cannot be renamed
	// (rename(2): EBUSY) and another put in its place. It is needed when the workload has the UID that owns them.
	PinParents bool
	// ReadOnlyRoot says that the runtime will make the container's root mount read-only after this. Its directories need
	// no pin, and must have none, since their own mount would stay writable.
	ReadOnlyRoot bool
	// Root is what UID 0 of the container's user namespace is here, and RootGroup what GID 0 is. The image's directories belong
	// to them, or to our root.
	Root, RootGroup uint32
}

// Place mounts sources into the mount namespace of init, below rootfs, in order. Rootfs is where the container's root
// filesystem is mounted in that namespace, which its runtime has not pivoted into yet (createRuntime). Missing parts of a
// target are made, owned by root. If one source cannot be placed, those before it are taken away again.
func Place(init *process.Process, rootfs string, sources []Source, opt Options) (placed []Placed, err error) {
	if len(sources) == 0 {
		return nil, nil
	}
	trees, err := cloneAll(sources)
	defer closeAll(trees)
	if err != nil {
		return nil, err
	}
	ns, err := init.OpenNamespace("mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	root, err := OpenRootfs(init, rootfs)
	if err != nil {
		return nil, fmt.Errorf("cannot open the container's root filesystem: %w", err)
	}
	defer root.Close()

	err = inNamespace(ns, func(self *os.File) error {
		p, err := newPlacer(self, root, opt)
		if err != nil {
			return err
		}
		defer p.close()
		for i, s := range sources {
			m, err := p.place(s, trees[i])
			if err != nil {
				p.undo()
				return fmt.Errorf("cannot mount %s at %s in the container: %w", s.Path, s.Target, err)
			}
			placed = append(placed, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return placed, nil
}

// OpenRootfs opens the container's root filesystem as its init, which has not pivoted yet, sees it: below the runtime's own
// root, which need not be that of its mount namespace.
func OpenRootfs(init *process.Process, rootfs string) (*os.File, error) {
	host, err := init.OpenRoot()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	return lookup.Open(int(host.Fd()), rootfs, lookup.InRoot, unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// Close closes the files of sources.
func Close(sources []Source) {
	for _, s := range sources {
		s.File.Close()
	}
}

// cloneAll makes a detached mount of each source. The caller closes them, also after an error.
func cloneAll(sources []Source) ([]*os.File, error) {
	var trees []*os.File
	for _, s := range sources {
		tree, err := clone(s)
		if err != nil {
			return trees, fmt.Errorf("cannot mount %s: %w", s.Path, err)
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// clone makes a detached mount of s.File with its final attributes: nothing in the container ever sees it with others.
func clone(s Source) (*os.File, error) {
	st, err := stat(int(s.File.Fd()))
	if err != nil {
		return nil, err
	}
	if !st.isDir() && !st.isRegular() {
		return nil, errors.New("it is neither a directory nor a regular file")
	}
	// Not recursive: what the host has mounted below the source was not named in the profile.
	fd, err := unix.OpenTree(int(s.File.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, syscallError("open_tree", "5.2", err)
	}
	tree := os.NewFile(uintptr(fd), s.Path)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	switch {
	case s.Writable:
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	case !s.Unlocked:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		tree.Close()
		return nil, syscallError("mount_setattr", "5.12", err)
	}
	return tree, nil
}

// inNamespace runs f on a thread of its own in the mount namespace ns. The thread ends with f: it is never unlocked, so
// that no other goroutine can come to run in the container's namespace. Self is the thread's directory in the /proc of
// the caller; what is mounted at /proc in the namespace does not matter.
func inNamespace(ns *os.File, f func(self *os.File) error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		// The process's first thread does not end, and /proc/PID shows its namespace as the process's. Keep it busy
		// waiting, so that another thread gets the work.
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			result <- inNamespace(ns, f)
			return
		}
		result <- func() error {
			self, err := openat(unix.AT_FDCWD, "/proc/thread-self", unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				return err
			}
			defer self.Close()
			same, err := sameNamespace(self, ns)
			if err != nil {
				return err
			}
			if same {
				return errors.New("the container has no mount namespace of its own; mounts for it would be the host's")
			}
			// A thread that shares its root and working directory with others cannot change mount namespaces (setns(2)).
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare CLONE_FS", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("setns to the container's mount namespace", err)
			}
			unix.Umask(0) // of this thread alone, since CLONE_FS
			return f(self)
		}()
	}()
	return <-result
}

func sameNamespace(self, ns *os.File) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstatat(int(self.Fd()), "ns/mnt", &a, 0); err != nil {
		return false, &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	if err := unix.Fstat(int(ns.Fd()), &b); err != nil {
		return false, &os.PathError{Op: "stat", Path: ns.Name(), Err: err}
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// placer places mounts below one root. It lives on a thread in the container's mount namespace.
type placer struct {
	self     *os.File
	root     *os.File
	rootPath string // of root, as mountinfo writes it
	rootID   uint64 // mount ID of root
	opt      Options
	done     []func() // undo steps, in the order in which they were earned
	held     []*os.File
}

func newPlacer(self, root *os.File, opt Options) (*placer, error) {
	p := &placer{self: self, root: root, opt: opt}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(self.Fd()), "fd/"+strconv.Itoa(int(root.Fd())), buf)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("cannot find the path of the container's root filesystem: %w", err)
	}
	p.rootPath = string(buf[:n])
	st, err := stat(int(root.Fd()))
	if err != nil {
		p.close()
		return nil, err
	}
	p.rootID = st.mountID
	return p, nil
}

func (p *placer) close() { closeAll(p.held) }

func (p *placer) undo() {
	for _, step := range slices.Backward(p.done) {
		step()
	}
}

// hold keeps f open until the end, for undo steps that need it.
func (p *placer) hold(f *os.File) *os.File {
	p.held = append(p.held, f)
	return f
}

func (p *placer) place(s Source, tree *os.File) (Placed, error) {
	source, err := stat(int(tree.Fd()))
	if err != nil {
		return Placed{}, err
	}
	names, err := split(s.Target)
	if err != nil {
		return Placed{}, err
	}
	dir, at := p.root, "/"
	for _, name := range names[:len(names)-1] {
		if err := p.checkParent(dir, at); err != nil {
			return Placed{}, err
		}
		at = path.Join(at, name)
		if dir, err = p.open(dir, name, at, true); err != nil {
			return Placed{}, err
		}
		if dir, err = p.pin(dir, at); err != nil {
			return Placed{}, fmt.Errorf("cannot pin %s: %w", at, err)
		}
	}
	if err := p.checkParent(dir, at); err != nil {
		return Placed{}, err
	}
	name := names[len(names)-1]
	target, err := p.open(dir, name, s.Target, source.isDir())
	if err != nil {
		return Placed{}, err
	}
	st, err := stat(int(target.Fd()))
	if err != nil {
		return Placed{}, err
	}
	if st.isDir() != source.isDir() {
		return Placed{}, fmt.Errorf("the target is a %s and the source is a %s", st.kind(), source.kind())
	}
	if st.mountRoot {
		return Placed{}, errors.New("the container has a mount at this very place already; name another target or take that mount away")
	}
	if err := p.attach(tree, target, st.mountID); err != nil {
		return Placed{}, err
	}

	// What one finds at the target now must be the mount.
	found, err := openBelow(dir, name)
	if err != nil {
		return Placed{}, fmt.Errorf("cannot open the target again: %w", err)
	}
	defer found.Close()
	got, err := stat(int(found.Fd()))
	if err != nil {
		return Placed{}, err
	}
	placed := Placed{
		Source: s.Path, Target: s.Target, Writable: s.Writable, Unlocked: s.Unlocked,
		Dev: source.dev, Ino: source.ino, MountID: source.mountID,
	}
	if err := placed.matches(got); err != nil {
		return Placed{}, err
	}
	return placed, p.checkMountinfo(placed)
}

// open opens the component name of dir, at the path at in the container, and makes it if it is not there.
func (p *placer) open(dir *os.File, name, at string, directory bool) (*os.File, error) {
	f, err := openBelow(dir, name)
	if errors.Is(err, unix.ENOENT) {
		if err := p.make(dir, name, directory); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("cannot make %s: %w", at, err)
		}
		f, err = openBelow(dir, name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", at, err)
	}
	p.hold(f)
	st, err := stat(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	switch {
	case st.mode&unix.S_IFMT == unix.S_IFLNK:
		return nil, fmt.Errorf("%s is a symbolic link in the image; name a target that needs no links", at)
	case directory && !st.isDir():
		return nil, fmt.Errorf("%s is a %s in the image, not a directory", at, st.kind())
	case !directory && !st.isRegular():
		return nil, fmt.Errorf("%s is a %s in the image, not a regular file", at, st.kind())
	}
	return f, checkFilesystem(f, at)
}

func (p *placer) make(dir *os.File, name string, directory bool) error {
	create, flags := func() error { return unix.Mkdirat(int(dir.Fd()), name, 0o755) }, unix.AT_REMOVEDIR
	if !directory {
		create, flags = func() error {
			fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}, 0
	}
	err := create()
	if errors.Is(err, unix.EOVERFLOW) {
		// A mount of the image that maps IDs (mount_setattr(2), "ID-mapped mounts") has none for our root.
		err = p.asContainersRoot(create)
	}
	if err == nil {
		p.done = append(p.done, func() { unix.Unlinkat(int(dir.Fd()), name, flags) })
	}
	return err
}

// asContainersRoot runs f with the filesystem IDs of the container's root (setfsuid(2)), which are this thread's alone.
func (p *placer) asContainersRoot(f func() error) error {
	if err := unix.Setfsgid(int(p.opt.RootGroup)); err != nil {
		return os.NewSyscallError("setfsgid", err)
	}
	defer unix.Setfsgid(0)
	if err := unix.Setfsuid(int(p.opt.Root)); err != nil {
		return os.NewSyscallError("setfsuid", err)
	}
	defer unix.Setfsuid(0)
	return f()
}

// pin makes dir a mount onto itself, as Options.PinParents says, and gives its descriptor in that mount.
func (p *placer) pin(dir *os.File, at string) (*os.File, error) {
	if !p.opt.PinParents {
		return dir, nil
	}
	st, err := stat(int(dir.Fd()))
	if err != nil {
		return nil, err
	}
	if st.mountRoot || p.opt.ReadOnlyRoot && st.mountID == p.rootID {
		return dir, nil
	}
	// Recursive: the volumes below must stay in sight.
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return nil, syscallError("open_tree", "5.2", err)
	}
	tree := p.hold(os.NewFile(uintptr(fd), at))
	return tree, p.attach(tree, dir, st.mountID)
}

// attach mounts tree on target, which lies in the mount parentID.
func (p *placer) attach(tree, target *os.File, parentID uint64) error {
	if err := p.private(parentID); err != nil {
		return err
	}
	if err := unix.MoveMount(int(tree.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return syscallError("move_mount", "5.2", err)
	}
	p.done = append(p.done, func() { unix.Unmount(p.fdPath(tree), unix.MNT_DETACH) })
	return nil
}

// fdPath is a path that leads to f by its descriptor.
func (p *placer) fdPath(f *os.File) string {
	return "/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd()))
}

// checkMountinfo checks that the kernel's own list has m, and nothing else, at its target.
func (p *placer) checkMountinfo(m Placed) error {
	where := path.Join(p.rootPath, m.Target)
	entries, err := p.mountinfo(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != where, false })
	if err != nil {
		return err
	}
	if len(entries) != 1 || uint64(entries[0].ID) != m.MountID {
		return fmt.Errorf("mountinfo lists %d mounts at %s, where exactly ours (ID %d) should be", len(entries), where, m.MountID)
	}
	want := []string{"nosuid", "nodev", "ro"}
	switch {
	case m.Writable:
		want[2] = "noexec"
	case m.Unlocked:
		want[2] = "rw"
	}
	options := strings.Split(entries[0].Options, ",")
	for _, o := range want {
		if !slices.Contains(options, o) {
			return fmt.Errorf("mountinfo says %q of %s, without %q", entries[0].Options, where, o)
		}
	}
	return nil
}

func (p *placer) mountinfo(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	f, err := openat(int(p.self.Fd()), "mountinfo", unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := mountinfo.GetMountsFromReader(f, filter)
	if err != nil {
		return nil, fmt.Errorf("cannot read the mountinfo of the container's mount namespace: %w", err)
	}
	return entries, nil
}

// Verify checks that each of placed is what one finds at its target, with the same inode, mount and flags. Root is the
// container's root directory (process.Process.OpenRoot of its init).
func Verify(root *os.File, placed []Placed) error {
	for _, m := range placed {
		if err := m.verify(root); err != nil {
			return fmt.Errorf("mount %s of %s is not as it was placed: %w", m.Target, m.Source, err)
		}
	}
	return nil
}

func (m Placed) verify(root *os.File) error {
	names, err := split(m.Target)
	if err != nil {
		return err
	}
	f, err := openBelow(root, path.Join(names...))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := stat(int(f.Fd()))
	if err != nil {
		return err
	}
	return m.matches(st)
}

// matches compares m with what was found at its target.
func (m Placed) matches(found status) error {
	flags := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RDONLY)
	switch {
	case m.Writable:
		flags = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	case m.Unlocked:
		flags = unix.ST_NOSUID | unix.ST_NODEV
	}
	switch {
	case found.dev != m.Dev || found.ino != m.Ino:
		return fmt.Errorf("something else is there: inode %d of device %d instead of inode %d of device %d", found.ino, found.dev, m.Ino, m.Dev)
	case found.mountID != m.MountID || !found.mountRoot:
		return fmt.Errorf("another mount is there: ID %d instead of %d", found.mountID, m.MountID)
	case found.nlink == 0:
		return errors.New("what it shows has been removed on the host")
	case found.flags&flags != flags:
		return fmt.Errorf("its mount flags are %#x, without some of %#x", found.flags, flags)
	}
	return nil
}

// split gives the components of a target.
func split(target string) ([]string, error) {
	if !path.IsAbs(target) || path.Clean(target) != target || strings.ContainsRune(target, 0) {
		return nil, fmt.Errorf("target %q is not an absolute path without \".\", \"..\" and empty parts", target)
	}
	if target == "/" {
		return nil, errors.New("target is the root directory itself")
	}
	return strings.Split(target[1:], "/"), nil
}

// checkParent checks that nobody but root can rename or replace what lies in dir.
func (p *placer) checkParent(dir *os.File, at string) error {
	st, err := stat(int(dir.Fd()))
	if err != nil {
		return err
	}
	if st.uid != 0 && st.uid != p.opt.Root {
		return fmt.Errorf("%s belongs to UID %d in the image, who could put something else in place of the mount; it must be root's", at, st.uid)
	}
	if st.mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o in the image, so others than root could put something else in place of the mount; choose another target or an image with mode 0755 there", at, st.mode&0o7777)
	}
	return nil
}

// kernelFilesystems are those whose content is the kernel's, and which a gateway would not look for files on.
var kernelFilesystems = map[int64]string{
	unix.PROC_SUPER_MAGIC:    "procfs",
	unix.SYSFS_MAGIC:         "sysfs",
	unix.CGROUP_SUPER_MAGIC:  "a cgroup filesystem",
	unix.CGROUP2_SUPER_MAGIC: "a cgroup filesystem",
	unix.DEVPTS_SUPER_MAGIC:  "devpts",
	unix.SECURITYFS_MAGIC:    "securityfs",
	unix.DEBUGFS_MAGIC:       "debugfs",
	unix.TRACEFS_MAGIC:       "tracefs",
	unix.BPF_FS_MAGIC:        "bpffs",
}

func checkFilesystem(f *os.File, at string) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	if name, ok := kernelFilesystems[int64(st.Type)]; ok {
		return fmt.Errorf("%s lies on %s, which is no place for a mount; choose another target", at, name)
	}
	return nil
}

// openBelow opens name below dir, following no links and never leaving dir. Of a link in last place it gives the link.
func openBelow(dir *os.File, name string) (*os.File, error) {
	return lookup.Open(int(dir.Fd()), name, lookup.BeneathWithoutLinks, unix.O_NOFOLLOW)
}

func openat(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// status is what statx(2) and fstatfs(2) tell of a descriptor.
type status struct {
	dev, ino  uint64
	mode      uint16
	uid       uint32
	nlink     uint32
	mountID   uint64
	mountRoot bool
	flags     int64 // ST_RDONLY, …
}

func (s status) isDir() bool     { return s.mode&unix.S_IFMT == unix.S_IFDIR }
func (s status) isRegular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

func (s status) kind() string {
	switch s.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFLNK:
		return "symbolic link"
	}
	return "special file"
}

func stat(fd int) (status, error) {
	var x unix.Statx_t
	const mask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID // STATX_MNT_ID, STATX_ATTR_MOUNT_ROOT: Linux 5.8
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, mask, &x); err != nil {
		return status{}, os.NewSyscallError("statx", err)
	}
	if x.Mask&unix.STATX_MNT_ID == 0 || x.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return status{}, syscallError("statx with mount IDs", "5.8", unix.ENOSYS)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return status{}, os.NewSyscallError("fstatfs", err)
	}
	return status{
		dev: unix.Mkdev(x.Dev_major, x.Dev_minor), ino: x.Ino, mode: x.Mode, uid: x.Uid, nlink: x.Nlink, mountID: x.Mnt_id,
		mountRoot: x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, flags: fs.Flags,
	}, nil
}

// syscallError names the kernel that has the call, if this one lacks it.
func syscallError(call, since string, err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("this kernel has no %s; gatewarden's mounts need Linux 5.12 (this call came with %s): %w", call, since, err)
	}
	return os.NewSyscallError(call, err)
}
