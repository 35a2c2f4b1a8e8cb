//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/integration/kubelet"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// Files for users, which are what these tests use.
const (
	handlersFile = "packaging/containerd/gatewarden.toml"   // configuration version 3
	handlersOld  = "packaging/containerd/gatewarden-1.toml" // version 2
	classFile    = "packaging/kubernetes/runtimeclass.yaml"
	podFile      = "packaging/kubernetes/pod.yaml"
)

// podTime is what a pod may take to begin, or to end.
const podTime = 30 * time.Second

// node is a Kubernetes node of a test's own: a containerd that serves CRI, and a kubelet.
type node struct {
	t       *testing.T
	h       *harness.Host
	k       *kubelet.Node
	handler string
}

// nodes are those that run, for the case that the tests are interrupted.
var nodes struct {
	sync.Mutex
	running []*harness.Host
}

// closeNodes ends all nodes.
func closeNodes() error {
	nodes.Lock()
	defer nodes.Unlock()
	var errs []error
	for _, h := range nodes.running {
		errs = append(errs, h.Close())
	}
	nodes.running = nil
	return errors.Join(errs...)
}

// newNode makes a node with the image of the example pod. That nothing is left of its pods is checked when the test ends.
func newNode(t *testing.T, o harness.CRIOptions) *node {
	t.Helper()
	if o.Handlers == "" {
		o.Handlers = handlersFile
	}
	ctx, cancel := context.WithTimeout(context.Background(), podTime)
	defer cancel()
	h, err := harness.StartCRI(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	nodes.Lock()
	nodes.running = append(nodes.running, h)
	nodes.Unlock()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", h.DaemonLog())
		}
		if err := closeNodes(); err != nil {
			t.Error(err)
		}
	})
	n := &node{t: t, h: h}
	if n.k, err = h.Kubelet(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.k.Close() })
	class, err := kubelet.ReadRuntimeClass(filepath.Join(h.Repository, classFile))
	if err != nil {
		t.Fatal(err)
	}
	pod := n.example()
	if pod.Spec.RuntimeClassName != class.Metadata.Name {
		t.Fatalf("the pod's class is %q, and there is %q", pod.Spec.RuntimeClassName, class.Metadata.Name)
	}
	n.handler = class.Handler
	image := pod.Spec.Containers[0].Image
	if err := h.Import(ctx, harness.Image{Name: image}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image, harness.PauseImage} {
		if err := n.k.WaitForImage(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// example reads the example pod.
func (n *node) example() kubelet.Pod {
	n.t.Helper()
	pod, err := kubelet.ReadPod(filepath.Join(n.h.Repository, podFile))
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}

// profile writes the profile that the example pod names.
func (n *node) profile(p harness.Profile) {
	n.t.Helper()
	if err := n.h.WriteProfile("agent", p.TOML()); err != nil {
		n.t.Fatal(err)
	}
}

// pod is a pod that runs.
type pod struct {
	*kubelet.Running
	n *node
}

// run starts a pod. It is removed when the test ends.
func (n *node) run(spec kubelet.Pod) *pod {
	n.t.Helper()
	p, err := n.tryRun(spec)
	if err != nil {
		n.t.Fatalf("the pod does not start: %v", err)
	}
	return p
}

// tryRun is run for a pod that may not start.
func (n *node) tryRun(spec kubelet.Pod) (*pod, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), podTime)
	defer cancel()
	running, err := n.k.Run(ctx, spec, n.handler)
	if running == nil {
		return nil, err
	}
	p := &pod{running, n}
	n.t.Cleanup(func() {
		if n.t.Failed() {
			p.dump()
		}
		p.remove()
	})
	return p, err
}

// dump logs what the wardens wrote.
func (p *pod) dump() {
	files, _ := filepath.Glob(p.n.h.LogDir + "/*/*/*")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && len(data) > 0 {
			p.n.t.Logf("%s:\n%s", f, tail(data))
		}
	}
}

