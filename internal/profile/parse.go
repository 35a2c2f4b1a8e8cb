package profile

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
)

// MaxSize is the size in bytes up to which a profile or an env_file is read.
const MaxSize = 64 << 10

// Problem is one thing that is wrong with a profile.
type Problem = stricttoml.Problem

// Problems is everything that is wrong with a profile.
type Problems = stricttoml.Problems

// Bounds of a profile. The durations keep a mistyped unit from making a gateway wait for days.
const (
	maxListen     = 64
	maxCreds      = 64
	maxMounts     = 64 // [[mount]] and [[state]] each
	maxCommand    = 256
	maxGroups     = 64
	maxStatuses   = 64
	maxNamespaces = 64
	maxService    = 256  // bytes of a gRPC service's name
	maxNames      = 64   // capabilities, posture exceptions
	maxText       = 4096 // bytes of a path, an address or a description
	maxValue      = 32 << 10
	minDuration   = time.Millisecond
	maxDuration   = time.Hour
	maxBurst      = 1000
	maxUnlock     = 24 * time.Hour
	maxID         = 1<<32 - 2 // 1<<32 - 1 is (uid_t)-1, "no change" to the kernel
)

// stopSignals lists what [stop] signal takes: signals that end a program, or by which some known server ends itself.
var stopSignals = []string{
	"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGABRT", "SIGKILL",
}

// Parse reads the profile name from data. The error is a *Problems that holds everything that is wrong with it.
func Parse(name string, data []byte) (*Profile, error) {
	return parse(name, name+".toml", data)
}

