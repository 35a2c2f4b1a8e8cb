//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// The ways of asking, as profiles write them.
const (
	askHTTP = "http = \"http://" + harness.GatewayAddress + "/health\"\n"
	askExec = "exec = [\"/opt/probe/check\", \"one argument\"]\n"
	askGRPC = "grpc = \"tcp://" + harness.GatewayAddress + "\"\n"
)

// probed is a gateway whose health a test decides, by files of a directory that is mounted at /opt/probe: "status" for
// testgateway, "check" for the command of a probe, "testgrpc" the gateway that speaks gRPC.
type probed struct {
	*container
	source  string // the directory that its profile declares
	dir     string // where its files are: the source, and when it runs what it is shown
	profile *harness.Profile
}

func probedProfile(dir, ready string) *harness.Profile {
	timeout := "900ms"
	if ready == askExec {
		timeout = "3s" // a join and a shell take their time on a busy machine
	}
	return &harness.Profile{
		Args:    []string{"--status-file", "/opt/probe/status"},
		Ready:   ready + "timeout = \"" + timeout + "\"",
		Restart: "policy = \"never\"",
		More:    mountTable(dir, "/opt/probe"),
	}
}

// grpcProfile is a gateway that speaks gRPC, with arguments from a file of dir.
func grpcProfile(t *testing.T, dir, ready string, args ...string) *harness.Profile {
	writeFile(t, dir+"/options", optionsLine(args), 0o644)
	p := probedProfile(dir, ready)
	p.Command = []string{"/bin/sh", "-c", ". /opt/probe/options; exec /opt/probe/testgrpc --listen " + harness.GatewayAddress + " $OPTIONS"}
	return p
}

func probeDir(t *testing.T) string {
	t.Helper()
	dir := mountDir(t)
	writeFile(t, dir+"/status", "200\n", 0o644)
	writeFile(t, dir+"/check", "#!/bin/sh\nexit 0\n", 0o755)
	program, err := host.TestProgram("testgrpc")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/testgrpc", string(program), 0o755)
	return dir
}

func runProbed(t *testing.T, dir string, p *harness.Profile) *probed {
	t.Helper()
	c := run(t, options{profile: p})
	return &probed{container: c, source: dir, dir: c.shown(), profile: p}
}

// health decides what testgateway answers.
func (p *probed) health(what string) {
	p.t.Helper()
	writeFile(p.t, p.dir+"/status", what+"\n", 0o644)
}

// script is the command of the probe from now on.
func (p *probed) script(lines string) {
	p.t.Helper()
	// Renamed into place: one that runs must not change under its shell.
	writeFile(p.t, p.dir+"/check.new", "#!/bin/sh\n"+lines+"\n", 0o755)
	if err := os.Rename(p.dir+"/check.new", p.dir+"/check"); err != nil {
		p.t.Fatal(err)
	}
}

// profiled writes the container's profile anew.
func (p *probed) profiled(profile *harness.Profile) {
	p.t.Helper()
	writeProfile(p.t, p.id, profile.TOML())
}

