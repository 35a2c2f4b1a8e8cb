package profile

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"
)

// FuzzParse checks that no document makes Parse panic, that what is refused is explained, and that what is accepted is
// something that the rest of gatewarden can rely on.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, example) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(base + listenTCP))
	f.Add([]byte(base + "[ready]\nnone = true\n"))
	f.Add([]byte(base + listenTCP + "[ready]\ngrpc = 'unix:///run/x'\nservice = 'web'\n"))
	f.Add([]byte(base + listenTCP + "[ready]\nexec = ['/bin/check']\n[[state]]\ntarget = '/bin'\n"))
	f.Add([]byte(base + heldTCP + "[[listen]]\nname='u'\naddress='unix:///run/u'\nmode='inherit'\nsocket_mode='0600'\n[restart]\noverlap=true\n"))
	f.Add([]byte(base + listenTCP + "[credentials]\ntoken = '/etc/secret'\n'tls.key' = '/etc/key'\n[[mount]]\nsource='/etc/x'\ntarget='/x'\n"))
	f.Add([]byte("credentials = { a = '/b', a = '/c' }\n" + base + "env = { CREDENTIALS_DIRECTORY = '' }\n"))
	f.Add([]byte(base + listenTCP + "[[forward]]\naddress='127.0.0.1:8080'\nhttp='/health'\naccept=[200,401]\n[[forward]]\nname='w'\naddress='[::1]:81'\n"))
	f.Add([]byte("a.b = [[{c = 1}]]\n[[a.b]]\n[x.y]\n[[x]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("fuzz", data)
		if err != nil {
			problems, ok := err.(*Problems)
			if !ok || p != nil || len(problems.List) == 0 || problems.Error() == "" || problems.OneLine() == "" {
				t.Fatalf("got %v and %v", p, err)
			}
			if err := problems.Format(io.Discard, data); err != nil {
				t.Fatal(err)
			}
			return
		}
		if broken := invariant(p); broken != "" {
			t.Errorf("%s: %+v", broken, p)
		}
		again, err := Parse("fuzz", data)
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("read twice: %+v, %+v, %v", p, again, err)
		}
	})
}

