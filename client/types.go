package client

import "time"

// Ref names one container.
type Ref struct {
	Namespace string // containerd namespace: "default", "k8s.io", "moby"
	ID        string // whole
}

// String gives NAMESPACE/ID.
func (r Ref) String() string { return r.Namespace + "/" + r.ID }

// Container is one instance of a container. Its init process tells two instances of the same name apart.
type Container struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	InitPID   int    `json:"init_pid"`   // on the host
	InitStart uint64 `json:"init_start"` // clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// Ref gives the container's name.
func (c Container) Ref() Ref { return Ref{Namespace: c.Namespace, ID: c.ID} }

// State is a gateway's state.
type State string

// The states of a gateway.
const (
	StateStarting State = "starting" // launched, not yet proven
	StateRunning  State = "running"  // proven
	StateStopping State = "stopping" // signalled, not yet proven gone
	StateBackoff  State = "backoff"  // it exited unasked; the next start is scheduled
	StateFailed   State = "failed"   // not started again until somebody asks
	StateStopped  State = "stopped"  // it ended, and the policy says that this is right
)

// Status tells how a gateway is: what `gatewarden status --json` prints.
type Status struct {
	Container  Container  `json:"container"`
	Gateway    string     `json:"gateway"` // the profile's name
	State      State      `json:"state"`
	Code       Code       `json:"code"` // when it is not well; CodeWardenLost: of the rest only Container and Gateway are known
	Message    string     `json:"message"`
	PID        int        `json:"pid"`        // of the gateway, on the host; 0: none runs
	NSPID      int        `json:"ns_pid"`     // the same, in the container
	StartTime  uint64     `json:"start_time"` // its start, in clock ticks since boot: with PID the process's identity
	Since      time.Time  `json:"since"`      // when State was entered
	Restarts   Restarts   `json:"restarts"`
	Generation int        `json:"generation"` // of the configuration that is current
	Rejected   *Rejected  `json:"rejected"`   // a later one that was tried and turned down, until another takes the current one's place
	Unlocked   *Unlocked  `json:"unlocked"`   // nil: its configuration is locked
	Listeners  []Listener `json:"listeners"`
	Healthy    *bool      `json:"healthy"` // as of Checked; false, too, while no gateway runs; nil: cannot tell
	Checked    *time.Time `json:"checked"` // when the running gateway's health was last looked at; nil: it was not
	Forwards   []Forward  `json:"forwards,omitempty"`
	Standby    Standby    `json:"standby"`
	Warden     Warden     `json:"warden"`
	// UserNamespace is the container's own; nil: it has the host's.
	UserNamespace *UserNamespace `json:"user_namespace,omitempty"`
	Last          *Receipt       `json:"last"` // nil: there is none yet
}

// UserNamespace tells which IDs of the host those of a container are that has a user namespace of its own.
type UserNamespace struct {
	UIDs []IDRange `json:"uids"`
	GIDs []IDRange `json:"gids"`
}

// IDRange says that Count IDs, from Inside on in the container, are as many from Host on outside (user_namespaces(7)).
type IDRange struct {
	Inside uint32 `json:"inside"`
	Host   uint32 `json:"host"`
	Count  uint32 `json:"count"`
}

// Restarts counts replacements since the container's create.
type Restarts struct {
	Asked   int `json:"asked"`
	Unasked int `json:"unasked"` // after a gateway had exited by itself
}

// Standby is the successor that waits, parked; PID 0 when there is none.
type Standby struct {
	PID int `json:"pid"`
}

// Warden is the supervising process on the host.
type Warden struct {
	PID     int    `json:"pid"`
	Version string `json:"version"` // of gatewarden
}

// Unlocked says until when the gateway may write to its configuration, and why.
type Unlocked struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// Rejected is a generation of the configuration that was tried and did not come to be the current one.
type Rejected struct {
	Generation int       `json:"generation"`
	Code       Code      `json:"code"`
	Message    string    `json:"message"`
	Time       time.Time `json:"time"`
}

