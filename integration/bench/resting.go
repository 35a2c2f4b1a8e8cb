package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
	"github.com/gatewarden/gatewarden/integration/harness"
)

const (
	memoryFigure = "memory"
	idleFigure   = "idle"
)

const memoryHow = `The proportional set size (Pss in smaps_rollup) of each program with %[1]d containers of each kind at once, summed over them and divided by their number;
private is what only one process has (Private_Clean and Private_Dirty), shared the rest: memory that several map counts in equal parts. Ours is measured after
a restart of each gateway, and again after another one for each run. Of s6 and conmon it is the supervisor alone; the gateways are nobody's here.
A container of ours has, like every container, a shim too: that is its own row, to be set against runc's.`

const idleHow = `Voluntary and involuntary context switches of all threads of the program over %v with %d containers; per container and second. Nothing had been asked of
it for %v before: the longest time limit within a restart is 20 s, and Go's runtime drops a timer that was stopped only when its time has come.`

// resident is a program that runs once for each container, and its processes.
type resident struct {
	name    string
	kind    plot.Kind
	pids    []int
	pss     sample.Sample // MB per container
	private sample.Sample
	woken   sample.Sample // per container and second
}

// Names of residents.
const (
	wardenName    = "warden and standby"
	standbyName   = "of these the standby"
	shimName      = "shim of gatewarden"
	stockShimName = "containerd-shim-runc-v2"
	conmonName    = "conmon"
	superviseName = "s6-supervise"
)

// measureResting measures what the supervisors of containers cost that nothing happens to.
func (b *bench) measureResting(ctx context.Context) (_ []report.Figure, err error) {
	n := b.n.resting
	mode, err := supported()
	if err != nil {
		return nil, err
	}
	p := profileOf(mode)
	ours, err := b.runMany(ctx, n, spec{runtime: harness.Gatewarden, profile: &p})
	defer func() { err = errors.Join(err, b.removeMany(ours)) }()
	if err != nil {
		return nil, err
	}
	stock, err := b.runMany(ctx, n, spec{runtime: harness.Stock})
	defer func() { err = errors.Join(err, b.removeMany(stock)) }()
	if err != nil {
		return nil, err
	}
	conmons, stop, err := b.conmons(ctx, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	supervises, stopS6, err := b.supervises(ctx, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopS6()) }()

	warden := &resident{name: wardenName, kind: plot.Ours}
	standby := &resident{name: standbyName, kind: plot.Ours}
	shim := &resident{name: shimName, kind: plot.Ours}
	stockShim := &resident{name: stockShimName, kind: plot.Peer}
	for _, c := range ours {
		pid, err := c.shim()
		if err != nil {
			return nil, err
		}
		shim.pids = append(shim.pids, pid)
	}
	for _, c := range stock {
		pid, err := c.shim()
		if err != nil {
			return nil, err
		}
		stockShim.pids = append(stockShim.pids, pid)
	}
	all := []*resident{warden, standby, shim, stockShim, {name: conmonName, kind: plot.Peer, pids: conmons}, {name: superviseName, kind: plot.Peer, pids: supervises}}
	for range b.o.Runs {
		for _, c := range ours {
			if _, err := c.restart(ctx); err != nil {
				return nil, err
			}
		}
		warden.pids, standby.pids = nil, nil
		for _, c := range ours {
			s, err := c.parked(ctx)
			if err != nil {
				return nil, err
			}
			warden.pids = append(warden.pids, s.Warden.PID, s.Standby.PID)
			standby.pids = append(standby.pids, s.Standby.PID)
		}
		if err := rest(ctx, tidyTime); err != nil {
			return nil, err
		}
		for _, r := range all {
			if err := r.weigh(n); err != nil {
				return nil, err
			}
		}
		if err := rest(ctx, b.n.settleTime); err != nil {
			return nil, err
		}
		if err := watchSleep(ctx, all, n, b.n.restingTime); err != nil {
			return nil, err
		}
	}

	memory := report.Figure{Name: memoryFigure, Title: "Memory of the supervisors", Unit: "MB", Plot: report.Bars, Axis: "MB of proportional set size per container",
		How: fmt.Sprintf(memoryHow+" Mode: "+mode+".", n)}
	idle := report.Figure{Name: idleFigure, Title: "Wake-ups of idle supervisors", Unit: "wake-ups/s", How: fmt.Sprintf(idleHow, b.n.restingTime, n, tidyTime+b.n.settleTime)}
	for _, r := range all {
		private := r.private.Median()
		memory.Rows = append(memory.Rows, report.Row{Name: r.name, Kind: r.kind, Samples: r.pss, Values: []report.Value{
			{Name: "private", Value: private, Unit: "MB"}, {Name: "shared", Value: max(r.pss.Median()-private, 0), Unit: "MB"}}})
		idle.Rows = append(idle.Rows, report.Row{Name: r.name, Kind: r.kind, Samples: r.woken})
	}
	memory.Targets = []report.Target{{What: wardenName, Bound: report.AtMost, Limit: 3, Goal: number(1.5), Unit: "MB", Measured: number(warden.pss.Median())}}
	idle.Targets = []report.Target{{What: wardenName, Bound: report.AtMost, Limit: 0, Unit: "wake-ups/s", Measured: number(warden.woken.Median())}}
	return []report.Figure{memory, idle}, nil
}

