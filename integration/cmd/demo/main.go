// Command demo shows gatewarden at work on a containerd of its own: every command that it prints is run as printed
// (kill -9 as its equivalent by handle), and what follows is the command's own output. It ends everything that it started, also on Ctrl-C and on failure.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// namespace is the demo's containerd namespace.
const namespace = "demo"

// patience is how long one step may take.
const patience = 30 * time.Second

func main() {
	// A second signal, while things are being ended, ends us at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-ctx.Done()
		stop()
	}()
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything that it started has ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	d := &demo{out: os.Stdout}
	fmt.Fprintln(d.out, "Starting a private containerd: its own root, state, socket and settings.")
	if d.h, err = harness.Start(ctx, namespace); err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(d.out, "\nStopping everything that was started.")
		if closed := d.h.Close(); closed != nil {
			err = errors.Join(err, closed)
		} else if err == nil {
			fmt.Fprintln(d.out, "Nothing is left: no process, no mount, no file.")
		}
	}()
	fmt.Fprintln(d.out, "Making the image: busybox, a test gateway and a test workload.")
	if err := d.h.Import(ctx, harness.Image{}); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		d.start, d.restart, d.taskKill, d.hostKill, d.attacks, d.operator, d.plain, d.refusals, d.end,
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	return nil
}

// demo is the show.
type demo struct {
	h     *harness.Host
	out   io.Writer
	steps int
	execs int
}

func (d *demo) title(format string, args ...any) {
	d.steps++
	text := fmt.Sprintf("%d. %s", d.steps, fmt.Sprintf(format, args...))
	fmt.Fprintf(d.out, "\n%s\n%s\n", text, strings.Repeat("─", len([]rune(text))))
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n%s\n", fmt.Sprintf(format, args...))
}

// show prints a command and its output. want is the exit status that it must have.
func (d *demo) show(ctx context.Context, want int, args ...string) (harness.Result, error) {
	fmt.Fprintf(d.out, "\n$ %s\n", strings.Join(quote(args), " "))
	r, err := d.quiet(ctx, want, args...)
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(r.Stdout + withoutDeprecation(r.Stderr)) {
		fmt.Fprintf(d.out, "  %s\n", strings.TrimRight(line, "\n"))
	}
	return r, nil
}

// quiet runs a command without showing it.
func (d *demo) quiet(ctx context.Context, want int, args ...string) (harness.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var r harness.Result
	var err error
	switch args[0] {
	case "ctr":
		r, err = d.h.Ctr(ctx, args[1:]...)
	case "gatewarden":
		r, err = d.h.Gatewarden(ctx, args[1:]...)
	default:
		r, err = d.h.Run(ctx, args[0], args[1:]...)
	}
	if err != nil {
		return r, err
	}
	if r.Status != want {
		return r, fmt.Errorf("exit status %d where %d was expected:\n%v\n\ncontainerd's log ends:\n%s", r.Status, want, r, d.h.DaemonLog())
	}
	return r, nil
}

// withoutDeprecation leaves out containerd's advice about this host's cgroups, which would come with each command.
func withoutDeprecation(s string) string {
	var kept strings.Builder
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "DEPRECATION") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// quote writes arguments as a shell would need them.
func quote(args []string) []string {
	quoted := slices.Clone(args)
	for i, a := range quoted {
		if a == "" || strings.ContainsAny(a, " \t\n'\"$&|;<>()*?[]#~`\\") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return quoted
}

// exec gives the arguments of ctr task exec in the container web, with an exec id of its own.
func (d *demo) exec(args ...string) []string {
	d.execs++
	return append([]string{"ctr", "task", "exec", "--exec-id", "e" + strconv.Itoa(d.execs), "web"}, args...)
}

func (d *demo) status(ctx context.Context) (receipt.Status, error) {
	r, err := d.quiet(ctx, 0, "gatewarden", "status", "--json", namespace+"/web")
	if err != nil {
		return receipt.Status{}, err
	}
	var s receipt.Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return receipt.Status{}, fmt.Errorf("status: %w", err)
	}
	return s, nil
}

