package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/process"
)

// Show sees to it that each of sources is what one finds at its target in the container of init, where Place or Show has put
// another tree before. What is there already stays. The result is like Place's.
//
// The change is atomic from Linux 6.5 on (move_mount(2), MOVE_MOUNT_BENEATH): the new mount is put beneath the old one and
// comes to light when that is taken away. Before, there is a moment in which neither is there, so no gateway should be looking.
// A change that was interrupted is finished, or undone, by the next one.
func Show(init *process.Process, sources []Source) (placed []Placed, err error) {
	ns, err := init.OpenNamespace("mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return show(init, ns, sources, nil)
}

// Preview gives a mount namespace that is a copy of the container's, in which sources are what one finds at their targets. The
// container's own namespace is not touched. It goes with the last descriptor of it and the last process in it.
func Preview(init *process.Process, sources []Source) (*os.File, error) {
	ns, err := init.OpenNamespace("mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var preview *os.File
	enter := func(self *os.File) error {
		// What is mounted in it from here on is seen nowhere else: attach refuses mounts with shared propagation.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare CLONE_NEWNS", err)
		}
		preview, err = openat(int(self.Fd()), "ns/mnt", unix.O_RDONLY)
		return err
	}
	if _, err := show(init, ns, sources, enter); err != nil {
		if preview != nil {
			preview.Close()
		}
		return nil, err
	}
	return preview, nil
}

// show works in ns, after enter if that is not nil.
func show(init *process.Process, ns *os.File, sources []Source, enter func(self *os.File) error) (placed []Placed, err error) {
	trees, err := cloneAll(sources)
	defer closeAll(trees)
	if err != nil {
		return nil, err
	}
	err = inNamespace(ns, func(self *os.File) error {
		if enter != nil {
			if err := enter(self); err != nil {
				return err
			}
		}
		// After setns(2), and in a copy after unshare(2), the thread's root is that of the namespace: the container's.
		root, err := openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer root.Close()
		p, err := newPlacer(self, root, Options{})
		if err != nil {
			return err
		}
		defer p.close()
		put := p.show
		if enter != nil {
			put = p.cover
		}
		for i, s := range sources {
			m, err := put(s, trees[i])
			if err != nil {
				return fmt.Errorf("cannot show %s at %s in the container: %w", s.Path, s.Target, err)
			}
			placed = append(placed, m)
		}
		return nil
	})
	return placed, err
}

// show puts tree at s.Target, where a mount is, in its place.
func (p *placer) show(s Source, tree *os.File) (Placed, error) {
	source, err := stat(int(tree.Fd()))
	if err != nil {
		return Placed{}, err
	}
	dir, name, err := p.parent(s.Target)
	if err != nil {
		return Placed{}, err
	}
	// An interrupted change has left two: the old one on top. What is beneath it came later.
	for {
		there, err := p.stack(s.Target)
		if err != nil {
			return Placed{}, err
		}
		if there == 0 {
			return Placed{}, errors.New("nothing is mounted there any more; the container has to be recreated")
		}
		if there == 1 {
			break
		}
		if err := detach(dir, name); err != nil {
			return Placed{}, err
		}
	}
	found, err := p.look(dir, name)
	if err != nil {
		return Placed{}, err
	}
	placed := Placed{
		Source: s.Path, Target: s.Target, Writable: s.Writable, Unlocked: s.Unlocked,
		Dev: source.dev, Ino: source.ino, MountID: found.mountID,
	}
	if placed.matches(found) == nil {
		return placed, nil
	}
	if err := p.exchange(tree, dir, name); err != nil {
		return Placed{}, err
	}
	if found, err = p.look(dir, name); err != nil {
		return Placed{}, err
	}
	placed.MountID = source.mountID
	if err := placed.matches(found); err != nil {
		return Placed{}, err
	}
	return placed, p.checkMountinfo(placed)
}

// cover puts tree at s.Target, where a mount is, on top of it. It is for a namespace that goes before anybody could miss what is
// beneath. Of a container with a user namespace of its own no mount can be taken away in a copy of its mount namespace: that
// belongs to our user namespace, and what comes from one with less rights is locked together (mount_namespaces(7), "Restrictions
// on mount namespaces").
func (p *placer) cover(s Source, tree *os.File) (Placed, error) {
	source, err := stat(int(tree.Fd()))
	if err != nil {
		return Placed{}, err
	}
	dir, name, err := p.parent(s.Target)
	if err != nil {
		return Placed{}, err
	}
	target, err := openBelow(dir, name)
	if err != nil {
		return Placed{}, fmt.Errorf("cannot open the target: %w", err)
	}
	defer target.Close()
	beneath, err := stat(int(target.Fd()))
	if err != nil {
		return Placed{}, err
	}
	if !beneath.mountRoot {
		return Placed{}, errors.New("nothing is mounted there any more; the container has to be recreated")
	}
	if err := p.attach(tree, target, beneath.mountID); err != nil {
		return Placed{}, err
	}
	found, err := p.look(dir, name)
	if err != nil {
		return Placed{}, err
	}
	placed := Placed{
		Source: s.Path, Target: s.Target, Writable: s.Writable, Unlocked: s.Unlocked,
		Dev: source.dev, Ino: source.ino, MountID: source.mountID,
	}
	return placed, placed.matches(found)
}

// parent opens the directory that target is in, and gives the name that it has there.
func (p *placer) parent(target string) (dir *os.File, name string, err error) {
	names, err := split(target)
	if err != nil {
		return nil, "", err
	}
	dir, name = p.root, names[len(names)-1]
	if len(names) > 1 {
		if dir, err = openBelow(p.root, path.Join(names[:len(names)-1]...)); err != nil {
			return nil, "", fmt.Errorf("cannot open the directory above it: %w", err)
		}
		p.hold(dir)
	}
	return dir, name, nil
}

// look gives what one finds at name in dir.
func (p *placer) look(dir *os.File, name string) (status, error) {
	f, err := openBelow(dir, name)
	if err != nil {
		return status{}, fmt.Errorf("cannot open the target: %w", err)
	}
	defer f.Close()
	return stat(int(f.Fd()))
}

// stack tells how many mounts lie on one another at target.
func (p *placer) stack(target string) (int, error) {
	where := path.Join(p.rootPath, target)
	entries, err := p.mountinfo(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != where, false })
	return len(entries), err
}

