package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/client"
	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// subject is something that restarts a test gateway.
type subject struct {
	name   string
	kind   plot.Kind
	server client.Server
	slow   bool          // it takes a second for each restart, by design
	settle time.Duration // how long a gateway has to have run before the next restart
	// ready waits until a restart can be asked for; nil: it always can.
	ready func(context.Context) error
	// restart asks for it and returns when whoever was asked says that it is done.
	restart func(context.Context) (*receipt.Receipt, error)
	// stop ends all of it.
	stop func() error

	samples  []float64
	receipts []receipt.Receipt
}

// stopAll stops subjects, the last first.
func stopAll(all []*subject) error {
	var errs []error
	for i := range all {
		if s := all[len(all)-1-i]; s.stop != nil {
			errs = append(errs, s.stop())
		}
	}
	return errors.Join(errs...)
}

// hostPort is the port of gateways on the host. It is below those that the kernel gives to clients: while a gateway is away, none of
// these can take it, or connect to itself.
const hostPort = 18789

// hostServer gives an address of its own on the host's loopback.
func (b *bench) hostServer() client.Server {
	n := b.last.Add(1)
	return client.Server{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, byte(n / 250), byte(1 + n%250)}), hostPort)}
}

// answers waits until there is an answer.
func answers(ctx context.Context, s client.Server) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	return client.Answers(ctx, s)
}

// daemon starts a peer's own daemon in the peers' cgroup. stop sends it sig and waits until nothing of it is left.
func (b *bench) daemon(group *cgroup, sig syscall.Signal, args ...string) (stop func() error, err error) {
	cmd := group.command(context.Background(), args...)
	cmd.Dir = b.dir
	// Ctrl-C is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.OpenFile(filepath.Join(b.dir, filepath.Base(args[0])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return func() error {
		// It may have ended by itself: that is seen at its subject.
		_ = cmd.Process.Signal(sig)
		for deadline := time.Now().Add(killTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if pids, err := group.pids(); err != nil || len(pids) == 0 {
				break
			}
		}
		err := group.kill()
		_ = cmd.Wait() // how it ended does not matter
		return errors.Join(err, group.end())
	}, nil
}

// floor is the least that a restart can cost.
func (b *bench) floor(ctx context.Context) (*subject, error) {
	s := &subject{name: floorName, kind: plot.Floor, server: b.hostServer()}
	cmd := exec.Command(b.h.TestProgramPath("floor"), s.server.Address.Addr().String(), strconv.Itoa(hostPort), b.gateway, "--inherit")
	cmd.Dir = b.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ask, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	told, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	s.stop = func() error {
		ask.Close()
		timer := time.AfterFunc(killTime, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		return cmd.Wait()
	}
	pids := bufio.NewReader(told)
	if _, err := pids.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the floor does not start: %w", err), s.stop())
	}
	s.restart = func(context.Context) (*receipt.Receipt, error) {
		if _, err := io.WriteString(ask, "\n"); err != nil {
			return nil, err
		}
		_, err := pids.ReadString('\n')
		return nil, err
	}
	return s, nil
}

// ours gives the subjects of one container: asked by its control socket, by the command, and by an exec of it.
func (b *bench) ours(ctx context.Context, mode string) ([]*subject, error) {
	p := profileOf(mode)
	c, err := b.run(ctx, spec{runtime: harness.Gatewarden, profile: &p})
	if err != nil {
		return nil, err
	}
	ready := func(ctx context.Context) error {
		_, err := c.parked(ctx)
		return err
	}
	return []*subject{
		{name: socketName(mode), kind: plot.Ours, server: c.server(), ready: ready, restart: c.restart, stop: c.remove},
		{name: commandName(mode), kind: plot.Ours, server: c.server(), ready: ready,
			restart: func(ctx context.Context) (*receipt.Receipt, error) {
				_, err := b.command(ctx, "restart", "--quiet", c.name())
				return nil, err
			}},
		{name: execName(mode), kind: plot.Ours, server: c.server(), ready: ready,
			restart: func(ctx context.Context) (*receipt.Receipt, error) {
				return nil, b.ctr(ctx, "task", "exec", "--exec-id", b.id("e"), c.id, "gatewarden", "restart", "--quiet")
			}},
	}, nil
}

func socketName(mode string) string  { return mode + ", control socket" }
func commandName(mode string) string { return mode + ", gatewarden restart" }
func execName(mode string) string    { return mode + ", by ctr task exec" }

// respawn is longer than the time that s6 and runit demand between two starts.
const respawn = 1200 * time.Millisecond

// tool makes a restart of a command that has to succeed.
func tool(args ...string) func(context.Context) (*receipt.Receipt, error) {
	return func(ctx context.Context) (*receipt.Receipt, error) {
		ctx, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil, nil
	}
}

// peer makes a subject of a supervisor with a daemon of its own.
func (b *bench) peer(ctx context.Context, name string, server client.Server, sig syscall.Signal, daemon, restart []string) (*subject, error) {
	group, err := b.newCgroup()
	if err != nil {
		return nil, err
	}
	stop, err := b.daemon(group, sig, daemon...)
	if err != nil {
		return nil, errors.Join(err, group.end())
	}
	s := &subject{name: name, kind: plot.Peer, server: server, slow: true, settle: respawn, restart: tool(restart...), stop: stop}
	if err := answers(ctx, server); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), stop())
	}
	return s, nil
}

