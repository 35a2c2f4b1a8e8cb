package warden

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// readKey reads the key that signs receipts, if the settings name one. Without it they are not signed: a key that can't be
// read must not keep a gateway down.
func (w *Warden) readKey() {
	if w.rec.Config.AuditKey == "" {
		return
	}
	var err error
	if w.key, err = notary.ReadKey(w.rec.Config.AuditKey); err != nil {
		w.log.Error("receipts are NOT SIGNED: correct this and replace the warden (gatewarden upgrade-warden)", "err", err)
	}
}

// keep writes a receipt down, first in the host's audit log and then in the container's journal, and makes it say where it is
// missing. The action stands: a full disk must not keep a gateway down. The client and the status have the receipt all the
// same.
//
// A warden that is lost in between has left it in the one and not in the other; see unfinished.
func (w *Warden) keep(r *receipt.Receipt) {
	w.put(audit.Log(w.rec.Config.StateDir), "audit log", r)
	failpoint.Hit(w.dir, "audited")
	w.put(journal.Log(w.journal()), "journal", r)
}

func (w *Warden) put(log chain.Log, name string, r *receipt.Receipt) {
	body, err := json.Marshal(r)
	if err == nil {
		_, err = notary.Append(log, w.key, body, notary.Patience)
	}
	if err == nil {
		return
	}
	w.log.Error("cannot record the receipt", "in", name, "receipt", r.ID, "err", err)
	if r.Message != "" {
		r.Message += "; "
	}
	r.Message += fmt.Sprintf("this receipt is not in the %s: %v", name, err)
}

// unfinished gives the receipt that a lost warden has put into the audit log and not yet into the journal, which holds all.
// It is in both then: the action has one receipt, and it is finished.
func (w *Warden) unfinished(m *memo.Memo, all []receipt.Receipt) *receipt.Receipt {
	if m.Pending == nil || slices.ContainsFunc(all, func(r receipt.Receipt) bool { return r.ID == m.Pending.ID }) {
		return nil
	}
	r, err := audit.Find(audit.Log(w.rec.Config.StateDir), m.Pending.ID)
	if err != nil {
		w.log.Warn("the audit log cannot be read", "err", err)
	}
	if r != nil {
		w.put(journal.Log(w.journal()), "journal", r)
	}
	return r
}