func parse(name, file string, data []byte) (*Profile, error) {
	if why := checkName(name); why != "" {
		return nil, &Problems{File: file, List: []Problem{{Message: why}}}
	}
	if len(data) > MaxSize {
		why := fmt.Sprintf("is %d bytes long; at most %d are read", len(data), MaxSize)
		return nil, &Problems{File: file, List: []Problem{{Message: why}}}
	}
	doc := stricttoml.Parse(file, data)
	if err := doc.Err(); err != nil {
		return nil, err // what comes after a syntax error would be guesses
	}
	p := readProfile(name, doc.Root())
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

func checkName(name string) string {
	if isName(name) {
		return ""
	}
	return fmt.Sprintf("%s is not a profile name: 1 to 63 of a-z, 0-9, _ . and -, beginning with a letter or digit",
		stricttoml.Quote(name))
}

// located is a path in the container, and where the profile says so.
type located struct {
	path string
	at   *stricttoml.Value
}

// places are the paths in the container that must not contradict each other.
type places struct {
	programs                []located
	sockets, mounts, states []located
	secrets, sources        []located // on the host: files of secrets; what is mounted
}

func readProfile(name string, root *stricttoml.Table) *Profile {
	p := &Profile{Name: name}
	version := root.Require("version", "write version = 1 at the top")
	if n, ok := version.Integer(0, math.MaxInt64); ok && n != 1 {
		version.Fail("is %d; this gatewarden reads version 1", n)
	}
	p.Description, _ = root.Get("description").Text(maxText)
	var at places
	p.Credentials = readCredentials(root.Get("credentials"), &at)
	gateway := root.Require("gateway", "a [gateway] table says what is run and as whom").Table()
	if gateway != nil {
		p.Gateway = readGateway(gateway, &at)
		if _, ok := p.Gateway.Env[CredentialsVariable]; ok && len(p.Credentials) > 0 {
			gateway.Get("env").Table().Get(CredentialsVariable).FailKey("is set by [credentials]; remove it here")
		}
	}
	listen := root.Get("listen")
	var listeners []listenAt
	p.Listen, listeners = readListen(listen, &at)
	p.Ready = readReady(root.Get("ready").Table(), p.Listen, &at)
	checkProbe(p.Ready, p.Listen, listeners)
	if listen == nil && p.Ready.Kind != "none" {
		root.Fail("listen", "missing: at least one [[listen]], or [ready] none = true for a gateway that listens nowhere")
	}
	p.Preflight = readPreflight(root.Get("preflight").Table(), &at)
	p.Stop = readStop(root.Get("stop").Table())
	restart := root.Get("restart").Table()
	p.Restart = readRestart(restart)
	if p.Restart.Overlap {
		checkOverlap(restart.Get("overlap"), p.Ready, p.Listen)
	}
	p.Mounts = readMounts(root.Get("mount"), &at)
	p.States = readStates(root.Get("state"), &at)
	p.Unlock = readUnlock(root.Get("unlock").Table(), p.Mounts)
	p.Start = readStart(root.Get("start").Table())
	p.Select = readSelect(root.Get("select").Table())
	p.Posture = readPosture(root.Get("posture").Table())
	p.Forwards = readForwards(root.Get("forward"))
	at.check()
	refuseOutage(root)
	root.Close()
	return p
}

func readGateway(t *stricttoml.Table, at *places) Gateway {
	g := Gateway{Cwd: "/"}
	g.Command = readCommand(t.Require("command", `the program and its arguments, command = ["/usr/local/bin/NAME"]`), at)
	g.User = readID(t.Require("user", "a numeric UID that nothing else uses, such as 64990"), "UID")
	g.Group = readID(t.Require("group", "a numeric GID that nothing else uses, such as 64990"), "GID")
	groups, _ := t.Get("groups").Items(maxGroups)
	for _, item := range groups {
		id := readID(item, "GID")
		if id != 0 && slices.Contains(g.Groups, id) {
			item.Fail("is there twice")
		}
		g.Groups = append(g.Groups, id)
	}
	if cwd, ok := readPath(t.Get("cwd")); ok {
		g.Cwd = cwd
	}
	g.Env = readEnv(t.Get("env"))
	g.EnvFile = readSecretPath(t.Get("env_file"), at)
	g.Capabilities = readCapabilities(t.Get("capabilities"))
	g.SHA256 = readSHA256(t.Get("sha256"))
	refuseOutage(t)
	t.Refuse("credentials", `is a table of its own; write [credentials] and below it name = "/path/on/the/host"`)
	t.Close()
	return g
}

// readCommand reads a program of the container and its arguments.
func readCommand(v *stricttoml.Value, at *places) []string {
	items, ok := v.Items(maxCommand)
	if ok && len(items) == 0 {
		v.Fail("is empty; name at least the program")
	}
	var command []string
	for i, item := range items {
		arg, ok := item.Text(maxValue)
		if ok && i == 0 {
			if checkCommand(item, arg) {
				at.programs = append(at.programs, located{arg, item})
			}
		}
		command = append(command, arg)
	}
	return command
}

// checkCommand tells whether arg is the path of a program, and complains if not.
func checkCommand(v *stricttoml.Value, arg string) bool {
	err := checkPath(arg)
	switch {
	case arg != "" && arg[0] != '/':
		v.Fail("%s is not absolute; the program is never searched in PATH, write its path from / on", stricttoml.Quote(arg))
	case arg == "/":
		v.Fail("is the root directory; write the path of a program")
	case err != nil:
		v.Fail("%v", err)
	default:
		return true
	}
	return false
}

func readID(v *stricttoml.Value, kind string) uint32 {
	if v.IsZero() {
		v.Fail("must not be 0: a gateway never runs with root's %s; choose one that nothing else uses, such as 64990", kind)
		return 0
	}
	id, _ := v.Integer(1, maxID)
	return uint32(id)
}

// readPath reads an absolute path in its shortest form.
func readPath(v *stricttoml.Value) (string, bool) {
	s, ok := v.Text(maxText)
	if !ok {
		return "", false
	}
	if err := checkPath(s); err != nil {
		v.Fail("%v", err)
		return "", false
	}
	return s, true
}

func readEnv(v *stricttoml.Value) map[string]string {
	names, values := v.Table().Keys()
	if len(names) == 0 {
		return nil
	}
	if len(names) > maxEnv {
		v.Fail("has %d variables; at most %d are allowed", len(names), maxEnv)
	}
	env := make(map[string]string, len(names))
	for i, name := range names {
		if why := envName(name); why != "" {
			values[i].FailKey("the name %s", why)
		}
		env[name], _ = values[i].Text(maxValue)
	}
	return env
}

// readCredentials reads the table [credentials], whose keys are the credentials' names.
func readCredentials(v *stricttoml.Value, at *places) []Credential {
	names, values := v.Table().Keys()
	if len(names) > maxCreds {
		v.Fail("has %d credentials; at most %d are allowed", len(names), maxCreds)
	}
	var list []Credential
	for i, name := range names {
		if !isName(name) {
			values[i].FailKey("%s is not a credential's name: 1 to 63 of a-z, 0-9, _ . and -, beginning with a letter or digit", stricttoml.Quote(name))
		}
		source := readSecretPath(values[i], at)
		list = append(list, Credential{Name: name, Source: source})
	}
	slices.SortFunc(list, func(a, b Credential) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// readSecretPath reads the path of a file on the host that holds secrets.
func readSecretPath(v *stricttoml.Value, at *places) string {
	s, ok := v.Text(maxText)
	switch {
	case !ok:
		return ""
	case !strings.HasPrefix(s, "/"):
		// It may be the secret itself, and messages go to logs and receipts.
		v.Fail("is not an absolute path; write that of a file on the host which holds the secret, from / on")
		return ""
	case s == "/":
		v.Fail("is the root directory; write the path of a file on the host")
		return ""
	}
	if err := checkPath(s); err != nil {
		v.Fail("%v", err)
		return ""
	}
	at.secrets = append(at.secrets, located{s, v})
	return s
}

func readCapabilities(v *stricttoml.Value) []string {
	const bind = "CAP_NET_BIND_SERVICE"
	items, _ := v.Items(maxNames)
	var list []string
	for _, item := range items {
		name, ok := item.Text(maxText)
		if !ok {
			continue
		}
		switch upper := strings.ToUpper(name); {
		case name == bind && slices.Contains(list, name):
			item.Fail("is there twice")
		case name == bind:
		case upper == "CAP_DAC_OVERRIDE" || upper == "DAC_OVERRIDE":
			item.Fail("CAP_DAC_OVERRIDE is never granted: with it no file of the container is out of the gateway's reach; give it files of its own with [[mount]] and [[state]]")
		case upper == bind || "CAP_"+upper == bind:
			item.Fail("write %q", bind)
		default:
			item.Fail("%s cannot be granted; a gateway runs without capabilities, but for %s", stricttoml.Quote(name), bind)
		}
		list = append(list, name)
	}
	return list
}

func readSHA256(v *stricttoml.Value) string {
	s, ok := v.Text(maxText)
	switch {
	case !ok || s == "" || isSHA256(s):
		return s
	case isSHA256(strings.TrimPrefix(strings.ToLower(s), "sha256:")):
		v.Fail("write the 64 digits in lower case and without a prefix: %q", strings.TrimPrefix(strings.ToLower(s), "sha256:"))
	default:
		v.Fail("is not 64 hexadecimal digits (it has %d characters); sha256sum prints them", len(s))
	}
	return ""
}

func readListen(v *stricttoml.Value, at *places) ([]Listen, []listenAt) {
	tables, ok := v.Tables(maxListen)
	if ok && len(tables) == 0 {
		v.Fail("is empty; declare at least one [[listen]], or leave it out with [ready] none = true")
	}
	var list []Listen
	var ats []listenAt
	names := map[string]int{}      // their lines
	addresses := map[Address]int{} // their lines
	for _, t := range tables {
		l := Listen{Mode: ModeGateway}
		name := t.Require("name", `a short name such as "api"`)
		if s, ok := name.Text(maxText); ok {
			switch first := names[s]; {
			case first > 0:
				name.Fail("%s is the name of the listener in line %d too; names tell listeners apart", stricttoml.Quote(s), first)
			case !isName(s):
				name.Fail("%s is not a listener's name: 1 to 63 of a-z, 0-9, _ . and -, beginning with a letter or digit", stricttoml.Quote(s))
			}
			names[s] = name.Line()
			l.Name = s
		}
		address := t.Require("address", `where it listens, such as "tcp://127.0.0.1:8080"`)
		if s, ok := address.Text(maxText); ok {
			a, err := ParseAddress(s)
			if err != nil {
				address.Fail("%v", err)
			} else {
				checkAddress(address, a, list, addresses)
				addresses[a] = address.Line()
				l.Address = a
			}
			if a.isPath() {
				at.sockets = append(at.sockets, located{a.Path, address})
			}
		}
		mode := t.Get("mode")
		if mode != nil {
			s, ok := mode.Text(maxText)
			l.Mode = s
			if ok && s != ModeGateway && !l.Held() {
				mode.Fail(`%s is not a mode; use "gateway" (the gateway binds the address itself), "inherit" (it gets the warden's socket as LISTEN_FDS) or "transparent" (it binds, and gets the warden's socket)`,
					stricttoml.Quote(s))
			}
		}
		place := listenAt{address: address, mode: mode}
		readHeld(t, &l, &place)
		t.Refuse("forward", "is a table of its own beside [[listen]]; write it as [[forward]]")
		t.Close()
		list = append(list, l)
		ats = append(ats, place)
	}
	checkDualStack(list, ats)
	return list, ats
}

// refuseOutage tells where outage belongs.
func refuseOutage(t *stricttoml.Table) {
	t.Refuse("outage", "belongs to a listener that the warden holds; write it in its [[listen]]")
}

func checkAddress(v *stricttoml.Value, a Address, before []Listen, lines map[Address]int) {
	for _, other := range before {
		if a == other.Address {
			v.Fail("%s is declared in line %d already", a, lines[a])
			return
		}
		if a.covers(other.Address) {
			v.Fail("%s and %s of line %d are the same port of overlapping addresses; only one of them can be held",
				a, other.Address, lines[other.Address])
			return
		}
	}
}

func readReady(t *stricttoml.Table, listen []Listen, at *places) Ready {
	r := Ready{Timeout: 30 * time.Second}
	var given []string
	kind := func(name string) *stricttoml.Value {
		v := t.Get(name)
		if v == nil {
			return nil
		}
		given = append(given, name)
		if len(given) > 1 {
			v.FailKey("there is %s already; choose one way to see that the gateway is ready", given[0])
		}
		r.Kind = name
		return v
	}
	readHTTP(kind("http"), &r)
	readConnect(kind("tcp"), "tcp", &r)
	readConnect(kind("unix"), "unix", &r)
	readGRPC(kind("grpc"), &r)
	if exec := kind("exec"); exec != nil {
		r.Exec = readCommand(exec, at)
	}
	if none := t.Get("none"); none != nil {
		if yes, ok := none.Boolean(); ok && yes {
			kind("none")
		}
	}
	accept := t.Get("accept")
	if accept != nil {
		if r.Kind != "http" && t.Get("http") == nil {
			accept.FailKey("has a meaning with http only; remove it")
		}
		r.Accept = readNumbers(accept, "HTTP statuses", 100, 599)
	} else if r.Kind == "http" {
		r.Accept = []int{200}
	}
	if service := t.Get("service"); service != nil {
		if r.Kind != "grpc" && t.Get("grpc") == nil {
			service.FailKey("has a meaning with grpc only; remove it")
		}
		r.Service, _ = service.Text(maxService)
	}
	duration(t.Get("timeout"), minDuration, &r.Timeout)
	duration(t.Get("settle"), 0, &r.Settle)
	refuseOutage(t)
	t.Close()
	if r.Kind == "" && len(listen) > 0 {
		a := listen[0].Address.loopback()
		r.Kind, r.Address = "tcp", a
		if a.Network == "unix" {
			r.Kind = "unix"
		}
	}
	return r
}

// readPreflight reads [preflight]. Without the table there is no command.
func readPreflight(t *stricttoml.Table, at *places) Preflight {
	var f Preflight
	if t == nil {
		return f
	}
	f.Command = readCommand(t.Require("command", `what judges a new configuration, command = ["/usr/sbin/nginx", "-t"]`), at)
	f.Timeout = 10 * time.Second
	duration(t.Get("timeout"), minDuration, &f.Timeout)
	t.Close()
	return f
}

func readHTTP(v *stricttoml.Value, r *Ready) {
	s, ok := v.Text(maxText)
	if !ok {
		return
	}
	const example = "write it as http://127.0.0.1:8080/health"
	u, err := url.Parse(s)
	switch {
	case err != nil:
		v.Fail("%s is not a URL; %s", stricttoml.Quote(s), example)
	case u.Scheme == "https":
		v.Fail("https is not supported; probe a plain http address on loopback, or use tcp")
	case u.Scheme != "http" || u.Opaque != "" || u.Host == "":
		v.Fail("%s is not an http URL; %s", stricttoml.Quote(s), example)
	case u.User != nil:
		v.Fail("a user and password in the URL are refused; %s", example)
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		v.Fail("a #fragment is never sent; remove it")
	case strings.ContainsAny(s, " \\"):
		v.Fail("blanks and backslashes are refused in a URL; write %%20 and %%5C")
	default:
		hostport := u.Host
		if u.Port() == "" && !strings.HasSuffix(hostport, ":") {
			hostport += ":80"
		}
		ap, err := parseAddrPort(hostport)
		if err != nil {
			v.Fail("%v", err)
			return
		}
		r.Address = Address{Network: networkOf(ap), AddrPort: ap}.loopback()
		r.Host = u.Host
		r.Path = u.RequestURI()
	}
}

// readConnect reads [ready] tcp or unix: an address as in [[listen]], or without its scheme.
func readConnect(v *stricttoml.Value, kind string, r *Ready) {
	s, ok := v.Text(maxText)
	if !ok {
		return
	}
	if !strings.Contains(s, "://") {
		s = kind + "://" + s
		if strings.HasPrefix(s, "tcp://[") {
			s = "tcp6" + strings.TrimPrefix(s, "tcp")
		}
	}
	a, err := ParseAddress(s)
	switch {
	case err != nil:
		v.Fail("%v", err)
	case (a.Network == "unix") != (kind == "unix"):
		v.Fail("%s does not belong to %s; write %s = %q", a, kind, map[bool]string{true: "unix", false: "tcp"}[a.Network == "unix"], s)
	default:
		r.Address = a.loopback()
	}
}

// readGRPC reads [ready] grpc: an address as in [[listen]]; without its scheme it is TCP's.
func readGRPC(v *stricttoml.Value, r *Ready) {
	s, ok := v.Text(maxText)
	if !ok {
		return
	}
	switch {
	case strings.Contains(s, "://"):
	case strings.HasPrefix(s, "["):
		s = "tcp6://" + s
	case strings.HasPrefix(s, "/"):
		s = "unix://" + s
	default:
		s = "tcp://" + s
	}
	a, err := ParseAddress(s)
	if err != nil {
		v.Fail("%v", err)
		return
	}
	r.Address = a.loopback()
	r.Host = "localhost" // what gRPC's own clients say of a unix socket
	if a.Network != "unix" {
		r.Host = r.Address.AddrPort.String()
	}
}

func networkOf(ap netip.AddrPort) string {
	if ap.Addr().Is6() {
		return "tcp6"
	}
	return "tcp"
}

func readNumbers(v *stricttoml.Value, what string, low, high int64) []int {
	items, ok := v.Items(maxStatuses)
	if ok && len(items) == 0 && low > 0 {
		v.Fail("is empty; list the %s that mean yes", what)
	}
	list := []int{}
	for _, item := range items {
		n, ok := item.Integer(low, high)
		if ok && slices.Contains(list, int(n)) {
			item.Fail("%d is there twice", n)
		}
		list = append(list, int(n))
	}
	return list
}

func duration(v *stricttoml.Value, low time.Duration, to *time.Duration) {
	if d, ok := v.Duration(low, maxDuration); ok {
		*to = d
	}
}

// choice reads one of a few words; the first is the default.
func choice(v *stricttoml.Value, words ...string) string {
	s, ok := v.Text(maxText)
	if !ok {
		return words[0]
	}
	if !slices.Contains(words, s) {
		v.Fail("%s is none of %s", stricttoml.Quote(s), strings.Join(words, ", "))
	}
	return s
}

func readStop(t *stricttoml.Table) Stop {
	s := Stop{Signal: unix.SIGTERM, Timeout: 5 * time.Second}
	if v := t.Get("signal"); v != nil {
		switch name, ok := v.Text(maxText); {
		case !ok:
		case slices.Contains(stopSignals, name):
			s.Signal = unix.SignalNum(name)
		case slices.Contains(stopSignals, "SIG"+strings.TrimPrefix(strings.ToUpper(name), "SIG")):
			v.Fail("write %q", "SIG"+strings.TrimPrefix(strings.ToUpper(name), "SIG"))
		case unix.SignalNum(name) != 0:
			v.Fail("%s does not ask a program to end; use one of %s", name, strings.Join(stopSignals, ", "))
		default:
			v.Fail("%s is not a signal; use one of %s", stricttoml.Quote(name), strings.Join(stopSignals, ", "))
		}
	}
	duration(t.Get("timeout"), minDuration, &s.Timeout)
	t.Close()
	return s
}

func readRestart(t *stricttoml.Table) Restart {
	r := Restart{
		Policy: Always, BackoffInitial: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Burst: 5,
		Window: time.Minute, FatalExitCodes: []int{78}, // EX_CONFIG of sysexits.h
	}
	r.Policy = Policy(choice(t.Get("policy"), string(Always), string(OnFailure), string(Never)))
	if v := t.Get("backoff"); v != nil {
		backoff := v.Table()
		initial, most := backoff.Get("initial"), backoff.Get("max")
		duration(initial, minDuration, &r.BackoffInitial)
		duration(most, minDuration, &r.BackoffMax)
		if r.BackoffInitial > r.BackoffMax {
			at := most
			if at == nil {
				at = initial
			}
			at.Fail("initial (%s) is longer than max (%s)", r.BackoffInitial, r.BackoffMax)
		}
		backoff.Close()
	}
	if v := t.Get("burst"); v.IsZero() {
		v.Fail(`is 0; it must be from 1 to %d (to restart nothing, write policy = "never")`, maxBurst)
	} else if n, ok := v.Integer(1, maxBurst); ok {
		r.Burst = int(n)
	}
	duration(t.Get("window"), minDuration, &r.Window)
	if v := t.Get("fatal_exit_codes"); v != nil {
		r.FatalExitCodes = readNumbers(v, "exit codes", 0, 255)
	}
	r.Overlap, _ = t.Get("overlap").Boolean()
	refuseOutage(t)
	t.Close()
	return r
}

func readMounts(v *stricttoml.Value, at *places) []Mount {
	tables, _ := v.Tables(maxMounts)
	var list []Mount
	for _, t := range tables {
		from := t.Require("source", "the file or directory on the host")
		source, _ := readPath(from)
		at.sources = append(at.sources, located{source, from})
		target := readTarget(t)
		at.mounts = append(at.mounts, target)
		list = append(list, Mount{Source: source, Target: target.path})
		t.Close()
	}
	return list
}

func readStates(v *stricttoml.Value, at *places) []State {
	tables, _ := v.Tables(maxMounts)
	var list []State
	for _, t := range tables {
		target := readTarget(t)
		at.states = append(at.states, target)
		list = append(list, State{Target: target.path})
		t.Close()
	}
	return list
}

// readUnlock reads [unlock]. Without the table nothing can be unlocked.
func readUnlock(t *stricttoml.Table, mounts []Mount) Unlock {
	var u Unlock
	if t == nil {
		return u
	}
	u.Max = time.Hour
	items, _ := t.Require("paths", `what the gateway may write to while an operator has unlocked it, paths = ["/etc/gateway"]`).Items(maxMounts)
	for _, item := range items {
		p, ok := readPath(item)
		switch {
		case !ok:
		case !slices.ContainsFunc(mounts, func(m Mount) bool { return within(p, m.Target) }):
			item.Fail("%s is no target of a [[mount]] and lies below none; only what gatewarden shows can be unlocked", stricttoml.Quote(p))
		case slices.ContainsFunc(u.Paths, func(o string) bool { return within(p, o) || within(o, p) }):
			item.Fail("%s is there already, or lies below another or above it", stricttoml.Quote(p))
		default:
			u.Paths = append(u.Paths, p)
		}
	}
	if d, ok := t.Get("max").Duration(time.Second, maxUnlock); ok {
		u.Max = d
	}
	t.Close()
	return u
}

// readTarget gives the target of a [[mount]] or [[state]]; its path is empty if it is not usable.
func readTarget(t *stricttoml.Table) located {
	v := t.Require("target", "where it appears in the container")
	target, ok := readPath(v)
	if !ok {
		return located{}
	}
	if target == "/" {
		v.Fail("must not be the container's root directory")
		return located{}
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if within(target, kernel) {
			v.Fail("%s lies in %s, which the runtime sets up; choose another place", stricttoml.Quote(target), kernel)
			return located{}
		}
	}
	return located{target, v}
}

// check compares the places with each other.
func (p *places) check() {
	var before []located
	for _, l := range slices.Concat(p.mounts, p.states) {
		if l.path == "" {
			continue
		}
		for _, other := range before {
			if within(l.path, other.path) || within(other.path, l.path) {
				l.at.Fail("%s overlaps %s of line %d; one would hide the other",
					stricttoml.Quote(l.path), stricttoml.Quote(other.path), other.at.Line())
				break
			}
		}
		before = append(before, l)
	}
	for _, program := range p.programs {
		for _, state := range p.states {
			if state.path != "" && within(program.path, state.path) {
				program.at.Fail("lies in the [[state]] %s, where the gateway can write; its program must be out of its own reach",
					stricttoml.Quote(state.path))
				break
			}
		}
	}
	for _, secret := range p.secrets {
		for _, source := range p.sources {
			if source.path != "" && within(secret.path, source.path) {
				secret.at.Fail("lies in %s, which line %d mounts in the container: its root could read it there; keep it elsewhere",
					stricttoml.Quote(source.path), source.at.Line())
				break
			}
		}
	}
	for _, socket := range p.sockets {
		for _, mount := range p.mounts {
			if mount.path != "" && within(socket.path, mount.path) {
				socket.at.Fail("lies in the [[mount]] %s, which is read-only: no socket can be made there; use a [[state]]",
					stricttoml.Quote(mount.path))
			}
		}
	}
}

func readStart(t *stricttoml.Table) Start {
	s := Start{
		BeforeWorkload: choice(t.Get("when"), "before-workload", "with-workload") == "before-workload",
		FailContainer:  choice(t.Get("on_failure"), "fail", "warn") == "fail",
	}
	t.Close()
	return s
}

func readSelect(t *stricttoml.Table) Select {
	var s Select
	s.Annotation, _ = t.Get("annotation").Boolean()
	s.Namespaces = readNamespaces(t.Get("namespaces"), func(name string) bool { return len(name) <= 76 && isNamespace(name) },
		"a containerd namespace: letters and digits, with single - _ . between them, at most 76")
	s.PodNamespaces = readNamespaces(t.Get("pod_namespaces"), isLabel,
		"a Kubernetes namespace: 1 to 63 of a-z, 0-9 and \"-\", beginning and ending with a letter or digit")
	t.Close()
	return s
}

// readNamespaces reads a list of names that are valid; what says what such a name is.
func readNamespaces(v *stricttoml.Value, valid func(string) bool, what string) []string {
	var names []string
	items, ok := v.Items(maxNamespaces)
	if ok && len(items) == 0 {
		v.Fail("is empty; leave it out for any namespace, or write annotation = false for none")
	}
	for _, item := range items {
		name, ok := item.Text(maxText)
		switch {
		case !ok:
		case !valid(name):
			item.Fail("%s is not %s", stricttoml.Quote(name), what)
		case slices.Contains(names, name):
			item.Fail("%s is there twice", stricttoml.Quote(name))
		default:
			names = append(names, name)
		}
	}
	return names
}

// isLabel tells whether s is a DNS label of RFC 1123, as names of Kubernetes namespaces are.
func isLabel(s string) bool {
	for i, c := range []byte(s) {
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 63
}

func readPosture(t *stricttoml.Table) Posture {
	var p Posture
	known := exceptions()
	items, _ := t.Get("allow").Items(maxNames)
	for _, item := range items {
		name, ok := item.Text(maxText)
		switch form := strings.ReplaceAll(strings.ToLower(name), "_", "-"); {
		case !ok:
		case slices.Contains(p.Allow, name):
			item.Fail("%s is there twice", stricttoml.Quote(name))
		case slices.Contains(known, name):
			p.Allow = append(p.Allow, name)
		case slices.Contains(known, form):
			item.Fail("write %q", form)
		case slices.Contains(known, CapabilityException(strings.ToUpper(name))):
			item.Fail("write %q", CapabilityException(strings.ToUpper(name)))
		case strings.HasPrefix(form, capabilityException):
			item.Fail("%s is not needed: no container is refused for that capability; remove it", stricttoml.Quote(name))
		default:
			item.Fail("%s is not a posture exception; known are %s", stricttoml.Quote(name), strings.Join(known, ", "))
		}
	}
	t.Close()
	return p
}
