package intercept

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
)

func address(t testing.TB, s string) profile.Address {
	t.Helper()
	a, err := profile.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func inet(to string, length int) []byte {
	ap := netip.MustParseAddrPort(to)
	b := make([]byte, 28)
	binary.BigEndian.PutUint16(b[2:], ap.Port())
	if ap.Addr().Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[4:], ap.Addr().AsSlice())
	} else {
		binary.NativeEndian.PutUint16(b, unix.AF_INET6)
		copy(b[8:], ap.Addr().AsSlice())
	}
	return b[:length]
}

func TestAnAddressIsReadAsTheKernelReadsIt(t *testing.T) {
	scoped := inet("[fe80::1]:80", 28)
	binary.NativeEndian.PutUint32(scoped[24:], 1)
	for name, c := range map[string]struct {
		b    []byte
		want string // "": nothing that can be held
	}{
		"nothing":                  {nil, ""},
		"one byte":                 {[]byte{2}, ""},
		"a family alone":           {inet("1.2.3.4:80", 2), ""},
		"IPv4":                     {inet("1.2.3.4:80", 16), "1.2.3.4:80"},
		"IPv4 with a tail":         {inet("1.2.3.4:80", 28), "1.2.3.4:80"},
		"IPv4 too short":           {inet("1.2.3.4:80", 15), ""},
		"IPv4 with any port":       {inet("1.2.3.4:0", 16), ""},
		"IPv6":                     {inet("[::1]:80", 28), "[::1]:80"},
		"IPv6 without its scope":   {inet("[::1]:80", 24), ""},
		"IPv6 with a scope":        {scoped, ""},
		"a path":                   {append([]byte{1, 0}, "/run/x\x00"...), ""},
		"an unnamed unix socket":   {[]byte{1, 0}, ""},
		"an empty abstract name":   {[]byte{1, 0, 0}, ""},
		"an abstract name":         {append([]byte{1, 0, 0}, "api"...), `unix://"@api"`},
		"an abstract name, zeros":  {append([]byte{1, 0, 0}, "api\x00\x00"...), `unix://"@api\x00\x00"`},
		"a netlink address":        {make([]byte, 12), ""},
		"a family that is unknown": {[]byte{0xff, 0xff, 0, 0}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseSockaddr(c.b)
			if ok != (c.want != "") || ok && got.String() != c.want {
				t.Errorf("%v, %v; want %q", got, ok, c.want)
			}
		})
	}
}

func TestADeclaredAddressIsComparedWithWhatIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		declared, asked string
		want            relation
	}{
		{"tcp://127.0.0.1:80", "127.0.0.1:80", same},
		{"tcp://127.0.0.1:80", "127.0.0.1:81", apart},
		{"tcp://127.0.0.1:80", "127.0.0.2:80", beside},
		{"tcp://127.0.0.1:80", "0.0.0.0:80", competing},
		{"tcp://127.0.0.1:80", "[::]:80", competing},
		{"tcp://127.0.0.1:80", "[::1]:80", beside},
		{"tcp://127.0.0.1:80", "[::ffff:127.0.0.1]:80", competing},
		{"tcp://127.0.0.1:80", "[::ffff:127.0.0.2]:80", beside},
		{"tcp://0.0.0.0:80", "127.0.0.1:80", competing},
		{"tcp://0.0.0.0:80", "[::]:80", competing},
		{"tcp6://[::]:80", "0.0.0.0:80", competing},
		{"tcp6://[::]:80", "[::]:80", same},
		{"tcp6://[::1]:80", "[::1]:80", same},
		{"tcp6://[::1]:80", "127.0.0.1:80", beside},
		{"unix://@api", "127.0.0.1:80", apart},
		{"unix:///run/api", "127.0.0.1:80", apart},
	} {
		ap := netip.MustParseAddrPort(c.asked)
		if got := compare(address(t, c.declared), askedAddress{family: unix.AF_INET, addrPort: ap}); got != c.want {
			t.Errorf("%s and %s: %v, want %v", c.declared, c.asked, got, c.want)
		}
	}
	for _, c := range []struct {
		declared, asked string
		want            relation
	}{
		{"unix://@api", "api", same}, {"unix://@api", "api\x00\x00", same}, {"unix://@api", "ap", apart},
		{"unix://@api", "api\x00x", apart}, {"unix://@api", "\x00api", apart}, {"unix:///api", "/api", apart}, {"tcp://127.0.0.1:80", "api", apart},
	} {
		if got := compare(address(t, c.declared), askedAddress{family: unix.AF_UNIX, abstract: c.asked}); got != c.want {
			t.Errorf("%s and %q: %v, want %v", c.declared, c.asked, got, c.want)
		}
	}
}

