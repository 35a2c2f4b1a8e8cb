//go:build integration

package integration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/client"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// newClient is what a tool of this host's administrator has.
func newClient(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{ConfigFile: host.ConfigFile, Via: "a-tool"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *container) ref() client.Ref { return client.Ref{Namespace: c.h.Namespace, ID: c.id} }

// clientError checks that err is the client's, with that code.
func clientError(t *testing.T, err error, code client.Code) *client.Error {
	t.Helper()
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != code {
		t.Fatalf("the error is %v (%T), want one with %s", err, err, code)
	}
	return e
}

func TestAToolHasWithoutASubprocessWhatTheCommandHas(t *testing.T) {
	c := runConfigured(t, nil)
	api, web := newClient(t), c.ref()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()

	before, err := api.Status(ctx, web)
	if err != nil || before.State != client.StateRunning || before.PID == 0 || before.Healthy == nil || !*before.Healthy || before.Last.Action != client.VerbStart {
		t.Fatalf("the status is %+v, %v", before, err)
	}

	// A reader of events, from the start's receipt on.
	type step struct {
		event client.Event
		err   error
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	events := make(chan step, 16)
	go func() {
		defer close(events)
		for e, err := range api.Events(reading, before.Last.ID, web) {
			events <- step{e, err}
		}
	}()

	var stages []client.Stage
	restart := client.Action{Reason: "by a tool", RequestID: uniqueID("request"), Progress: func(p client.Progress) { stages = append(stages, p.Stage) }}
	r, err := api.Restart(ctx, web, restart)
	if err != nil || r.Outcome != client.OutcomeReplaced || r.Old.PID != before.PID || r.New.PID == before.PID || r.Reason != "by a tool" || r.RequestedBy.Via != "a-tool" {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
	if !slices.Contains(stages, client.StageStop) || !slices.Contains(stages, client.StageProbe) {
		t.Errorf("the stages were %q", stages)
	}
	if again, err := api.Restart(ctx, web, restart); err != nil || again.ID != r.ID {
		t.Errorf("the repeated request got the receipt %+v, %v", again, err)
	}
	if got, err := api.Recover(ctx, web, client.Action{}); err != nil || got.Outcome != client.OutcomeAlreadyRunning || got.New.PID != r.New.PID {
		t.Errorf("recover of a healthy gateway: %+v, %v", got, err)
	}
	if report, err := api.Probe(ctx, web); err != nil || report.Healthy == nil || !*report.Healthy || report.PID != r.New.PID || report.Listeners[0].OwnerPID != r.New.PID {
		t.Errorf("the probe found %+v, %v", report, err)
	}

	// What is refused has cost nothing.
	other := 7
	got, err := api.Restart(ctx, web, client.Action{IfGeneration: &other})
	if e := clientError(t, err, client.CodePreflightFailed); e.ExitStatus() != 3 || got == nil || got.Outcome != client.OutcomeRefused {
		t.Errorf("exit status %d, receipt %+v", e.ExitStatus(), got)
	}

	// A change, looked at first, and back.
	configs := []client.Config{{Source: confDir(t, otherConf)}}
	plan, err := api.PlanApply(ctx, web, configs, client.Action{})
	if err != nil || plan.Current != 1 || plan.Generation != 2 || !strings.Contains(plan.Diff, "+OPTIONS=\"--say other\"") || len(plan.Changes) != 1 {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	if r, err := api.Apply(ctx, web, configs, client.Action{IfGeneration: &plan.Current}); err != nil || r.Generation != 2 || r.Action != client.VerbApply {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
	bad, err := api.Apply(ctx, web, []client.Config{{Source: confDir(t, brokenConf)}}, client.Action{})
	if e := clientError(t, err, client.CodeRolledBack); e.ExitStatus() != 4 || bad.Outcome != client.OutcomeRolledBack || bad.Generation != 2 {
		t.Errorf("exit status %d, receipt %+v", e.ExitStatus(), bad)
	}
	if r, err := api.Rollback(ctx, web, 1, client.Action{}); err != nil || r.Generation != 1 {
		t.Errorf("the receipt is %+v, %v", r, err)
	}
	c.current(1, goodConf)

	// The journal, and the events, are the receipts that the calls gave.
	all, err := api.Receipts(ctx, web, 0)
	if err != nil || len(all) < 6 || all[0].ID != before.Last.ID || all[1].ID != r.ID {
		t.Fatalf("%d receipts, %v: %+v", len(all), err, all)
	}
	for _, want := range all[1:] {
		got := <-events
		if got.err != nil || got.event.Receipt == nil || got.event.Receipt.ID != want.ID {
			t.Fatalf("the event is %+v, %v; want that of %s", got.event, got.err, want.ID)
		}
	}
	stop()
	for got := range events {
		if !errors.Is(got.err, context.Canceled) {
			t.Errorf("after the last: %+v, %v", got.event, got.err)
		}
	}

	lines := 0
	for _, err := range api.Logs(ctx, web, -1, false) {
		if lines++; err != nil {
			t.Fatal(err)
		}
	}
	if lines == 0 {
		t.Error("the log is empty")
	}

	listed, err := api.List(ctx)
	if at := slices.IndexFunc(listed, func(s client.Status) bool { return s.Container.Ref() == web }); err != nil || at < 0 || listed[at].State != client.StateRunning {
		t.Errorf("listed are %+v, %v", listed, err)
	}
	if found, err := api.Find(c.name()); err != nil || found != web {
		t.Errorf("%s is %v, %v", c.name(), found, err)
	}
	_, err = api.Status(ctx, client.Ref{Namespace: web.Namespace, ID: "nobody"})
	clientError(t, err, client.CodeNotManaged)
}

func TestAToolRestartsAGatewayWhoseWardenIsLost(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	killProcess(t, before.Warden.PID)
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	r, err := newClient(t).Restart(ctx, c.ref(), client.Action{})
	if err != nil || r.Outcome != client.OutcomeReplaced || r.Old == nil || r.Old.PID != before.PID {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
}

func TestAToolThatStopsWaitingUndoesNothing(t *testing.T) {
	// It takes its time to end.
	c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "1s"}}})
	before := c.parked()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	waiting, giveUp := context.WithCancel(ctx)
	_, err := newClient(t).Restart(waiting, c.ref(), client.Action{Progress: func(p client.Progress) {
		if p.Stage == client.StageStop {
			giveUp()
		}
	}})
	giveUp()
	if e := clientError(t, err, client.CodeDeadline); !e.Retryable || !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %+v", e)
	}
	s := c.waitFor("the gateway was replaced all the same", func(s receipt.Status) bool { return s.Restarts.Asked == 1 && s.State == receipt.Running })
	if s.PID == before.PID {
		t.Errorf("the gateway is %d as before", s.PID)
	}
}