// Listener is one declared address and who holds it, from the kernel's tables.
type Listener struct {
	Name     string `json:"name"`
	Address  string `json:"address"`   // "tcp://127.0.0.1:18789", "tcp6://[::1]:18789", "unix:///run/gw.sock"
	Mode     string `json:"mode"`      // "gateway", "inherit", "transparent"
	Inode    uint64 `json:"inode"`     // of the socket
	OwnerPID int    `json:"owner_pid"` // on the host; 0: nobody
}

// Forward is one endpoint of the host that should reach the gateway, as it was last looked at from the host.
type Forward struct {
	Name    string  `json:"name"`
	Address string  `json:"address"`
	OK      *bool   `json:"ok"`             // nil: that could not be told
	Code    Code    `json:"code,omitempty"` // CodeForwardFailed if it is not ok
	Millis  float64 `json:"millis"`         // until the answer, or until it was given up
	Detail  string  `json:"detail"`         // what was found, where that is not a plain yes
}

// Probe is a readiness probe's answer.
type Probe struct {
	Kind    string  `json:"kind"`    // "http", "grpc", "tcp", "unix", "exec", "none"
	Verdict string  `json:"verdict"` // "yes", "no", or "unknown": it could not be asked, which says nothing of the gateway
	Status  int     `json:"status"`  // HTTP status; 0 for other kinds
	Millis  float64 `json:"millis"`
	Detail  string  `json:"detail,omitempty"` // why it is not a yes
}

// Report is what a probe found: what `gatewarden probe --json` prints.
type Report struct {
	Healthy   *bool      `json:"healthy"` // nil: cannot tell
	PID       int        `json:"pid"`     // of the gateway, on the host; 0: none runs
	Listeners []Listener `json:"listeners"`
	Probe     *Probe     `json:"probe"`             // nil: there was nobody to be asked
	Holders   string     `json:"holders,omitempty"` // while no gateway runs: who listens on its addresses
	Forwards  []Forward  `json:"forwards,omitempty"`
	Code      Code       `json:"code"` // when it is not well
	Message   string     `json:"message"`
}

// Verb is what was done to a gateway.
type Verb string

// The verbs of receipts. VerbStart and VerbRespawn are the warden's own.
const (
	VerbStart    Verb = "start"   // the first gateway of a container
	VerbRestart  Verb = "restart" // asked for: always replaces
	VerbRecover  Verb = "recover" // asked for: replaces only what is not healthy
	VerbRespawn  Verb = "respawn" // the gateway exited unasked
	VerbApply    Verb = "apply"
	VerbRollback Verb = "rollback"
	VerbUnlock   Verb = "unlock" // the gateway may write to its configuration for a while
	VerbLock     Verb = "lock"   // asked for, or the warden's own when that time is over
)

// Outcome is how an action ended.
type Outcome string

// The outcomes.
const (
	OutcomeReplaced       Outcome = "replaced"        // a new gateway runs, proven
	OutcomeAlreadyRunning Outcome = "already-running" // there was nothing to do
	OutcomeRefused        Outcome = "refused"         // the old gateway was not touched
	OutcomeFailed         Outcome = "failed"          // the old gateway is gone and no proven one runs
	OutcomeRolledBack     Outcome = "rolled-back"     // the configuration before runs again
	OutcomeDone           Outcome = "done"            // lock, unlock: the gateway goes on
)

// Receipt is the record of one action: what `gatewarden restart --json` prints, and a line of the journal.
type Receipt struct {
	Version       int         `json:"version"` // 1
	ID            string      `json:"id"`      // of this receipt; Events resumes from it
	Container     Container   `json:"container"`
	Gateway       string      `json:"gateway"` // the profile's name
	Action        Verb        `json:"action"`
	Reason        string      `json:"reason"`
	RequestID     string      `json:"request_id,omitempty"`
	RequestedBy   RequestedBy `json:"requested_by"`
	Outcome       Outcome     `json:"outcome"`
	Code          Code        `json:"code"`  // "": all is well
	Stage         Stage       `json:"stage"` // in which it ended
	Retryable     bool        `json:"retryable"`
	Message       string      `json:"message"`
	Generation    int         `json:"generation"`         // of the configuration: the one that is current after the action
	Rejected      *Rejected   `json:"rejected,omitempty"` // the generation that the action tried, if it was turned down
	Old           *OldProcess `json:"old"`                // nil: no gateway was stopped
	New           *NewProcess `json:"new"`                // nil: none was started
	Listeners     []Listener  `json:"listeners"`
	Probe         *Probe      `json:"probe"`
	Forwards      []Forward   `json:"forwards,omitempty"` // absent when none is declared, or none was looked at
	Workload      Workload    `json:"workload"`
	PostureAllows []string    `json:"posture_allows,omitempty"` // the profile's [posture] allow: what the workload may keep
	Millis        Millis      `json:"millis"`
	Time          time.Time   `json:"time"` // when it was recorded
}

