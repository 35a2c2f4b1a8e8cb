package code

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestAnErrorKeepsItsCauseAndSaysWhetherARepeatCanHelp(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(Busy, StageQueue, "cannot: %w", fs.ErrNotExist))
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != Busy || e.Stage != StageQueue || !e.Retryable || e.Error() != "cannot: file does not exist" {
		t.Errorf("got %+v", e)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if Errorf(UntrustedBinary, StagePreflight, "x").Retryable {
		t.Error("a repeat makes no binary trusted")
	}
}

func TestFromFindsTheCodeOfAnyError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{fmt.Errorf("a: %w", Errorf(Paused, StagePreflight, "b")), Paused},
		{fmt.Errorf("a: %w", context.DeadlineExceeded), Deadline},
		{errors.New("a"), Internal},
	} {
		if got := From(c.err, StageStop); got.Code != c.want {
			t.Errorf("%v: %s, want %s", c.err, got.Code, c.want)
		}
	}
	if From(nil, StageStop) != nil {
		t.Error("no error has a code")
	}
}
