package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// answerTime is how long a warden may take to tell its status, which it never delays for an action.
const answerTime = 2 * time.Second

// wardens asks each container's warden for its status and reports those that do not answer, and what they left.
func wardens(ctx context.Context, h Host) []Finding {
	dirs, err := containers(h.Config.RunDir)
	if err != nil {
		return []Finding{{"wardens", "run_dir", Fail, err.Error(), "run gatewarden doctor as root"}}
	}
	all := []Finding{}
	well := 0
	for _, dir := range dirs {
		st, err := status(ctx, dir)
		if err == nil && st.Warden.Version == h.Version {
			well++
			continue
		}
		if f, ok := unwell(dir, st, err, h.Version); ok {
			all = append(all, f)
		}
	}
	return append(all, Finding{"wardens", "answering", OK, fmt.Sprintf("%d of %d", well, len(dirs)), ""})
}

// containers lists the run directories, RUN_DIR/NAMESPACE/ID.
func containers(runDir string) ([]string, error) {
	var all []string
	namespaces, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		if !ns.IsDir() {
			continue
		}
		ids, err := os.ReadDir(filepath.Join(runDir, ns.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, id := range ids {
			if id.IsDir() {
				all = append(all, filepath.Join(runDir, ns.Name(), id.Name()))
			}
		}
	}
	return all, nil
}

func status(ctx context.Context, dir string) (*receipt.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	m, err := control.Call(ctx, dir, control.Request{Verb: control.Status, Via: "cli"}, nil)
	if err == nil && m.Status == nil {
		err = code.Errorf(code.Internal, code.StageQueue, "the warden at %s answered without a status", dir)
	}
	if err != nil {
		return nil, err
	}
	return m.Status, nil
}

// unwell says what is wrong with one container's supervision; false: it has ended meanwhile.
func unwell(dir string, st *receipt.Status, err error, version string) (Finding, bool) {
	f := Finding{Area: "wardens", Name: filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir)}
	if err == nil {
		f.Level = Warn
		f.Detail = fmt.Sprintf("its warden is of version %s, this command of %s", st.Warden.Version, version)
		f.Remedy = "gatewarden upgrade-warden " + f.Name + " replaces it; the gateway is not touched"
		return f, true
	}
	e := code.From(err, code.StageQueue)
	switch e.Code {
	case code.NotManaged:
		return f, false
	case code.WardenLost:
	default:
		f.Level, f.Detail, f.Remedy = Fail, oneLine(err), "read its warden.log in the log directory"
		return f, true
	}
	in, err := install.Read(dir)
	switch {
	case err != nil:
		f.Level, f.Detail = Warn, dir+" has no readable record of an install: "+oneLine(err)
		f.Remedy = "look again in a minute, an install may be under way; if nothing has changed: rm -r " + dir
	case initRuns(in):
		f.Level, f.Detail = Fail, "its warden is gone; the container runs, and nobody supervises its gateway"
		f.Remedy = "gatewarden recover " + f.Name + " starts a new one, which adopts the gateway; why it ended: warden.log in the log directory"
	default:
		f.Level, f.Detail = Warn, dir+" is left over: neither the warden nor the container runs"
		f.Remedy = "rm -r " + dir
	}
	return f, true
}

// initRuns tells whether the init that the hook saw still runs. What cannot be told counts as running, because the
// remedy for the other case removes things.
func initRuns(in install.Install) bool {
	p, err := process.Open(in.InitPID)
	if errors.Is(err, process.ErrGone) {
		return false
	}
	if err != nil {
		return true
	}
	defer p.Close()
	return p.Start() == in.InitStart
}
