// Package control is the protocol between a container's warden and its clients on the host (the shim, the gatewarden
// command): one request per connection over a unix socket, JSON values one per line, bounded in length.
//
// A client writes one Request and reads Messages until one with Done set, or until the connection ends, which means
// that the warden is gone. The right to connect is the right to ask: the socket lies in a directory that only root
// enters, and the warden checks the peer with SO_PEERCRED as well.
package control

import (
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Version is the protocol's version. A warden refuses other versions by name instead of guessing.
const Version = 1

// Verb is what a client asks for.
type Verb string

// The verbs. All up to Lock but Status, and Signal, have effects. The others are free of side effects and never wait for an action in progress.
const (
	Status   Verb = "status"   // → Message.Status
	Restart  Verb = "restart"  // → Stage messages, then Message.Receipt
	Recover  Verb = "recover"  // → like Restart
	Apply    Verb = "apply"    // → like Restart, with another configuration; with DryRun → Message.Plan
	Rollback Verb = "rollback" // → like Apply, with a configuration that was there before
	Unlock   Verb = "unlock"   // → Message.Receipt: the profile's [unlock] paths can be written for Request.For
	Lock     Verb = "lock"     // → Message.Receipt: what was written is a generation
	Probe    Verb = "probe"    // → Message.Report
	Signal   Verb = "signal"   // deliver Request.Signal to exactly the tracked process, no restart
	Await    Verb = "await"    // wait until the first start has an outcome → Message.Receipt, or Error if it failed for good
	Leave    Verb = "leave"    // end without touching the gateway, for a successor; answered before the end
	Watch    Verb = "watch"    // stream of Message.Event until the client hangs up; the first tells the present state
)

// Request is what a client sends.
type Request struct {
	Version int  `json:"version"`
	Verb    Verb `json:"verb"`

	Timeout      time.Duration `json:"timeout,omitempty"`       // of the whole action, queueing included; 0: the profile's sum
	Reason       string        `json:"reason,omitempty"`        // at most MaxReason bytes
	RequestID    string        `json:"request_id,omitempty"`    // a repeated id returns the first receipt
	IfGeneration *int          `json:"if_generation,omitempty"` // refuse unless this is the current generation
	Signal       string        `json:"signal,omitempty"`        // "SIGUSR1"; for Restart: the first signal instead of stop.signal
	Via          string        `json:"via,omitempty"`           // receipt's requested_by.via

	Config        []Config `json:"config,omitempty"`         // Apply: what [[mount]] entries are to show; none: what is declared now
	To            int      `json:"to,omitempty"`             // Rollback: the generation; 0: the one before the current one
	DryRun        bool     `json:"dry_run,omitempty"`        // Apply, Rollback: tell what would be done, after all checks
	SkipPreflight bool     `json:"skip_preflight,omitempty"` // Apply, Rollback: without the profile's [preflight] command

	For time.Duration `json:"for,omitempty"` // Unlock: how long
}

// Config names a directory or file on the host that a [[mount]] is to show a copy of.
type Config struct {
	Target string `json:"target"` // of the [[mount]]; "": the only one
	Source string `json:"source"` // absolute, clean path, root's alone
}

// Plan is the answer to a dry run.
type Plan struct {
	Current    int                 `json:"current"`
	Generation int                 `json:"generation"` // that would be tried; Current: nothing would change
	Changes    []generation.Change `json:"changes"`
	Diff       string              `json:"diff"` // unified, of the texts among them
}

// Bounds of a request and of its parts, in bytes.
const (
	MaxRequest   = 16 << 10
	MaxMessage   = 1 << 20
	MaxReason    = 1 << 10
	MaxRequestID = 128
	MaxConfigs   = 64
)

// MaxUnlock is the longest time that a configuration can be unlocked at once.
const MaxUnlock = 24 * time.Hour

// Recorded is the kind of an Event that says that a receipt was added to the journal. It may come late, so that what it makes
// others do takes no time of a restart.
const Recorded = "receipt"

// Event is a change of the gateway that watchers see.
type Event struct {
	Kind     string    `json:"kind"` // "running", "exited", "failed", Recorded, or the present state's name for the first event
	PID      int       `json:"pid"`
	ExitCode int       `json:"exit_code"` // 128+signal when a signal ended it
	Time     time.Time `json:"time"`
}

// Report is the answer to Probe: facts, no side effects.
type Report struct {
	Healthy   *bool              `json:"healthy"` // null: cannot tell
	PID       int                `json:"pid"`
	Listeners []receipt.Listener `json:"listeners"`
	Probe     *receipt.Probe     `json:"probe"`
	Holders   string             `json:"holders,omitempty"` // while no gateway runs: who listens on its addresses
	Forwards  []receipt.Forward  `json:"forwards,omitempty"`
	Code      code.Code          `json:"code"`
	Message   string             `json:"message"`
}

// Message is one line of the warden's answer.
type Message struct {
	Stage   code.Stage       `json:"stage,omitempty"`   // progress: this stage begins
	Text    string           `json:"text,omitempty"`    // progress: what is being done, for people
	Elapsed float64          `json:"elapsed,omitempty"` // progress: milliseconds since the action was asked for
	Event   *Event           `json:"event,omitempty"`
	Status  *receipt.Status  `json:"status,omitempty"`
	Receipt *receipt.Receipt `json:"receipt,omitempty"`
	Report  *Report          `json:"report,omitempty"`
	Plan    *Plan            `json:"plan,omitempty"`
	Error   *code.Error      `json:"error,omitempty"` // the request was not carried out; Receipt may still tell more
	Done    bool             `json:"done,omitempty"`
}