// remove removes the pod and checks that nothing of any pod is left on the node.
func (p *pod) remove() {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), podTime)
	defer cancel()
	if err := p.Remove(ctx); err != nil {
		p.n.t.Error(err)
	}
	if err := p.n.h.CheckClean(goneTime); err != nil {
		p.n.t.Error(err)
	}
	// Nor of what a container keeps otherwise: a pod's has an ID that never comes again.
	if left, _ := filepath.Glob(filepath.Join(p.n.h.StateDir, p.n.h.Namespace, "*")); len(left) != 0 {
		p.n.t.Errorf("left of the pod's containers: %v", left)
	}
	// Nor of what has its place outside the node's directory: the shim's socket, and runc's state.
	paths := []string{p.n.h.ShimSocket(p.ID)}
	for _, id := range append(p.Made(), p.ID) {
		paths = append(paths, filepath.Join("/run/containerd/runc", p.n.h.Namespace, id))
	}
	for _, path := range paths {
		eventually(p.n.t, goneTime, path+" is gone", func() bool {
			_, err := os.Lstat(path)
			return errors.Is(err, os.ErrNotExist)
		}, func() string { return "" })
	}
}

// exec executes a command by ExecSync.
func (p *pod) exec(container string, command ...string) kubelet.Output {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	out, err := p.ExecSync(ctx, container, 0, command...)
	if err != nil {
		p.n.t.Fatalf("exec %q in %s: %v", command, container, err)
	}
	return out
}

// execFails executes a command that cannot be executed, and gives why.
func (p *pod) execFails(container string, timeout time.Duration, command ...string) error {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	out, err := p.ExecSync(ctx, container, timeout, command...)
	if err == nil {
		p.n.t.Fatalf("exec %q in %s gives %+v", command, container, out)
	}
	return err
}

// stream executes a command by Exec and its streams.
func (p *pod) stream(container string, tty bool, stdin string, command ...string) kubelet.Output {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	var input io.Reader = strings.NewReader(stdin)
	if tty {
		// Somebody sits there: the end of input would be the end of the session, output included.
		keyboard, typist := io.Pipe()
		defer typist.Close()
		input = keyboard
	}
	out, err := p.Exec(ctx, container, tty, input, command...)
	if err != nil {
		p.n.t.Fatalf("exec %q in %s: %v", command, container, err)
	}
	return out
}

// status asks for the status of the gateway of the container "agent".
func (p *pod) status() receipt.Status {
	p.n.t.Helper()
	out := p.exec("agent", "gatewarden", "status", "--json")
	if out.Status > 1 {
		p.n.t.Fatalf("%+v", out)
	}
	return decode[receipt.Status](p.n.t, out.Stdout)
}

// restart restarts that gateway.
func (p *pod) restart() receipt.Receipt {
	p.n.t.Helper()
	out := p.exec("agent", "gatewarden", "restart", "--json")
	if out.Status != 0 {
		p.n.t.Fatalf("%+v", out)
	}
	return decode[receipt.Receipt](p.n.t, out.Stdout)
}

// restartContainer makes a container anew, as the kubelet does.
func (p *pod) restartContainer(name string) {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), podTime)
	defer cancel()
	if err := p.Restart(ctx, name); err != nil {
		p.n.t.Fatal(err)
	}
}

// state is that of a container, as the kubelet sees it.
func (p *pod) state(name string) *cri.ContainerStatus {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	s, err := p.State(ctx, name)
	if err != nil {
		p.n.t.Fatal(err)
	}
	return s
}

// init is the host PID of a container's first process.
func (p *pod) init(id string) int {
	p.n.t.Helper()
	ctx := p.n.h.Context(context.Background())
	c, err := p.n.h.Client().LoadContainer(ctx, id)
	if err != nil {
		p.n.t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		p.n.t.Fatal(err)
	}
	return int(task.Pid())
}

