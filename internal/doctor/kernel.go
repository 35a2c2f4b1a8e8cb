package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel tries each system call that the hook, the warden and the join need. The versions are those of the calls'
// manual pages.
func kernel() []Finding {
	var all []Finding
	for _, c := range []struct {
		name, since, needed string
		try                 func() error
	}{
		{"pidfd_open", "5.3", "processes are held by handle", func() error { return withSelf(func(int) error { return nil }) }},
		{"pidfd_send_signal", "5.1", "signals go to exactly one process", func() error {
			return withSelf(func(fd int) error { return unix.PidfdSendSignal(fd, 0, nil, 0) })
		}},
		{"waitid P_PIDFD", "5.4", "a gateway's death is proven by its exit status", tryWaitid},
		{"openat2", "5.6", "mount targets are resolved inside the container's root", func() error {
			return closing(unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{
				Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
				Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
			}))
		}},
		{"open_tree", "5.2", "mounts are placed by descriptor", func() error {
			return closing(unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
		}},
		{"move_mount", "5.2", "mounts are placed by descriptor", func() error {
			return exists(unix.MoveMount(-1, "", -1, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), unix.EBADF)
		}},
		{"mount_setattr", "5.12", "mounts are read-only before anybody sees them", tryMountSetattr},
		{"close_range", "5.9", "the hook keeps nothing open that it was handed", func() error {
			// Two numbers that no table reaches: nothing is closed.
			return unix.CloseRange(1<<31-2, 1<<31-1, 0)
		}},
		{"seccomp", "4.14", "a container's filter holds for its gateway", func() error { return seccompAction(unix.SECCOMP_RET_ERRNO) }},
		{"seccomp user notification", "5.0", "the launcher can be stopped at a call", func() error { return seccompAction(unix.SECCOMP_RET_USER_NOTIF) }},
		{"sock_diag inet", "3.3", "a TCP listener's owner is proven", func() error { return sockDiag(unix.AF_INET) }},
		{"sock_diag unix", "3.3", "a unix listener's owner is proven", func() error { return sockDiag(unix.AF_UNIX) }},
	} {
		f := Finding{Area: "kernel", Name: c.name, Level: OK, Detail: "works: " + c.needed}
		if err := c.try(); err != nil {
			f.Level, f.Detail, f.Remedy = Fail, err.Error()+"; needed so that "+c.needed, kernelRemedy(c.name, c.since, err)
		}
		all = append(all, f)
	}
	return all
}

func kernelRemedy(name, since string, err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "run gatewarden doctor as root of the host, outside of sandboxes that filter system calls"
	case errors.Is(err, unix.ENOENT) && name == "sock_diag inet":
		return "load the modules: modprobe inet_diag && modprobe tcp_diag"
	case errors.Is(err, unix.ENOENT) && name == "sock_diag unix":
		return "load the module: modprobe unix_diag"
	}
	return "boot a kernel of Linux " + since + " or newer with this call enabled; 5.12 has all that is needed"
}

func withSelf(do func(fd int) error) error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func closing(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// exists turns the answer of a call to bad arguments into whether the call is there.
func exists(err error, expected unix.Errno) error {
	if err == expected {
		return nil
	}
	return err
}

// tryWaitid waits for this process itself, which nobody can: ECHILD from a kernel that knows P_PIDFD, EINVAL from others.
func tryWaitid() error {
	return withSelf(func(fd int) error {
		return exists(unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil), unix.ECHILD)
	})
}

// tryMountSetattr sets attributes of a detached copy, which is gone when its descriptor is closed.
func tryMountSetattr() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree, which comes first: %w", err)
	}
	defer unix.Close(fd)
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
	})
}

// seccompAction asks whether filters may return action (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
func seccompAction(action uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return errno
	}
	return nil
}

// sockDiag asks for the listening sockets of a family and looks at the first answer only (sock_diag(7)).
func sockDiag(family uint8) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	if err := unix.Sendto(fd, diagRequest(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	return diagAnswer(answer[:n])
}

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
	nlmsgHeader      = 16
	listening        = 1 << 10 // TCP_LISTEN, as a bit
)

// diagRequest is a struct nlmsghdr followed by a struct inet_diag_req_v2 or unix_diag_req.
func diagRequest(family uint8) []byte {
	size := nlmsgHeader + 56
	if family == unix.AF_UNIX {
		size = nlmsgHeader + 24
	}
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b[0:], uint32(size))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[nlmsgHeader] = family
	if family != unix.AF_UNIX {
		b[nlmsgHeader+1] = unix.IPPROTO_TCP
	}
	binary.NativeEndian.PutUint32(b[nlmsgHeader+4:], listening)
	return b
}

// diagAnswer tells whether the first message of an answer is a socket or the list's end, rather than an error.
func diagAnswer(b []byte) error {
	if len(b) < nlmsgHeader {
		return fmt.Errorf("an answer of %d bytes", len(b))
	}
	switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
	case sockDiagByFamily, unix.NLMSG_DONE:
		return nil
	case unix.NLMSG_ERROR:
		if len(b) < nlmsgHeader+4 {
			return errors.New("an error without a number")
		}
		return unix.Errno(-int32(binary.NativeEndian.Uint32(b[nlmsgHeader:])))
	default:
		return fmt.Errorf("an answer of kind %d", kind)
	}
}
