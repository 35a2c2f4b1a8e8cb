package warden

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/binary"
	"github.com/gatewarden/gatewarden/internal/cgroup"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/join"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// The command of [ready] exec runs as the gateway does and behind the same gate: a launcher is joined for it, its posture is
// proven, and it is told what to become. Two things keep it from being taken for a part of the gateway. An attempt lasts
// until nothing of it is left, and run, whose goroutine makes it, does nothing else meanwhile. And what the command forks is
// known by a cgroup of the attempt's own, which no process leaves: neither a new session nor a dead parent hides it.
const (
	// checkTimeout bounds one attempt, from the join to the exit. It is more than a network probe's, since a program has to
	// start; and it is how long other requests may have to wait for their turn.
	checkTimeout = 5 * time.Second
	// checkPace is the least time between two attempts of one action. Each costs a join.
	checkPace = 100 * time.Millisecond
	// checkGrace is how long the killed processes of an attempt may take to end.
	checkGrace = time.Second
	// checkGroup is the attempt's cgroup, below the container's.
	checkGroup = "gatewarden-probe"
	// maxCheckOutput is how much output is read, in bytes. A command that writes more waits until its time is up.
	maxCheckOutput = 1 << 20
	// maxSaid is what is shown of its last line, in characters.
	maxSaid = 200
)

// checkable proves that the command of an exec probe is there and can be trusted, as far as that can be told before it runs.
func (w *Warden) checkable(root *os.File, p *profile.Profile) error {
	if p.Ready.Kind != "exec" {
		return nil
	}
	program, err := binary.Open(root, p.Ready.Exec, "", w.programs)
	if err != nil {
		return code.Errorf(code.UntrustedBinary, code.StagePreflight, "its probe (ready.exec) could not run: %w", err)
	}
	program.Close()
	return nil
}

// check runs the command of an exec probe once, and leaves nothing of it behind. Exit status 0 is a yes; any other, a
// signal, or no end in time is a no. What keeps it from running is not the gateway's doing, and so is unknown.
func (w *Warden) check(ctx context.Context, g *gateway) probe.Result {
	began := time.Now()
	res := probe.Result{Kind: "exec", Verdict: probe.Unknown}
	attempt, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	out, err := newCheckOutput()
	if err == nil {
		res.Verdict, err = w.runCheck(attempt, g, out)
	}
	res.Took = time.Since(began)
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.Canceled):
		res.Verdict, res.Detail = probe.Unknown, "the attempt was given up: "+context.Cause(ctx).Error()
	case errors.Is(err, context.DeadlineExceeded) && res.Verdict == probe.No:
		res.Detail = fmt.Sprintf("%s did not end within %v and was killed%s", g.profile.Ready.Exec[0], res.Took.Round(time.Millisecond), out.said())
	case res.Verdict == probe.No:
		res.Detail = fmt.Sprintf("%s: %v%s", g.profile.Ready.Exec[0], err, out.said())
	default:
		res.Detail = fmt.Sprintf("cannot run %s: %v", g.profile.Ready.Exec[0], err)
	}
	return res
}

// runCheck gives the verdict, and why it is not a yes.
func (w *Warden) runCheck(ctx context.Context, g *gateway, out *checkOutput) (probe.Verdict, error) {
	return w.runCommand(ctx, command{profile: g.profile, arg: g.profile.Ready.Exec, until: g.done(), out: out})
}

// command is a program of the container's that is run once, as the gateway would be.
type command struct {
	profile   *profile.Profile
	arg       []string
	namespace *os.File        // the mount namespace that it runs in, if that is not the container's
	until     <-chan struct{} // it is given up when this is closed; nil: never
	out       *checkOutput
}

// runCommand runs a command, and leaves nothing of it behind. A yes is exit status 0. With any other verdict the error tells why.
func (w *Warden) runCommand(ctx context.Context, c command) (probe.Verdict, error) {
	defer c.out.close()
	env, err := c.profile.Environ()
	if err != nil {
		return probe.Unknown, err
	}
	creds, err := w.mountCredentials(c.profile)
	if err != nil {
		return probe.Unknown, err
	}
	if creds != nil {
		defer creds.Close()
	}
	killed := w.group.OOMKills()
	s, err := w.park(ctx, w.identityOf(c.profile), join.Files{Stdout: c.out.theirs, Stderr: c.out.theirs, Mounts: c.namespace})
	c.out.started()
	if err != nil {
		return probe.Unknown, err
	}
	defer s.proc.Close()
	defer s.gate.Close()
	program, err := w.programOf(s, c.arg)
	if err == nil {
		defer program.Close()
	}
	var group cgroup.Group
	if err == nil {
		group, err = w.group.Child(checkGroup)
	}
	if err == nil {
		err = group.Add(s.proc.PID())
	}
	var order launch.Order
	if err == nil {
		order = launch.Order{Exe: program.File, Cwd: c.profile.Gateway.Cwd, Arg: program.Args, Env: env}
		entrust(&order, creds)
		err = noCore(&order, s.proc, c.profile)
	}
	if err == nil {
		// From here on it can have children.
		_, err = s.gate.Release(ctx, order)
	}
	var late error
	if err == nil {
		select {
		case <-s.proc.Done():
		case <-ctx.Done():
			late = ctx.Err()
		case <-c.until:
			err = errors.New("the gateway ended meanwhile")
		}
	}
	exit, eerr := w.endCheck(s.proc)
	if eerr == nil && group != (cgroup.Group{}) {
		eerr = w.clear(group)
	}
	f, failed := errors.AsType[*launch.Failure](err)
	switch {
	case eerr != nil:
		w.log.Error("cannot end a command", "command", c.arg[0], "pid", s.proc.PID(), "err", eerr)
		return probe.Unknown, eerr
	case failed:
		return probe.Unknown, fmt.Errorf("%w%s", f, hint(f))
	case err != nil:
		return probe.Unknown, err
	case late != nil:
		return probe.No, late
	case exit.Signal == unix.SIGKILL && w.group.OOMKills() > killed:
		return probe.Unknown, errors.New("the kernel killed it at the container's memory limit")
	case exit.Signal != 0 || exit.Code != 0:
		return probe.No, errors.New(exit.String())
	}
	return probe.Yes, nil
}

