// Command testgateway is the gateway of gatewarden's tests: an HTTP server that behaves well, or badly on demand.
//
//	GET /         {"pid":…,"instance":…,"uid":…,"gid":…,"groups":[…]} as the gateway sees itself; no two processes are the same instance
//	GET /health   --status, or the number in --status-file, or what that file says instead of a number:
//	              silence, trickle, flood, reset, garbage, redirect   this answer
//	              once                                               200 the first time, then 503
//	              unlisten, unlisten-later                           200, and nobody listens any more; later: half a second later
//	              hand-over                                          200, and a child has the listeners
//	              exit-later                                         200, and it exits half a second later
//	GET /env      its environment
//	GET /credential  the SHA-256 of the credential ?name=
//	GET /pidfd    the inode number of a pidfd of its own process
//	GET /become   executes ?program= with ?arg=, in its own process
//	GET /exit     exits at once with status --exit-code
//	GET /eat      allocates memory until it is ended
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testgateway:", err)
		os.Exit(1)
	}
}

// options are what a test asks of its gateway.
type options struct {
	listen     []string
	inherit    bool
	status     int
	statusFile string
	delayBind  time.Duration
	neverBind  bool
	reusePort  bool
	ignoreTerm bool
	slowStop   time.Duration
	drain      bool
	exitAfter  time.Duration
	exitCode   int
	crash      bool
	flood      int64
	forkChild  bool
	worker     bool
	say        string
	eat        bool

	listeners []net.Listener
	healthy   atomic.Int32 // times that "once" has been asked
}

func run() error {
	var o options
	flag.Func("listen", "address to listen on: HOST:PORT, unix:///PATH or unix://@NAME; repeatable", func(s string) error {
		o.listen = append(o.listen, s)
		return nil
	})
	flag.BoolVar(&o.inherit, "inherit", false, "serve the listening sockets that it was started with (LISTEN_FDS); there have to be some")
	flag.IntVar(&o.status, "status", http.StatusOK, "HTTP status of /health")
	flag.StringVar(&o.statusFile, "status-file", "", "file with the HTTP status of /health, or a word; absent: --status")
	flag.DurationVar(&o.delayBind, "delay-bind", 0, "wait before binding")
	flag.BoolVar(&o.neverBind, "never-bind", false, "run, but do not bind")
	flag.BoolVar(&o.reusePort, "reuseport", false, "bind with SO_REUSEPORT")
	flag.BoolVar(&o.ignoreTerm, "ignore-term", false, "ignore SIGTERM")
	flag.DurationVar(&o.slowStop, "slow-stop", 0, "take this long to end after SIGTERM")
	flag.BoolVar(&o.drain, "drain", false, "after SIGTERM accept no more, and end when all that was accepted has been answered")
	flag.DurationVar(&o.exitAfter, "exit-after", 0, "exit with --exit-code after this long")
	flag.IntVar(&o.exitCode, "exit-code", 0, "status for --exit-after and /exit")
	flag.BoolVar(&o.crash, "crash", false, "say something on stderr and die of SIGABRT at once")
	flag.Int64Var(&o.flood, "flood", 0, "write this many bytes of lines to stdout after binding")
	flag.BoolVar(&o.forkChild, "fork-child", false, "leave a child that inherits the listeners and ignores SIGTERM")
	flag.BoolVar(&o.worker, "worker", false, "hand the listeners to a child that serves, and keep none")
	handed := flag.Int("handed", 0, "internal: serve this many listeners, from descriptor 3 on")
	flag.StringVar(&o.say, "say", "", "write this line to stdout at the start")
	flag.BoolVar(&o.eat, "eat", false, "allocate memory until it is ended, before binding")
	child := flag.Bool("child", false, "internal: be that child")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *child {
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
		return nil
	}
	if *handed > 0 {
		return o.serveHanded(*handed)
	}
	return o.serve()
}

