package held

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/process"
)

// maxCarried is how many descriptors one message takes (SCM_MAX_FD of unix(7)).
const maxCarried = 253

// Carry gives a socket in whose queue copies of the given ones lie: whoever has it open keeps these open, without a descriptor
// of theirs. It is for a gateway that gets a socket by its bind only, and never gets a guard: should the warden be lost while
// there is no standby, nobody else would have them.
func Carry(sockets []*os.File) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a carrier for held sockets: %w", os.NewSyscallError("socketpair", err))
	}
	defer unix.Close(pair[0])
	var fds []int
	for _, s := range sockets {
		fds = append(fds, int(s.Fd()))
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		unix.Close(pair[1])
		return nil, fmt.Errorf("cannot put held sockets into a carrier: %w", os.NewSyscallError("sendmsg", err))
	}
	return os.NewFile(uintptr(pair[1]), "carrier"), nil
}

// Carried gives the socket with that inode out of a carrier, which keeps it. Nil: f is no carrier, or does not have it.
func Carried(f *os.File, inode uint64) *os.File {
	oob := make([]byte, unix.CmsgSpace(4*maxCarried))
	// To peek makes further copies (unix(7)).
	_, n, _, _, err := unix.Recvmsg(int(f.Fd()), make([]byte, 1), oob, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil
	}
	var found *os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			var st unix.Stat_t
			if found == nil && unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK && st.Ino == inode {
				found, _ = process.Unwatched(fd, "held socket")
			}
			unix.Close(fd)
		}
	}
	return found
}