// noLocalPort takes all local ports of the container's network namespace, as its workload could. It gives a function that
// releases them.
func (p *probed) noLocalPort() (release func()) {
	p.t.Helper()
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.init()))
	if err != nil {
		p.t.Fatal(err)
	}
	var before []byte
	var taken net.Listener
	err = netns.Do(ns, func() (err error) {
		if before, err = os.ReadFile(file); err != nil {
			return err
		}
		if err = os.WriteFile(file, []byte("61000 61000"), 0); err != nil {
			return err
		}
		taken, err = net.Listen("tcp", "127.0.0.1:61000")
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	done := false
	release = func() {
		if done {
			return
		}
		done = true
		taken.Close()
		if err := netns.Do(ns, func() error { return os.WriteFile(file, before, 0) }); err != nil {
			p.t.Error(err)
		}
		ns.Close()
	}
	p.t.Cleanup(release)
	return release
}

func (p *probed) settledStatus() receipt.Status {
	p.t.Helper()
	return p.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
}

// restarting makes a healthy container, does it harm, and restarts.
func restarting(ready string, harm func(p *probed)) func(*testing.T) (*container, receipt.Status, harness.Result) {
	return func(t *testing.T) (*container, receipt.Status, harness.Result) {
		dir := probeDir(t)
		return restarted(t, dir, probedProfile(dir, ready), harm)
	}
}

func restarted(t *testing.T, dir string, profile *harness.Profile, harm func(p *probed)) (*container, receipt.Status, harness.Result) {
	p := runProbed(t, dir, profile)
	before := p.settledStatus()
	harm(p)
	return p.container, before, p.tryRestart()
}

// speakingGRPC does the same with the gateway that speaks gRPC, which gets other arguments.
func speakingGRPC(ready string, args ...string) func(*testing.T) (*container, receipt.Status, harness.Result) {
	return func(t *testing.T) (*container, receipt.Status, harness.Result) {
		dir := probeDir(t)
		return restarted(t, dir, grpcProfile(t, dir, ready, "web=SERVING"), func(p *probed) {
			writeFile(t, p.dir+"/options", optionsLine(args), 0o644)
		})
	}
}

// asking makes a healthy container, does it harm, and carries out a verb.
func asking(ready, verb string, harm func(p *probed) (mend func())) func(*testing.T) (*container, receipt.Status, harness.Result) {
	return func(t *testing.T) (*container, receipt.Status, harness.Result) {
		dir := probeDir(t)
		p := runProbed(t, dir, probedProfile(dir, ready))
		before := p.settledStatus()
		mend := harm(p)
		said := p.exec("gatewarden", verb, "--json")
		if verb == "probe" {
			r := decode[control.Report](t, said.Stdout)
			if said.Status == code.ExitDeadline && (r.Healthy != nil || r.Probe == nil || r.Probe.Verdict != "unknown") {
				t.Errorf("the report does not say that it cannot tell:\n%v", said)
			}
			if said.Status == code.ExitFailed && (r.Healthy == nil || *r.Healthy || r.Probe == nil || r.Probe.Verdict != "no") {
				t.Errorf("the report does not say no:\n%v", said)
			}
		}
		if mend != nil {
			mend()
		}
		return p.container, before, said
	}
}

var probeFaults = faults{
	test:  "TestWhatAProbeFindsIsToldAndBounded",
	title: "The probe",
	about: "A gateway listens and is not well, or cannot be asked. In the first rows it is the successor of a restart, with a short `ready.timeout` and `restart.policy = \"never\"`: whoever asks for a restart gets it, and is told why the successor does not count as ready. In the last ones `recover` and `probe` find the gateway that runs in that state.",
	rows:  probeRows(),
}

func probeRows() []fault {
	failed := func(stage code.Stage, what string, c code.Code, message string, do func(*testing.T) (*container, receipt.Status, harness.Result)) fault {
		return fault{stage: string(stage), fault: what, exit: code.ExitFailed, code: c, state: receipt.FailedSt, gateway: none,
			message: "cannot restart gateway …: " + message, do: do}
	}
	asked := func(kind, what, detail string) string {
		return "the " + kind + " probe (" + what + ") says that it is not ready: " + detail + " (…s after its start); …"
	}
	http := func(what, word, detail string) fault {
		return failed(code.StageProbe, what, code.ProbeFailed, asked("http", "GET http://"+harness.GatewayAddress+"/health", detail),
			restarting(askHTTP, func(p *probed) { p.health(word) }))
	}
	exec := func(what, lines, detail string) fault {
		return failed(code.StageProbe, what, code.ProbeFailed, asked("exec", "the command", detail),
			restarting(askExec, func(p *probed) { p.script(lines) }))
	}
	grpc := func(what, detail string, do func(*testing.T) (*container, receipt.Status, harness.Result)) fault {
		return failed(code.StageProbe, what, code.ProbeFailed, asked("grpc", "the health service on tcp://"+harness.GatewayAddress, detail), do)
	}
	settle := func(what, word, message string, c code.Code) fault {
		return failed(code.StageSettle, what, c, message, restarting(askHTTP+"settle = \"1s\"\n", func(p *probed) { p.health(word) }))
	}
	const (
		noHTTP  = "no HTTP answer from " + harness.GatewayAddress + ": "
		noGRPC  = "no gRPC health from tcp://" + harness.GatewayAddress + ": "
		settled = "it was ready and did not stay so for ready.settle (1s): "
		noPort  = "the http probe (GET http://" + harness.GatewayAddress + "/health) cannot tell, which says nothing of the gateway: " +
			"cannot connect to tcp " + harness.GatewayAddress + ": connect: cannot assign requested address (no local port is left in the container's network: its processes hold too many connections to that address)"
	)
	refused := func(what, message string, harm func(p *probed)) fault {
		return fault{stage: "preflight", fault: what, exit: code.ExitRefused, code: code.UntrustedBinary, state: receipt.Running, gateway: theSame,
			message: "cannot restart gateway …: its probe (ready.exec) could not run: " + message + "; process … was not touched and goes on",
			do:      restarting(askExec, harm)}
	}
	return []fault{
		http("http: another status", "503", "HTTP status 503; accepted is 200"),
		http("http: a redirect, which is not followed", "redirect", "HTTP status 302; accepted is 200"),
		http("http: another protocol", "garbage", noHTTP+`the answer is not HTTP: it begins with "SSH-2.0-OpenSSH_10.0"`),
		http("http: it accepts, and says nothing", "silence", "no answer within …ms"),
		http("http: it sends a byte now and then", "trickle", "no answer within …ms"),
		http("http: it sends a header without end", "flood", noHTTP+"the header of the response is longer than 16384 bytes"),
		http("http: it resets the connection", "reset", noHTTP+"… connection reset by peer"),
		http("http: it answers, and listens no more afterwards", "unlisten",
			"cannot connect to tcp "+harness.GatewayAddress+": connect: connection refused"),
		exec("exec: exit status 1", "echo 'no database at db.example' >&2; exit 1", "/opt/probe/check: exit status 1; it said: no database at db.example"),
		exec("exec: it is killed by a signal", "kill -SEGV $$", "/opt/probe/check: killed by SIGSEGV"),
		exec("exec: it hangs, and so does what it started", "echo waiting; setsid sleep 77 & sleep 77", "/opt/probe/check did not end within … and was killed; it said: waiting"),
		exec("exec: it hangs with a terminal's codes on its lips", "printf '\\033[31mred'; sleep 77", `/opt/probe/check did not end within … and was killed; it said: \x1b[31mred`),
		failed(code.StageProbe, "exec: it listens in the gateway's place", code.ListenerMissing,
			"nobody listens on tcp://"+harness.GatewayAddress+" (api) (…s after its start); …",
			restarting(askExec, func(p *probed) {
				p.health("unlisten")
				// The first call makes the gateway stop listening; what then listens is the command's child.
				p.script("PATH=/bin:/usr/local/bin\ntestworkload get http://" + harness.GatewayAddress + "/health\nsetsid testworkload hold --address " + harness.GatewayAddress + " &\n" +
					"until netstat -ltn | grep -q :18789; do :; done; exit 0")
			})),
		failed(code.StageProbe, "exec: no program for this machine", code.ProbeFailed,
			"the exec probe (the command) cannot tell, which says nothing of the gateway: cannot run /opt/probe/check: cannot exec: exec format error "+
				"(neither a program for this machine nor a script with #!) (…s after its start); …",
			restarting(askExec, func(p *probed) { writeFile(p.t, p.dir+"/check", "\x7fnonsense", 0o755) })),
		refused("exec: the command is missing",
			"cannot trust /opt/probe/check in the container: there is no such file; the path is one of the container's image or of a [[mount]]",
			func(p *probed) { os.Remove(p.dir + "/check") }),
		refused("exec: others may write to the command",
			"cannot trust /opt/probe/check in the container: its mode 0757 lets others write to it: chmod go-w",
			func(p *probed) { os.Chmod(p.dir+"/check", 0o757) }),
		grpc("grpc: NOT_SERVING", noGRPC+"the health service says that the server is NOT_SERVING", speakingGRPC(askGRPC, "=NOT_SERVING")),
		grpc("grpc: NOT_SERVING of the one service", noGRPC+`the health service says that service "web" is NOT_SERVING`,
			speakingGRPC(askGRPC+"service = \"web\"\n", "web=NOT_SERVING")),
		grpc("grpc: a service that it does not know", noGRPC+`the health service does not know service "web" (gRPC status NOT_FOUND): compare ready.service`,
			speakingGRPC(askGRPC+"service = \"web\"\n")),
		grpc("grpc: no health service", noGRPC+"the gateway has no health service (gRPC status UNIMPLEMENTED)", speakingGRPC(askGRPC, "--bare")),
		grpc("grpc: a gateway that speaks HTTP/1", noGRPC+"the answer is HTTP/1, and gRPC needs HTTP/2",
			func(t *testing.T) (*container, receipt.Status, harness.Result) {
				dir := probeDir(t)
				return restarted(t, dir, grpcProfile(t, dir, askGRPC), func(p *probed) {
					writeFile(t, p.dir+"/options", "exec /usr/local/bin/testgateway --listen "+harness.GatewayAddress+"\n", 0o644)
				})
			}),
		failed(code.StageProbe, "no local port is left in the container's network", code.ProbeFailed, noPort+" (…s after its start); …",
			restarting(askHTTP, func(p *probed) { p.noLocalPort() })),
		settle("it exits", "exit-later", "the gateway was ready, and ended within ready.settle (1s): exit status 0…", code.LaunchFailed),
		settle("it listens no more", "unlisten-later", settled+"nobody listens on tcp://"+harness.GatewayAddress+" (api)…", code.ListenerMissing),
		settle("it answers 503", "once",
			settled+"the http probe (GET http://"+harness.GatewayAddress+"/health) says that it is not ready: HTTP status 503; accepted is 200…", code.ProbeFailed),
		{stage: "running", fault: "recover; it answers 503", state: receipt.Running, gateway: aNewOne,
			do: asking(askHTTP, "recover", func(p *probed) func() {
				p.health("503")
				// The successor does not read that file.
				healthy := probedProfile(p.source, askHTTP)
				healthy.Args = nil
				p.profiled(healthy)
				return nil
			})},
		{stage: "running", fault: "recover; no local port is left in the container's network", exit: code.ExitDeadline, code: code.Deadline,
			state: receipt.Running, gateway: theSame, note: "tried again for as long as `ready.timeout`",
			message: "cannot recover gateway …: cannot tell whether it is healthy: " + noPort + "; process … was not touched and goes on; `gatewarden restart` replaces it all the same",
			do:      asking(askHTTP, "recover", (*probed).noLocalPort)},
		{stage: "running", fault: "recover; the command of its probe cannot run", exit: code.ExitDeadline, code: code.Deadline,
			state: receipt.Running, gateway: theSame, note: "tried again for as long as `ready.timeout`",
			message: "cannot recover gateway …: cannot tell whether it is healthy: the exec probe (the command) cannot tell, which says nothing of the gateway: cannot run /opt/probe/check: cannot trust /opt/probe/check in the container: there is no such file; …; process … was not touched and goes on; …",
			do: asking(askExec, "recover", func(p *probed) func() {
				os.Remove(p.dir + "/check")
				return func() { p.script("exit 0") }
			})},
		{stage: "running", fault: "probe; no local port is left in the container's network", exit: code.ExitDeadline, code: code.ProbeFailed,
			state: receipt.Running, gateway: theSame, note: "`healthy` is null", message: noPort, do: asking(askHTTP, "probe", (*probed).noLocalPort)},
		{stage: "running", fault: "probe; it says nothing", exit: code.ExitFailed, code: code.ProbeFailed,
			state: receipt.Running, gateway: theSame, note: "`healthy` is false",
			message: "the http probe (GET http://" + harness.GatewayAddress + "/health) says that it is not ready: no answer within 2…s",
			do: asking(askHTTP, "probe", func(p *probed) func() {
				p.health("silence")
				return func() { p.health("200") }
			})},
		{stage: "running", fault: "probe; the command hangs", exit: code.ExitFailed, code: code.ProbeFailed,
			state: receipt.Running, gateway: theSame, note: "`healthy` is false",
			message: "the exec probe (the command) says that it is not ready: /opt/probe/check did not end within 5…s and was killed",
			do: asking(askExec, "probe", func(p *probed) func() {
				p.script("exec sleep 77")
				return func() { p.script("exit 0") }
			})},
	}
}

func TestWhatAProbeFindsIsToldAndBounded(t *testing.T) { probeFaults.run(t) }

// stateFile is what the gateway, or its probe's command, wrote to a file of the [[state]] /var/lib/gateway.
func (c *container) stateFile(name string) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.stateDir(), "state", "var%2Flib%2Fgateway", name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

const gatewayState = "[[state]]\ntarget = \"/var/lib/gateway\"\n"

func TestTheCommandOfAProbeRunsAsTheGatewayDoes(t *testing.T) {
	dir := probeDir(t)
	profile := probedProfile(dir, askExec)
	profile.Gateway = "groups = [64992, 64993]\nenv = { COLOUR = \"blue\" }\ncwd = \"/usr/local/bin\"\n"
	profile.More += gatewayState
	p := &probed{dir: dir}
	p.container = &container{t: t}
	p.script(`cd /var/lib/gateway && cat /proc/self/status >status && env >env && echo "$PWD $OLDPWD $# $1" >args &&
ls -l /proc/self/fd >fds && for n in user pid net mnt ipc uts cgroup; do readlink /proc/self/ns/$n; done >ns`)
	c := run(t, options{profile: profile})
	s := c.status()
	check, gateway := map[string]string{}, procStatus(t, s.PID)
	for line := range strings.Lines(c.stateFile("status")) {
		name, value, _ := strings.Cut(line, ":")
		check[name] = strings.TrimSpace(value)
	}
	for _, f := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
		if check[f] == "" || check[f] != gateway[f] {
			t.Errorf("%s of the command is %q, the gateway's is %q", f, check[f], gateway[f])
		}
	}
	if check["Uid"] != strings.Repeat("64990\t", 3)+"64990" || check["NoNewPrivs"] != "1" || check["CapBnd"] != strings.Repeat("0", 16) {
		t.Errorf("the command's posture: %v", check)
	}
	var ns []string
	for _, n := range []string{"user", "pid", "net", "mnt", "ipc", "uts", "cgroup"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.PID, n))
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, link)
	}
	if got := strings.Fields(c.stateFile("ns")); !slices.Equal(got, ns) {
		t.Errorf("the command's namespaces are %v, the gateway's %v", got, ns)
	}
	if env := c.stateFile("env"); !strings.Contains(env, "COLOUR=blue\n") || strings.Contains(env, "GATEWARDEN") || strings.Contains(env, "HOME=") {
		t.Errorf("the command's environment:\n%s", env)
	}
	if got := c.stateFile("args"); got != "/var/lib/gateway /usr/local/bin 1 one argument\n" {
		t.Errorf("working directory and arguments: %q", got)
	}
	// Besides 0, 1 and 2: the script's own, by its shell, and the directory that ls reads.
	if fds := c.stateFile("fds"); strings.Contains(fds, "socket:") || strings.Contains(fds, "memfd:") {
		t.Errorf("the command has descriptors that it should not have:\n%s", fds)
	}
	if r := s.Last; r.Probe == nil || r.Probe.Kind != "exec" || r.Probe.Verdict != "yes" || r.Probe.Detail != "" {
		t.Errorf("the receipt's probe: %+v", r.Probe)
	}
}

