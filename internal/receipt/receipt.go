// Package receipt defines the record of one action on a gateway, and the status of a container's gateway, in the JSON
// form that users see (design, section 8).
package receipt

import (
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
)

// Action is what was done, or asked for.
type Action string

// The actions. Start and Respawn are the warden's own, the others are asked for.
const (
	Start    Action = "start"   // the first gateway of a container
	Restart  Action = "restart" // asked for: always replaces
	Recover  Action = "recover" // asked for: replaces only what is not healthy
	Respawn  Action = "respawn" // the gateway exited unasked
	Apply    Action = "apply"
	Rollback Action = "rollback"
	Unlock   Action = "unlock" // asked for: the gateway may write to its configuration for a while
	Lock     Action = "lock"   // asked for, or the warden's own when that time is over
)

// Outcome is how an action ended.
type Outcome string

// The outcomes.
const (
	Replaced       Outcome = "replaced"        // a new gateway runs, proven
	AlreadyRunning Outcome = "already-running" // recover found a healthy gateway
	Refused        Outcome = "refused"         // the old gateway was not touched
	Failed         Outcome = "failed"          // the old gateway is gone and no proven one runs
	RolledBack     Outcome = "rolled-back"
	Done           Outcome = "done" // lock, unlock: the gateway goes on
)

// Container names one container instance. InitPID and InitStart (clock ticks since boot, /proc/PID/stat field 22) tell
// two instances of the same name apart.
type Container struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	InitPID   int    `json:"init_pid"`
	InitStart uint64 `json:"init_start"`
}

// String gives NAMESPACE/ID.
func (c Container) String() string { return c.Namespace + "/" + c.ID }

// RequestedBy tells how a request arrived ("task-exec", "task-kill", "cli", "warden") and the UID of the caller on the host.
type RequestedBy struct {
	Via string `json:"via"`
	UID int    `json:"uid"`
}

// Old is the gateway that an action ended.
type Old struct {
	PID        int    `json:"pid"`
	StartTime  uint64 `json:"start_time"`
	ExitCode   int    `json:"exit_code"`     // -1 when a signal ended it
	Signal     string `json:"signal"`        // "SIGTERM"; empty when it exited by itself
	Forced     bool   `json:"forced"`        // SIGKILL was needed
	OOM        bool   `json:"oom,omitempty"` // the kernel killed it for want of memory
	DeathProof string `json:"death_proof"`   // "waitid": the kernel handed its exit status to us, its parent; "pidfd": it was adopted
}

// Capabilities holds the five sets of /proc/PID/status in lower-case hexadecimal without leading zeros.
type Capabilities struct {
	Effective   string `json:"effective"`
	Permitted   string `json:"permitted"`
	Inheritable string `json:"inheritable"`
	Bounding    string `json:"bounding"`
	Ambient     string `json:"ambient"`
}

// New is the gateway that an action started, as the kernel describes it.
type New struct {
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

// Listener is one declared address and who holds it.
type Listener struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Mode     string `json:"mode"`
	Inode    uint64 `json:"inode"`
	OwnerPID int    `json:"owner_pid"` // 0: nobody
}

// Probe is the readiness probe's last answer.
type Probe struct {
	Kind    string  `json:"kind"`    // "http", "grpc", "tcp", "unix", "exec", "none"
	Verdict string  `json:"verdict"` // "yes", "no", or "unknown": it could not be asked, which says nothing of the gateway
	Status  int     `json:"status"`  // HTTP status; 0 for other kinds
	Millis  float64 `json:"millis"`
	Detail  string  `json:"detail,omitempty"` // why it is not a yes
}

// Workload compares the container's other processes before and after.
type Workload struct {
	Processes int  `json:"processes"`
	Unchanged bool `json:"unchanged"`
}

// Millis are durations in milliseconds. Unavailable runs from the stop signal to the successor's proof.
type Millis struct {
	Queue       float64 `json:"queue"`
	Preflight   float64 `json:"preflight"`
	Stop        float64 `json:"stop"`
	Launch      float64 `json:"launch"`
	Listen      float64 `json:"listen"`
	Probe       float64 `json:"probe"`
	Forward     float64 `json:"forward,omitempty"` // after the proof; clients do not wait for it
	Total       float64 `json:"total"`
	Unavailable float64 `json:"unavailable"`
}