// inits are the PIDs of the containers without a gateway, the sandbox among them.
func (p *pod) inits() []int {
	p.n.t.Helper()
	return []int{p.init(p.ID), p.init(p.Container("metrics")), p.init(p.Container("logger"))}
}

// answers checks that a container of the pod reaches the gateway, and that it is process pid.
func (p *pod) answers(from string) {
	p.n.t.Helper()
	out := p.exec(from, "testworkload", "get", "http://"+harness.GatewayAddress+"/")
	if out.Status != 0 {
		p.n.t.Errorf("container %s does not reach the gateway: %+v", from, out)
		return
	}
	if got := decode[who](p.n.t, out.Stdout); got.UID != harness.GatewayUID {
		p.n.t.Errorf("container %s reaches %+v", from, got)
	}
}

func TestInAPodTheNamedContainerHasAGatewayThatTheWholePodReaches(t *testing.T) {
	n := newNode(t, harness.CRIOptions{})
	n.profile(harness.Profile{Select: "annotation = true\nnamespaces = [\"k8s.io\"]\npod_namespaces = [\"agents\", \"default\"]"})
	p := n.run(n.example())
	ctx, cancel := context.WithTimeout(t.Context(), podTime)
	defer cancel()

	s := p.status()
	if s.State != receipt.Running || s.Container.Namespace != "k8s.io" || s.Container.ID != p.Container("agent") {
		t.Errorf("status %+v", s)
	}
	for _, from := range []string{"agent", "metrics", "logger"} {
		p.answers(from)
	}
	if ip, err := p.IP(ctx); err != nil || !strings.HasPrefix(ip, "10.99.0.") {
		t.Errorf("the pod's address is %q, %v", ip, err)
	}
	if ready, err := p.Probe(ctx, "agent"); ready != 0 || err != nil {
		t.Errorf("the readiness probe says %d, %v", ready, err)
	}
	installed, err := filepath.Glob(filepath.Join(n.h.RunDir, "k8s.io", "*"))
	if err != nil || len(installed) != 1 || filepath.Base(installed[0]) != p.Container("agent") {
		t.Errorf("gateways are installed in %v, want one in %s", installed, p.Container("agent"))
	}

	t.Run("an exec restarts the gateway and nothing else", func(t *testing.T) {
		others := p.inits()
		r := p.restart()
		if r.Outcome != receipt.Replaced || r.Old.PID != s.PID || !r.Workload.Unchanged {
			t.Errorf("receipt %+v", r)
		}
		if now := p.inits(); !slices.Equal(now, others) || p.state("agent").State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the pod's other processes changed: %v, before %v", now, others)
		}
		p.answers("metrics")
	})
	t.Run("an exec's exit code tells the refusal", func(t *testing.T) {
		before := p.status()
		out := p.exec("agent", "gatewarden", "restart", "--if-generation", "99")
		if out.Status != code.ExitRefused || !strings.Contains(out.Stderr, "generation") {
			t.Errorf("%+v", out)
		}
		if out := p.exec("agent", "gatewarden", "no-such-verb"); out.Status != code.ExitUsage {
			t.Errorf("%+v", out)
		}
		if after := p.status(); after.PID != before.PID {
			t.Errorf("a refused restart changed the gateway: %+v", after)
		}
	})
	t.Run("an exec in a container without a gateway goes to runc", func(t *testing.T) {
		if out := p.exec("logger", "id", "-u"); out.Status != 0 || out.Stdout != "1000\n" {
			t.Errorf("%+v", out)
		}
		if err := p.execFails("logger", 0, "gatewarden", "restart"); !strings.Contains(err.Error(), "executable file not found") {
			t.Errorf("%v", err)
		}
	})
	t.Run("an exec that is not over in time is ended", func(t *testing.T) {
		before := p.status()
		begin := time.Now()
		err := p.execFails("agent", time.Second, "gatewarden", "logs", "-f")
		if status.Code(err) != codes.DeadlineExceeded || time.Since(begin) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if after := p.status(); after.PID != before.PID {
			t.Errorf("it changed the gateway: %+v", after)
		}
	})
	t.Run("kubectl's exec has streams", func(t *testing.T) {
		before := p.status()
		out := p.stream("agent", false, "", "gatewarden", "restart", "--reason", "by kubectl")
		if out.Status != 0 || !strings.Contains(out.Stdout, "restarted gateway agent") {
			t.Errorf("%+v", out)
		}
		if after := p.status(); after.PID == before.PID || after.Last.Reason != "by kubectl" {
			t.Errorf("status %+v", after)
		}
		out = p.stream("agent", false, "", "gatewarden", "restart", "--if-generation", "99")
		if out.Status != code.ExitRefused || out.Stderr == "" {
			t.Errorf("%+v", out)
		}
		out = p.stream("agent", true, "", "gatewarden", "status")
		if out.Status != 0 || !strings.Contains(out.Stdout, "running") || !strings.Contains(out.Stdout, "\r\n") {
			t.Errorf("on a terminal: %+v", out)
		}
		// An ordinary one beside these.
		if out := p.stream("agent", false, "to and fro", "cat"); out.Status != 0 || out.Stdout != "to and fro" {
			t.Errorf("%+v", out)
		}
	})
	t.Run("a gateway that crashes is started again in its container", func(t *testing.T) {
		before := p.status()
		killProcess(t, before.PID)
		eventually(t, eventTime, "another gateway runs", func() bool {
			s := p.status()
			return s.State == receipt.Running && s.PID != before.PID
		}, func() string { return fmt.Sprintf("%+v", p.status()) })
		if s := p.state("agent"); s.State != cri.ContainerState_CONTAINER_RUNNING || s.Metadata.Attempt != 0 {
			t.Errorf("the kubelet noticed: %v", s)
		}
	})
}