func invariant(p *Profile) string {
	g := p.Gateway
	paths := []string{g.Command[0], g.Cwd}
	if g.EnvFile != "" {
		paths = append(paths, g.EnvFile)
	}
	for i, c := range p.Credentials {
		if !isName(c.Name) || len(p.Credentials) > maxCreds || i > 0 && p.Credentials[i-1].Name >= c.Name {
			return "credentials"
		}
		paths = append(paths, c.Source)
		for _, m := range p.Mounts {
			if within(c.Source, m.Source) {
				return "a credential that is mounted"
			}
		}
	}
	if _, ok := g.Env[CredentialsVariable]; ok && len(p.Credentials) > 0 {
		return "two directories of credentials"
	}
	var targets []string
	for _, m := range p.Mounts {
		paths = append(paths, m.Source)
		targets = append(targets, m.Target)
	}
	for _, s := range p.States {
		targets = append(targets, s.Target)
	}
	for _, path := range append(paths, targets...) {
		if checkPath(path) != nil {
			return "path " + path
		}
	}
	for i, a := range targets {
		for _, b := range targets[:i] {
			if within(a, b) || within(b, a) {
				return "overlap"
			}
		}
	}
	if g.User == 0 || g.Group == 0 || slices.Contains(g.Groups, 0) || g.User > maxID {
		return "identity"
	}
	if len(g.Capabilities) > 1 || len(g.Capabilities) == 1 && g.Capabilities[0] != "CAP_NET_BIND_SERVICE" {
		return "capabilities"
	}
	if g.SHA256 != "" && !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(g.SHA256) {
		return "sha256"
	}
	for k := range g.Env {
		if envName(k) != "" {
			return "environment"
		}
	}
	for _, f := range p.Forwards {
		if a, ok := f.Address, f.Name != ""; !ok || a.Network == "unix" || a.AddrPort.Port() == 0 || a.AddrPort.Addr().IsUnspecified() || (f.Path == "") != (len(f.Accept) == 0) ||
			f.Path != "" && f.Path[0] != '/' {
			return "forward"
		}
	}
	if len(p.Listen) == 0 && p.Ready.Kind != "none" {
		return "no listener"
	}
	for i, l := range p.Listen {
		if a, err := ParseAddress(l.Address.String()); err != nil || a != l.Address || l.Name == "" {
			return "listener"
		}
		if broken := heldInvariant(l); broken != "" {
			return broken
		}
		for _, other := range p.Listen[:i] {
			if l.Name == other.Name || l.Address.covers(other.Address) {
				return "listeners"
			}
			if other.Reaches(l.Address) || l.Reaches(other.Address) {
				return "dual stack"
			}
		}
	}
	if p.Restart.Overlap && (len(p.Listen) == 0 ||
		slices.ContainsFunc(p.Listen, func(l Listen) bool { return !l.Held() }) ||
		!slices.ContainsFunc(p.Listen, func(l Listen) bool { return l.Reaches(p.Ready.Address) })) {
		return "overlap"
	}
	switch r := p.Ready; r.Kind {
	case "http":
		if len(r.Accept) == 0 || r.Path == "" || r.Path[0] != '/' || r.Host == "" || !r.Address.AddrPort.IsValid() {
			return "http"
		}
	case "tcp":
		if !r.Address.AddrPort.IsValid() || r.Address.AddrPort.Addr().IsUnspecified() {
			return "tcp"
		}
	case "unix":
		if r.Address.Path == "" {
			return "unix"
		}
	case "grpc":
		if r.Host == "" || len(r.Service) > maxService {
			return "grpc"
		}
		if a, err := ParseAddress(r.Address.String()); err != nil || a != r.Address || a != a.loopback() {
			return "grpc"
		}
	case "exec":
		if len(r.Exec) == 0 || checkPath(r.Exec[0]) != nil {
			return "exec"
		}
		for _, s := range p.States {
			if within(r.Exec[0], s.Target) {
				return "exec"
			}
		}
	case "none":
	default:
		return "ready"
	}
	for _, d := range []time.Duration{p.Ready.Timeout, p.Stop.Timeout, p.Restart.BackoffInitial, p.Restart.BackoffMax, p.Restart.Window} {
		if d < minDuration || d > maxDuration {
			return "duration"
		}
	}
	if p.Ready.Settle < 0 || p.Ready.Settle > maxDuration || p.Restart.BackoffInitial > p.Restart.BackoffMax || p.Restart.Burst < 1 {
		return "restart"
	}
	if p.Stop.Signal == 0 || !slices.Contains([]Policy{Always, OnFailure, Never}, p.Restart.Policy) {
		return "stop"
	}
	return ""
}

func heldInvariant(l Listen) string {
	o := l.Options
	if !l.Held() {
		if l.Mode != ModeGateway || l.Backlog != 0 || l.Outage != "" || l.SocketMode != 0 || l.NonBlocking || o != (SocketOptions{}) {
			return "a gateway's own listener"
		}
		return ""
	}
	path := l.Address.Network == "unix" && l.Address.Path[0] == '/'
	switch {
	case l.Backlog < 1 || l.Backlog > 65535, l.Outage != OutageQueue && l.Outage != OutageReset:
		return "held"
	case l.NonBlocking && l.Mode != ModeInherit:
		return "held, not blocking"
	case path != (l.SocketMode&0o222 != 0), l.SocketMode > 0o777, path && l.Mode == ModeTransparent:
		return "held path"
	case o.V6Only && l.Address.Network != "tcp6", l.Address.Network == "unix" && o != (SocketOptions{}),
		o.DeferAccept < 0, o.DeferAccept%time.Second != 0, o.ReceiveBuffer < 0, o.SendBuffer < 0:
		return "options"
	}
	return ""
}