// sleepers lists the container's processes that sleep for 77 seconds, which only probes' commands do here.
func (c *container) sleepers() []string {
	c.t.Helper()
	processes, err := host.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	var found []string
	for _, p := range processes {
		if slices.Contains(strings.Split(p.Cgroup, "/"), c.id) && strings.Contains(p.Command, "sleep 77") {
			found = append(found, p.String())
		}
	}
	return found
}

// checkCgroup tells whether a cgroup of a probe's command is left.
func (c *container) checkCgroup() bool {
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + host.Namespace + "/" + c.id + "/gatewarden-probe")
	more, _ := filepath.Glob("/sys/fs/cgroup/" + host.Namespace + "/" + c.id + "/gatewarden-probe")
	return len(left)+len(more) > 0
}

func TestNothingThatAProbesCommandStartedOutlivesIt(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askExec))
	before := p.settledStatus()
	for _, c := range []struct {
		name, script string
		exit         int
	}{
		{"when it says yes", "sleep 77 & (setsid sleep 77 &) ; (setsid sh -c 'trap \"\" TERM HUP; sleep 77 & sleep 77' &) ; exit 0", 0},
		{"when it says no", "(setsid sleep 77 &) ; exit 3", 1},
		{"when it is killed", "(setsid sleep 77 &) ; sleep 77", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.script(c.script)
			if r := p.exec("gatewarden", "probe"); r.Status != c.exit {
				t.Errorf("%v", r)
			}
			if left := p.sleepers(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if p.checkCgroup() {
				t.Error("its cgroup is left")
			}
		})
	}
	p.script("exit 0")
	// On a busy machine a command can take longer than status waits.
	after := p.waitFor("it is healthy", func(s receipt.Status) bool { return s.Healthy != nil && *s.Healthy })
	if after.PID != before.PID || after.StartTime != before.StartTime || after.Standby.PID != before.Standby.PID {
		t.Errorf("gateway or standby were hit: %+v, before: %+v", after, before)
	}
	p.restart()
}

