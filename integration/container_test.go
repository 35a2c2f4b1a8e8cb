//go:build integration

package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// Bounds of what a test waits for.
const (
	commandTime = 30 * time.Second // one command
	eventTime   = 10 * time.Second // something that is going to happen
	goneTime    = 5 * time.Second  // the end of everything of a container that was deleted
)

// lastID numbers containers, execs and profiles.
var lastID atomic.Int64

func uniqueID(prefix string) string { return fmt.Sprintf("%s%d", prefix, lastID.Add(1)) }

// options of a container.
type options struct {
	profile  *harness.Profile // nil: no gateway
	name     string           // of the profile; empty: the container's ID
	runtime  string           // empty: ours
	image    string           // empty: the base image
	user     string           // empty: 1000; imagesUser: as the image says
	flags    []string         // further flags of ctr run
	command  []string         // empty: sleep
	patience time.Duration    // with its start; 0: commandTime
}

// imagesUser is for images with a user, and for ctr 1.6, which has no flag for it.
const imagesUser = "image"

// container is a container that a test made by ctr run.
type container struct {
	t     *testing.T
	h     *harness.Host
	id    string
	log   string // file with its stdout and stderr
	netns harness.Netns
}

// run makes and starts a container. It is removed, and that nothing of it is left is checked, when the test ends.
func run(t *testing.T, o options) *container {
	t.Helper()
	return runOn(t, host, o)
}

// runOn is run on another host.
func runOn(t *testing.T, h *harness.Host, o options) *container {
	t.Helper()
	c, r := tryRunOn(t, h, o)
	if r.Status != 0 {
		t.Fatalf("the container does not start:\n%v\ncontainerd's log:\n%s", r, h.DaemonLog())
	}
	var err error
	if c.netns, err = harness.NetnsAt(fmt.Sprintf("/proc/%d/ns/net", c.init())); err != nil {
		t.Fatal(err)
	}
	return c
}

// tryRun is run for a container that may not start.
func tryRun(t *testing.T, o options) (*container, harness.Result) {
	t.Helper()
	return tryRunOn(t, host, o)
}

// tryRunOn is tryRun on another host.
func tryRunOn(t *testing.T, h *harness.Host, o options) (*container, harness.Result) {
	t.Helper()
	c := &container{t: t, h: h, id: uniqueID("c")}
	c.log = filepath.Join(t.TempDir(), "log")
	flags := []string{"--log-uri", "file://" + c.log}
	if o.profile != nil {
		if o.name == "" {
			o.name = c.id
		}
		if err := h.WriteProfile(o.name, o.profile.TOML()); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--annotation", oci.GatewayAnnotation+"="+o.name)
	}
	if o.user == "" {
		o.user = strconv.Itoa(harness.WorkloadUID)
	}
	if o.user != "0" && o.user != imagesUser {
		flags = append(flags, "--user", o.user)
	}
	if o.runtime == "" {
		o.runtime = harness.Gatewarden
	}
	if o.image == "" {
		o.image = harness.BaseImage
	}
	t.Cleanup(c.remove)
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(o.patience, commandTime))
	defer cancel()
	r, err := h.CtrRun(ctx, o.runtime, append(flags, o.flags...), o.image, c.id, o.command...)
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

// remove deletes the container and checks that it leaves nothing behind.
func (c *container) remove() {
	c.t.Helper()
	if c.t.Failed() {
		c.dump()
	}
	// A fault that the warden finds in itself is nobody's to see otherwise. It may be gone already, with its log.
	if data, err := os.ReadFile(filepath.Join(c.logDir(), "warden.log")); err == nil && bytes.Contains(data, []byte("that the state machine does not have")) {
		c.t.Errorf("the warden of %s left its state machine:\n%s", c.id, data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := c.h.Remove(ctx, c.id); err != nil {
		c.t.Errorf("remove %s: %v", c.id, err)
	}
	c.checkGone()
}

// dump logs what helps to see why a test failed.
func (c *container) dump() {
	c.t.Helper()
	for _, pattern := range []string{c.logDir() + "/*", c.runDir() + "/install.json", c.stateDir() + "/receipts.jsonl", c.log} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil && len(data) > 0 {
				c.t.Logf("%s:\n%s", f, tail(data))
			}
		}
	}
}

func tail(data []byte) []byte { return data[max(0, len(data)-4096):] }

// checkGone checks that nothing of the container is left.
func (c *container) checkGone() {
	c.t.Helper()
	var left []string
	eventually(c.t, goneTime, "everything of "+c.id+" is gone", func() bool {
		left = c.left()
		return len(left) == 0
	}, func() string { return "left: " + strings.Join(left, "\n      ") })
}

