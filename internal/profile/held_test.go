package profile

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

const heldTCP = "[[listen]]\nname = \"api\"\naddress = \"tcp://127.0.0.1:80\"\nmode = \"inherit\"\n"

func TestAHeldListenerIsWhatTheProfileSaysOrTheDefaults(t *testing.T) {
	tcp := Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:80")}
	six := Address{Network: "tcp6", AddrPort: netip.MustParseAddrPort("[::]:80")}
	path, abstract := Address{Network: "unix", Path: "/run/a"}, Address{Network: "unix", Path: "@a"}
	for _, c := range []struct {
		name, toml string
		want       Listen
	}{
		{"inherit", "address = 'tcp://127.0.0.1:80'\nmode = 'inherit'\n",
			Listen{Address: tcp, Mode: ModeInherit, Backlog: 4096, Outage: OutageQueue}},
		{"transparent", "address = 'tcp://127.0.0.1:80'\nmode = 'transparent'\n",
			Listen{Address: tcp, Mode: ModeTransparent, Backlog: 4096, Outage: OutageQueue}},
		{"every key", "address = 'tcp6://[::]:80'\nmode = 'transparent'\nbacklog = 65535\noutage = 'reset'\n" +
			"[listen.options]\nkeep_alive = true\nno_delay = true\nv6only = true\ndefer_accept = '1m'\nreceive_buffer = 1073741824\nsend_buffer = 1\n",
			Listen{Address: six, Mode: ModeTransparent, Backlog: 65535, Outage: OutageReset, Options: SocketOptions{
				KeepAlive: true, NoDelay: true, V6Only: true, DeferAccept: time.Minute, ReceiveBuffer: 1 << 30, SendBuffer: 1,
			}}},
		{"the least backlog", "address = 'tcp://127.0.0.1:80'\nmode = 'inherit'\nbacklog = 1\noutage = 'queue'\noptions = {}\nnon_blocking = false\n",
			Listen{Address: tcp, Mode: ModeInherit, Backlog: 1, Outage: OutageQueue}},
		{"not blocking", "address = 'tcp://127.0.0.1:80'\nmode = 'inherit'\nnon_blocking = true\n",
			Listen{Address: tcp, Mode: ModeInherit, Backlog: 4096, Outage: OutageQueue, NonBlocking: true}},
		{"a path", "address = 'unix:///run/a'\nmode = 'inherit'\n",
			Listen{Address: path, Mode: ModeInherit, Backlog: 4096, Outage: OutageQueue, SocketMode: 0o666}},
		{"a path of one user", "address = 'unix:///run/a'\nmode = 'inherit'\nsocket_mode = '600'\n",
			Listen{Address: path, Mode: ModeInherit, Backlog: 4096, Outage: OutageQueue, SocketMode: 0o600}},
		{"an abstract socket", "address = 'unix://@a'\nmode = 'transparent'\n",
			Listen{Address: abstract, Mode: ModeTransparent, Backlog: 4096, Outage: OutageQueue}},
		{"the gateway's own", "address = 'unix:///run/a'\nmode = 'gateway'\n", Listen{Address: path, Mode: ModeGateway}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Name = "l"
			p := mustParse(t, base+"[[listen]]\nname = 'l'\n"+c.toml+"[ready]\nnone = true\n")
			if !reflect.DeepEqual(p.Listen, []Listen{c.want}) {
				t.Errorf("got %+v, want %+v", p.Listen, c.want)
			}
			if p.Listen[0].Held() != (c.want.Backlog > 0) {
				t.Errorf("held: %v", p.Listen[0].Held())
			}
			stored, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			var again Profile
			if err := json.Unmarshal(stored, &again); err != nil || !reflect.DeepEqual(&again, p) {
				t.Errorf("stored and read again: %+v, %v", again, err)
			}
		})
	}
}

func TestIPv4AndIPv6ShareAPortOnlyWhenTheHeldSocketLeavesIt(t *testing.T) {
	const four = "[[listen]]\nname = 'four'\naddress = 'tcp://0.0.0.0:80'\n"
	for _, c := range []struct {
		name, six string
		ok        bool
	}{
		{"v6only", "address = 'tcp6://[::]:80'\nmode = 'inherit'\noptions = { v6only = true }\n", true},
		{"another port", "address = 'tcp6://[::]:81'\nmode = 'inherit'\n", true},
		{"one address", "address = 'tcp6://[::1]:80'\nmode = 'inherit'\n", true},
		{"the gateway's own, which may set IPV6_V6ONLY", "address = 'tcp6://[::]:80'\n", true},
		{"dual stack", "address = 'tcp6://[::]:80'\nmode = 'transparent'\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("test", []byte(base+four+"[[listen]]\nname = 'six'\n"+c.six)); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOverlapTakesEveryProbeThatConnectsToAHeldListener(t *testing.T) {
	const overlap = "[restart]\noverlap = true\n"
	listen := func(address string) string {
		return "[[listen]]\nname = 'a'\naddress = '" + address + "'\nmode = 'inherit'\n"
	}
	for _, c := range []struct{ name, toml string }{
		{"the first listener", heldTCP + overlap},
		{"http", heldTCP + overlap + "[ready]\nhttp = 'http://127.0.0.1/'\n"},
		{"grpc", heldTCP + overlap + "[ready]\ngrpc = '127.0.0.1:80'\n"},
		{"all addresses", listen("tcp://0.0.0.0:80") + overlap + "[ready]\ntcp = '127.0.0.3:80'\n"},
		{"all addresses of IPv6, by IPv4", listen("tcp6://[::]:80") + overlap + "[ready]\ntcp = '127.0.0.1:80'\n"},
		{"a path", listen("unix:///run/a") + overlap},
		{"an abstract socket", listen("unix://@a") + overlap + "[ready]\nunix = 'unix://@a'\n"},
		{"the second listener", heldTCP + listen("tcp://127.0.0.1:81") + overlap + "[ready]\ntcp = '127.0.0.1:81'\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !mustParse(t, base+c.toml).Restart.Overlap {
				t.Error("no overlap")
			}
		})
	}
	if mustParse(t, base+listenTCP+"[restart]\noverlap = false\n").Restart.Overlap {
		t.Error("overlap = false is overlap")
	}
}

func TestADeferredListenerTakesAProbeThatSendsData(t *testing.T) {
	const deferred = heldTCP + "options = { defer_accept = '5s' }\n"
	for _, ready := range []string{
		"[ready]\nhttp = 'http://127.0.0.1:80/'\n", "[ready]\ngrpc = '127.0.0.1:80'\n", "[ready]\ntcp = '127.0.0.1:81'\n", "[ready]\nnone = true\n",
	} {
		if p := mustParse(t, base+deferred+ready); p.Listen[0].Options.DeferAccept != 5*time.Second {
			t.Errorf("%s: got %+v", ready, p.Listen[0])
		}
	}
}