func TestAContainerOfAPodThatIsMadeAnewHasAGatewayOfItsOwn(t *testing.T) {
	n := newNode(t, harness.CRIOptions{})
	n.profile(harness.Profile{More: "[[state]]\ntarget = \"/var/lib/gateway\"\n"})
	p := n.run(n.example())
	others, before, first := p.inits(), p.status(), p.Container("agent")

	// The kubelet's way: stop, remove, create with the next attempt.
	p.restartContainer("agent")
	after := p.status()
	if p.Container("agent") == first || p.state("agent").Metadata.Attempt != 1 || after.PID == before.PID || after.Warden.PID == before.Warden.PID {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	for _, dir := range []string{n.h.RunDir, n.h.StateDir, n.h.LogDir} {
		if left, _ := filepath.Glob(filepath.Join(dir, "k8s.io", first)); len(left) != 0 {
			t.Errorf("left of the container before: %v", left)
		}
	}
	p.restart()

	// And after a crash of the workload, with which the gateway goes too.
	killProcess(t, p.init(p.Container("agent")))
	eventually(t, eventTime, "the kubelet sees the container's end", func() bool {
		return p.state("agent").State == cri.ContainerState_CONTAINER_EXITED
	}, func() string { return fmt.Sprint(p.state("agent")) })
	if err := p.execFails("agent", 0, "gatewarden", "status"); !strings.Contains(err.Error(), "EXITED") {
		t.Errorf("exec in a container that ended: %v", err)
	}
	p.restartContainer("agent")
	p.restart()
	p.answers("logger")

	// The restart of a sidecar is no business of the gateway's.
	before = p.status()
	p.restartContainer("metrics")
	if after := p.status(); after.PID != before.PID || p.Attempts("metrics") != 2 {
		t.Errorf("the gateway changed with a sidecar: %+v", after)
	}
	p.answers("metrics")
	if now := p.inits(); now[0] != others[0] || now[2] != others[2] {
		t.Errorf("the pod's other processes changed: %v, before %v", now, others)
	}

	// A container that is made anew has the profile as it is now: here, of a gateway that is slow to stop. The kubelet gives a
	// restart up before it is done, and it is done all the same: the one who stopped the gateway starts the next.
	n.profile(harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"2s\""})
	p.restartContainer("agent")
	before = p.status()
	if err := p.execFails("agent", time.Second, "gatewarden", "restart"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a restart that takes longer than its exec may: %v", err)
	}
	eventually(t, eventTime, "the next gateway runs", func() bool {
		s := p.status()
		return s.State == receipt.Running && s.PID != before.PID
	}, func() string { return fmt.Sprintf("%+v", p.status()) })
}

