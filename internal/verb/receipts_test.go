package verb

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/journal/journaltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestReceiptsAreReadWithoutAWarden(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(h.env.Config.StateDir, "default/web/receipts.jsonl")
	h.write(path, "")
	first := replaced()
	first.Action, first.Old = receipt.Start, nil
	failed := replaced()
	failed.ID, failed.Outcome, failed.Code, failed.New, failed.Reason = "r2", receipt.Failed, code.ProbeFailed, nil, "new\ntoken"
	for _, r := range []*receipt.Receipt{first, failed} {
		journaltest.Append(t, path, r)
	}
	exit, stdout, stderr := h.run("receipts", "web")
	want(t, exit, code.ExitOK, stdout, "ACTION", "  start    replaced  845      ", "  restart  failed    812 → -  11.2 ms  -  ", "probe_failed; new token\n")
	if strings.Count(stdout, "\n") != 3 || stderr != "" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	exit, stdout, _ = h.run("receipts", "--json", "-n", "1", "web")
	want(t, exit, code.ExitOK, stdout)
	if r := oneObject[receipt.Receipt](t, stdout); r.ID != "r2" {
		t.Errorf("receipt %+v", r)
	}
}

func TestWithoutReceiptsNothingIsPrinted(t *testing.T) {
	h := newHost(t)
	h.lose("default/web")
	exit, stdout, stderr := h.run("receipts", "--json", "web")
	if exit != code.ExitOK || stdout+stderr != "" {
		t.Errorf("exit %d, %q %q", exit, stdout, stderr)
	}
	exit, _, stderr = h.run("receipts", "nobody")
	want(t, exit, code.ExitNotManaged, stderr, "(not_managed)")
}
