// Package listener proves who listens where inside a container's network namespace. The facts come from the kernel's
// socket tables over NETLINK_SOCK_DIAG (sock_diag(7)), never from files that the container mounts, and who owns a socket
// is decided by its inode number: the N of the "socket:[N]" that /proc/PID/fd shows for each of its holders.
//
// # What is and is not seen
//
// The tables are those of one network namespace. For TCP that is the whole truth: a connection can only arrive at a
// listening socket of the namespace that it enters. MPTCP listeners (Go programs make them by default) appear as the TCP
// listeners they are, under the inode of the descriptor that their owner holds. It is the whole truth for abstract unix
// sockets too: their names are per network namespace (unix(7)).
//
// A unix socket with a path is reached by its file, whatever name it was bound by: connect(2) looks up the path and takes
// the socket that was bound to that inode. So the file at the declared path, below the container's root, is compared with
// the file of each listener (UNIX_DIAG_VFS). A name alone proves nothing: another mount namespace or chroot can bind the
// same one, and who may write in the directory can put another socket's file in its place. A connection by path crosses
// network namespaces, so the file can also be that of a listener which the table does not show, or of nobody any more; see
// NoSocket.
package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Socket is one listening socket.
type Socket struct {
	Inode  uint64
	UID    uint32         // of who made it, in the user namespace of the Table's opener
	Local  netip.AddrPort // TCP: the address as bound; IPv4-mapped addresses are kept
	V6Only bool           // TCP over IPv6: takes no IPv4 connections (always so when bound to one IPv6 address)
	Name   string         // unix: what it was bound by; an abstract name begins with a zero byte
	Exact  bool           // bound to exactly the address that was asked for, not to a wildcard or another one; unix: reached by it

	file diagFile // unix, bound to a path
}

// NoSocket is the Inode of what Find gives for a file at the path of a unix address that is not the file of any listener
// in the Table: one that its socket has left behind, of a listener in another network namespace, or no socket's at all.
// The UID is then the file's owner.
const NoSocket = 0

// String names the socket for messages: "0.0.0.0:80 (inode 7, uid 0)".
func (s Socket) String() string {
	where := s.Local.String()
	if s.Name != "" {
		// Quoted: anybody can choose any bytes.
		where = strconv.Quote(displayed(s.Name))
	}
	if s.Inode == NoSocket {
		return fmt.Sprintf("the file %s (uid %d), which is no listener's of this network namespace", where, s.UID)
	}
	return fmt.Sprintf("%s (inode %d, uid %d)", where, s.Inode, s.UID)
}

func displayed(name string) string {
	if rest, abstract := strings.CutPrefix(name, "\x00"); abstract {
		return "@" + rest
	}
	return name
}

// maxSockets bounds what Find returns. So many listeners on one address are never one, see Judge.
const maxSockets = 256

// findTimeout bounds one Find. A dump takes tens of microseconds; only a workload that holds hundreds of thousands of
// listening unix sockets can make it take long.
const findTimeout = time.Second

// Table asks one network namespace for its listening sockets. It may be used from several goroutines.
type Table struct {
	mu  sync.Mutex // one dump at a time: the kernel answers EBUSY to a second one on the same netlink socket
	fd  int        // -1: closed
	seq uint32
	buf [8192]byte // the kernel fits a dump's messages to the size of the reader's buffer, from 8 KiB on
}

// Open opens a Table inside the network namespace ns (an open /proc/PID/ns/net). It keeps the namespace alive until it is
// closed.
func Open(ns *os.File) (*Table, error) {
	t := &Table{fd: -1}
	err := netns.Do(ns, func() (err error) {
		t.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the socket tables of network namespace %s: %w", ns.Name(), err)
	}
	timeout := unix.NsecToTimeval(int64(findTimeout))
	if err := unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(t.fd)
		return nil, fmt.Errorf("cannot bound the reads of the socket tables of network namespace %s: %w", ns.Name(), err)
	}
	return t, nil
}

// Close releases the namespace. A second Close does nothing.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 {
		return nil
	}
	err := unix.Close(t.fd)
	t.fd = -1
	return err
}

