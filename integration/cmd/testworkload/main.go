// Command testworkload is the untrusted half of gatewarden's tests: it talks to the gateway, or attacks it. What it finds
// goes to stdout as JSON, one object per line.
//
//	testworkload talk --address HOST:PORT [--every D]           until it is ended: {"first":"ok","ok":…,"refused":…,"failed":…}
//	testworkload get URL                        one request; the body goes to stdout, a status other than 200 to stderr
//	testworkload attack --pid N --address HOST:PORT [--binary PATH] [--config PATH]
//	testworkload reach                          try what the kernel lets the host's root alone do: {"attack":…,"target":…,"errno":…} each
//	testworkload hold --address ADDRESS [--reuseport] [--for D]   bind and keep the address: HOST:PORT, unix:///PATH, unix://@NAME
//	testworkload hold --address unix:///PATH --replace           the same, by a rename onto what is there
//	testworkload grab --address HOST:PORT       try to take that port in every way, until it is ended: {"tries":…,"errnos":{…},"taken":[…]}
//	testworkload fill [--on]                    start processes until the kernel refuses another one, and keep them; --on: go on trying
//	testworkload hog --bytes N                  use that much memory and keep it
//	testworkload hunt --for NAME=HEX … [--skip REGEXP] [--shallow] [DIRECTORY…]   look for these bytes in all that it may read
//	                                            below the directories: {"what":NAME,"at":…} each, and last what it has looked at
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testworkload:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: testworkload talk|get|attack|reach|hold|grab|fill|hog|hunt …")
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	address := fs.String("address", "127.0.0.1:18789", "")
	switch args[0] {
	case "talk":
		every := fs.Duration("every", 2*time.Millisecond, "")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return talk(*address, *every)
	case "get":
		if len(args) != 2 {
			return errors.New("usage: testworkload get URL")
		}
		return get(args[1])
	case "attack":
		pid := fs.Int("pid", 0, "")
		binary := fs.String("binary", "/usr/local/bin/testgateway", "")
		config := fs.String("config", "/etc/gateway/config", "")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return attack(*pid, *address, *binary, *config)
	case "reach":
		return reach()
	case "hold":
		reuse := fs.Bool("reuseport", false, "")
		replace := fs.Bool("replace", false, "")
		period := fs.Duration("for", time.Hour, "")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return hold(*address, *reuse, *replace, *period)
	case "grab":
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return grab(*address)
	case "hunt":
		wanted := map[string]string{}
		fs.Func("for", "", func(s string) error {
			name, text, ok := strings.Cut(s, "=")
			if !ok {
				return errors.New("not NAME=HEX")
			}
			wanted[name] = text
			return nil
		})
		skip := fs.String("skip", "", "paths to leave out")
		shallow := fs.Bool("shallow", false, "leave out what processes have open, and their memory")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return hunt(wanted, *skip, !*shallow, fs.Args())
	case "fill":
		on := fs.Bool("on", false, "")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return fill(*on)
	case "hog":
		n := fs.Int("bytes", 0, "")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return hog(*n)
	}
	return fmt.Errorf("unknown mode %q", args[0])
}

// fill starts sleeping processes until there can't be another one.
func fill(on bool) error {
	// Everything that a fork needs of threads is there before the limit is.
	runtime.LockOSThread()
	started, told := 0, false
	for {
		_, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "3600"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		switch {
		case err == nil:
			started++
		case !errors.Is(err, syscall.EAGAIN):
			return err
		case !told:
			if err := report(map[string]int{"started": started}); err != nil {
				return err
			}
			told = true
		}
		if err != nil && !on {
			time.Sleep(time.Hour)
		}
	}
}

// hog keeps memory.
func hog(bytes int) error {
	b := make([]byte, bytes)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	if err := report(map[string]int{"holding": len(b)}); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	runtime.KeepAlive(b)
	return nil
}