func (c *container) left() []string {
	var left []string
	processes, err := c.h.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range processes {
		words := strings.FieldsFunc(p.Command+" "+p.Cgroup, func(r rune) bool { return r == ' ' || r == '/' })
		if slices.Contains(words, c.id) {
			left = append(left, "process "+p.String())
		}
	}
	mounts, err := c.h.Mounts()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range mounts {
		if slices.Contains(strings.Split(m, "/"), c.id) {
			left = append(left, "mount "+m)
		}
	}
	for _, path := range []string{c.runDir(), c.logDir(), c.h.ShimSocket(c.id)} {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.h.Namespace + "/" + c.id)
	for _, dir := range cgroups {
		left = append(left, "cgroup "+dir)
	}
	if c.netns.Inode != 0 {
		for _, holder := range harness.HoldersOf(c.netns) {
			left = append(left, "network namespace, held by "+holder)
		}
	}
	return left
}

func (c *container) runDir() string   { return filepath.Join(c.h.RunDir, c.h.Namespace, c.id) }
func (c *container) stateDir() string { return filepath.Join(c.h.StateDir, c.h.Namespace, c.id) }
func (c *container) logDir() string   { return filepath.Join(c.h.LogDir, c.h.Namespace, c.id) }

// exec runs a command by ctr task exec, as a user would.
func (c *container) exec(args ...string) harness.Result {
	c.t.Helper()
	return c.ctr(append([]string{"task", "exec", "--exec-id", uniqueID("e"), c.id}, args...)...)
}

// ctr runs ctr.
func (c *container) ctr(args ...string) harness.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	r, err := c.h.Ctr(ctx, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// background starts a command and gives a function that waits for its end.
func background(run func() harness.Result) (wait func() harness.Result) {
	done := make(chan harness.Result, 1)
	go func() { done <- run() }()
	return func() harness.Result { return <-done }
}

// ctrInBackground is ctr for a goroutine of its own, on which a test can't be ended.
func (c *container) ctrInBackground(args ...string) (wait func() harness.Result) {
	return background(func() harness.Result {
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		r, err := c.h.Ctr(ctx, args...)
		if err != nil {
			c.t.Error(err)
		}
		return r
	})
}

// gatewardenInBackground is the operator's command for a goroutine of its own.
func (c *container) gatewardenInBackground(args ...string) (wait func() harness.Result) {
	return background(func() harness.Result {
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		r, err := c.h.Gatewarden(ctx, args...)
		if err != nil {
			c.t.Error(err)
		}
		return r
	})
}

// name is how the operator's command names the container.
func (c *container) name() string { return c.h.Namespace + "/" + c.id }

// parked waits until the gateway runs and its standby is parked.
func (c *container) parked() receipt.Status {
	c.t.Helper()
	return c.waitFor("the gateway runs and the standby is parked", func(s receipt.Status) bool {
		return s.State == receipt.Running && s.Standby.PID != 0
	})
}

// begin starts an exec; the function that it gives waits for its end.
func (c *container) begin(args ...string) (wait func() harness.Result) {
	return c.ctrInBackground(append([]string{"task", "exec", "--exec-id", uniqueID("e"), c.id}, args...)...)
}

// mustExec is exec that has to succeed; it gives its standard output.
func (c *container) mustExec(args ...string) string {
	c.t.Helper()
	r := c.exec(args...)
	if r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
	return r.Stdout
}

// status asks for the gateway's status by virtual exec. Its exit status tells whether the gateway is well.
func (c *container) status() receipt.Status {
	c.t.Helper()
	r := c.exec("gatewarden", "status", "--json")
	if r.Status > 1 {
		c.t.Fatalf("%v", r)
	}
	return decode[receipt.Status](c.t, r.Stdout)
}

// restart restarts the gateway by virtual exec, which has to succeed.
func (c *container) restart(flags ...string) receipt.Receipt {
	c.t.Helper()
	r := c.tryRestart(flags...)
	if r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
	return decode[receipt.Receipt](c.t, r.Stdout)
}

// tryRestart is restart that may fail.
func (c *container) tryRestart(flags ...string) harness.Result {
	c.t.Helper()
	return c.exec(append([]string{"gatewarden", "restart", "--json"}, flags...)...)
}

// receipts gives the journal.
func (c *container) receipts() []receipt.Receipt {
	c.t.Helper()
	var all []receipt.Receipt
	data, err := os.ReadFile(filepath.Join(c.stateDir(), "receipts.jsonl"))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		all = append(all, decode[receipt.Receipt](c.t, string(line)))
	}
	return all
}

// who is what testgateway says of itself.
type who struct {
	PID    int   `json:"pid"`
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups"`
}

// get asks the gateway over HTTP, from inside the container.
func (c *container) get(path string) harness.Result {
	c.t.Helper()
	return c.exec("testworkload", "get", "http://"+harness.GatewayAddress+path)
}

// ask asks the gateway who it is, from inside the container.
func (c *container) ask() who {
	c.t.Helper()
	r := c.get("/")
	if r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
	return decode[who](c.t, r.Stdout)
}

// task is the container's task.
func (c *container) task() containerd.Task {
	c.t.Helper()
	ctx := c.h.Context(context.Background())
	loaded, err := c.h.Client().LoadContainer(ctx, c.id)
	if err != nil {
		c.t.Fatalf("load container %s: %v", c.id, err)
	}
	task, err := loaded.Task(ctx, nil)
	if err != nil {
		c.t.Fatalf("load the task of %s: %v", c.id, err)
	}
	return task
}