// Find gives the listening sockets that compete for a: for TCP every one on the same port, whatever address and family it
// is bound to; for unix those that a connection reaches, and those that were bound by the same path. No more than 256 are
// returned. Several sockets differ in their inodes; which of them count, and for whom, is Judge's to say.
//
// ProcDir is an open descriptor of the /proc/PID directory, in the host's procfs, of a process of the container (O_PATH
// will do). The paths of unix sockets are looked up below its root, as the container would; other addresses don't need it.
// A process that is gone gives ErrGone.
func (t *Table) Find(a profile.Address, procDir int) ([]Socket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 {
		return nil, fmt.Errorf("cannot look for listeners: %w", os.ErrClosed)
	}
	var found []Socket
	keep := func(s Socket) {
		if len(found) < maxSockets {
			found = append(found, s)
		}
	}
	deadline := time.Now().Add(findTimeout)
	name, abstract := a.Abstract()
	switch {
	case abstract && name != "":
		err := t.dump(unixRequest(), deadline, func(b []byte) {
			if s, ok := parseUnix(b); ok && s.Name == "\x00"+name {
				s.Exact = true
				keep(s)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("cannot look for listeners on %s (unix_diag): %w", a, err)
		}
	case a.Network == "unix" && a.Path != "":
		var err error
		if found, err = t.findPath(a.Path, procDir, deadline); err != nil {
			return nil, fmt.Errorf("cannot look for listeners on %s (unix_diag): %w", a, err)
		}
	case (a.Network == "tcp" || a.Network == "tcp6") && a.AddrPort.Port() != 0:
		want := a.AddrPort.Addr().Unmap()
		// Always both families: a dual-stack [::] takes the connections to an IPv4 address.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := t.dump(tcpRequest(family, a.AddrPort.Port()), deadline, func(b []byte) {
				if s, ok := parseTCP(b); ok && s.Local.Port() == a.AddrPort.Port() {
					s.Exact = s.Local.Addr().Unmap() == want
					keep(s)
				}
			})
			// A kernel without IPv6 has no table of it: ENOENT from a family that nobody can listen in.
			if err != nil && (family != unix.AF_INET6 || !errors.Is(err, unix.ENOENT)) {
				return nil, fmt.Errorf("cannot look for listeners on tcp port %d (inet_diag, tcp_diag): %w", a.AddrPort.Port(), err)
			}
		}
	default:
		return nil, fmt.Errorf("cannot look for listeners on network %q: not tcp, tcp6 or unix with an address", a.Network)
	}
	return found, nil
}

// Values of <linux/sock_diag.h>, <linux/inet_diag.h> and <linux/unix_diag.h> that golang.org/x/sys/unix lacks.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY

	tcpListen = 10 // TCP_LISTEN; unix sockets use the same numbers for their states

	inetReqSize     = 56 // struct inet_diag_req_v2
	inetMsgSize     = 72 // struct inet_diag_msg
	inetDiagV6Only  = 11 // INET_DIAG_SKV6ONLY, since Linux 3.19
	unixReqSize     = 24 // struct unix_diag_req
	unixMsgSize     = 16 // struct unix_diag_msg
	unixShowName    = 1 << 0
	unixShowVFS     = 1 << 1
	unixShowUID     = 1 << 6 // since Linux 5.4; earlier kernels ignore it
	unixDiagName    = 0
	unixDiagVFS     = 1
	unixDiagUID     = 7
	unknownOwnerUID = ^uint32(0)
)

// tcpRequest asks for TCP listeners on port. inet_diag applies the source port of the request as a filter to listening
// sockets, so no filter bytecode is needed.
func tcpRequest(family uint8, port uint16) []byte {
	b := make([]byte, inetReqSize)
	b[0] = family
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<tcpListen)
	binary.BigEndian.PutUint16(b[8:], port)
	return b
}

// unixRequest asks for all listening unix sockets with name, file and UID: unix_diag filters by state only.
func unixRequest() []byte {
	b := make([]byte, unixReqSize)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], 1<<tcpListen)
	binary.NativeEndian.PutUint32(b[12:], unixShowName|unixShowVFS|unixShowUID)
	return b
}

// dump sends one dump request and calls each with the payload of every answer.
func (t *Table) dump(request []byte, deadline time.Time, each func([]byte)) error {
	return t.ask(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, deadline, each)
}

