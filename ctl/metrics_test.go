package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/verb"
)

// wrote makes a container in the run directory dir whose warden, this process, has written down that its gateway runs. With
// lost nobody stands by that any more.
func wrote(t testing.TB, dir, id string, lost bool) {
	t.Helper()
	own := filepath.Join(dir, "default", id)
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "install.json"), []byte(`{"init_pid":4242,"init_start":77,"profile":"demo"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	m := memo.Memo{
		Status: receipt.Status{
			Container: receipt.Container{Namespace: "default", ID: id}, Gateway: "demo", State: receipt.Running, PID: 845, Since: time.Now(), Generation: 2,
			Listeners: []receipt.Listener{}, Warden: receipt.Warden{PID: os.Getpid(), Version: "devel"}, Last: &receipt.Receipt{Message: strings.Repeat("x", 1000)},
		},
		Recovery: memo.Recovery{Profile: profile.Profile{Name: "demo"}},
	}
	m.Counters.Observe(&receipt.Receipt{Action: receipt.Restart, Outcome: receipt.Replaced, Old: &receipt.Old{}, New: &receipt.New{}, Millis: receipt.Millis{Unavailable: 8}})
	f, err := m.Write(own)
	if err != nil {
		t.Fatal(err)
	}
	if lost {
		f.Close()
	}
	t.Cleanup(func() { f.Close() })
}

// metricsOn runs the verb for the run directory dir.
func metricsOn(ctx context.Context, dir string, out, errs io.Writer, args ...string) int {
	return verb.Run(ctx, verb.Env{Stdout: out, Stderr: errs, Config: config.Config{RunDir: dir}, More: []verb.Command{metricsCommand()}}, append([]string{"metrics"}, args...))
}

func TestMetricsArePrintedOnce(t *testing.T) {
	dir := t.TempDir()
	wrote(t, dir, "web", false)
	wrote(t, dir, "lost", true)
	var out, errs bytes.Buffer
	if exit := metricsOn(t.Context(), dir, &out, &errs); exit != code.ExitOK || errs.Len() > 0 {
		t.Fatalf("exit %d: %s", exit, errs.String())
	}
	const web, lost = `{namespace="default",container="web",gateway="demo"`, `{namespace="default",container="lost",gateway="demo"`
	for _, line := range []string{
		"gatewarden_warden_up" + web + "} 1", "gatewarden_warden_up" + lost + "} 0", "gatewarden_gateway_up" + web + "} 1",
		"gatewarden_actions_total" + web + `,action="restart",outcome="replaced"} 1`, "gatewarden_actions_total" + lost + `,action="restart",outcome="replaced"} 1`,
		"gatewarden_unavailable_seconds_bucket" + web + `,le="0.01"} 1`, "gatewarden_unavailable_seconds_sum" + web + "} 0.008",
		"gatewarden_warden_resident_memory_bytes" + web + "} ", "gatewarden_warden_proportional_memory_bytes" + web + "} ",
		`gatewarden_build_info{version="devel",goversion="`,
	} {
		if !strings.Contains(out.String(), "\n"+line) {
			t.Errorf("%s is missing in:\n%s", line, out.String())
		}
	}
	if strings.Contains(out.String(), "gatewarden_gateway_up"+lost) {
		t.Errorf("it is told whether a gateway runs that nobody watches:\n%s", out.String())
	}
}

func TestMetricsAreServedUntilTheCommandEnds(t *testing.T) {
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	wrote(t, dir, "web", false)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	socket := filepath.Join(dir, "m.sock")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		done <- metricsOn(ctx, dir, in, &errs, "--listen", "unix://"+socket, "--listen", fmt.Sprintf("tcp://127.0.0.1:%d", port))
		in.Close()
	}()
	said := make([]byte, 200)
	if n, _ := io.ReadFull(out, said[:len("serving /metrics on unix://")]); n == 0 {
		t.Fatalf("it ended: exit %d, %s", <-done, errs.String())
	}
	go io.Copy(io.Discard, out)
	for _, at := range [][2]string{{"unix", socket}, {"tcp", fmt.Sprintf("127.0.0.1:%d", port)}} {
		conn, err := net.Dial(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /metrics HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") || !strings.Contains(string(answer), "\ngatewarden_gateway_up{") {
			t.Errorf("%v: %v: %s", at, err, answer)
		}
	}
	cancel()
	if exit := <-done; exit != code.ExitOK || errs.Len() > 0 {
		t.Errorf("exit %d: %s", exit, errs.String())
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is left")
	}
}

func TestMetricsAreServedOnAllAddressesOrOnNone(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "m")
	var out, errs bytes.Buffer
	exit := metricsOn(t.Context(), dir, &out, &errs, "--listen", "unix://"+socket, "--listen", "tcp://0.0.0.0:9754")
	if exit != code.ExitFailed || out.Len() > 0 || !strings.Contains(errs.String(), "cannot serve metrics on tcp://0.0.0.0:9754: 0.0.0.0 is not a loopback address") {
		t.Errorf("exit %d, %q, %s", exit, out.String(), errs.String())
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("a socket is left")
	}
}

func TestMetricsKnowsItsArguments(t *testing.T) {
	for _, args := range [][]string{
		{"web"}, {"--json"}, {"--socket-group", "12"}, {"--socket-group", "adm", "--listen", "unix:///x"}, {"--listen"},
		strings.Fields(strings.Repeat("--listen tcp://127.0.0.1:1 ", maxListen+1)),
	} {
		var out, errs bytes.Buffer
		if exit := metricsOn(t.Context(), t.TempDir(), &out, &errs, args...); exit != code.ExitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "(usage)\n") {
			t.Errorf("%q: exit %d, %q, %s", args, exit, out.String(), errs.String())
		}
	}
}

func TestTheCommandsOwnVerbsHaveHelp(t *testing.T) {
	for _, name := range []string{"metrics", "profile", "runtime", "cdi", "doctor", "version"} {
		exit, stdout, stderr := command(t, "help", name)
		if exit != code.ExitOK || stderr != "" || !strings.HasPrefix(stdout, "usage: gatewarden "+name) {
			t.Errorf("%s: exit %d, %q, %q", name, exit, stdout, stderr)
		}
		for line := range strings.Lines(stdout) {
			if len(line) > 121 {
				t.Errorf("%s: a line of %d bytes: %q", name, len(line), line)
			}
		}
	}
}

func BenchmarkMetricsOf200(b *testing.B) {
	dir := b.TempDir()
	for i := range 200 {
		wrote(b, dir, fmt.Sprintf("web%d", i), false)
	}
	for b.Loop() {
		var out bytes.Buffer
		if exit := metricsOn(b.Context(), dir, &out, io.Discard); exit != code.ExitOK || strings.Contains(out.String(), "gatewarden_warden_up 0") {
			b.Fatalf("exit %d", exit)
		}
		b.ReportMetric(float64(out.Len()), "bytes")
	}
}