func report(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// tally is what talk prints, each time the whole so far.
type tally struct {
	First   string `json:"first"` // how the very first request ended: "ok", "refused", or the error
	OK      int    `json:"ok"`
	Refused int    `json:"refused"` // ECONNREFUSED
	Failed  int    `json:"failed"`  // anything else, such as a connection that the old gateway dropped
	PIDs    []int  `json:"pids"`    // gateways that answered, in the order in which they were first seen
}

func talk(address string, every time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// No keep-alive: each request is a connect of its own, which is what a restart could refuse.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var t tally
	tick := time.NewTicker(every)
	defer tick.Stop()
	printed := time.Time{}
	for {
		pid, err := ask(client, address)
		result := "ok"
		switch {
		case err == nil:
			t.OK++
			if len(t.PIDs) == 0 || t.PIDs[len(t.PIDs)-1] != pid {
				t.PIDs = append(t.PIDs, pid)
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			t.Refused++
			result = "refused"
		default:
			t.Failed++
			result = err.Error()
		}
		if t.First == "" {
			t.First = result
		}
		if time.Since(printed) > 100*time.Millisecond {
			printed = time.Now()
			if err := report(t); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return report(t)
		case <-tick.C:
		}
	}
}

func ask(client *http.Client, address string) (pid int, err error) {
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var who struct {
		PID int `json:"pid"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil {
		return 0, err
	}
	return who.PID, nil
}

func get(url string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// attempt is the outcome of one attack. Errno is the kernel's answer, "" if the attack succeeded.
type attempt struct {
	Attack string `json:"attack"`
	Target string `json:"target"`
	Errno  string `json:"errno"`
}

// way is one attack.
type way struct {
	name, target string
	try          func() error
}

func attack(pid int, address, binary, config string) error {
	proc := "/proc/" + strconv.Itoa(pid)
	return each([]way{
		{"kill", fmt.Sprintf("pid %d, SIGTERM", pid), func() error { return unix.Kill(pid, unix.SIGTERM) }},
		{"kill", fmt.Sprintf("pid %d, SIGKILL", pid), func() error { return unix.Kill(pid, unix.SIGKILL) }},
		{"pidfd_send_signal", fmt.Sprintf("pid %d, SIGKILL", pid), func() error { return pidfdKill(pid) }},
		{"ptrace", fmt.Sprintf("pid %d, PTRACE_SEIZE", pid), func() error { return seize(pid) }},
		{"process_vm_readv", fmt.Sprintf("pid %d", pid), func() error { return readMemory(pid) }},
		{"prlimit", fmt.Sprintf("pid %d, RLIMIT_NOFILE", pid), func() error {
			return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 3}, nil)
		}},
		{"open for reading", proc + "/environ", func() error { return open(proc+"/environ", unix.O_RDONLY) }},
		{"open for reading", proc + "/mem", func() error { return open(proc+"/mem", unix.O_RDONLY) }},
		{"open for writing", proc + "/mem", func() error { return open(proc+"/mem", unix.O_RDWR) }},
		{"open for reading", proc + "/fd", func() error { return open(proc+"/fd", unix.O_RDONLY) }},
		{"open for reading", proc + "/root/etc/passwd", func() error { return open(proc+"/root/etc/passwd", unix.O_RDONLY) }},
		{"open for writing", proc + "/exe", func() error { return open(proc+"/exe", unix.O_WRONLY) }},
		{"open for writing", binary, func() error { return open(binary, unix.O_WRONLY) }},
		{"unlink", binary, func() error { return unix.Unlink(binary) }},
		{"open for writing", config, func() error { return open(config, unix.O_WRONLY) }},
		{"unlink", config, func() error { return unix.Unlink(config) }},
		{"bind", address, func() error { return bindOnce(address, false) }},
		{"bind with SO_REUSEPORT", address, func() error { return bindOnce(address, true) }},
	})
}

// each tries every way and reports what the kernel said.
func each(ways []way) error {
	for _, a := range ways {
		result := attempt{Attack: a.name, Target: a.target}
		if err := a.try(); err != nil {
			var errno syscall.Errno
			if !errors.As(err, &errno) {
				return fmt.Errorf("%s %s: %w", a.name, a.target, err)
			}
			result.Errno = unix.ErrnoName(errno)
		}
		if err := report(result); err != nil {
			return err
		}
	}
	return nil
}

// reach tries what capabilities are good for that count in the initial user namespace alone. Nothing of it has a lasting effect
// where it succeeds.
func reach() error {
	return each([]way{
		{"mknod", "block device 254:0", func() error {
			path := "/tmp/node" + strconv.Itoa(os.Getpid())
			if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))); err != nil {
				return err
			}
			return unix.Unlink(path)
		}},
		{"bpf", "a map of type LRU_HASH", func() error {
			attr := [32]uint32{9, 4, 4, 4} // BPF_MAP_TYPE_LRU_HASH, key, value, entries
			fd, _, errno := unix.Syscall(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
			if errno != 0 {
				return errno
			}
			return unix.Close(int(fd))
		}},
		{"perf_event_open", "all of CPU 0", func() error {
			attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
			fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
		{"init_module", "no module", func() error { return unix.InitModule([]byte("no module"), "") }},
		{"kexec_load", "unknown flags", func() error {
			_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0xffff, 0, 0)
			if errno != 0 {
				return errno
			}
			return nil
		}},
	})
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func pidfdKill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

func seize(pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	return unix.PtraceDetach(pid)
}

func readMemory(pid int) error {
	var b [8]byte
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	// Permission is checked before the address, so that any will do.
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: len(b)}}, 0)
	return err
}

func hold(address string, reuse, replace bool, period time.Duration) error {
	at := address
	if replace {
		at += ".new"
	}
	fd, err := bind(at, reuse)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if replace {
		if err := os.Rename(strings.TrimPrefix(at, "unix://"), strings.TrimPrefix(address, "unix://")); err != nil {
			return err
		}
	}
	if err := report(map[string]string{"holding": address}); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	select {
	case <-ctx.Done():
	case <-time.After(period):
	}
	return nil
}

func bindOnce(address string, reuse bool) error {
	fd, err := bind(address, reuse)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// bind makes a listening socket by bare system calls, so that the errno is the kernel's.
func bind(address string, reuse bool) (int, error) {
	family, sa, err := sockaddr(address)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family != unix.AF_UNIX {
		// As any server does, so that connections that have just ended do not count.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil && reuse {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(address string) (int, unix.Sockaddr, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, nil, err
	}
	if a.Addr().Is6() {
		return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, nil
	}
	return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// loot is what grab prints, each time the whole so far.
type loot struct {
	Tries  int            `json:"tries"`
	Errnos map[string]int `json:"errnos"` // how the kernel refused, and how often
	Taken  []string       `json:"taken"`  // the ways that succeeded, at most 16
}

// grab tries to bind and listen where the gateway does, in every way that could share or shadow its socket.
func grab(address string) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if !a.Addr().Is4() {
		return fmt.Errorf("%s is not an IPv4 address", a)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l := loot{Errnos: map[string]int{}}
	protocols := streams()
	printed := time.Time{}
	for {
		for _, at := range []netip.Addr{
			a.Addr(), netip.AddrFrom4([4]byte{127, 0, 0, 2}), netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.IPv6Loopback(), netip.AddrFrom16(a.Addr().As16()),
		} {
			for _, protocol := range protocols {
				for _, options := range grabOptions(at) {
					l.Tries++
					err := grabOnce(netip.AddrPortFrom(at, a.Port()), protocol, options)
					var errno syscall.Errno
					switch {
					case err == nil && len(l.Taken) < 16:
						l.Taken = append(l.Taken, fmt.Sprintf("%s, protocol %d, options %v (level and name), try %d", at, protocol, options, l.Tries))
					case errors.As(err, &errno):
						l.Errnos[unix.ErrnoName(errno)]++
					case err != nil:
						return err
					}
				}
			}
		}
		if time.Since(printed) > 50*time.Millisecond {
			printed = time.Now()
			if err := report(l); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return report(l)
		case <-time.After(time.Millisecond):
		}
	}
}

// grabOnce takes an address and lets it go at once.
func grabOnce(at netip.AddrPort, protocol int, options [][2]int) error {
	family, sa, err := sockaddr(at.String())
	if err != nil {
		return err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("socket of family %d and protocol %d: %v", family, protocol, err) // that is no refusal
	}
	defer unix.Close(fd)
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, option[0], option[1], 1); err != nil {
			return fmt.Errorf("socket option %v: %v", option, err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	return unix.Listen(fd, 16)
}

// grabOptions are the sets of socket options that are tried with an address.
func grabOptions(at netip.Addr) [][][2]int {
	addr, port, v6only := [2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR}, [2]int{unix.SOL_SOCKET, unix.SO_REUSEPORT}, [2]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}
	all := [][][2]int{{}, {addr}, {port}, {addr, port}}
	if at == netip.IPv6Unspecified() {
		// The kernel lets in under SO_REUSEPORT what is like the last one that it let in: so these come first.
		all = append([][][2]int{{v6only}, {v6only, addr}, {v6only, port}, {v6only, addr, port}}, all...)
	}
	return all
}

// streams are the protocols that share TCP's ports: MPTCP is not in every kernel.
func streams() []int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return []int{unix.IPPROTO_TCP}
	}
	unix.Close(fd)
	return []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP}
}