func TestTheEndOfAPodsShimEndsItsContainersAndLeavesNothing(t *testing.T) {
	n := newNode(t, harness.CRIOptions{NoCNI: true})
	n.profile(harness.Profile{})
	spec := n.example()
	spec.Spec.HostNetwork = true
	p := n.run(spec)
	gateway := p.status()
	processes, err := n.h.Processes()
	if err != nil {
		t.Fatal(err)
	}
	shim := slices.IndexFunc(processes, func(q harness.Process) bool {
		return strings.Contains(q.Command, "containerd-shim-gatewarden-v2") && strings.Contains(q.Command, "-id "+p.ID+" ")
	})
	if shim < 0 {
		t.Fatalf("no process is the shim of pod %s: %v", p.ID, processes)
	}
	killProcess(t, processes[shim].PID)
	// containerd cleans up after it, container by container and by its own shim's program: runc delete, which runs the hook.
	eventually(t, eventTime, "the kubelet sees the end of each container", func() bool {
		return !slices.ContainsFunc([]string{"agent", "metrics", "logger"}, func(name string) bool {
			return p.state(name).State != cri.ContainerState_CONTAINER_EXITED
		})
	}, func() string { return fmt.Sprint(p.state("agent")) })
	eventually(t, goneTime, "gateway and warden have ended", func() bool {
		_, gerr := os.Stat(fmt.Sprintf("/proc/%d", gateway.PID))
		_, werr := os.Stat(fmt.Sprintf("/proc/%d", gateway.Warden.PID))
		return errors.Is(gerr, os.ErrNotExist) && errors.Is(werr, os.ErrNotExist)
	}, func() string { return fmt.Sprintf("%+v", gateway) })
	// containerd leaves a dead shim's socket, with its stock shim too.
	remove(t, n.h.ShimSocket(p.ID))
}

func TestTheEndOfContainerdChangesNothingForAPod(t *testing.T) {
	n := newNode(t, harness.CRIOptions{})
	n.profile(harness.Profile{})
	p := n.run(n.example())
	before, others := p.status(), p.inits()
	ctx, cancel := context.WithTimeout(t.Context(), podTime)
	defer cancel()
	if err := n.h.CrashDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	// CRI serves some time after containerd.
	eventually(t, eventTime, "CRI serves", func() bool {
		_, err := n.k.Runtime.Version(ctx, &cri.VersionRequest{})
		return err == nil
	}, func() string { return n.h.DaemonLog() })
	after := p.status()
	if after.PID != before.PID || after.StartTime != before.StartTime || after.Warden.PID != before.Warden.PID {
		t.Errorf("gateway or warden changed:\nbefore %+v\nafter  %+v", before, after)
	}
	if now := p.inits(); !slices.Equal(now, others) {
		t.Errorf("the pod's other processes changed: %v, before %v", now, others)
	}
	p.restart()
	if out := p.stream("agent", false, "", "gatewarden", "restart"); out.Status != 0 {
		t.Errorf("%+v", out)
	}
	if ready, err := p.Probe(ctx, "agent"); ready != 0 || err != nil {
		t.Errorf("the readiness probe says %d, %v", ready, err)
	}
	p.restartContainer("agent")
	p.restartContainer("logger")
	p.restart()
	p.answers("logger")
	// The pod is removed, and all of it has to be gone, by the second containerd.
}