// RequestedBy tells how a request arrived, and the UID on the host of who asked.
type RequestedBy struct {
	Via string `json:"via"` // "task-exec", "task-kill", "cli", "warden", or Options.Via
	UID int    `json:"uid"`
}

// OldProcess is the gateway that an action ended.
type OldProcess struct {
	PID        int    `json:"pid"`
	StartTime  uint64 `json:"start_time"`
	ExitCode   int    `json:"exit_code"`     // -1 when a signal ended it
	Signal     string `json:"signal"`        // "SIGTERM"; empty when it exited by itself
	Forced     bool   `json:"forced"`        // SIGKILL was needed
	OOM        bool   `json:"oom,omitempty"` // the kernel killed it for want of memory
	DeathProof string `json:"death_proof"`   // "waitid": its parent got its exit status; "pidfd": it was adopted
}

// NewProcess is the gateway that an action started, as the kernel describes it.
type NewProcess struct {
	PID          int          `json:"pid"`    // on the host
	NSPID        int          `json:"ns_pid"` // in the container
	StartTime    uint64       `json:"start_time"`
	Exe          string       `json:"exe"` // path in the container
	ExeDev       uint64       `json:"exe_dev"`
	ExeIno       uint64       `json:"exe_ino"`
	UID          int          `json:"uid"`              // on the host, as GID and Groups
	NSUID        *int         `json:"ns_uid,omitempty"` // in the container, where that has a user namespace of its own
	GID          int          `json:"gid"`
	NSGID        *int         `json:"ns_gid,omitempty"` // as NSUID
	Groups       []int        `json:"groups"`
	Capabilities Capabilities `json:"capabilities"`
	NoNewPrivs   bool         `json:"no_new_privs"`
	Seccomp      int          `json:"seccomp"` // 0 none, 1 strict, 2 filter
}

// Capabilities holds the five sets of /proc/PID/status in lower-case hexadecimal without leading zeros.
type Capabilities struct {
	Effective   string `json:"effective"`
	Permitted   string `json:"permitted"`
	Inheritable string `json:"inheritable"`
	Bounding    string `json:"bounding"`
	Ambient     string `json:"ambient"`
}

// Workload compares the container's other processes before and after.
type Workload struct {
	Processes int  `json:"processes"`
	Unchanged bool `json:"unchanged"`
}

// Millis are an action's times, in milliseconds.
type Millis struct {
	Queue       float64 `json:"queue"`
	Preflight   float64 `json:"preflight"`
	Stop        float64 `json:"stop"`
	Launch      float64 `json:"launch"`
	Listen      float64 `json:"listen"`
	Probe       float64 `json:"probe"`
	Forward     float64 `json:"forward,omitempty"` // after the proof; clients do not wait for it
	Total       float64 `json:"total"`
	Unavailable float64 `json:"unavailable"` // from the stop signal to the successor's proof
}

// Plan is what a change of the configuration would do.
type Plan struct {
	Current    int      `json:"current"`
	Generation int      `json:"generation"` // that would be tried; Current: nothing would change
	Changes    []Change `json:"changes"`
	Diff       string   `json:"diff"` // unified, of the texts among them
}

// Change is one file of a configuration that differs.
type Change struct {
	Path   string `json:"path"`   // in the container, or "profile"
	Change string `json:"change"` // "added", "removed", "changed", "mode"
}