// moveMountBeneath is MOVE_MOUNT_BENEATH of linux/mount.h (6.5), which package unix does not have.
const moveMountBeneath = 0x200

// exchange puts tree in the place of the mount that is at name in dir.
func (p *placer) exchange(tree, dir *os.File, name string) error {
	target, err := openBelow(dir, name)
	if err != nil {
		return fmt.Errorf("cannot open the target: %w", err)
	}
	defer target.Close()
	parent, err := stat(int(dir.Fd()))
	if err != nil {
		return err
	}
	if err := p.private(parent.mountID); err != nil {
		return err
	}
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH | moveMountBeneath
	switch err := unix.MoveMount(int(tree.Fd()), "", int(target.Fd()), "", flags); {
	case err == nil:
		return detach(dir, name)
	case !errors.Is(err, unix.EINVAL): // what kernels before 6.5 say to a flag that they do not know
		return syscallError("move_mount", "5.2", err)
	}
	return p.replace(tree, dir, name, parent.mountID)
}

// replace is exchange for kernels before 6.5: the mount is taken away, and then tree put there. parent is the mount that dir is in.
func (p *placer) replace(tree, dir *os.File, name string, parent uint64) error {
	if err := detach(dir, name); err != nil {
		return err
	}
	bare, err := openBelow(dir, name)
	if err != nil {
		return fmt.Errorf("cannot open the target: %w", err)
	}
	defer bare.Close()
	return p.attach(tree, bare, parent)
}

// detach takes away the topmost mount at name in dir. Whoever has something of it open keeps that.
func detach(dir *os.File, name string) error {
	// By a path of one component, from a directory that is held: no other path leads past what the container controls. The
	// thread has a working directory of its own (see inNamespace).
	if err := unix.Fchdir(int(dir.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Unmount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return os.NewSyscallError("umount2", err)
	}
	return nil
}

// private checks that what is mounted in the mount with that ID appears nowhere else.
func (p *placer) private(id uint64) error {
	entries, err := p.mountinfo(func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != id, false })
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return fmt.Errorf("mountinfo lists %d mounts with the ID %d of the one that holds it", len(entries), id)
	}
	// A mount on a shared mount appears in all its peers, the host's included (mount_namespaces(7)).
	if slices.ContainsFunc(strings.Fields(entries[0].Optional), func(f string) bool { return strings.HasPrefix(f, "shared:") }) {
		return fmt.Errorf("%s is a mount with shared propagation, so ours would appear outside the container; mount it rprivate or rslave", entries[0].Mountpoint)
	}
	return nil
}
