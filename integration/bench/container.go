package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/client"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// modes of a listener, as the profile has them. Each is measured, or it is said why it could not be.
var modes = []string{"inherit", "transparent", "gateway"}

// gatewayPath is the test gateway's in the containers.
const gatewayPath = "/usr/local/bin/testgateway"

// profileOf gives a profile with the test gateway in a mode, and further arguments for it.
func profileOf(mode string, args ...string) harness.Profile {
	p := harness.Profile{
		Listen: fmt.Sprintf("[[listen]]\nname = \"api\"\naddress = \"tcp://%s\"\nmode = %q\n", harness.GatewayAddress, mode),
		Args:   args,
	}
	if mode == "inherit" {
		p.Command = append([]string{gatewayPath, "--inherit"}, args...)
	}
	return p
}

// unsupported tells why a mode is none, or gives nil.
func unsupported(mode string) error {
	_, err := profile.Parse(mode, []byte(profileOf(mode).TOML()))
	return err
}

// supported gives the first mode that there is.
func supported() (string, error) {
	var err error
	for _, m := range modes {
		if err = unsupported(m); err == nil {
			return m, nil
		}
	}
	return "", err
}

// container is a container with a gateway, or without.
type container struct {
	b     *bench
	id    string
	init  int
	netns *os.File
}

// spec tells what container is wanted.
type spec struct {
	runtime string
	profile *harness.Profile // nil: no annotation
	flags   []string
	command []string
}

// args are the flags of ctr run for it.
func (b *bench) runFlags(id string, s spec) ([]string, error) {
	flags := append([]string{"--user", strconv.Itoa(harness.WorkloadUID)}, s.flags...)
	if s.profile != nil {
		if err := b.h.WriteProfile(id, s.profile.TOML()); err != nil {
			return nil, err
		}
		flags = append(flags, "--annotation", oci.GatewayAnnotation+"="+id)
	}
	return flags, nil
}

// run starts a container.
func (b *bench) run(ctx context.Context, s spec) (*container, error) {
	c := &container{b: b, id: b.id("b")}
	if err := c.start(ctx, s); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

func (c *container) start(ctx context.Context, s spec) error {
	b := c.b
	flags, err := b.runFlags(c.id, s)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	r, err := b.h.CtrRun(within, s.runtime, flags, harness.BaseImage, c.id, s.command...)
	if err != nil {
		return err
	}
	if r.Status != 0 {
		return fmt.Errorf("the container does not start:\n%v", r)
	}
	loaded, err := b.h.Client().LoadContainer(b.h.Context(ctx), c.id)
	if err != nil {
		return err
	}
	task, err := loaded.Task(b.h.Context(ctx), nil)
	if err != nil {
		return err
	}
	c.init = int(task.Pid())
	c.netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", c.init))
	return err
}

// remove ends and removes it, also when the benchmarks have been interrupted.
func (c *container) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if c.netns != nil {
		c.netns.Close()
	}
	err := c.b.h.Remove(ctx, c.id)
	if rm := os.Remove(filepath.Join(c.b.h.ProfileDir, c.id+".toml")); rm != nil && !os.IsNotExist(rm) {
		err = errors.Join(err, rm)
	}
	// The journal is kept on purpose; these containers never come back.
	return errors.Join(err, os.RemoveAll(filepath.Join(c.b.h.StateDir, c.b.h.Namespace, c.id)))
}

// runMany starts n containers, some at a time. With an error it gives those that were started.
func (b *bench) runMany(ctx context.Context, n int, s spec) ([]*container, error) {
	all, errs := make([]*container, n), make([]error, n)
	sideBySide(b.n.makeSideBySide, n, func(i int) {
		if ctx.Err() != nil {
			errs[i] = ctx.Err()
			return
		}
		all[i], errs[i] = b.run(ctx, s)
	})
	var started []*container
	for _, c := range all {
		if c != nil {
			started = append(started, c)
		}
	}
	return started, errors.Join(errs...)
}

