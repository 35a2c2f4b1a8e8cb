package intercept

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// maxSockaddr is the length of the longest address that is looked at, struct sockaddr_un, in bytes.
const maxSockaddr = unix.SizeofSockaddrUnix

// askedAddress is what a program wants to bind to.
type askedAddress struct {
	family   int
	addrPort netip.AddrPort
	abstract string
}

func (a askedAddress) String() string {
	if a.family == unix.AF_UNIX {
		return "unix://" + strconv.Quote("@"+a.abstract)
	}
	return a.addrPort.String()
}

// parseSockaddr reads a struct sockaddr_in, sockaddr_in6 or sockaddr_un with an abstract name, of exactly the length that
// bind(2) was given. Anything else, paths and addresses with a zone included, is nothing that could be held transparently.
func parseSockaddr(b []byte) (askedAddress, bool) {
	if len(b) < 2 {
		return askedAddress{}, false
	}
	a := askedAddress{family: int(binary.NativeEndian.Uint16(b))}
	switch {
	case a.family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		a.addrPort = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	case a.family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6 && binary.NativeEndian.Uint32(b[24:]) == 0:
		a.addrPort = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), binary.BigEndian.Uint16(b[2:]))
	case a.family == unix.AF_UNIX && len(b) > 3 && b[2] == 0:
		a.abstract = string(b[3:])
	default:
		return askedAddress{}, false
	}
	return a, a.family == unix.AF_UNIX || a.addrPort.Port() != 0
}

type relation int

const (
	apart     relation = iota
	same               // the declared address itself
	competing          // another address, which the kernel gives to one of them only
	beside             // another address of the same port, which is guarded
)

// compare tells how what was asked for relates to the declared address.
func compare(declared profile.Address, asked askedAddress) relation {
	if name, abstract := declared.Abstract(); abstract {
		// A program that says the length of the whole structure means the name up to there, zero bytes included (unix(7)).
		if asked.family == unix.AF_UNIX && string(bytes.TrimRight([]byte(asked.abstract), "\x00")) == name {
			return same
		}
		return apart
	}
	if declared.Network == "unix" || asked.family == unix.AF_UNIX || declared.AddrPort.Port() != asked.addrPort.Port() {
		return apart
	}
	if declared.AddrPort == asked.addrPort {
		return same
	}
	d, a := declared.AddrPort.Addr(), asked.addrPort.Addr()
	if d.IsUnspecified() || a.IsUnspecified() || a.Unmap() == d {
		return competing
	}
	return beside
}