func TestAHangingCommandHoldsUpNobodyForLong(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askExec))
	p.settledStatus()
	p.script("exec sleep 77")
	began := time.Now()
	s := p.status()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("status took %v", took)
	}
	if s.State != receipt.Running || s.Healthy != nil {
		t.Errorf("status does not say that it cannot tell: %+v", s)
	}
	if left := p.sleepers(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// That the gateway ends is seen during an attempt.
	asked := make(chan harness.Result, 1)
	go func() { asked <- p.exec("gatewarden", "probe", "--json") }()
	eventually(t, eventTime, "the command runs", func() bool { return len(p.sleepers()) > 0 }, func() string { return "" })
	began = time.Now()
	killProcess(t, s.PID)
	r := <-asked
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the probe of a dead gateway went on for %v: %v", took, r)
	}
	p.waitFor("the gateway's end is seen", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
}

func TestAProbesCommandIsNotRepeatedWithoutAPause(t *testing.T) {
	dir := probeDir(t)
	profile := probedProfile(dir, askExec)
	profile.More += gatewayState
	p := runProbed(t, dir, profile)
	p.settledStatus()
	p.script("read up rest </proc/uptime; echo $up >>/var/lib/gateway/times; exit 1")
	if r := p.tryRestart(); r.Status != code.ExitFailed {
		t.Fatalf("%v", r)
	}
	var last float64
	times := strings.Fields(p.stateFile("times"))
	if len(times) < 2 {
		t.Errorf("it was tried %d times within 3 s", len(times))
	}
	for i, text := range times {
		at, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && at-last < 0.1 {
			t.Errorf("two attempts are %.0f ms apart", 1000*(at-last))
		}
		last = at
	}
}

