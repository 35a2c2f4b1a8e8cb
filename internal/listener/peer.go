package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Peer gives the inode of the socket at the other end of a connection that the caller has made to a listener of the
// network namespace: 0 as long as nobody has accepted it, since the kernel completes a connection by itself and gives the
// socket an inode when it is accepted. It is an exact lookup of one socket, whatever else the namespace holds.
//
// The connection must have been made from inside the namespace, that of a unix socket too.
func (t *Table) Peer(conn net.Conn) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 {
		return 0, fmt.Errorf("cannot look for the other end of a connection: %w", os.ErrClosed)
	}
	var inode uint64
	var err error
	switch local := conn.LocalAddr().(type) {
	case *net.TCPAddr:
		remote, ok := conn.RemoteAddr().(*net.TCPAddr)
		if !ok {
			return 0, errors.New("cannot look for the other end of a connection that has none")
		}
		inode, err = t.tcpPeer(local.AddrPort(), remote.AddrPort())
	case *net.UnixAddr:
		inode, err = t.unixPeer(conn)
	default:
		err = fmt.Errorf("not a connection of TCP or a unix socket: %T", local)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look for the other end of the connection to %s: %w", conn.RemoteAddr(), err)
	}
	return inode, nil
}

// tcpPeer looks for the socket whose own address is the connection's remote one. The kernel falls back to the listener if
// there is none.
func (t *Table) tcpPeer(local, remote netip.AddrPort) (inode uint64, err error) {
	l, r := local.Addr().Unmap(), remote.Addr().Unmap()
	b := make([]byte, inetReqSize)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if r.Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0))
	binary.BigEndian.PutUint16(b[8:], remote.Port())
	binary.BigEndian.PutUint16(b[10:], local.Port())
	copy(b[12:28], r.AsSlice())
	copy(b[28:44], l.AsSlice())
	binary.NativeEndian.PutUint64(b[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	err = t.get(b, func(m []byte) {
		if len(m) >= inetMsgSize && m[1] != tcpListen {
			inode = uint64(binary.NativeEndian.Uint32(m[68:]))
		}
	})
	if errors.Is(err, unix.ENOENT) {
		err = nil // not complete yet, or closed again
	}
	return inode, err
}

const (
	unixShowPeer = 1 << 2
	unixDiagPeer = 2
)

// unixPeer looks for the client's own socket, which names its peer.
func (t *Table) unixPeer(conn net.Conn) (inode uint64, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("not a socket: %T", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var own unix.Stat_t
	if cerr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &own) }); cerr != nil || err != nil {
		return 0, errors.Join(cerr, err)
	}
	b := make([]byte, unixReqSize)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0))
	binary.NativeEndian.PutUint32(b[8:], uint32(own.Ino))
	binary.NativeEndian.PutUint32(b[12:], unixShowPeer)
	binary.NativeEndian.PutUint64(b[16:], ^uint64(0)) // any cookie
	err = t.get(b, func(m []byte) {
		if len(m) < unixMsgSize {
			return
		}
		attributes(m[unixMsgSize:], func(kind uint16, value []byte) {
			if kind == unixDiagPeer && len(value) == 4 {
				inode = uint64(binary.NativeEndian.Uint32(value))
			}
		})
	})
	return inode, err
}

// get sends one request for one socket.
func (t *Table) get(request []byte, each func([]byte)) error {
	return t.ask(request, unix.NLM_F_REQUEST, time.Now().Add(findTimeout), each)
}