// programOf opens what a parked launcher is to become, where that sees it.
func (w *Warden) programOf(s *standby, arg []string) (*binary.Program, error) {
	root, err := s.proc.OpenRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return binary.Open(root, arg, "", w.programs)
}

// endCheck ends the command and tells how it ended.
func (w *Warden) endCheck(p *process.Process) (process.Exit, error) {
	if err := p.Kill(); err != nil {
		return process.Exit{}, err
	}
	if !p.AwaitFor(checkGrace) {
		return process.Exit{}, fmt.Errorf("process %d does not die of SIGKILL: it is stuck in the kernel, or frozen", p.PID())
	}
	return p.Reap()
}

// clear ends what the command has forked.
func (w *Warden) clear(group cgroup.Group) error {
	if err := endMembers(group); err != nil {
		return err
	}
	// It is empty now, and costs nothing should it stay: the next attempt takes it.
	if err := group.Remove(); err != nil && !errors.Is(err, unix.ENOENT) {
		w.log.Warn("a readiness check's cgroup stays", "err", err)
	}
	return nil
}

// endMembers ends every process of the cgroup.
func endMembers(group cgroup.Group) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkGrace)
	defer cancel()
	for {
		held, err := members(group)
		if err != nil || len(held) == 0 {
			return err
		}
		for _, p := range held {
			if err = errors.Join(err, p.Kill()); err == nil {
				if werr := p.Await(ctx); werr != nil {
					err = fmt.Errorf("process %d, which it started, does not end: %w", p.PID(), werr)
				}
			}
			p.Close()
		}
		if err != nil {
			return err
		}
	}
}

// members takes hold of the processes of a cgroup. A number is believed if it is listed again once its process is held: a
// process keeps its number as long as it is in a cgroup.
func members(group cgroup.Group) ([]*process.Process, error) {
	pids, err := group.Procs()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was ever put there, or the container is gone
	}
	if err != nil {
		return nil, err
	}
	var held []*process.Process
	for _, pid := range pids {
		if p, err := process.Open(pid); err == nil {
			held = append(held, p)
		}
	}
	again, err := group.Procs()
	return slices.DeleteFunc(held, func(p *process.Process) bool {
		other := err != nil || !slices.Contains(again, p.PID())
		if other {
			p.Close()
		}
		return other
	}), err
}

// checkOutput takes what the command writes. It goes nowhere but for its last line, which the probe's detail shows.
type checkOutput struct {
	ours, theirs *os.File
	last         []byte
	done         chan struct{}
}

func newCheckOutput() (*checkOutput, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("cannot make a pipe for its output: %w", err)
	}
	// Our end alone: the command's must block, as a pipe does.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	o := &checkOutput{ours: os.NewFile(uintptr(fds[0]), "check"), theirs: os.NewFile(uintptr(fds[1]), "check"), done: make(chan struct{})}
	go o.read()
	return o, nil
}

// read keeps the end of what comes.
func (o *checkOutput) read() {
	defer close(o.done)
	const keep = 2 << 10
	buf := make([]byte, 4<<10)
	for total := 0; total < maxCheckOutput; {
		n, err := o.ours.Read(buf)
		total += n
		o.last = append(o.last, buf[:n]...)
		if over := len(o.last) - keep; over > 0 {
			o.last = append(o.last[:0], o.last[over:]...)
		}
		if err != nil {
			return
		}
	}
}

// started lets go of the command's end, so that the end of all its holders is the end of the file.
func (o *checkOutput) started() { o.theirs.Close() }

// close ends the reading. What had been written before is read.
func (o *checkOutput) close() {
	o.theirs.Close()
	o.ours.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // all that held the other end is dead
	<-o.done
	o.ours.Close()
}

// all is "" or the end of what the command wrote, fit for a message: what judges a configuration tells more than one line of it.
func (o *checkOutput) all() string {
	var lines []string
	for line := range strings.Lines(string(bytes.ToValidUTF8(o.last, nil))) {
		if line = gatewaylog.Sanitize(strings.TrimSpace(line)); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "; it wrote nothing"
	}
	const most = 10
	return "; it said: " + strings.Join(lines[max(0, len(lines)-most):], " | ")
}

// said is "" or the last line that the command wrote, fit for a message.
func (o *checkOutput) said() string {
	text := bytes.TrimRight(o.last, "\r\n\t ")
	if i := bytes.LastIndexAny(text, "\r\n"); i >= 0 {
		text = text[i+1:]
	}
	line := gatewaylog.Sanitize(strings.TrimSpace(string(text)))
	if line == "" {
		return ""
	}
	if utf8.RuneCountInString(line) > maxSaid {
		line = "…" + string([]rune(line)[utf8.RuneCountInString(line)-maxSaid:])
	}
	return "; it said: " + line
}