func TestAGatewayWhoseChildTakesTheListenersOverIsReady(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askHTTP))
	p.settledStatus()
	p.health("hand-over")
	r := p.restart()
	if len(r.Listeners) != 1 || r.Listeners[0].OwnerPID == r.New.PID || r.Listeners[0].OwnerPID == 0 {
		t.Errorf("the listener's owner is not the child: %+v of process %d", r.Listeners, r.New.PID)
	}
}

func TestTheHealthServiceOfAGatewayIsAsked(t *testing.T) {
	t.Run("over TCP", func(t *testing.T) {
		dir := probeDir(t)
		p := runProbed(t, dir, grpcProfile(t, dir, askGRPC+"service = \"web\"\n", "=NOT_SERVING", "web=SERVING"))
		r := p.restart()
		if r.Probe == nil || r.Probe.Kind != "grpc" || r.Probe.Verdict != "yes" {
			t.Errorf("the receipt's probe: %+v", r.Probe)
		}
		if r := p.exec("gatewarden", "probe"); r.Status != 0 || !strings.Contains(r.Stdout, "grpc ok") {
			t.Errorf("%v", r)
		}
	})
	t.Run("over a unix socket", func(t *testing.T) {
		const address = "unix:///var/lib/gateway/gw.sock"
		dir := probeDir(t)
		profile := probedProfile(dir, "grpc = \""+address+"\"\n")
		profile.Command = []string{"/opt/probe/testgrpc", "--listen", address}
		profile.Listen = "[[listen]]\nname = \"api\"\naddress = \"" + address + "\"\n"
		profile.More += gatewayState
		p := runProbed(t, dir, profile)
		if r := p.restart(); r.Probe == nil || r.Probe.Kind != "grpc" || r.Probe.Verdict != "yes" {
			t.Errorf("the receipt's probe: %+v", r.Probe)
		}
	})
}

