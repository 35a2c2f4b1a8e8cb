package taskapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// classes says which class of containerd's errors, and so which gRPC status, stands for each code.
var classes = map[code.Code]error{
	code.InvalidProfile:    errdefs.ErrInvalidArgument,
	code.PostureRefused:    errdefs.ErrFailedPrecondition,
	code.UntrustedBinary:   errdefs.ErrFailedPrecondition,
	code.NotManaged:        errdefs.ErrNotFound,
	code.Paused:            errdefs.ErrFailedPrecondition,
	code.NotRunning:        errdefs.ErrFailedPrecondition,
	code.Busy:              errdefs.ErrUnavailable,
	code.Deadline:          context.DeadlineExceeded,
	code.PreflightFailed:   errdefs.ErrFailedPrecondition,
	code.StopFailed:        errdefs.ErrAborted,
	code.LaunchFailed:      errdefs.ErrAborted,
	code.PostureMismatch:   errdefs.ErrAborted,
	code.ListenerMissing:   errdefs.ErrAborted,
	code.ListenerContested: errdefs.ErrAborted,
	code.ProbeFailed:       errdefs.ErrAborted,
	code.ForwardFailed:     errdefs.ErrAborted,
	code.CrashLoop:         errdefs.ErrAborted,
	code.RolledBack:        errdefs.ErrAborted,
	code.WardenLost:        errdefs.ErrUnavailable,
	code.Internal:          errdefs.ErrInternal,
}

// toGRPC makes the error that a client gets. It is called at the edge only: where a method of Service returns.
func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*code.Error](err); ok {
		class, ok := classes[e.Code]
		if !ok {
			class = errdefs.ErrUnknown // a newer warden's
		}
		err = classify(class, "gatewarden: %s (%s)", e.Message, e.Code)
	}
	return errgrpc.ToGRPC(err)
}

// classified is an error of one of containerd's classes whose text says everything: a class wrapped with %w would repeat
// itself at its end, and beside a second %w on a line of its own.
type classified struct {
	message string
	class   error
}

func classify(class error, format string, args ...any) error {
	return classified{fmt.Sprintf(format, args...), class}
}

func (c classified) Error() string { return c.message }
func (c classified) Unwrap() error { return c.class }

// receiptError gives what went wrong in the action that r records, or nil.
func receiptError(r *receipt.Receipt) error {
	if r == nil {
		return code.Errorf(code.Internal, code.StageQueue, "the warden answered without a receipt")
	}
	switch r.Outcome {
	case receipt.Replaced, receipt.AlreadyRunning:
		return nil
	}
	return &code.Error{Code: r.Code, Stage: r.Stage, Retryable: r.Retryable, Message: r.Message}
}

// hookError is what the hook wrote, if err, an error of runc's create, is the hook's refusal. runc wraps it: "…: error
// running createRuntime hook #0: exit status 1, stdout: , stderr: gatewarden: …", runc 1.1 as "…: error running hook #0: error
// running hook: exit status 1, stdout: , stderr: gatewarden: …".
func hookError(err error) error {
	if err == nil {
		return nil
	}
	text := errgrpc.ToNative(err).Error()
	_, rest, ok := strings.Cut(text, "error running createRuntime hook")
	if !ok {
		_, rest, ok = strings.Cut(text, "error running hook #")
	}
	if !ok {
		return err
	}
	_, line, ok := strings.Cut(rest, "stderr: gatewarden: ")
	if !ok {
		return err
	}
	line = "gatewarden: " + strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), ": unknown"))
	var class error = errdefs.ErrFailedPrecondition
	if strings.HasSuffix(line, "("+string(code.InvalidProfile)+")") {
		class = errdefs.ErrInvalidArgument
	}
	return errgrpc.ToGRPC(classified{line, class})
}
