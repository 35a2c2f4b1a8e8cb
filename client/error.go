package client

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Code names one kind of failure.
type Code string

// The codes. Which of them a repetition can help against is Error.Retryable.
const (
	CodeInvalidProfile    Code = "invalid_profile"    // the profile does not parse, or says something impossible
	CodePostureRefused    Code = "posture_refused"    // the container's own spec would let the workload reach the gateway
	CodeUntrustedBinary   Code = "untrusted_binary"   // the gateway's binary is missing, not executable, or not root's alone
	CodeNotManaged        Code = "not_managed"        // no such container, or it has no gateway; also: no such receipt or generation
	CodePaused            Code = "paused"             // the container is paused; nothing in it can be stopped or started
	CodeNotRunning        Code = "not_running"        // the container's init has exited
	CodeBusy              Code = "busy"               // another action holds the place and the queue is full
	CodeDeadline          Code = "deadline"           // the deadline passed, or the caller stopped waiting
	CodePreflightFailed   Code = "preflight_failed"   // a check made while the old gateway still serves did not pass
	CodeStopFailed        Code = "stop_failed"        // the old gateway could not be proven gone
	CodeLaunchFailed      Code = "launch_failed"      // the next gateway could not be started
	CodePostureMismatch   Code = "posture_mismatch"   // the kernel reports another posture than the profile asks for
	CodeListenerMissing   Code = "listener_missing"   // nobody, or not the gateway, listens on a declared address
	CodeListenerContested Code = "listener_contested" // somebody else listens on a declared address
	CodeProbeFailed       Code = "probe_failed"       // the readiness probe gave a definite no
	CodeForwardFailed     Code = "forward_failed"     // a host-side endpoint does not reach the gateway, which may be well
	CodeCrashLoop         Code = "crash_loop"         // more unasked exits than restart.burst within restart.window
	CodeRolledBack        Code = "rolled_back"        // the previous configuration runs again
	CodeWardenLost        Code = "warden_lost"        // the container's warden does not answer
	CodeInternal          Code = "internal"           // a fault in gatewarden itself, or no permission
)

// Stage names a step of an action.
type Stage string

// The stages, in the order in which an action passes through them.
const (
	StageInstall   Stage = "install"
	StageQueue     Stage = "queue"
	StagePreflight Stage = "preflight"
	StageStop      Stage = "stop" // from here on the old gateway has been told to end
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

// Error is a request that did not do what was asked.
type Error struct {
	Code      Code
	Stage     Stage  // in which that was found
	Retryable bool   // whether the same request, repeated, can succeed without anybody changing anything
	Message   string // for people: what was being done to what, what was found, and what to do next

	exit  int
	cause error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause, if there is one: context.Canceled, fs.ErrPermission and the like.
func (e *Error) Unwrap() error { return e.cause }

// ExitStatus is what the gatewarden command would exit with: 1 failed after the old gateway had been told to stop, 3 refused and
// not touched, 4 rolled back, 5 deadline passed or busy, 6 no such container or not managed.
func (e *Error) ExitStatus() int { return e.exit }

// AmbiguousError is a name that several containers have.
type AmbiguousError struct {
	Name       string
	Candidates []Ref
}

func (e *AmbiguousError) Error() string {
	names := make([]string, len(e.Candidates))
	for i, r := range e.Candidates {
		names[i] = r.String()
	}
	return fmt.Sprintf("%q could be any of %d containers; name one of them: %s", e.Name, len(names), strings.Join(names, ", "))
}

// failure gives err, which has an outcome nobody wrote a receipt of, as one of ours. Other errors stay as they are.
func failure(err error) error {
	if err == nil {
		return nil
	}
	if a, ok := errors.AsType[*gateways.AmbiguousError](err); ok {
		public := &AmbiguousError{Name: a.Name}
		for _, t := range a.Candidates {
			public.Candidates = append(public.Candidates, Ref(t))
		}
		return public
	}
	e, ours := errors.AsType[*code.Error](err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		message := fmt.Sprintf("%v: only root may ask a warden or read what it keeps", err)
		return &Error{Code: CodeInternal, Stage: StageQueue, Message: message, exit: code.ExitRefused, cause: err}
	case !ours:
		return err
	}
	return &Error{Code(e.Code), Stage(e.Stage), e.Retryable, e.Message, receipt.RefusedExit(e.Code), e.Err}
}

// outcome gives what a receipt says went wrong, with the error that came with it, if any; nil: it was done.
func outcome(r *receipt.Receipt, err error) error {
	exit := r.Exit()
	if exit == code.ExitOK {
		return nil
	}
	e := &Error{Code(r.Code), Stage(r.Stage), r.Retryable, r.Message, exit, nil}
	if beside, ok := errors.AsType[*code.Error](err); ok && r.Message == "" {
		e.Code, e.Stage, e.Retryable, e.Message, e.cause = Code(beside.Code), Stage(beside.Stage), beside.Retryable, beside.Message, beside.Err
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("%s of gateway %s of %s: %s at stage %s", r.Action, r.Gateway, r.Container, r.Outcome, r.Stage)
	}
	return e
}