// service writes a service directory of s6 or runit with a run script.
func (b *bench) service(scan, name, script string) (string, error) {
	dir := filepath.Join(scan, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "run"), []byte("#!/bin/sh\nexec "+script+"\n"), 0o755)
}

func (b *bench) s6(ctx context.Context, args ...string) (*subject, error) {
	server, scan := b.hostServer(), filepath.Join(b.dir, b.id("s6-"))
	dir, err := b.service(scan, "gateway", b.gatewayOn(server, args...))
	if err != nil {
		return nil, err
	}
	return b.peer(ctx, s6Name, server, syscall.SIGTERM, []string{"/usr/bin/s6-svscan", scan}, []string{"/usr/bin/s6-svc", "-r", dir})
}

func (b *bench) runit(ctx context.Context, args ...string) (*subject, error) {
	server, scan := b.hostServer(), filepath.Join(b.dir, b.id("runit-"))
	dir, err := b.service(scan, "gateway", b.gatewayOn(server, args...))
	if err != nil {
		return nil, err
	}
	// SIGHUP: runsvdir ends its runsvs too (runsvdir(8)).
	return b.peer(ctx, runitName, server, syscall.SIGHUP, []string{"/usr/bin/runsvdir", scan}, []string{"/usr/bin/sv", "restart", dir})
}

const supervisorConfig = `[unix_http_server]
file=%[1]s/sock
[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile=%[1]s/pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%[1]s/sock
[program:gateway]
command=%[2]s
`

func (b *bench) supervisor(ctx context.Context) (*subject, error) {
	server, dir := b.hostServer(), filepath.Join(b.dir, b.id("supervisor-"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, supervisorConfig, dir, b.gatewayOn(server)), 0o644); err != nil {
		return nil, err
	}
	return b.peer(ctx, supervisorName, server, syscall.SIGTERM, []string{"/usr/bin/supervisord", "-c", config},
		[]string{"/usr/bin/supervisorctl", "-c", config, "restart", "gateway"})
}

// gatewayOn is the command line of a test gateway that binds.
func (b *bench) gatewayOn(s client.Server, args ...string) string {
	return strings.Join(append([]string{b.gateway, "--listen", s.Address.String()}, args...), " ")
}

// recreate is a container whose first process is the gateway: its task is ended and started anew.
func (b *bench) recreate(ctx context.Context) (*subject, error) {
	server := b.hostServer()
	c, err := b.run(ctx, spec{runtime: harness.Stock, flags: []string{"--net-host"}, command: []string{gatewayPath, "--listen", server.Address.String()}})
	if err != nil {
		return nil, err
	}
	s := &subject{name: recreateName, kind: plot.Peer, server: server, slow: true, stop: c.remove,
		restart: func(ctx context.Context) (*receipt.Receipt, error) {
			if err := b.ctr(ctx, "task", "rm", "--force", c.id); err != nil {
				return nil, err
			}
			return nil, b.ctr(ctx, "task", "start", "--detach", c.id)
		}}
	if err := answers(ctx, server); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// starter ends the gateway whose PID it wrote down, waits for its end, and becomes the next one. Zombies count as ended: the first
// process of the container is not one that collects them. All of it is done by the shell itself.
const starter = `if read -r old </tmp/pid; then
kill "$old"
while read -r _ _ state _ <"/proc/$old/stat" && [ "$state" != Z ]; do :; done
fi 2>/dev/null
echo $$ >/tmp/pid
exec ` + gatewayPath + ` --listen ` + harness.GatewayAddress

// runcExec is a plain container in which runc exec starts the gateway.
func (b *bench) runcExec(ctx context.Context) (*subject, error) {
	c, err := b.run(ctx, spec{runtime: harness.Stock})
	if err != nil {
		return nil, err
	}
	s := &subject{name: runcExecName, kind: plot.Peer, server: c.server(), slow: true, stop: c.remove,
		restart: func(ctx context.Context) (*receipt.Receipt, error) {
			ctx, cancel := context.WithTimeout(ctx, commandTime)
			defer cancel()
			// What it starts goes on, so its output is no pipe of ours.
			cmd := b.h.Command(ctx, b.h.Runc(), "--root", filepath.Join("/run/containerd/runc", b.h.Namespace), "exec", "--detach", c.id, "sh", "-c", starter)
			if err := cmd.Run(); err != nil {
				return nil, fmt.Errorf("runc exec in %s: %w", c.id, err)
			}
			return nil, nil
		}}
	if _, err := s.restart(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := answers(ctx, s.server); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// Names of subjects.
const (
	floorName      = "floor"
	s6Name         = "s6-svc -r"
	runitName      = "sv restart"
	supervisorName = "supervisorctl restart"
	recreateName   = "ctr task rm -f, start"
	runcExecName   = "runc exec of a starter"
)
