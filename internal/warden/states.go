package warden

import (
	"slices"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

// transition is one way from a state to another, and what takes it.
type transition struct {
	from, to receipt.State
	event    string
}

// initial is the state of a warden that has just been started.
const initial = receipt.Starting

// transitions is the whole state machine. setState takes no other way; docs/state-machine.md is written from it, and an
// integration test drives each row. A warden ends from any state, with its container or by leaving to a successor.
var transitions = []transition{
	{receipt.Starting, receipt.Running, "posture, listeners and probe are proven; or a successor found a proven gateway"},
	{receipt.Starting, receipt.Stopping, "a successor ends a gateway that it found: its stop had begun, or it is not well; or restart of one that was never proven; or one that could not be proven waits, in a paused container, to be ended"},
	{receipt.Starting, receipt.Backoff, "the start failed, and the policy tries again"},
	{receipt.Starting, receipt.FailedSt, "the start failed, and the policy does not try again, or cannot; or a successor found this state recorded"},
	{receipt.Starting, receipt.Stopped, "a successor found this state recorded"},
	{receipt.Running, receipt.Starting, "a gateway ended that had been signalled by an action whose deadline passed meanwhile"},
	{receipt.Running, receipt.Stopping, "restart, or recover of an unhealthy gateway: preflight passed, the signal is sent"},
	{receipt.Running, receipt.Backoff, "unasked exit that the policy follows by a start"},
	{receipt.Running, receipt.FailedSt, "unasked exit: fatal exit status, policy never, or more than burst within window"},
	{receipt.Running, receipt.Stopped, "unasked exit with status 0 under on-failure or never"},
	{receipt.Stopping, receipt.Starting, "death and absence are proven"},
	{receipt.Stopping, receipt.Running, "the deadline passed, or no signal could be sent, and the old gateway still proves healthy"},
	{receipt.Stopping, receipt.Backoff, "the old gateway is gone, something keeps the next one from starting, and the policy tries again"},
	{receipt.Stopping, receipt.FailedSt, "the old gateway is gone, and the next one cannot be started"},
	{receipt.Backoff, receipt.Starting, "the backoff has passed; or restart, or recover"},
	{receipt.Backoff, receipt.FailedSt, "the next start's preflight was refused for a reason that does not pass by itself"},
	{receipt.FailedSt, receipt.Starting, "restart, or recover"},
	{receipt.Stopped, receipt.Starting, "restart, or recover"},
}

// allowed tells whether the machine has the way from one state to another. Staying is always allowed.
func allowed(from, to receipt.State) bool {
	return from == to || slices.ContainsFunc(transitions, func(t transition) bool { return t.from == from && t.to == to })
}