// ask sends one request. One without NLM_F_DUMP has one answer, or an error.
func (t *Table) ask(request []byte, how uint16, deadline time.Time, each func([]byte)) error {
	t.seq++
	m := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+inetReqSize)
	binary.NativeEndian.PutUint32(m[0:], uint32(unix.NLMSG_HDRLEN+len(request)))
	binary.NativeEndian.PutUint16(m[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(m[6:], how)
	binary.NativeEndian.PutUint32(m[8:], t.seq)
	m = append(m, request...)
	if err := unix.Sendto(t.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		n, _, flags, _, err := unix.Recvmsg(t.fd, t.buf[:], nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			return errors.New("the kernel's answer is longer than the buffer")
		case time.Now().After(deadline):
			return fmt.Errorf("the namespace holds too many sockets to read them within %v: %w", findTimeout, os.ErrDeadlineExceeded)
		}
		answered := false
		done, err := parseDump(t.buf[:n], t.seq, func(b []byte) {
			answered = true
			each(b)
		})
		if done || err != nil || answered && how&unix.NLM_F_DUMP == 0 {
			return err
		}
	}
}

// parseDump walks the netlink messages in b and calls each with the payload of every answer to request seq. Messages with
// another number are what an earlier request that failed half-way left behind. Done tells that the dump is complete.
func parseDump(b []byte, seq uint32, each func([]byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b[0:]))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return true, errors.New("the kernel's answer has a message of impossible length")
		}
		payload := b[unix.NLMSG_HDRLEN:length]
		if binary.NativeEndian.Uint32(b[8:]) == seq {
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				// Both begin with a negative errno, or 0.
				if len(payload) >= 4 {
					if e := int32(binary.NativeEndian.Uint32(payload)); e < 0 {
						return true, unix.Errno(-e)
					}
				}
				return true, nil
			case sockDiagByFamily:
				each(payload)
			}
		}
		b = b[min(align4(length), len(b)):]
	}
	return false, nil
}

// attributes walks the netlink attributes in b.
func attributes(b []byte, each func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofNlAttr:length])
		b = b[min(align4(length), len(b)):]
	}
}

func align4(n int) int { return (n + 3) &^ 3 }

// parseTCP reads one struct inet_diag_msg with its attributes.
func parseTCP(b []byte) (Socket, bool) {
	if len(b) < inetMsgSize || b[1] != tcpListen {
		return Socket{}, false
	}
	port := binary.BigEndian.Uint16(b[4:])
	s := Socket{
		UID:   binary.NativeEndian.Uint32(b[64:]),
		Inode: uint64(binary.NativeEndian.Uint32(b[68:])),
	}
	switch b[0] {
	case unix.AF_INET:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), port)
	case unix.AF_INET6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	default:
		return Socket{}, false
	}
	attributes(b[inetMsgSize:], func(kind uint16, value []byte) {
		if kind == inetDiagV6Only && len(value) == 1 {
			s.V6Only = value[0] != 0
		}
	})
	return s, true
}

// parseUnix reads one struct unix_diag_msg with its attributes. Sockets without a name are not reported: nobody can
// connect to them.
func parseUnix(b []byte) (Socket, bool) {
	if len(b) < unixMsgSize || b[0] != unix.AF_UNIX || b[2] != tcpListen {
		return Socket{}, false
	}
	s := Socket{
		UID:   unknownOwnerUID,
		Inode: uint64(binary.NativeEndian.Uint32(b[4:])),
	}
	attributes(b[unixMsgSize:], func(kind uint16, value []byte) {
		switch {
		case kind == unixDiagName && len(value) > 0:
			s.Name = string(value)
			if value[0] != 0 {
				s.Name, _, _ = strings.Cut(s.Name, "\x00")
			}
		case kind == unixDiagVFS && len(value) == 8:
			s.file = diagFile{ino: binary.NativeEndian.Uint32(value), dev: binary.NativeEndian.Uint32(value[4:])}
		case kind == unixDiagUID && len(value) == 4:
			s.UID = binary.NativeEndian.Uint32(value)
		}
	})
	return s, s.Name != ""
}
