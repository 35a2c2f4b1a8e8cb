package profile

import (
	"strings"
	"testing"
)

func TestAnAddressIsWhatItsStringSays(t *testing.T) {
	for _, s := range []string{
		"tcp://127.0.0.1:80", "tcp://0.0.0.0:65535", "tcp6://[::1]:1", "tcp6://[::]:443", "tcp6://[2001:db8::1]:80", "unix:///run/x",
		"unix:///run/a b.sock", "unix://@gateway", "unix://@/run/x", "unix://@@", "unix://@" + strings.Repeat("x", 106),
	} {
		a, err := ParseAddress(s)
		if err != nil || a.String() != s {
			t.Errorf("%s: got %s, %v", s, a, err)
		}
	}
}

func TestABadAddressIsRefused(t *testing.T) {
	for s, want := range map[string]string{
		"":                                    "is not an address",
		"tcp:127.0.0.1:80":                    "is not an address",
		"TCP://127.0.0.1:80":                  "TCP:// is not known here",
		"tcp://":                              "is not an address literal",
		"tcp://:80":                           "is not an address literal",
		"tcp://*:80":                          "is not an address literal",
		"tcp://example.com:80":                "names are not looked up",
		"tcp://127.0.0.1:http":                "is not an address literal",
		"tcp://127.0.0.1:080":                 "is not the shortest form; write 127.0.0.1:80",
		"tcp://127.0.0.1:+80":                 "is not an address literal",
		"tcp://127.0.0.01:80":                 "is not an address literal",
		"tcp://127.0.0.1:80/":                 "is not an address literal",
		"tcp://255.255.255.255:80":            "multicast or broadcast",
		"tcp6://[ff02::1]:80":                 "multicast or broadcast",
		"tcp6://::1:80":                       "has no port; write",
		"unix:///":                            "path of the socket is missing",
		"unix://":                             "is empty",
		"unix:///run/../x":                    `write "/x"`,
		"unix:///run/x/":                      `write "/run/x"`,
		"unix:///run/\x00":                    "NUL",
		"unix://@":                            "name of the abstract socket is missing",
		"unix://@a\x00":                       "NUL",
		"unix://\x00a":                        "NUL",
		"unix://a@":                           "is not absolute",
		"unix://@" + strings.Repeat("x", 107): "at most 107",
		"tcp6://[fe80::1%25lo]:80":            "zone",
		"tcp://[::ffff:1.2.3.4]:80":           "IPv4 address written as IPv6",
	} {
		a, err := ParseAddress(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want %q", s, a, err, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "unix:///run/x", "tcp://localhost:1", "tcp6://[::ffff:1.2.3.4%x]:1", "://", "unix://@", "unix://@name", "unix://@a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a.String() != s {
			t.Errorf("%q became %q", s, a)
		}
		if unix := a.Network == "unix"; unix == a.AddrPort.IsValid() || unix != (a.Path != "") {
			t.Errorf("%q is %+v", s, a)
		}
	})
}