// serveHanded is what the child of --worker does.
func (o *options) serveHanded(n int) error {
	served := make(chan error, n)
	for i := range n {
		l, err := net.FileListener(os.NewFile(uintptr(3+i), "listener"))
		if err != nil {
			return err
		}
		go func() { served <- http.Serve(l, o.handler()) }()
	}
	return <-served
}

func (o *options) serve() error {
	if o.say != "" {
		fmt.Println(o.say)
	}
	if o.crash {
		fmt.Fprintln(os.Stderr, "testgateway: about to crash: no database at db.example:5432")
		// Without a handler SIGABRT would make the Go runtime print all goroutines.
		signal.Reset(syscall.SIGABRT)
		os.Exit(134)
	}
	if o.exitAfter > 0 {
		time.AfterFunc(o.exitAfter, func() { os.Exit(o.exitCode) })
	}
	term := make(chan os.Signal, 1)
	if o.ignoreTerm {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	go func() {
		for s := range signals {
			fmt.Printf("testgateway: got %v\n", unix.SignalName(s.(syscall.Signal)))
		}
	}()

	if o.eat {
		eat()
	}
	if o.inherit {
		inherited, err := inherited()
		if err != nil {
			return err
		}
		o.listeners = append(o.listeners, inherited...)
	}
	time.Sleep(o.delayBind)
	for _, address := range o.listen {
		if o.neverBind {
			continue
		}
		l, err := o.bind(address)
		if err != nil {
			return err
		}
		o.listeners = append(o.listeners, l)
	}
	if o.forkChild {
		if err := o.child(); err != nil {
			return err
		}
	}
	if o.worker {
		if err := o.work(); err != nil {
			return err
		}
	}
	served := make(chan error, len(o.listeners))
	var accepting, accepted sync.WaitGroup
	server := &http.Server{Handler: o.handler(), ReadHeaderTimeout: 5 * time.Second, ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			accepted.Add(1)
		case http.StateClosed, http.StateHijacked:
			accepted.Done()
		}
	}}
	for _, l := range o.listeners {
		accepting.Go(func() {
			if err := server.Serve(l); !errors.Is(err, net.ErrClosed) { // it was told to stop listening
				served <- err
			}
		})
	}
	if o.flood > 0 {
		go flood(o.flood)
	}
	select {
	case err := <-served:
		return err
	case <-term:
		time.Sleep(o.slowStop)
		if o.drain {
			// Not Server.Shutdown: it drops what has been accepted and not been read yet.
			o.unlisten()
			accepting.Wait()
			server.SetKeepAlivesEnabled(false)
			accepted.Wait()
		}
		return nil
	}
}

// inherited gives the sockets of sd_listen_fds(3). The environment is left as it is, for GET /env to show.
func inherited() ([]net.Listener, error) {
	files := activation.Files(false)
	if len(files) == 0 {
		return nil, fmt.Errorf("no sockets to inherit: LISTEN_PID=%q LISTEN_FDS=%q, and this is process %d",
			os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getpid())
	}
	var listeners []net.Listener
	for _, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("inherited descriptor %d (%s): %w", f.Fd(), f.Name(), err)
		}
		f.Close()
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// lend gives cmd copies of the listeners; done closes ours.
func (o *options) lend(cmd *exec.Cmd) (done func(), err error) {
	done = func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}
	for _, l := range o.listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return done, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	return done, nil
}

