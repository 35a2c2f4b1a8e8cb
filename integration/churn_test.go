//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

const (
	churnCycles  = 100
	churnWorkers = 4
)

// cycle is the life of one container in the churn; race is what goes on while it is deleted.
type cycle struct {
	id   string
	race func(ctx context.Context, id string) error
}

func TestAHundredContainersThatComeAndGoLeaveNothing(t *testing.T) {
	if err := host.WriteProfile("churn", harness.Profile{}.TOML()); err != nil {
		t.Fatal(err)
	}
	// One that stays: what the others' ends do to it would show.
	steady := run(t, options{profile: &harness.Profile{}})
	before := steady.parked()

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // half a minute on a machine that is not busy otherwise
	defer cancel()
	races := []func(context.Context, string) error{
		func(context.Context, string) error { return nil },
		restartRacing("gatewarden"), restartRacing("kill"), restartRacing("exec"),
		killRacing(func(s receipt.Status) int { return s.PID }),
		killRacing(func(s receipt.Status) int { return s.Warden.PID }),
		killRacing(func(s receipt.Status) int { return s.Standby.PID }),
	}
	cycles := make(chan cycle)
	errs := make(chan error, churnCycles)
	namespaces := make(chan harness.Netns, churnCycles)
	var workers sync.WaitGroup
	for range churnWorkers {
		workers.Go(func() {
			for c := range cycles {
				netns, err := c.live(ctx)
				if err != nil {
					errs <- fmt.Errorf("%s: %w", c.id, err)
				}
				namespaces <- netns
			}
		})
	}
	began := time.Now()
	var ids []string
	for i := range churnCycles {
		id := uniqueID("churn")
		ids = append(ids, id)
		cycles <- cycle{id, races[i%len(races)]}
	}
	close(cycles)
	workers.Wait()
	t.Logf("%d containers came and went in %v", churnCycles, time.Since(began).Round(time.Millisecond))
	close(errs)
	close(namespaces)
	for err := range errs {
		t.Error(err)
	}

	after := steady.parked()
	if after.PID != before.PID || after.Warden.PID != before.Warden.PID || after.Restarts != before.Restarts {
		t.Errorf("the one that stayed changed:\nbefore %+v\nafter  %+v", before, after)
	}
	steady.restart()
	steady.delete()
	if err := host.CheckClean(2 * goneTime); err != nil {
		t.Error(err)
	}
	for netns := range namespaces {
		if holders := harness.HoldersOf(netns); len(holders) > 0 {
			t.Errorf("network namespace %d is held by %v", netns.Inode, holders)
		}
	}
	for _, id := range ids {
		for _, path := range []string{filepath.Join(host.StateDir, host.Namespace, id), host.ShimSocket(id)} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("left: %s", path)
			}
		}
	}
}

// live creates a container, deletes it with something else going on, and gives the network namespace that it had.
func (c cycle) live(ctx context.Context) (netns harness.Netns, err error) {
	r, err := host.CtrRun(ctx, harness.Gatewarden, []string{
		"--annotation", oci.GatewayAnnotation + "=churn", "--user", strconv.Itoa(harness.WorkloadUID),
	}, harness.BaseImage, c.id)
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("%v", r)
	}
	if err != nil {
		return netns, err
	}
	if netns, err = netnsOf(ctx, c.id); err != nil {
		return netns, err
	}
	racing := make(chan error, 1)
	go func() { racing <- c.race(ctx, c.id) }()
	time.Sleep(time.Duration(len(c.id)) * time.Millisecond) // the race begins first, mostly
	err = host.Remove(ctx, c.id)
	if rerr := <-racing; err == nil {
		err = rerr
	}
	return netns, err
}

func netnsOf(ctx context.Context, id string) (harness.Netns, error) {
	ctx = host.Context(ctx)
	loaded, err := host.Client().LoadContainer(ctx, id)
	if err != nil {
		return harness.Netns{}, err
	}
	task, err := loaded.Task(ctx, nil)
	if err != nil {
		return harness.Netns{}, err
	}
	return harness.NetnsAt(fmt.Sprintf("/proc/%d/ns/net", task.Pid()))
}

// restartRacing restarts the gateway by one of the clients. How that ends is open: the container may be gone first.
func restartRacing(client string) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		var err error
		switch client {
		case "gatewarden":
			_, err = host.Gatewarden(ctx, "restart", "--quiet", host.Namespace+"/"+id)
		case "kill":
			_, err = host.Ctr(ctx, "task", "kill", "--exec-id", "gateway", "-s", "TERM", id)
		case "exec":
			_, err = host.Ctr(ctx, "task", "exec", "--exec-id", "x", id, "gatewarden", "restart")
		}
		return err
	}
}

// killRacing kills one of gatewarden's processes of the container.
func killRacing(which func(receipt.Status) int) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		r, err := host.Gatewarden(ctx, "status", "--json", host.Namespace+"/"+id)
		if err != nil || r.Status > 1 {
			return err // gone already
		}
		var s receipt.Status
		if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
			return err
		}
		if which(s) == 0 {
			return nil
		}
		fd, err := unix.PidfdOpen(which(s), 0)
		if err != nil {
			return nil // ended already
		}
		defer unix.Close(fd)
		// The number could be another's by now: only a process of this host's is ended.
		processes, err := host.Processes()
		if err != nil {
			return err
		}
		for _, p := range processes {
			if p.PID == which(s) {
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
		}
		return nil
	}
}