// inMB turns smaps' kB, which are 1,024 bytes, into MB, which are a million.
const inMB = 1024e-6

// tidyTime is after which a warden has tidied up after an action.
const tidyTime = 3 * time.Second

// shim is the PID of the container's shim: the parent of its first process.
func (c *container) shim() (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.init))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", c.init, stat)
	}
	return strconv.Atoi(fields[1])
}

// weigh takes the memory of all its processes, for n containers.
func (r *resident) weigh(n int) error {
	var pss, private float64
	for _, pid := range r.pids {
		path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for name, sum := range map[string]*float64{"Pss": &pss, "Private_Clean": &private, "Private_Dirty": &private} {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(field(string(data), name), " kB"), 64)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", path, name, err)
			}
			*sum += kb
		}
	}
	r.pss = append(r.pss, pss*inMB/float64(n))
	r.private = append(r.private, private*inMB/float64(n))
	return nil
}

// watchSleep counts the wake-ups of all of them over the same time.
func watchSleep(ctx context.Context, all []*resident, n int, d time.Duration) error {
	before := make([]int, len(all))
	var err error
	for i, r := range all {
		if before[i], err = switches(r.pids); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := rest(ctx, d); err != nil {
		return err
	}
	slept := time.Since(begin).Seconds()
	for i, r := range all {
		after, err := switches(r.pids)
		if err != nil {
			return err
		}
		r.woken = append(r.woken, float64(after-before[i])/float64(n)/slept)
	}
	return nil
}

// switches sums the context switches of all threads of processes.
func switches(pids []int) (int, error) {
	sum := 0
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(files) == 0 {
			return 0, fmt.Errorf("no threads of process %d", pid)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				return 0, err
			}
			for _, name := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
				n, err := strconv.Atoi(field(string(data), name))
				if err != nil {
					return 0, fmt.Errorf("%s: %s: %w", f, name, err)
				}
				sum += n
			}
		}
	}
	return sum, nil
}

