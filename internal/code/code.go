// Package code defines gatewarden's stable error codes and the error type that carries them from the place where a
// fact was found to the edges: the receipt, the exit status and the gRPC status.
//
// The strings are an interface: they appear in receipts, in --json output and in scripts. They are never renamed.
package code

import (
	"context"
	"errors"
	"fmt"
)

// Code names one kind of failure. The zero value means success.
type Code string

// The codes of the design, section 8.
const (
	InvalidProfile    Code = "invalid_profile"    // the profile does not parse, or says something impossible
	PostureRefused    Code = "posture_refused"    // the container's own spec would let the workload reach the gateway
	UntrustedBinary   Code = "untrusted_binary"   // the gateway's binary is missing, not executable, or not root's alone
	NotManaged        Code = "not_managed"        // no such container, or it has no gateway
	Paused            Code = "paused"             // the container is paused; nothing in it can be stopped or started
	NotRunning        Code = "not_running"        // the container's init has exited
	Busy              Code = "busy"               // another action holds the place and the queue is full
	Deadline          Code = "deadline"           // the action's deadline passed
	PreflightFailed   Code = "preflight_failed"   // a check made while the old gateway still serves did not pass
	StopFailed        Code = "stop_failed"        // the old gateway could not be proven gone
	LaunchFailed      Code = "launch_failed"      // the next gateway could not be started
	PostureMismatch   Code = "posture_mismatch"   // the kernel reports another posture than the profile asks for
	ListenerMissing   Code = "listener_missing"   // nobody, or not the gateway, listens on a declared address
	ListenerContested Code = "listener_contested" // somebody else listens on a declared address
	ProbeFailed       Code = "probe_failed"       // the readiness probe gave a definite no
	ForwardFailed     Code = "forward_failed"     // a host-side endpoint does not reach the gateway, which may be well
	CrashLoop         Code = "crash_loop"         // more unasked exits than restart.burst within restart.window
	RolledBack        Code = "rolled_back"        // the previous configuration runs again
	WardenLost        Code = "warden_lost"        // the container's warden does not answer
	Internal          Code = "internal"           // a fault in gatewarden itself
)

// Stage names the step of an action in which something happened (design, section 9).
type Stage string

// The stages, in the order in which an action passes through them.
const (
	StageInstall   Stage = "install"
	StageQueue     Stage = "queue"
	StagePreflight Stage = "preflight"
	StageStop      Stage = "stop"
	StageAbsence   Stage = "absence"
	StageLaunch    Stage = "launch"
	StageListen    Stage = "listen"
	StageProbe     Stage = "probe"
	StageSettle    Stage = "settle"
	StageCommit    Stage = "commit"
	StageRollback  Stage = "rollback" // after a stage that failed: the configuration before is started again
	StageForward   Stage = "forward"
	StageReceipt   Stage = "receipt"
	StageRunning   Stage = "running"
)

// Error is a failure with its code. Message is what the operator reads: what was being done to which object, what was
// found, and what to do next.
type Error struct {
	Code      Code   `json:"code"`
	Stage     Stage  `json:"stage"`
	Retryable bool   `json:"retryable"` // whether the same request, repeated, can succeed without anybody changing anything
	Message   string `json:"message"`
	Err       error  `json:"-"` // the cause, for errors.Is and errors.As; its text is already part of Message
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error. Like fmt.Errorf it keeps what %w wraps.
func Errorf(c Code, s Stage, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: c, Stage: s, Message: err.Error(), Err: errors.Unwrap(err), Retryable: retryable[c]}
}

// retryable lists the codes of states that pass by themselves (design, rule 5: transient is not terminal).
var retryable = map[Code]bool{
	Busy: true, Deadline: true, WardenLost: true, ListenerMissing: true, ProbeFailed: true, LaunchFailed: true,
}

// From gives err as an Error: itself if it is one, Deadline if a context's deadline passed, else Internal in stage s.
func From(err error, s Stage) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	c := Internal
	if errors.Is(err, context.DeadlineExceeded) {
		c = Deadline
	}
	return &Error{Code: c, Stage: s, Message: err.Error(), Err: err, Retryable: retryable[c]}
}

// Exit statuses of the gatewarden command and of virtual execs (design, section 8).
const (
	ExitOK         = 0 // done, or nothing to do
	ExitFailed     = 1 // failed after the old gateway was stopped
	ExitUsage      = 2 // the command line is wrong
	ExitRefused    = 3 // refused; the old gateway was not touched
	ExitRolledBack = 4 // the previous configuration runs again
	ExitDeadline   = 5 // deadline passed or busy; safe to repeat
	ExitNotManaged = 6 // no such container, or not managed
)
