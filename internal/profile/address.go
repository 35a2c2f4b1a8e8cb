package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
)

// maxSocketPath is what fits into sun_path with its closing NUL (unix(7)). An abstract name needs none, but programs differ in
// what they make of the last byte.
const maxSocketPath = 107

// ParseAddress reads tcp://127.0.0.1:80, tcp6://[::1]:80, unix:///run/x or unix://@name: an address literal in its shortest
// form, so that equal addresses are equal strings, and a port from 1 to 65535. 0.0.0.0 and [::] mean every address.
func ParseAddress(s string) (Address, error) {
	network, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Address{}, fmt.Errorf("%s is not an address: write tcp://127.0.0.1:8080, tcp6://[::1]:8080, unix:///run/NAME.sock or unix://@NAME",
			stricttoml.Quote(s))
	}
	switch network {
	case "tcp", "tcp6":
		ap, err := parseAddrPort(rest)
		if err != nil {
			return Address{}, err
		}
		switch {
		case network == "tcp" && ap.Addr().Is6():
			return Address{}, fmt.Errorf("tcp:// is for IPv4; write tcp6://%s", ap)
		case network == "tcp6" && ap.Addr().Is4():
			return Address{}, fmt.Errorf("tcp6:// is for IPv6; write tcp://%s", ap)
		}
		return Address{Network: network, AddrPort: ap}, nil
	case "unix":
		name, abstract := strings.CutPrefix(rest, "@")
		switch {
		case abstract && name == "":
			return Address{}, errors.New("the name of the abstract socket is missing; write unix://@NAME")
		case abstract && strings.ContainsRune(name, 0):
			return Address{}, errors.New("holds a NUL character")
		case abstract:
		case rest == "/":
			return Address{}, errors.New("the path of the socket is missing; write unix:///run/NAME.sock")
		default:
			if err := checkPath(rest); err != nil {
				return Address{}, err
			}
		}
		if len(rest) > maxSocketPath {
			return Address{}, fmt.Errorf("the socket's path is %d bytes long; the kernel takes at most %d", len(rest), maxSocketPath)
		}
		return Address{Network: network, Path: rest}, nil
	default:
		return Address{}, fmt.Errorf("%s:// is not known here; use tcp:// (IPv4), tcp6:// (IPv6) or unix://", shorten(network))
	}
}

// parseAddrPort reads 127.0.0.1:80 or [::1]:80, in its shortest form.
func parseAddrPort(s string) (netip.AddrPort, error) {
	var none netip.AddrPort
	host, _, _ := strings.Cut(s, ":")
	if host == "localhost" {
		return none, errors.New("names are not looked up, not even localhost: write 127.0.0.1 (tcp) or [::1] (tcp6)")
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			return none, fmt.Errorf("%s has no port; write 127.0.0.1:PORT, an IPv6 address in brackets: [::1]:PORT", stricttoml.Quote(s))
		}
		return none, fmt.Errorf("%s is not an address literal and a port from 1 to 65535, such as 127.0.0.1:8080 or [::1]:8080; names are not looked up",
			stricttoml.Quote(s))
	}
	switch a := ap.Addr(); {
	case ap.Port() == 0:
		return none, errors.New("port 0 would be another port at each start; choose one from 1 to 65535")
	case a.Is4In6():
		return none, fmt.Errorf("%s is an IPv4 address written as IPv6; write %s", a, netip.AddrPortFrom(a.Unmap(), ap.Port()))
	case a.Zone() != "":
		return none, fmt.Errorf("the zone %s is refused; use an address that needs none", stricttoml.Quote("%"+a.Zone()))
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return none, fmt.Errorf("nobody can listen on %s by TCP: it is a multicast or broadcast address", a)
	case ap.String() != s:
		return none, fmt.Errorf("%s is not the shortest form; write %s", stricttoml.Quote(s), ap)
	}
	return ap, nil
}

// Abstract gives the name of an abstract unix socket, without the "@".
func (a Address) Abstract() (string, bool) {
	if a.Network != "unix" {
		return "", false
	}
	return strings.CutPrefix(a.Path, "@")
}

// String is what ParseAddress reads.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix://" + a.Path
	}
	return a.Network + "://" + a.AddrPort.String()
}

// loopback gives where to connect to reach a listener on a: for 0.0.0.0 and [::] the loopback address, as the kernel
// takes them too.
func (a Address) loopback() Address {
	if a.Network != "unix" && a.AddrPort.Addr().IsUnspecified() {
		lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if a.AddrPort.Addr().Is6() {
			lo = netip.IPv6Loopback()
		}
		a.AddrPort = netip.AddrPortFrom(lo, a.AddrPort.Port())
	}
	return a
}

// covers says whether a socket on a takes the place of one on b.
func (a Address) covers(b Address) bool {
	if a == b {
		return true
	}
	return a.Network == b.Network && a.Network != "unix" && a.AddrPort.Port() == b.AddrPort.Port() &&
		(a.AddrPort.Addr().IsUnspecified() || b.AddrPort.Addr().IsUnspecified())
}

// checkPath says what is wrong with a path that must be absolute and in its shortest form.
func checkPath(p string) error {
	switch {
	case p == "":
		return errors.New("is empty; an absolute path is needed")
	case strings.ContainsRune(p, 0):
		return errors.New("holds a NUL character")
	case !path.IsAbs(p):
		return fmt.Errorf("%s is not absolute; write the path from / on", stricttoml.Quote(p))
	case path.Clean(p) != p:
		return fmt.Errorf("%s is not in its shortest form; write %s", stricttoml.Quote(p), stricttoml.Quote(path.Clean(p)))
	case len(p) > 4095:
		return fmt.Errorf("the path is %d bytes long; the kernel takes at most 4095", len(p))
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > 255 {
			return fmt.Errorf("a part of the path is %d bytes long; the kernel takes at most 255", len(part))
		}
	}
	return nil
}

// within says whether the clean path p is dir or lies in it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func shorten(s string) string {
	q := stricttoml.Quote(s)
	return strings.Trim(q, `"`)
}