// runFlags are those of ctr run for a container with the gateway name.
func runFlags(name string) []string {
	return []string{"ctr", "run", "-d", "--runtime", harness.Gatewarden, "--annotation", "io.gatewarden.gateway=" + name}
}

func (d *demo) logPath() string { return filepath.Join(d.h.Dir, "web.log") }

func (d *demo) start(ctx context.Context) error {
	d.title("A container with a gateway")
	config := filepath.Join(d.h.MountDir, "demo")
	if err := os.Mkdir(config, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(config, "config"), []byte("upstream = \"api.example\"\n"), 0o644); err != nil {
		return err
	}
	profile := harness.Profile{More: fmt.Sprintf("[[mount]]\nsource = %q\ntarget = \"/etc/gateway\"\n", config)}
	if err := d.h.WriteProfile("demo", profile.TOML()); err != nil {
		return err
	}
	d.say("The administrator declares the gateway on the host, in a profile that the container cannot see:")
	if _, err := d.show(ctx, 0, "cat", filepath.Join(d.h.ProfileDir, "demo.toml")); err != nil {
		return err
	}
	d.say("The container asks for it by name. Its workload, UID 1000, talks to the gateway all the time.")
	args := append(runFlags("demo"), "--user", "1000", "--log-uri", "file://"+d.logPath(), harness.BaseImage, "web", "testworkload", "talk")
	if _, err := d.show(ctx, 0, args...); err != nil {
		return err
	}
	if _, err := d.show(ctx, 0, d.exec("testworkload", "get", "http://"+harness.GatewayAddress+"/")...); err != nil {
		return err
	}
	_, err := d.show(ctx, 0, "gatewarden", "status", "web")
	return err
}

func (d *demo) restart(ctx context.Context) error {
	d.title("Restart it in place")
	d.say("The container's processes before; the workload is testworkload:")
	if err := d.processes(ctx); err != nil {
		return err
	}
	d.say("An exec of \"gatewarden\" never enters the container; the shim answers it. The right to exec is the right to restart.")
	if _, err := d.show(ctx, 0, d.exec("gatewarden", "restart", "--reason", "rotated the token")...); err != nil {
		return err
	}
	d.say("The receipt, which is kept in the container's journal on the host; here the last line, laid out for reading:")
	if err := d.lastReceipt(ctx); err != nil {
		return err
	}
	d.say("The gateway's PID is another; the workload's are the same:")
	return d.processes(ctx)
}

func (d *demo) processes(ctx context.Context) error {
	_, err := d.show(ctx, 0, d.exec("ps", "-o", "pid,args")...)
	return err
}