// A gateway that answers slowly is not unhealthy because the one who asks is in a hurry.
func TestStatusCannotTellWhatIsSlowerThanItsPatience(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askHTTP))
	p.health("silence")
	if s := p.status(); s.Healthy != nil {
		t.Errorf("status says %v", *s.Healthy)
	}
	r := p.exec("gatewarden", "status")
	if r.Status != 0 || !strings.Contains(r.Stdout, "running, health not known") {
		t.Errorf("%v", r)
	}
	p.health("503")
	if s := p.status(); s.Healthy == nil || *s.Healthy {
		t.Errorf("status does not say no: %+v", s)
	}
	p.health("200")
	if s := p.status(); s.Healthy == nil || !*s.Healthy {
		t.Errorf("status does not say yes: %+v", s)
	}
}

func TestASuccessorAdoptsAGatewayThatItCannotAsk(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askHTTP))
	before := p.settledStatus()
	release := p.noLocalPort()
	killProcess(t, before.Warden.PID)
	after := p.waitFor("a successor has adopted it", func(s receipt.Status) bool {
		return s.Warden.PID != before.Warden.PID && s.Last != nil && s.Last.Action == receipt.Recover
	})
	if after.PID != before.PID || after.State != receipt.Running || after.Healthy != nil || !strings.Contains(after.Last.Message, "cannot tell whether it is healthy") {
		t.Errorf("%+v, last: %+v; before: %+v", after, after.Last, before)
	}
	release()
	p.restart()
}

func TestACommandThatIsPausedWithItsContainerSaysNothing(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askExec))
	before := p.settledStatus()
	p.script("exec sleep 77")
	asked := make(chan harness.Result, 1)
	go func() { asked <- p.exec("gatewarden", "probe", "--json") }()
	eventually(t, eventTime, "the command runs", func() bool { return len(p.sleepers()) > 0 }, func() string { return "" })
	if r := p.ctr("task", "pause", p.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	r := <-asked
	if r.Status != code.ExitDeadline || !strings.Contains(r.Stdout+r.Stderr, string(code.Paused)) {
		t.Errorf("%v", r)
	}
	p.script("exit 0")
	if r := p.ctr("task", "resume", p.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	eventually(t, eventTime, "the command is gone", func() bool { return len(p.sleepers()) == 0 }, func() string { return fmt.Sprint(p.sleepers()) })
	if s := p.waitFor("it is healthy again", func(s receipt.Status) bool { return s.Healthy != nil && *s.Healthy }); s.PID != before.PID {
		t.Errorf("the gateway was replaced: %+v", s)
	}
	p.restart()
	if p.checkCgroup() {
		t.Error("a cgroup is left")
	}
}