func TestAPodRunsByTheHandlerThatRuntimeConfigureWrites(t *testing.T) {
	const shim = "/usr/bin/" + shimProgram
	root := atRoot(t)
	mkdir(t, filepath.Join(root, "usr/bin"))
	if err := os.Symlink(host.Bin(shimProgram), filepath.Join(root, shim)); err != nil {
		t.Fatal(err)
	}
	mustGatewarden(t, "runtime", "configure", "containerd", "--root", root, "--shim", shim)
	n := newNode(t, harness.CRIOptions{NoCNI: true, Handlers: filepath.Join(root, "etc/containerd/conf.d/99-gatewarden.toml")})
	n.profile(harness.Profile{})
	spec := n.example()
	spec.Spec.HostNetwork = true
	p := n.run(spec)
	p.restart()
	p.remove()
}

func TestAPodWithAUserNamespaceHasAGatewayWithItsProfilesNumbersInside(t *testing.T) {
	n := newNode(t, harness.CRIOptions{})
	n.profile(harness.Profile{More: "[[state]]\ntarget = \"/var/lib/gateway\"\n"})
	spec := n.example()
	own := false
	spec.Spec.HostUsers = &own
	p := n.run(spec)
	for range 2 {
		p.restart()
		s := p.status()
		if s.UserNamespace == nil || len(s.UserNamespace.UIDs) != 1 || s.UserNamespace.UIDs[0] != (receipt.IDRange{Inside: 0, Host: kubelet.UsersFrom, Count: 65536}) {
			t.Errorf("the user namespace is %+v", s.UserNamespace)
		}
		id := strconv.Itoa(kubelet.UsersFrom + harness.GatewayUID)
		if got := procStatus(t, s.PID)["Uid"]; got != strings.Join([]string{id, id, id, id}, "\t") {
			t.Errorf("the gateway has the UIDs %q on the host", got)
		}
	}
	p.answers("logger")
	p.restartContainer("agent")
	p.restart()
	p.remove()
}

// The short form, without a container's name, is of use where one container alone has it.
func TestInAPodTheShortAnnotationIsForTheOneContainerThatHasIt(t *testing.T) {
	n := newNode(t, harness.CRIOptions{NoCNI: true})
	n.profile(harness.Profile{})
	short := map[string]string{oci.GatewayAnnotation: "agent"}

	t.Run("a pod with one container", func(t *testing.T) {
		spec := n.example()
		spec.Spec.HostNetwork = true
		spec.Metadata.Annotations = short
		spec.Spec.Containers = spec.Spec.Containers[:1]
		p := n.run(spec)
		p.restart()
		// Made anew, it is still the one that was meant.
		p.restartContainer("agent")
		p.restart()
		p.remove()
	})
	t.Run("a pod with another container", func(t *testing.T) {
		spec := n.example()
		spec.Spec.HostNetwork = true
		spec.Metadata.Annotations = short
		p, err := n.tryRun(spec)
		const want = "annotation io.gatewarden.gateway=agent reaches container agent of the pod and container metrics too, and does not say which gets the gateway"
		if p == nil || err == nil || !strings.Contains(err.Error(), want) || p.Container("metrics") != "" {
			t.Fatalf("%v", err)
		}
		p.remove()
	})
	t.Run("the annotation of a container", func(t *testing.T) {
		spec := n.example()
		spec.Spec.HostNetwork = true
		spec.Metadata.Annotations = nil
		spec.Spec.Containers[0].Annotations = short
		p := n.run(spec)
		p.restart()
		p.answers("logger")
		p.remove()
	})
}