// init is the host PID of the container's first process.
func (c *container) init() int {
	c.t.Helper()
	return int(c.task().Pid())
}

// workload lists the container's processes that are not gatewarden's: PID and start time.
func (c *container) workload() []string {
	c.t.Helper()
	// A standby on its way is not in the status yet.
	s := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	processes, err := c.h.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	var found []string
	for _, p := range processes {
		if !slices.Contains(strings.Split(p.Cgroup, "/"), c.id) || slices.Contains([]int{s.PID, s.Standby.PID, s.Warden.PID}, p.PID) {
			continue
		}
		found = append(found, fmt.Sprintf("%d since %d", p.PID, startTime(c.t, p.PID)))
	}
	slices.Sort(found)
	return found
}

// waitFor waits until the status is as wanted.
func (c *container) waitFor(what string, ok func(receipt.Status) bool) receipt.Status {
	c.t.Helper()
	var s receipt.Status
	eventually(c.t, eventTime, what, func() bool {
		s = c.status()
		return ok(s)
	}, func() string { return fmt.Sprintf("status: %+v", s) })
	return s
}

// tally is what `testworkload talk` reported last.
type tally struct {
	First   string `json:"first"`
	OK      int    `json:"ok"`
	Refused int    `json:"refused"`
	Failed  int    `json:"failed"`
	PIDs    []int  `json:"pids"`
}

// talk reads the workload's last report.
func (c *container) talk() (tally, bool) {
	c.t.Helper()
	data, err := os.ReadFile(c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	end := bytes.LastIndexByte(data, '\n')
	if end < 0 {
		return tally{}, false
	}
	data = data[:end]
	return decode[tally](c.t, string(data[bytes.LastIndexByte(data, '\n')+1:])), true
}

// delete removes the container now, for tests of what happens then.
func (c *container) delete() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := c.h.Remove(ctx, c.id); err != nil {
		c.t.Fatal(err)
	}
}

// taskExists tells whether there is a task of that ID.
func taskExists(t *testing.T, id string) bool {
	t.Helper()
	ctx := host.Context(context.Background())
	loaded, err := host.Client().LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = loaded.Task(ctx, nil)
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// eventually waits until ok is true.
func eventually(t *testing.T, patience time.Duration, what string, ok func() bool, found func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s\n%s", patience, what, found())
		}
	}
}

func decode[T any](t *testing.T, data string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("not the expected JSON: %v\n%s", err, data)
	}
	return v
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot.
func startTime(t *testing.T, pid int) uint64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return start
}

// procStatus reads the fields of /proc/PID/status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// refused checks that a command failed with that code, and gives its standard error.
func refused(t *testing.T, r harness.Result, status int, code string) {
	t.Helper()
	if r.Status != status {
		t.Errorf("exit status %d, want %d:\n%v", r.Status, status, r)
	}
	if !strings.Contains(r.Stdout+r.Stderr, code) {
		t.Errorf("the output does not name the code %s:\n%v", code, r)
	}
}

// restartedStatus restarts the gateway and gives the status once the next standby is there too.
func (c *container) restartedStatus() receipt.Status {
	c.t.Helper()
	c.restart()
	return c.waitFor("the gateway runs and the standby is parked", func(s receipt.Status) bool {
		return s.State == receipt.Running && s.Standby.PID != 0
	})
}

// importImage builds and imports an image.
func importImage(t *testing.T, image harness.Image) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	if err := host.Import(ctx, image); err != nil {
		t.Fatal(err)
	}
}

// gatewarden runs the operator's command.
func gatewarden(t *testing.T, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	r, err := host.Gatewarden(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

// subscribe gives the daemon's events of the tests' namespace whose topic matches, from now on: Client.Subscribe alone returns
// before the daemon knows of it, so an event of the test's own is sent until it comes back.
func subscribe(t *testing.T, ctx context.Context, topic string) (<-chan *events.Envelope, <-chan error) {
	t.Helper()
	return subscribeOn(t, host, ctx, topic)
}

// subscribeOn is subscribe at another host's daemon.
func subscribeOn(t *testing.T, h *harness.Host, ctx context.Context, topic string) (<-chan *events.Envelope, <-chan error) {
	t.Helper()
	const mark = "/subscribed"
	namespace := `namespace=="` + h.Namespace + `",`
	all, errs := h.Client().Subscribe(ctx, namespace+topic, namespace+`topic=="`+mark+`"`)
	live, out := make(chan struct{}), make(chan *events.Envelope)
	go func() {
		marked := false
		for {
			select {
			case e := <-all:
				if e.Topic != mark {
					select {
					case out <- e:
					case <-ctx.Done():
						return
					}
				} else if !marked {
					marked = true
					close(live)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	deadline := time.After(eventTime)
	for {
		if err := h.Client().EventService().Publish(h.Context(ctx), mark, &eventsapi.NamespaceUpdate{Name: h.Namespace}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-live:
			return out, errs
		case <-time.After(10 * time.Millisecond):
		case err := <-errs:
			t.Fatalf("events: %v", err)
		case <-deadline:
			t.Fatal("the daemon sends no events")
		}
	}
}