// removeMany removes containers, some at a time.
func (b *bench) removeMany(all []*container) error {
	errs := make([]error, len(all))
	sideBySide(b.n.makeSideBySide, len(all), func(i int) { errs[i] = all[i].remove() })
	return errors.Join(errs...)
}

// sideBySide calls do for 0 to n-1, at most places at a time.
func sideBySide(places, n int, do func(i int)) {
	var running sync.WaitGroup
	place := make(chan struct{}, places)
	for i := range n {
		place <- struct{}{}
		running.Go(func() {
			defer func() { <-place }()
			do(i)
		})
	}
	running.Wait()
}

// server is where its gateway answers.
func (c *container) server() client.Server {
	return client.Server{Address: netip.MustParseAddrPort(harness.GatewayAddress), Netns: c.netns}
}

// name is how the operator's command names it.
func (c *container) name() string { return c.b.h.Namespace + "/" + c.id }

func (c *container) call(ctx context.Context, verb control.Verb) (control.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	return control.Call(ctx, control.Dir(c.b.h.RunDir, c.b.h.Namespace, c.id), control.Request{Verb: verb, Via: "cli"}, nil)
}

func (c *container) status(ctx context.Context) (receipt.Status, error) {
	m, err := c.call(ctx, control.Status)
	if err != nil {
		return receipt.Status{}, err
	}
	return *m.Status, nil
}

// parked waits until its gateway runs and the standby is parked.
func (c *container) parked(ctx context.Context) (s receipt.Status, err error) {
	err = eventually(ctx, "the gateway of "+c.id+" runs and its standby is parked", func() (bool, error) {
		s, err = c.status(ctx)
		return s.State == receipt.Running && s.Standby.PID != 0, err
	})
	return s, err
}

// restart restarts its gateway through the control socket.
func (c *container) restart(ctx context.Context) (*receipt.Receipt, error) {
	m, err := c.call(ctx, control.Restart)
	if err != nil {
		return nil, fmt.Errorf("restart of %s: %w", c.id, err)
	}
	if m.Receipt == nil || m.Receipt.Outcome != receipt.Replaced {
		return nil, fmt.Errorf("restart of %s: %+v", c.id, m.Receipt)
	}
	return m.Receipt, nil
}

// command runs the operator's command, which has to succeed.
func (b *bench) command(ctx context.Context, args ...string) (harness.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	r, err := b.h.Gatewarden(ctx, args...)
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("%v", r)
	}
	return r, err
}

// ctr runs ctr, which has to succeed.
func (b *bench) ctr(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	r, err := b.h.Ctr(ctx, args...)
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("%v", r)
	}
	return err
}

// signalled is a FIFO that workloads write to once they run.
type signalled struct {
	dir  string
	fifo *os.File
}

// inContainer is where the directory of a FIFO is mounted.
const inContainer = "/bench"

// newFIFO makes a FIFO that the containers' workloads may write to.
func (b *bench) newFIFO() (*signalled, error) {
	s := &signalled{dir: filepath.Join(b.dir, b.id("fifo"))}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, "fifo")
	if err := mkfifo(path); err != nil {
		return nil, err
	}
	var err error
	// Opened for writing too, so that it never is at its end.
	s.fifo, err = os.OpenFile(path, os.O_RDWR, 0)
	return s, err
}

func (s *signalled) close() error { return errors.Join(s.fifo.Close(), os.RemoveAll(s.dir)) }

// flags mount it.
func (s *signalled) flags() []string {
	return []string{"--mount", "type=bind,src=" + s.dir + ",dst=" + inContainer + ",options=rbind:rw"}
}

// workload is a command that writes to it once it runs, after it has done what is before.
func (s *signalled) workload(before, after string) []string {
	return []string{"sh", "-c", strings.TrimSpace(before + " echo >" + inContainer + "/fifo; " + after)}
}

// stop ends an await.
func (s *signalled) stop() { _ = s.fifo.SetReadDeadline(time.Unix(1, 0)) }

// await waits for a workload, and tells when it ran.
func (s *signalled) await() (time.Time, error) {
	var b [1]byte
	_, err := s.fifo.Read(b[:])
	return time.Now(), err
}
