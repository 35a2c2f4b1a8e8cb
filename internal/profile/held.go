package profile

import (
	"slices"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
)

// Bounds and defaults of a held listener.
const (
	defaultBacklog    = 4096  // net.core.somaxconn since Linux 5.4
	maxBacklog        = 65535 // of net.core.somaxconn itself, while the kernel kept it in 16 bits
	defaultSocketMode = 0o666 // as systemd's SocketMode
	maxBuffer         = 1 << 30
)

// listenAt is where the document says what a Listen holds.
type listenAt struct {
	address, mode, deferAccept *stricttoml.Value
}

// readHeld reads the keys of t that held listeners alone have. Of a listener whose mode is known and another they are
// refused.
func readHeld(t *stricttoml.Table, l *Listen, at *listenAt) {
	backlog, outage, options, mode := t.Get("backlog"), t.Get("outage"), t.Get("options"), t.Get("socket_mode")
	nonBlocking := t.Get("non_blocking")
	if l.Mode == ModeGateway {
		for _, v := range []*stricttoml.Value{backlog, outage, options, mode, nonBlocking} {
			v.FailKey(`has a meaning with mode = "inherit" or "transparent" only: with "gateway" the gateway makes the socket itself; remove it`)
		}
		return
	}
	l.Backlog = defaultBacklog
	if n, ok := backlog.Integer(1, maxBacklog); ok {
		l.Backlog = int(n)
	}
	l.Outage = Outage(choice(outage, string(OutageQueue), string(OutageReset)))
	l.Options = readOptions(options.Table(), l.Address, at)
	l.SocketMode = readSocketMode(mode, l.Address)
	if l.Mode == ModeTransparent {
		nonBlocking.FailKey("has a meaning with mode = %q only: with %q the socket is as the program made its own; remove it", ModeInherit, ModeTransparent)
	}
	l.NonBlocking, _ = nonBlocking.Boolean()
	if l.Mode == ModeTransparent && l.Address.isPath() {
		at.mode.Fail(`%q cannot be had for the path of a unix socket: programs remove or rename such a file before they bind; use "inherit", or an abstract socket, unix://@NAME`,
			ModeTransparent)
	}
}

// readOptions reads what the listener's socket passes on to the connections that it accepts. A unix socket passes nothing
// on, not even its buffers (unix(7)).
func readOptions(t *stricttoml.Table, a Address, at *listenAt) SocketOptions {
	var o SocketOptions
	only := func(v *stricttoml.Value, set bool, schemes string, networks ...string) {
		if set && a.Network != "" && !slices.Contains(networks, a.Network) {
			v.FailKey("has an effect with %s only; remove it", schemes)
		}
	}
	const schemes = "tcp:// and tcp6://"
	flag := func(name string, to *bool, schemes string, networks ...string) {
		v := t.Get(name)
		*to, _ = v.Boolean()
		only(v, *to, schemes, networks...)
	}
	buffer := func(name string, to *int) {
		v := t.Get(name)
		n, _ := v.Integer(0, maxBuffer)
		*to = int(n)
		only(v, n > 0, schemes, "tcp", "tcp6")
	}
	flag("keep_alive", &o.KeepAlive, schemes, "tcp", "tcp6")
	flag("no_delay", &o.NoDelay, schemes, "tcp", "tcp6")
	flag("v6only", &o.V6Only, "tcp6://", "tcp6")
	at.deferAccept = t.Get("defer_accept")
	duration(at.deferAccept, 0, &o.DeferAccept)
	if o.DeferAccept%time.Second != 0 {
		at.deferAccept.Fail("is %s; whole seconds are needed, which is what the kernel takes (TCP_DEFER_ACCEPT)", o.DeferAccept)
	}
	only(at.deferAccept, o.DeferAccept > 0, schemes, "tcp", "tcp6")
	buffer("receive_buffer", &o.ReceiveBuffer)
	buffer("send_buffer", &o.SendBuffer)
	t.Close()
	return o
}

// readSocketMode reads permission bits as chmod(1) takes them. They are 0 for what has no file.
func readSocketMode(v *stricttoml.Value, a Address) uint32 {
	if !a.isPath() {
		if a.Network != "" {
			v.FailKey("has a meaning with the path of a unix socket only; remove it")
		}
		return 0
	}
	s, ok := v.Text(maxText)
	if !ok {
		return defaultSocketMode
	}
	bits, err := strconv.ParseUint(s, 8, 32)
	switch {
	case err != nil || !isMode(s):
		v.Fail(`%s is not a file mode; write its permission bits as three or four octal digits, such as "0660"`, stricttoml.Quote(s))
	case bits&0o222 == 0:
		v.Fail(`%s lets nobody connect, which takes write permission (unix(7)); write such as "0666" or "0660"`,
			stricttoml.Quote(s))
	}
	return uint32(bits)
}

// isPath says that a is a unix socket with a file.
func (a Address) isPath() bool {
	_, abstract := a.Abstract()
	return a.Network == "unix" && !abstract
}

// dualStack says that the listener's socket takes its port of IPv4 too (ipv6(7)). Of a socket that the gateway makes
// nobody knows.
func (l Listen) dualStack() bool {
	return l.Held() && l.Address.Network == "tcp6" && l.Address.AddrPort.Addr().IsUnspecified() && !l.Options.V6Only
}

// Reaches says whether a connection to a comes out at the held listener l.
func (l Listen) Reaches(a Address) bool {
	return l.Address.covers(a) || l.dualStack() && a.Network == "tcp" && a.AddrPort.Port() == l.Address.AddrPort.Port()
}

// checkDualStack finds the listeners of IPv4 whose port a held one of IPv6 takes.
func checkDualStack(list []Listen, at []listenAt) {
	for i, six := range list {
		if !six.dualStack() {
			continue
		}
		for j, four := range list {
			if four.Address.Network == "tcp" && six.Reaches(four.Address) {
				at[i].address.Fail("%s takes port %d of IPv4 too, which %s of line %d declares; set options = { v6only = true }",
					six.Address, six.Address.AddrPort.Port(), four.Address, at[j].address.Line())
				break
			}
		}
	}
}

// checkProbe finds the held listeners whose probe can't succeed.
func checkProbe(r Ready, list []Listen, at []listenAt) {
	for i, l := range list {
		if l.Held() && l.Options.DeferAccept > 0 && r.Kind == "tcp" && l.Reaches(r.Address) {
			at[i].deferAccept.Fail("the probe of %s only connects, and a connection on which no data comes is never handed over; use [ready] http or grpc, or remove it",
				r.Address)
		}
	}
}

// checkOverlap says why two gateways can't stand side by side.
func checkOverlap(v *stricttoml.Value, r Ready, list []Listen) {
	if len(list) == 0 {
		v.Fail("needs a listener that both gateways can have; there is no [[listen]]")
		return
	}
	reached := false
	for i, l := range list {
		if l.Mode == ModeGateway {
			v.Fail(`needs every listener to be held: two gateways cannot both bind the address of listen[%d]; give it mode = "inherit" or "transparent"`, i)
			return
		}
		reached = reached || l.Reaches(r.Address)
	}
	const why = "the successor is proven by a connection that it accepts on the shared socket"
	switch r.Kind {
	case "http", "grpc", "tcp", "unix":
		if !reached && r.Address != (Address{}) { // else the probe's own problem is reported
			v.Fail("needs a probe of a held listener: %s, and no listener is reached by [ready] %s", why, r.Address)
		}
	default:
		v.Fail("needs [ready] http, grpc, tcp or unix, not %s: %s", r.Kind, why)
	}
}