// Receipt is the record of one action.
type Receipt struct {
	Version     int         `json:"version"` // 1
	ID          string      `json:"id"`
	Container   Container   `json:"container"`
	Gateway     string      `json:"gateway"` // the profile's name
	Action      Action      `json:"action"`
	Reason      string      `json:"reason"`
	RequestID   string      `json:"request_id,omitempty"` // the client's own
	RequestedBy RequestedBy `json:"requested_by"`
	Outcome     Outcome     `json:"outcome"`
	Code        code.Code   `json:"code"`
	Stage       code.Stage  `json:"stage"`
	Retryable   bool        `json:"retryable"`
	Message     string      `json:"message"`
	Generation  int         `json:"generation"`         // of the configuration: the one that is current after the action
	Rejected    *Rejected   `json:"rejected,omitempty"` // the generation that the action tried, if it was turned down
	Old         *Old        `json:"old"`                // null when no gateway was stopped
	New         *New        `json:"new"`                // null when none was started
	Listeners   []Listener  `json:"listeners"`
	Probe       *Probe      `json:"probe"`
	Forwards    []Forward   `json:"forwards,omitempty"` // absent when none is declared, or none was looked at
	Workload    Workload    `json:"workload"`
	// PostureAllows repeats the profile's [posture] allow: what the administrator let the workload keep.
	PostureAllows []string  `json:"posture_allows,omitempty"`
	Millis        Millis    `json:"millis"`
	Time          time.Time `json:"time"`
}

// Rejected is a generation of the configuration that was tried and did not come to be the current one.
type Rejected struct {
	Generation int       `json:"generation"`
	Code       code.Code `json:"code"`
	Message    string    `json:"message"`
	Time       time.Time `json:"time"`
}

// Unlocked says until when the gateway may write to its configuration, and why.
type Unlocked struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// State is the gateway's state as the warden sees it.
type State string

// The states.
const (
	Starting State = "starting" // launched, not yet proven
	Running  State = "running"  // proven
	Stopping State = "stopping" // signalled, not yet proven gone
	Backoff  State = "backoff"  // exited unasked; the next start is scheduled
	FailedSt State = "failed"   // will not be started again until an operator asks
	Stopped  State = "stopped"  // ended, and the policy says that this is right
)

// Restarts counts replacements since the container's create.
type Restarts struct {
	Asked   int `json:"asked"`
	Unasked int `json:"unasked"`
}

// Standby is the parked successor; PID 0 when there is none.
type Standby struct {
	PID int `json:"pid"`
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

// Warden is the supervising process on the host.
type Warden struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// Status is what `gatewarden status --json` prints.
type Status struct {
	Container  Container  `json:"container"`
	Gateway    string     `json:"gateway"`
	State      State      `json:"state"`
	Code       code.Code  `json:"code"`
	Message    string     `json:"message"`
	PID        int        `json:"pid"`
	NSPID      int        `json:"ns_pid"`
	StartTime  uint64     `json:"start_time"`
	Since      time.Time  `json:"since"` // when State was entered
	Restarts   Restarts   `json:"restarts"`
	Generation int        `json:"generation"` // of the configuration that is current
	Rejected   *Rejected  `json:"rejected"`   // a later one that was tried and turned down, until another takes the current one's place
	Unlocked   *Unlocked  `json:"unlocked"`   // null: its configuration is locked
	Listeners  []Listener `json:"listeners"`
	Healthy    *bool      `json:"healthy"` // as of Checked; false, too, while no gateway runs; null: cannot tell
	Checked    *time.Time `json:"checked"` // when the running gateway's health was last looked at; null: it was not
	Forwards   []Forward  `json:"forwards,omitempty"`
	Standby    Standby    `json:"standby"`
	Warden     Warden     `json:"warden"`
	// UserNamespace is the container's own; absent: it has the host's.
	UserNamespace *UserNamespace `json:"user_namespace,omitempty"`
	Last          *Receipt       `json:"last"`
}

// Exit gives the exit status that stands for r (design, section 8).
func (r *Receipt) Exit() int {
	switch r.Outcome {
	case Replaced, AlreadyRunning, Done:
		return code.ExitOK
	case RolledBack:
		return code.ExitRolledBack
	case Refused:
		return RefusedExit(r.Code)
	}
	if r.Code == code.Deadline {
		return code.ExitDeadline // the warden goes on by its policy: a repeat finds what became of it
	}
	return code.ExitFailed
}

// RefusedExit gives the exit status for an action that ended with c before the old gateway was touched.
func RefusedExit(c code.Code) int {
	switch c {
	case code.Busy, code.Deadline:
		return code.ExitDeadline
	case code.NotManaged, code.NotRunning:
		return code.ExitNotManaged
	}
	return code.ExitRefused
}