func TestAPodThatDoesNotSayClearlyWhoGetsTheGatewayIsRefused(t *testing.T) {
	n := newNode(t, harness.CRIOptions{NoCNI: true})
	n.profile(harness.Profile{})
	for name, test := range map[string]struct {
		key, value, want string
	}{
		"a name that no container can have": {oci.GatewayAnnotation + "/The_Agent", "agent", "does not name a container"},
		"a value that is no profile's name": {oci.GatewayAnnotation + "/agent", "../agent", "does not name a profile"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := n.example()
			spec.Spec.HostNetwork = true
			spec.Metadata.Annotations = map[string]string{test.key: test.value}
			ctx, cancel := context.WithTimeout(t.Context(), podTime)
			defer cancel()
			// Nothing of the pod runs, not even its sandbox.
			p, err := n.k.Sandbox(ctx, spec, n.handler)
			if err == nil {
				t.Errorf("the sandbox runs; removing it: %v", p.Remove(ctx))
			} else if !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
			if err := n.h.CheckClean(goneTime); err != nil {
				t.Error(err)
			}
		})
	}

	n.profile(harness.Profile{Select: "annotation = true\npod_namespaces = [\"agents\"]"})
	for name, test := range map[string]struct{ profile, want string }{
		"a profile that the node does not have fails that container alone": {"absent", `gateway "absent"`},
		"and so does one that is for pods of other namespaces":             {"agent", `may not be chosen from the Kubernetes namespace "default"`},
	} {
		t.Run(name, func(t *testing.T) {
			spec := n.example()
			spec.Spec.HostNetwork = true
			spec.Metadata.Annotations = map[string]string{oci.GatewayAnnotation + "/metrics": test.profile}
			p, err := n.tryRun(spec)
			if p == nil || err == nil {
				t.Fatalf("the pod runs, or has not even a sandbox: %v", err)
			}
			if !strings.Contains(err.Error(), test.want) || p.Container("agent") == "" || p.Container("metrics") != "" {
				t.Error(err)
			}
			p.remove()
		})
	}
}

func TestAPodWithTheHostsNetworkHasItsGatewayThere(t *testing.T) {
	n := newNode(t, harness.CRIOptions{NoCNI: true})
	n.profile(*heldProfile("inherit"))
	spec := n.example()
	spec.Spec.HostNetwork = true
	p := n.run(spec)
	p.answers("logger")
	p.restart()
	p.answers("metrics")
	// A held socket does not stay in the host's network behind the pod.
	p.remove()
	p = n.run(spec)
	p.answers("logger")
}

func TestInAPodWithASharedPIDNamespaceTheGatewayIsRefusedUnlessItsProfileAllowsThat(t *testing.T) {
	n := newNode(t, harness.CRIOptions{})
	n.profile(harness.Profile{})
	spec := n.example()
	spec.Spec.ShareProcessNamespace = true
	p, err := n.tryRun(spec)
	if err == nil || !strings.Contains(err.Error(), string(code.PostureRefused)) || !strings.Contains(err.Error(), "shareProcessNamespace: false") {
		t.Fatalf("%v", err)
	}
	p.remove()

	n.profile(harness.Profile{More: "[posture]\nallow = [\"workload-host-pid\"]\n"})
	p = n.run(spec)
	before := p.restart()
	if out := p.exec("logger", "ps"); !strings.Contains(out.Stdout, "testgateway") {
		t.Errorf("the namespace is not shared: %+v", out)
	}
	// The sandbox's pause reaps what the pod leaves; the gateway's end does not depend on the namespace's.
	killProcess(t, p.init(p.Container("agent")))
	eventually(t, eventTime, "the gateway ends with its container", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", before.New.PID))
		return errors.Is(err, os.ErrNotExist) && p.state("agent").State == cri.ContainerState_CONTAINER_EXITED
	}, func() string { return fmt.Sprint(p.state("agent")) })
	p.restartContainer("agent")
	p.restart()
	p.answers("logger")
}

func TestTheConfigurationOfEarlierContainerdsIsReadToo(t *testing.T) {
	n := newNode(t, harness.CRIOptions{Handlers: handlersOld})
	n.profile(harness.Profile{})
	p := n.run(n.example())
	p.restart()
	p.answers("logger")
}