// lastReceipt shows the last line of the journal, laid out for reading.
func (d *demo) lastReceipt(ctx context.Context) error {
	fmt.Fprint(d.out, "\n$ gatewarden receipts --json web\n")
	r, err := d.quiet(ctx, 0, "gatewarden", "receipts", "--json", "web")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	var last receipt.Receipt
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	data, err := json.MarshalIndent(last, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  %s\n", data)
	return nil
}

func (d *demo) taskKill(ctx context.Context) error {
	d.title("Restart it with the task API's own signal")
	d.say("The exec id \"gateway\" stands for the gateway. The command returns when the successor is proven.")
	if _, err := d.show(ctx, 0, "ctr", "task", "kill", "--exec-id", "gateway", "-s", "TERM", "web"); err != nil {
		return err
	}
	_, err := d.show(ctx, 0, d.exec("testworkload", "get", "http://"+harness.GatewayAddress+"/")...)
	return err
}

func (d *demo) hostKill(ctx context.Context) error {
	d.title("Kill it from the host")
	before, err := d.status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n$ kill -9 %d\n", before.PID)
	if err := kill(before.PID); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; {
		now, err := d.status(ctx)
		if err != nil {
			return err
		}
		if now.State == receipt.Running && now.PID != before.PID {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the gateway is not respawned: %s: %s", now.State, now.Message)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.say("The warden saw it, waited for its backoff, and started the next one:")
	_, err = d.show(ctx, 0, "gatewarden", "status", "web")
	return err
}

// kill is kill -9 by handle: the PID is the running gateway's, as its parent says, or there is nothing to kill.
func kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	return nil
}

func (d *demo) attacks(ctx context.Context) error {
	d.title("The workload attacks its gateway")
	s, err := d.status(ctx)
	if err != nil {
		return err
	}
	args := d.exec("testworkload", "attack", "--pid", strconv.Itoa(s.NSPID), "--address", harness.GatewayAddress)
	fmt.Fprintf(d.out, "\n$ %s\n", strings.Join(quote(args), " "))
	r, err := d.quiet(ctx, 0, args...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(r.Stdout) {
		var a struct{ Attack, Target, Errno string }
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return fmt.Errorf("attack: %w: %s", err, line)
		}
		if a.Errno == "" {
			return fmt.Errorf("the attack %s of %s succeeded", a.Attack, a.Target)
		}
		fmt.Fprintf(d.out, "  %-22s %-28s %s\n", a.Attack, a.Target, a.Errno)
	}
	after, err := d.status(ctx)
	if err != nil {
		return err
	}
	if after.PID != s.PID {
		return fmt.Errorf("the gateway is PID %d now, and was %d", after.PID, s.PID)
	}
	d.say("The gateway is the same process as before, PID %d.", after.PID)
	return nil
}

func (d *demo) operator(ctx context.Context) error {
	d.title("The operator's view")
	for _, args := range [][]string{{"gatewarden", "ps"}, {"gatewarden", "receipts", "web"}} {
		if _, err := d.show(ctx, 0, args...); err != nil {
			return err
		}
	}
	d.say("What the workload has seen of all this: its first request, and how many were answered, refused, or cut off:")
	_, err := d.show(ctx, 0, "tail", "-n", "1", d.logPath())
	return err
}

func (d *demo) plain(ctx context.Context) error {
	d.title("A container without the annotation is as it always was")
	if _, err := d.show(ctx, 0, "ctr", "run", "-d", "--runtime", harness.Gatewarden, harness.BaseImage, "plain"); err != nil {
		return err
	}
	if _, err := d.show(ctx, 0, "ctr", "task", "exec", "--exec-id", "p1", "plain", "ps", "-o", "pid,args"); err != nil {
		return err
	}
	_, err := d.show(ctx, 0, "ctr", "task", "rm", "-f", "plain")
	return err
}

func (d *demo) refusals(ctx context.Context) error {
	d.title("What must be refused")
	d.say("A workload that is root could do anything to the gateway. The message names the cure for each client:")
	if _, err := d.show(ctx, 1, append(runFlags("demo"), harness.BaseImage, "root")...); err != nil {
		return err
	}
	d.say("A profile with mistakes: all of them are told, each with its place.")
	broken := strings.Replace(harness.Profile{}.TOML(), "user = 64990", "user = 0\nuesr = 64990", 1)
	broken = strings.Replace(broken, `timeout = "5s"`, `timeout = "5 seconds"`, 1)
	if err := d.h.WriteProfile("broken", broken); err != nil {
		return err
	}
	if _, err := d.show(ctx, 3, "gatewarden", "profile", "check", filepath.Join(d.h.ProfileDir, "broken.toml")); err != nil {
		return err
	}
	_, err := d.show(ctx, 1, append(runFlags("broken"), "--user", "1000", harness.BaseImage, "broken")...)
	return err
}

func (d *demo) end(ctx context.Context) error {
	d.title("The end")
	d.say("With the container ends all that belonged to it.")
	if _, err := d.show(ctx, 0, "ctr", "task", "rm", "-f", "web"); err != nil {
		return err
	}
	_, err := d.show(ctx, 0, "gatewarden", "ps")
	return err
}