func TestTheFlagsOfADescriptorAreAnOctalNumber(t *testing.T) {
	for data, want := range map[string]int{
		"pos:\t0\nflags:\t02004002\nmnt_id:\t9\n": 0o2004002, "flags:\t0": 0, "flags: 02 \n": 2,
	} {
		if got, err := parseFdinfo([]byte(data)); err != nil || got != want {
			t.Errorf("%q: %#o, %v; want %#o", data, got, err, want)
		}
	}
	for _, data := range []string{"", "flags\n", "xflags:\t02\n", "flags:\t\n", "flags:\t9\n", "flags:\t-2\n", "flags:\t0777777777777777777777\n"} {
		if got, err := parseFdinfo([]byte(data)); err == nil {
			t.Errorf("%q: %#o", data, got)
		}
	}
}

func FuzzSockaddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "[::ffff:127.0.0.1]:80"} {
		f.Add(inet(s, 28))
		f.Add(inet(s, 16))
	}
	f.Add(append([]byte{1, 0, 0}, "api\x00\x00"...))
	f.Add(append([]byte{1, 0}, "/run/api.sock"...))
	declared := []profile.Address{address(f, "tcp://127.0.0.1:80"), address(f, "tcp://0.0.0.0:80"), address(f, "tcp6://[::1]:80"),
		address(f, "tcp6://[::]:80"), address(f, "unix://@api"), address(f, "unix:///run/api.sock")}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := parseSockaddr(b)
		if !ok {
			return
		}
		if a.family != unix.AF_UNIX && (!a.addrPort.IsValid() || a.addrPort.Port() == 0 || a.addrPort.Addr().Zone() != "") {
			t.Errorf("%v is not an address", a)
		}
		if len(a.String()) > 8*len(b)+16 {
			t.Errorf("%d bytes make a text of %d", len(b), len(a.String()))
		}
		for _, d := range declared {
			switch compare(d, a) {
			case same:
				// The kernel must find the same socket by either.
				if name, abstract := d.Abstract(); abstract && a.abstract[:len(name)] != name || !abstract && d.AddrPort != a.addrPort {
					t.Errorf("%v and %v are not the same", d, a)
				}
			case competing, beside:
				if a.family == unix.AF_UNIX || a.addrPort.Port() != d.AddrPort.Port() || a.addrPort == d.AddrPort {
					t.Errorf("%v and %v do not compete", d, a)
				}
			}
		}
	})
}

func FuzzFdinfo(f *testing.F) {
	f.Add([]byte("pos:\t0\nflags:\t02004002\nmnt_id:\t9\nino:\t7\n"))
	f.Add([]byte("flags:\t"))
	f.Add([]byte("flags:\t08\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseFdinfo(data)
		if err != nil {
			if n != 0 && !errors.Is(err, strconv.ErrRange) {
				t.Errorf("%#o with %v", n, err)
			}
			return
		}
		if n < 0 || n > 1<<32-1 {
			t.Errorf("%d is out of range", n)
		}
		// What is written as the kernel writes it is read as the same.
		again, err := parseFdinfo(slices.Concat([]byte("pos:\t0\nflags:\t0"), strconv.AppendInt(nil, int64(n), 8), []byte("\n")))
		if err != nil || again != n {
			t.Errorf("%#o, %v; want %#o", again, err, n)
		}
	})
}