// work leaves the listeners to a worker.
func (o *options) work() error {
	cmd := exec.Command("/proc/self/exe", "--handed", strconv.Itoa(len(o.listeners)), "--status", strconv.Itoa(o.status))
	done, err := o.lend(cmd)
	defer done()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for _, l := range o.listeners {
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	o.listeners = nil
	return nil
}

// child starts a child that inherits the listeners, and ignores SIGTERM.
func (o *options) child() error {
	cmd := exec.Command("/proc/self/exe", "--child")
	done, err := o.lend(cmd)
	defer done()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that no process group finds it
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("testgateway: child", cmd.Process.Pid)
	return nil
}

func (o *options) unlisten() {
	for _, l := range o.listeners {
		l.Close()
	}
}

func (o *options) bind(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		if strings.HasPrefix(path, "@") {
			return net.Listen("unix", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return net.Listen("unix", path)
	}
	config := net.ListenConfig{}
	if o.reusePort {
		config.Control = func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
			return errors.Join(err, set)
		}
	}
	return config.Listen(context.Background(), "tcp", address)
}

func (o *options) handler() http.Handler {
	instance := rand.Text()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		groups, err := os.Getgroups()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, map[string]any{"pid": os.Getpid(), "instance": instance, "uid": os.Getuid(), "gid": os.Getgid(), "groups": append([]int{}, groups...)})
	})
	mux.HandleFunc("GET /health", o.health)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) { answer(w, os.Environ()) })
	mux.HandleFunc("GET /credential", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), r.URL.Query().Get("name")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		answer(w, fmt.Sprintf("%x", sha256.Sum256(data)))
	})
	mux.HandleFunc("GET /pidfd", func(w http.ResponseWriter, _ *http.Request) {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, st.Ino)
	})
	mux.HandleFunc("GET /become", func(_ http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if err := syscall.Exec(q.Get("program"), append([]string{q.Get("program")}, q["arg"]...), os.Environ()); err != nil {
			fmt.Fprintln(os.Stderr, "testgateway: exec:", err)
		}
	})
	mux.HandleFunc("GET /exit", func(http.ResponseWriter, *http.Request) { os.Exit(o.exitCode) })
	mux.HandleFunc("GET /eat", func(http.ResponseWriter, *http.Request) { eat() })
	return mux
}

// eat allocates memory, and touches it, until the kernel ends it. The bound keeps a machine without a limit alive.
func eat() {
	var all [][]byte
	for range 1024 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("testgateway: nobody stopped it at", len(all), "MiB")
}

const later = 500 * time.Millisecond

func (o *options) health(w http.ResponseWriter, _ *http.Request) {
	data, err := os.ReadFile(o.statusFile)
	if err != nil {
		w.WriteHeader(o.status)
		return
	}
	what := strings.TrimSpace(string(data))
	if status, err := strconv.Atoi(what); err == nil {
		w.WriteHeader(status)
		return
	}
	switch what {
	case "once":
		if o.healthy.Add(1) > 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "redirect":
		w.Header().Set("Location", "/")
		w.WriteHeader(http.StatusFound)
	case "unlisten":
		o.unlisten()
	case "unlisten-later":
		time.AfterFunc(later, o.unlisten)
	case "exit-later":
		time.AfterFunc(later, func() { os.Exit(o.exitCode) })
	case "hand-over":
		if err := o.child(); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		o.unlisten()
	default:
		if err := misbehave(w, what); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
}

// misbehave does not answer as HTTP has it.
func misbehave(w http.ResponseWriter, how string) error {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	endless := func(text string, pause time.Duration) {
		for {
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
	switch how {
	case "silence":
		_, err = conn.Read(make([]byte, 1)) // until the client has gone
	case "trickle":
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: ")
		endless("b", 10*time.Millisecond)
	case "flood":
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		endless(strings.Repeat("A: b\r\n", 1000), 0)
	case "reset":
		err = conn.(*net.TCPConn).SetLinger(0)
	case "garbage":
		_, err = io.WriteString(conn, "SSH-2.0-OpenSSH_10.0\r\n")
	default:
		err = fmt.Errorf("unknown word %q in the status file", how)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "testgateway:", err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The client may be gone; that is its business.
	_ = json.NewEncoder(w).Encode(v)
}

// flood writes n bytes of numbered lines with control characters in them, as fast as its reader takes them.
func flood(n int64) {
	for i, left := 0, n; left > 0; i++ {
		line := fmt.Sprintf("flood %08d \x1b[31mred\x1b[0m \x07 %s\n", i, strings.Repeat("x", 80))
		if _, err := os.Stdout.WriteString(line); err != nil {
			return
		}
		left -= int64(len(line))
	}
	fmt.Println("testgateway: flood over")
}
