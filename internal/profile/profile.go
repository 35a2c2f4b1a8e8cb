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
	Listen      []Listen
	Ready       Ready
	Stop        Stop
	Restart     Restart
	Mounts      []Mount
	States      []State
	Start       Start
	Select      Select
	Posture     Posture
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

// Listen is one address that the gateway must hold. Mode is "gateway": it binds the address itself.
type Listen struct {
	Name    string
	Address Address
	Mode    string
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

// Start says when the first start happens and what its failure means.
type Start struct {
	BeforeWorkload bool // Task.Start waits until ready
	FailContainer  bool // a failed first start fails the container
}

// Select says whether an annotation may name this profile. Without Annotation only the hook's own --profile does.
type Select struct {
	Annotation bool
	Namespaces []string // containerd namespaces; empty: any
}

// Posture is what the administrator explicitly lets the workload keep.
type Posture struct {
	Allow []string
}
