package taskapi

import (
	"strconv"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"

	"github.com/gatewarden/gatewarden/internal/journal"
)

// receiptTopic is the topic of the events that carry receipts.
const receiptTopic = "/gatewarden/receipt"

// maxCatchUp bounds the receipts that are published at a time. They come one by one, unless nobody could tell of them.
const maxCatchUp = 256

// receipts publishes what is new in a container's journal. The journal is the queue: what the warden tells is only that there
// is something, so nothing is lost when that comes late, or not at all and another warden takes over. One goroutine uses it.
type receipts struct {
	path   string
	events *lane
	seq    uint64 // of the last line that was published
}

func newReceipts(path string, events *lane) *receipts {
	// A container of the same name may have left a journal.
	newest, err := journal.Newest(path)
	if err != nil {
		log.G(events.p.ctx).WithError(err).WithField("id", events.id).Warn("receipts of an earlier container may be published again")
	}
	return &receipts{path, events, newest}
}

func (r *receipts) publish() {
	newest, err := journal.Newest(r.path)
	if err == nil && newest < r.seq {
		r.seq = 0 // it was removed, and another one is there, or will be
	}
	var lines []journal.Line
	if err == nil {
		lines, err = journal.After(r.path, r.seq, maxCatchUp)
	}
	if err != nil {
		log.G(r.events.p.ctx).WithError(err).WithField("id", r.events.id).Error("receipts are not published as events")
		return
	}
	for _, l := range lines {
		if l.Seq > r.seq+1 {
			log.G(r.events.p.ctx).WithField("id", r.events.id).Warnf("receipts %d to %d are not published as events: they came too fast, or were rotated away", r.seq+1, l.Seq-1)
		}
		r.seq = l.Seq
		r.events.recorded(receiptTopic, receiptEvent(r.events.id, l))
	}
}

// receiptEvent is the event for one line of the journal. Its type is one of containerd's own, because clients know no others:
// ctr decodes neither a type of ours nor google.protobuf.Struct, and leaves out what it can't decode. A ContainerUpdate has
// the container's ID and a map of strings; only the topic tells that this one is no update of a container.
func receiptEvent(id string, l journal.Line) *eventsapi.ContainerUpdate {
	labels := map[string]string{
		"seq": strconv.FormatUint(l.Seq, 10), "id": l.ID, "gateway": l.Gateway, "action": string(l.Action), "outcome": string(l.Outcome),
		"generation": strconv.Itoa(l.Generation), "receipt": string(l.Text),
	}
	for name, value := range map[string]string{"code": string(l.Code), "reason": l.Reason} {
		if value != "" {
			labels[name] = value
		}
	}
	return &eventsapi.ContainerUpdate{ID: id, Labels: labels}
}
