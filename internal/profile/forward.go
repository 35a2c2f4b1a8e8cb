package profile

import (
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
)

// maxForwards bounds the endpoints that are looked at side by side after each start.
const maxForwards = 16

// Forward is an endpoint on the host that should reach the gateway: a port that CNI maps, or a proxy's. It is asked from the host's
// network namespace.
type Forward struct {
	Name    string
	Address Address // TCP, of this host
	Path    string  // of a GET whose answer counts; empty: that a connection is accepted counts
	Accept  []int   // HTTP statuses that mean yes, with Path
}

// Endpoint is the address as the profile writes it, without a scheme.
func (f Forward) Endpoint() string { return f.Address.AddrPort.String() }

// Check is what is asked there, in the terms of a readiness probe.
func (f Forward) Check() Ready {
	if f.Path == "" {
		return Ready{Kind: "tcp", Address: f.Address}
	}
	return Ready{Kind: "http", Address: f.Address, Host: f.Endpoint(), Path: f.Path, Accept: f.Accept}
}

func readForwards(v *stricttoml.Value) []Forward {
	tables, ok := v.Tables(maxForwards)
	if ok && len(tables) == 0 {
		v.Fail("is empty; declare a [[forward]], or leave it out")
	}
	var list []Forward
	names, addresses := map[string]int{}, map[Address]int{} // their lines
	for _, t := range tables {
		var f Forward
		address := t.Require("address", `where the host connects, such as "127.0.0.1:8080"`)
		if a, ok := readEndpoint(address); ok {
			if first := addresses[a]; first > 0 {
				address.Fail("%s is declared in line %d already", a.AddrPort, first)
			}
			addresses[a] = address.Line()
			f.Address, f.Name = a, a.AddrPort.String()
		}
		if name := t.Get("name"); name != nil {
			if s, ok := name.Text(maxText); ok {
				if !isName(s) {
					name.Fail("%s is not a forward's name: 1 to 63 of a-z, 0-9, _ . and -, beginning with a letter or digit", stricttoml.Quote(s))
				} else if first := names[s]; first > 0 {
					name.Fail("%s is the name of the forward in line %d too; names tell forwards apart", stricttoml.Quote(s), first)
				}
				names[s] = name.Line()
				f.Name = s
			}
		}
		f.Path = readForwardPath(t.Get("http"))
		switch accept := t.Get("accept"); {
		case accept != nil && t.Get("http") == nil:
			accept.FailKey("has a meaning with http only; remove it")
		case accept != nil:
			f.Accept = readNumbers(accept, "HTTP statuses", 100, 599)
		case f.Path != "":
			f.Accept = []int{200}
		}
		t.Close()
		list = append(list, f)
	}
	return list
}

// readEndpoint reads an address literal and a port, with or without tcp:// or tcp6:// before it.
func readEndpoint(v *stricttoml.Value) (Address, bool) {
	s, ok := v.Text(maxText)
	if !ok {
		return Address{}, false
	}
	switch {
	case strings.Contains(s, "://"):
	case strings.HasPrefix(s, "["):
		s = "tcp6://" + s
	default:
		s = "tcp://" + s
	}
	a, err := ParseAddress(s)
	switch {
	case err != nil:
		v.Fail("%v", err)
	case a.Network == "unix":
		v.Fail(`a forward is an endpoint of TCP; write it as "127.0.0.1:8080"`)
	case a.AddrPort.Addr().IsUnspecified():
		v.Fail("%s means every address; write the one that clients on the host connect to, such as %s", a.AddrPort.Addr(), a.loopback().AddrPort)
	default:
		return a, true
	}
	return Address{}, false
}

// readForwardPath reads the path and query of a GET.
func readForwardPath(v *stricttoml.Value) string {
	s, ok := v.Text(maxText)
	switch {
	case !ok:
		return ""
	case strings.Contains(s, "://"):
		v.Fail("write the path alone, such as \"/health\": where to connect is the address")
	case !strings.HasPrefix(s, "/"):
		v.Fail("%s is not a path; write it from / on, such as \"/health\"", stricttoml.Quote(s))
	case strings.Contains(s, "#"):
		v.Fail("a #fragment is never sent; remove it")
	case slices.ContainsFunc([]byte(s), func(c byte) bool { return c <= ' ' || c > '~' || c == '\\' }):
		v.Fail("blanks, backslashes and what is not ASCII are refused in a path; write %%20, %%5C and so on")
	default:
		return s
	}
	return ""
}