// supervises runs n services under s6 and gives the PIDs of their supervisors.
func (b *bench) supervises(ctx context.Context, n int) (pids []int, stop func() error, err error) {
	scan := filepath.Join(b.dir, b.id("s6-"))
	for i := range n {
		if _, err := b.service(scan, "s"+strconv.Itoa(i), "sleep 36000"); err != nil {
			return nil, nil, err
		}
	}
	group, err := b.newCgroup()
	if err != nil {
		return nil, nil, err
	}
	stop, err = b.daemon(group, syscall.SIGTERM, "/usr/bin/s6-svscan", scan)
	if err != nil {
		return nil, nil, errors.Join(err, group.end())
	}
	err = eventually(ctx, "s6 supervises", func() (bool, error) {
		pids, err = group.named("s6-supervise")
		if err != nil {
			return false, err
		}
		sleeping, err := group.named("sleep")
		return len(pids) == n && len(sleeping) == n, err
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return pids, stop, nil
}

// named gives the PIDs of the processes with that name (comm).
func (c *cgroup) named(name string) ([]int, error) {
	pids, err := c.pids()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range pids {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			found = append(found, pid)
		}
	}
	return found, nil
}

// conmons runs n containers of runc under conmon, all on one root filesystem, and gives the PIDs of the conmons.
func (b *bench) conmons(ctx context.Context, n int) (pids []int, stop func() error, err error) {
	dir := filepath.Join(b.dir, b.id("conmon-"))
	rootfs, state := filepath.Join(dir, "rootfs"), filepath.Join(dir, "state")
	for _, d := range []string{rootfs, state, filepath.Join(dir, "exits")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	if err := b.h.Unpacked(rootfs); err != nil {
		return nil, nil, err
	}
	group, err := b.newCgroup()
	if err != nil {
		return nil, nil, err
	}
	var ids []string
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		var errs []error
		for _, id := range ids {
			if out, err := exec.CommandContext(ctx, b.h.Runc(), "--root", state, "delete", "--force", id).CombinedOutput(); err != nil {
				errs = append(errs, fmt.Errorf("runc delete %s: %w: %s", id, err, out))
			}
		}
		errs = append(errs, group.kill(), group.end())
		return errors.Join(errs...)
	}
	for range n {
		id := b.id("conmon")
		pid, err := b.conmon(ctx, group, dir, id)
		ids = append(ids, id)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		pids = append(pids, pid)
	}
	return pids, stop, nil
}

// conmon starts one container.
func (b *bench) conmon(ctx context.Context, group *cgroup, dir, id string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	bundle := filepath.Join(dir, id)
	if err := os.Mkdir(bundle, 0o755); err != nil {
		return 0, err
	}
	if out, err := exec.CommandContext(ctx, b.h.Runc(), "spec", "--bundle", bundle).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	config["root"] = map[string]any{"path": filepath.Join(dir, "rootfs"), "readonly": true}
	process := config["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"/bin/sleep", "36000"}, false
	config["linux"].(map[string]any)["cgroupsPath"] = "/" + b.h.Namespace + "/" + id
	if data, err = json.Marshal(config); err != nil {
		return 0, err
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return 0, err
	}
	pidFile, state := filepath.Join(bundle, "conmon.pid"), filepath.Join(dir, "state")
	cmd := group.command(ctx, "/usr/bin/conmon", "--api-version", "1", "--cid", id, "--cuuid", id, "--name", id, "--runtime", b.h.Runc(),
		"--runtime-arg=--root", "--runtime-arg="+state, "--bundle", bundle, "--container-pidfile", filepath.Join(bundle, "pid"),
		"--conmon-pidfile", pidFile, "--log-path", "k8s-file:"+filepath.Join(bundle, "log"), "--exit-dir", filepath.Join(dir, "exits"),
		"--socket-dir-path", bundle)
	cmd.Dir = bundle
	// conmon goes on in the background when the container has been created.
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("conmon for %s: %w", id, err)
	}
	err = eventually(ctx, "conmon has created "+id, func() (bool, error) {
		_, err := os.Stat(filepath.Join(bundle, "pid"))
		return err == nil, nil
	})
	if err != nil {
		return 0, err
	}
	if out, err := exec.CommandContext(ctx, b.h.Runc(), "--root", state, "start", id).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("runc start %s: %w: %s", id, err, out)
	}
	data, err = os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
