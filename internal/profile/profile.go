// Package profile reads the root-owned files that declare a gateway (design, section 5).
package profile

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Profile declares one gateway. It is immutable once loaded.
type Profile struct {
	Name        string // the file's name without .toml
	Description string
	Gateway     Gateway
	Credentials []Credential // sorted by name
	Listen      []Listen
	Ready       Ready
	Preflight   Preflight
	Stop        Stop
	Restart     Restart
	Mounts      []Mount
	States      []State
	Unlock      Unlock
	Start       Start
	Select      Select
	Posture     Posture
	Forwards    []Forward

	text []byte // of the file, if it was loaded from one
}

// Gateway is what is run, and as whom.
type Gateway struct {
	Command      []string // Command[0] is an absolute, clean path in the container
	User, Group  uint32
	Groups       []uint32 // exact supplementary groups
	Cwd          string
	Env          map[string]string
	EnvFile      string   // absolute path on the host; empty: none
	Capabilities []string // only "CAP_NET_BIND_SERVICE" can be there
	SHA256       string   // 64 lower-case hex digits; empty: no pin
}

// Credential is a secret that the gateway gets as a file.
type Credential struct {
	Name   string // of the file in the gateway's CREDENTIALS_DIRECTORY
	Source string // absolute path on the host
}

// Secrets tells whether the gateway is given any secret.
func (p *Profile) Secrets() bool { return len(p.Credentials) > 0 || p.Gateway.EnvFile != "" }

// Modes of a Listen: who makes its socket. The last two are held listeners: the warden makes the socket when the container is
// created and keeps it until the container is gone.
const (
	ModeGateway     = "gateway"     // the gateway binds the address itself
	ModeInherit     = "inherit"     // the gateway gets the held socket as LISTEN_FDS (sd_listen_fds(3))
	ModeTransparent = "transparent" // the gateway binds the address and gets the held socket in the place of its own
)

// Listen is one address that the gateway must hold. All below Mode is of held listeners only, else zero.
type Listen struct {
	Name       string
	Address    Address
	Mode       string
	Backlog    int // of listen(2), 1 to 65535; the kernel takes at most the network namespace's net.core.somaxconn
	Outage     Outage
	Options    SocketOptions
	SocketMode uint32 // permission bits of the socket's file; 0 if the address is no path
	// NonBlocking is O_NONBLOCK of an inherited socket, as systemd's NonBlocking= (systemd.service(5)).
	NonBlocking bool
}

// Held says that the warden makes the listener's socket.
func (l Listen) Held() bool {
	return l.Mode == ModeInherit || l.Mode == ModeTransparent
}

// SharesWith says that a gateway with l and one with other can have the same held socket at the same time: what is set on it
// is set for both.
func (l Listen) SharesWith(other Listen) bool {
	return l.Held() && l.Mode == other.Mode && l.Address == other.Address && l.Backlog == other.Backlog && l.Options == other.Options &&
		l.NonBlocking == other.NonBlocking
}

// Outage says what the clients of a held listener get while no gateway runs and none is coming back: in the states failed
// and stopped.
type Outage string

// The outages.
const (
	OutageQueue Outage = "queue" // they connect and wait, as during a restart
	OutageReset Outage = "reset" // they are disconnected at once
)

// SocketOptions are options of a held TCP listener's socket; the connections that it accepts inherit them. A zero field leaves
// the kernel's default.
type SocketOptions struct {
	KeepAlive     bool          // SO_KEEPALIVE
	NoDelay       bool          // TCP_NODELAY
	V6Only        bool          // IPV6_V6ONLY
	DeferAccept   time.Duration // TCP_DEFER_ACCEPT, whole seconds
	ReceiveBuffer int           // SO_RCVBUF, in bytes, before the kernel doubles it (socket(7))
	SendBuffer    int           // SO_SNDBUF, likewise
}

// Address is where somebody listens. Either AddrPort is valid (Network "tcp" or "tcp6") or Path is set (Network "unix"): an
// absolute path in the container, or "@" and the name of an abstract socket of its network namespace (unix(7)).
type Address struct {
	Network  string
	AddrPort netip.AddrPort
	Path     string
}

// Ready says when a gateway counts as proven. Kind is "http", "grpc", "tcp", "unix", "exec" or "none".
type Ready struct {
	Kind    string
	Address Address  // where to connect
	Path    string   // http: path and query, "/health"
	Host    string   // http: the Host header, as the URL wrote it; grpc: the authority
	Accept  []int    // http: statuses that mean yes
	Service string   // grpc: whose health; empty: the server's as a whole
	Exec    []string // exec: Exec[0] is an absolute, clean path in the container
	Timeout time.Duration
	Settle  time.Duration
}

// Preflight is a command that judges a configuration before it is tried. It runs as the gateway would, and sees what the
// gateway would see.
type Preflight struct {
	Command []string // Command[0] is an absolute, clean path in the container; empty: none
	Timeout time.Duration
}

// Stop says how a gateway is ended.
type Stop struct {
	Signal  unix.Signal
	Timeout time.Duration
}

// Policy says which unasked exits are followed by a new start.
type Policy string

// The policies.
const (
	Always    Policy = "always"
	OnFailure Policy = "on-failure" // exit status other than 0, or a signal
	Never     Policy = "never"
)

// Restart is the policy for a gateway that exits unasked.
type Restart struct {
	Policy         Policy
	BackoffInitial time.Duration
	BackoffMax     time.Duration
	Burst          int
	Window         time.Duration
	FatalExitCodes []int
	Overlap        bool // an asked-for restart ends the old gateway after its successor is proven; all listeners are held
}

// Mount is a host-owned directory or file, read-only in the container.
type Mount struct {
	Source string
	Target string
}

// State is a directory kept on the host and writable by the gateway's UID alone.
type State struct {
	Target string
}

// Unlock says what of the configuration the gateway may write to while an operator has unlocked it.
type Unlock struct {
	Paths []string      // in the container: targets of [[mount]] entries, or below them; empty: nothing
	Max   time.Duration // the longest time at once
}

// Start says when the first start happens and what its failure means.
type Start struct {
	BeforeWorkload bool // Task.Start waits until ready
	FailContainer  bool // a failed first start fails the container
}

// Select says whether an annotation may name this profile. Without Annotation only the hook's own --profile does.
type Select struct {
	Annotation    bool
	Namespaces    []string // containerd namespaces; empty: any
	PodNamespaces []string // Kubernetes namespaces of pods; empty: any, and containers outside pods too
}

// Posture is what the administrator explicitly lets the workload keep.
type Posture struct {
	Allow []string
}
