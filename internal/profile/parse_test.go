package profile

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestEveryBadProfileIsExplained(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad profiles in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse("bad", data)
			problems, ok := err.(*Problems)
			if !ok || p != nil {
				t.Fatalf("got profile %v and error %v, want problems", p, err)
			}
			for _, problem := range problems.List {
				if problem.Line == 0 || problem.Column == 0 {
					t.Errorf("a problem has no place: %+v", problem)
				}
			}
			var got bytes.Buffer
			if err := problems.Format(&got, data); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".toml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%swant\n%s", got.String(), want)
			}
		})
	}
}

// example is the profile of the design.
const example = "testdata/design.toml"

func TestTheExampleOfTheDesignParses(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("openclaw", data)
	if err != nil {
		t.Fatal(err)
	}
	api := Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:18789")}
	want := &Profile{
		Name:        "openclaw",
		Description: "OpenClaw gateway",
		Gateway: Gateway{
			Command: []string{"/usr/local/bin/openclaw", "gateway", "run"}, User: 64990, Group: 64990, Cwd: "/",
			Env:     map[string]string{"HOME": "/var/lib/gateway"},
			EnvFile: "/etc/gatewarden/secrets/openclaw.env",
		},
		Credentials: []Credential{{Name: "api-token", Source: "/etc/gatewarden/secrets/openclaw.token"}},
		Listen:      []Listen{{Name: "api", Address: api, Mode: "gateway"}},
		Ready: Ready{
			Kind: "http", Address: api, Path: "/health", Host: "127.0.0.1:18789", Accept: []int{200, 401},
			Timeout: 30 * time.Second,
		},
		Stop: Stop{Signal: unix.SIGTERM, Timeout: 5 * time.Second},
		Restart: Restart{
			Policy: Always, BackoffInitial: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Burst: 5,
			Window: time.Minute, FatalExitCodes: []int{78},
		},
		Mounts: []Mount{{Source: "/etc/gatewarden/config/openclaw", Target: "/etc/gateway"}},
		States: []State{{Target: "/var/lib/gateway"}},
		Start:  Start{BeforeWorkload: true, FailContainer: true},
		Select: Select{Annotation: true, Namespaces: []string{"default", "k8s.io"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// base is the least that a profile must say, but for its listeners.
const base = "version = 1\n[gateway]\ncommand = [\"/bin/gw\"]\nuser = 64990\ngroup = 64990\n"

const listenTCP = "[[listen]]\nname = \"api\"\naddress = \"tcp://127.0.0.1:80\"\n"

func mustParse(t *testing.T, data string) *Profile {
	t.Helper()
	p, err := Parse("test", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheSmallestProfileHasTheDefaults(t *testing.T) {
	p := mustParse(t, base+listenTCP)
	want := &Profile{
		Name:    "test",
		Gateway: Gateway{Command: []string{"/bin/gw"}, User: 64990, Group: 64990, Cwd: "/"},
		Listen: []Listen{{
			Name: "api", Address: Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:80")}, Mode: "gateway",
		}},
		Ready: Ready{
			Kind: "tcp", Address: Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:80")},
			Timeout: 30 * time.Second,
		},
		Stop: Stop{Signal: unix.SIGTERM, Timeout: 5 * time.Second},
		Restart: Restart{
			Policy: Always, BackoffInitial: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Burst: 5,
			Window: time.Minute, FatalExitCodes: []int{78},
		},
		Start: Start{BeforeWorkload: true, FailContainer: true},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p, want)
	}
}

func TestCredentialsAreSortedByName(t *testing.T) {
	p := mustParse(t, base+listenTCP+"[credentials]\n\"tls.key\" = \"/etc/web/key\"\n0-api_token = \"/etc/web/token\"\n")
	want := []Credential{{"0-api_token", "/etc/web/token"}, {"tls.key", "/etc/web/key"}}
	if !slices.Equal(p.Credentials, want) {
		t.Errorf("got %v, want %v", p.Credentials, want)
	}
	if !p.Secrets() || mustParse(t, base+listenTCP+"[credentials]\n").Secrets() {
		t.Error("whether there are secrets is told wrongly")
	}
	if !mustParse(t, base+"env_file = \"/etc/web/env\"\n"+listenTCP).Secrets() {
		t.Error("an env_file is not taken for a secret")
	}
}

func TestAsManyCredentialsAsThereMayBe(t *testing.T) {
	table := func(n int) []byte {
		var b strings.Builder
		b.WriteString(base + listenTCP + "[credentials]\n")
		for i := range n {
			fmt.Fprintf(&b, "c%d = \"/etc/secret\"\n", i)
		}
		return []byte(b.String())
	}
	if _, err := Parse("test", table(64)); err != nil {
		t.Error(err)
	}
	if _, err := Parse("test", table(65)); err == nil || !strings.Contains(err.Error(), "has 65 credentials; at most 64 are allowed") {
		t.Errorf("65: %v", err)
	}
}

func TestASecretInThePlaceOfItsPathIsNotRepeated(t *testing.T) {
	_, err := Parse("test", []byte(base+listenTCP+"[credentials]\ntoken = \"hunter2\"\n"))
	if err == nil || !strings.Contains(err.Error(), "credentials.token: is not an absolute path") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestReadyIsWhatTheProfileSaysOrTheFirstListener(t *testing.T) {
	lo := func(network, ap string) Address {
		return Address{Network: network, AddrPort: netip.MustParseAddrPort(ap)}
	}
	for _, c := range []struct {
		name, toml string
		want       Ready
	}{
		{"absent, the first listener listens everywhere",
			"[[listen]]\nname='a'\naddress='tcp://0.0.0.0:80'\n",
			Ready{Kind: "tcp", Address: lo("tcp", "127.0.0.1:80")}},
		{"absent, the first listener listens everywhere by IPv6",
			"[[listen]]\nname='a'\naddress='tcp6://[::]:80'\n",
			Ready{Kind: "tcp", Address: lo("tcp6", "[::1]:80")}},
		{"absent, the first listener is a path",
			"[[listen]]\nname='a'\naddress='unix:///run/a'\n" + listenTCP,
			Ready{Kind: "unix", Address: Address{Network: "unix", Path: "/run/a"}}},
		{"none without listeners", "[ready]\nnone = true\n", Ready{Kind: "none"}},
		{"none with listeners", listenTCP + "[ready]\nnone = true\n", Ready{Kind: "none"}},
		{"none = false", listenTCP + "[ready]\nnone = false\n", Ready{Kind: "tcp", Address: lo("tcp", "127.0.0.1:80")}},
		{"http without port and path", listenTCP + "[ready]\nhttp = 'http://127.0.0.2'\n",
			Ready{Kind: "http", Address: lo("tcp", "127.0.0.2:80"), Path: "/", Host: "127.0.0.2", Accept: []int{200}}},
		{"http by IPv6 with a query", listenTCP + "[ready]\nhttp = 'http://[::1]:81/a%20b?x=1'\n",
			Ready{Kind: "http", Address: lo("tcp6", "[::1]:81"), Path: "/a%20b?x=1", Host: "[::1]:81", Accept: []int{200}}},
		{"tcp", listenTCP + "[ready]\ntcp = 'tcp6://[::1]:81'\n", Ready{Kind: "tcp", Address: lo("tcp6", "[::1]:81")}},
		{"tcp without scheme", listenTCP + "[ready]\ntcp = '[::1]:81'\n", Ready{Kind: "tcp", Address: lo("tcp6", "[::1]:81")}},
		{"unix", listenTCP + "[ready]\nunix = 'unix:///run/b'\n",
			Ready{Kind: "unix", Address: Address{Network: "unix", Path: "/run/b"}}},
		{"unix without scheme", listenTCP + "[ready]\nunix = '/run/b'\n",
			Ready{Kind: "unix", Address: Address{Network: "unix", Path: "/run/b"}}},
		{"grpc", listenTCP + "[ready]\ngrpc = 'tcp://0.0.0.0:81'\n",
			Ready{Kind: "grpc", Address: lo("tcp", "127.0.0.1:81"), Host: "127.0.0.1:81"}},
		{"grpc without scheme, of a service", listenTCP + "[ready]\ngrpc = '127.0.0.1:81'\nservice = 'a.B'\n",
			Ready{Kind: "grpc", Address: lo("tcp", "127.0.0.1:81"), Host: "127.0.0.1:81", Service: "a.B"}},
		{"grpc by IPv6 without scheme", listenTCP + "[ready]\ngrpc = '[::1]:81'\n",
			Ready{Kind: "grpc", Address: lo("tcp6", "[::1]:81"), Host: "[::1]:81"}},
		{"grpc by a path without scheme", listenTCP + "[ready]\ngrpc = '/run/b'\n",
			Ready{Kind: "grpc", Address: Address{Network: "unix", Path: "/run/b"}, Host: "localhost"}},
		{"exec", listenTCP + "[ready]\nexec = ['/bin/check', 'a b']\n", Ready{Kind: "exec", Exec: []string{"/bin/check", "a b"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Timeout = 30 * time.Second
			if got := mustParse(t, base+c.toml).Ready; !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestThePreflightIsACommandWithATimeout(t *testing.T) {
	for _, c := range []struct {
		name, toml string
		want       Preflight
	}{
		{"absent", "", Preflight{}},
		{"a command", "[preflight]\ncommand = ['/usr/sbin/nginx', '-t']\n",
			Preflight{Command: []string{"/usr/sbin/nginx", "-t"}, Timeout: 10 * time.Second}},
		{"with a timeout", "[preflight]\ncommand = ['/bin/gw', 'a b', '']\ntimeout = '1m30s'\n",
			Preflight{Command: []string{"/bin/gw", "a b", ""}, Timeout: 90 * time.Second}},
		{"in what a [[mount]] shows", "[preflight]\ncommand = ['/etc/gateway/check']\n[[mount]]\nsource = '/etc/x'\ntarget = '/etc/gateway'\n",
			Preflight{Command: []string{"/etc/gateway/check"}, Timeout: 10 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustParse(t, base+listenTCP+c.toml).Preflight; !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestListsAndSizesAreBounded(t *testing.T) {
	many := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i, i+1)
		}
		return b.String()
	}
	listen := "[[listen]]\nname = 'n%d'\naddress = 'tcp://127.0.0.1:%d'\n"
	mount := "[[mount]]\nsource = '/etc/%d'\ntarget = '/opt/%d'\n"
	command := func(n int) string {
		return strings.Replace(base, `["/bin/gw"]`, `["/bin/gw"`+strings.Repeat(`, "x"`, n-1)+"]", 1)
	}
	for _, c := range []struct{ name, toml, want string }{
		{"64 listeners", base + many(listen, 64), ""},
		{"65 listeners", base + many(listen, 65), "has 65 members; at most 64 are allowed"},
		{"64 mounts", base + listenTCP + many(mount, 64), ""},
		{"65 mounts", base + listenTCP + many(mount, 65), "has 65 members; at most 64 are allowed"},
		{"256 arguments", command(256) + listenTCP, ""},
		{"257 arguments", command(257) + listenTCP, "has 257 members; at most 256 are allowed"},
		{"256 variables", base + "[gateway.env]\n" + many("V%d = '%d'\n", 256) + listenTCP, ""},
		{"257 variables", base + "[gateway.env]\n" + many("V%d = '%d'\n", 257) + listenTCP, "has 257 variables; at most 256"},
		{"a long argument", strings.Replace(base, "gw", strings.Repeat("x", 256), 1) + listenTCP, "a part of the path is 256 bytes long"},
		{"64 KiB", base + listenTCP + strings.Repeat("#", MaxSize-len(base+listenTCP)), ""},
		{"more than 64 KiB", base + listenTCP + strings.Repeat("#", MaxSize), "at most 65536 are read"},
		{"a deep key", base + "[a.b.c.d.e.f.g.h.i]\n", "a key of more than 8 parts is refused"},
		{"deep arrays", base + "x = " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "more than 8 arrays and tables inside each other"},
		{"deeper arrays", base + "x = " + strings.Repeat("[", 20000), "not valid TOML"},
		{"a key of 30000 parts", base + strings.Repeat("a.", 30000) + "a = 1", "a key of more than 8 parts is refused"},
		{"many problems", base + listenTCP + "[x]\n[y]\n[gateway.env]\n" + many("%d-%d = 1\n", 200), "more problems"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("test", []byte(c.toml))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAMessageNeverShowsAnEnvironmentValue(t *testing.T) {
	const secret = "hunter2"
	for _, env := range []string{
		"env = { LISTEN_FDS = '" + secret + "' }", `env = { A = "` + secret + `\u0001" }`, "env = ['" + secret + "']",
		"env = '" + secret + "'", "env = { A = ['" + secret + "'] }",
	} {
		_, err := Parse("test", []byte(base+env+"\n"+listenTCP))
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v", env, err)
		}
	}
}

func TestProblemsFitOnOneLineWhenAskedTo(t *testing.T) {
	_, err := Parse("web", []byte(base))
	if got, want := err.(*Problems).OneLine(), "web.toml:1:1: listen: missing: at least one [[listen]], or [ready] none = true for a gateway that listens nowhere"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = Parse("web", nil)
	if got := err.(*Problems).OneLine(); strings.Contains(got, "\n") || !strings.HasSuffix(got, "(and 2 more problems)") {
		t.Errorf("got %q", got)
	}
}

func TestOnlyAProfileThatAllowsItIsSelectedByAnnotation(t *testing.T) {
	for _, c := range []struct {
		name      string
		s         Select
		namespace string
		pod       string
		want      string
	}{
		{"no select", Select{}, "default", "", "[select] annotation = true"},
		{"any namespace", Select{Annotation: true}, "moby", "", ""},
		{"a listed namespace", Select{Annotation: true, Namespaces: []string{"default", "k8s.io"}}, "k8s.io", "", ""},
		{"another namespace", Select{Annotation: true, Namespaces: []string{"default", "k8s.io"}}, "moby", "", "which has default, k8s.io"},
		{"namespaces alone", Select{Namespaces: []string{"default"}}, "default", "", "[select] annotation = true"},
		{"a pod of any namespace", Select{Annotation: true}, "k8s.io", "agents", ""},
		{"a pod of a listed namespace", Select{Annotation: true, PodNamespaces: []string{"agents", "a1"}}, "k8s.io", "agents", ""},
		{"a pod of another one", Select{Annotation: true, PodNamespaces: []string{"agents", "a1"}}, "k8s.io", "default", `from the Kubernetes namespace "default"; an administrator allows it by adding the namespace to [select] pod_namespaces in the profile, which has agents, a1`},
		{"no pod, where pods are listed", Select{Annotation: true, PodNamespaces: []string{"agents"}}, "k8s.io", "", "from outside of pods"},
		{"both have to hold", Select{Annotation: true, Namespaces: []string{"moby"}, PodNamespaces: []string{"agents"}}, "k8s.io", "agents", "which has moby"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := (&Profile{Name: "web", Select: c.s}).SelectableBy(c.namespace, c.pod)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestEveryDangerousCapabilityHasAReasonAndAnException(t *testing.T) {
	names := DangerousCapabilities(false)
	for _, must := range []string{
		"CAP_KILL", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_NET_ADMIN", "CAP_SYS_MODULE",
	} {
		if CapabilityReason(must) == "" {
			t.Errorf("%s is not among the dangerous ones", must)
		}
	}
	var allow []string
	for _, name := range names {
		if !strings.HasPrefix(CapabilityReason(name), "it can ") {
			t.Errorf("%s: reason %q", name, CapabilityReason(name))
		}
		allow = append(allow, "'"+CapabilityException(name)+"'")
	}
	p := mustParse(t, base+listenTCP+"[posture]\nallow = ["+strings.Join(allow, ", ")+", 'workload-host-pid', 'workload-new-privileges']\n")
	for _, name := range names {
		if !p.Posture.Allows(CapabilityException(name)) {
			t.Errorf("%s is not allowed", name)
		}
	}
	if !p.Posture.Allows("workload-cap-sys-ptrace") || !p.Posture.Allows(AllowHostPID) || !p.Posture.Allows(AllowNewPrivileges) {
		t.Errorf("got %v", p.Posture.Allow)
	}
	if CapabilityReason("CAP_NET_BIND_SERVICE") != "" {
		t.Error("CAP_NET_BIND_SERVICE is among the dangerous ones")
	}
}

func TestForwardsAreEndpointsOfTheHost(t *testing.T) {
	const rest = "version = 1\n[gateway]\ncommand = [\"/bin/gw\"]\nuser = 64990\ngroup = 64990\n[ready]\nnone = true\n"
	at := func(network, s string) Address {
		return Address{Network: network, AddrPort: netip.MustParseAddrPort(s)}
	}
	for _, c := range []struct {
		toml  string
		want  Forward
		check Ready
	}{
		{
			`address = "127.0.0.1:8080"`, Forward{Name: "127.0.0.1:8080", Address: at("tcp", "127.0.0.1:8080")},
			Ready{Kind: "tcp", Address: at("tcp", "127.0.0.1:8080")},
		},
		{
			`address = "[::1]:8080"` + "\n" + `name = "web"`, Forward{Name: "web", Address: at("tcp6", "[::1]:8080")},
			Ready{Kind: "tcp", Address: at("tcp6", "[::1]:8080")},
		},
		{
			`address = "tcp://192.0.2.7:80"` + "\n" + `http = "/health?deep=1"`,
			Forward{Name: "192.0.2.7:80", Address: at("tcp", "192.0.2.7:80"), Path: "/health?deep=1", Accept: []int{200}},
			Ready{Kind: "http", Address: at("tcp", "192.0.2.7:80"), Host: "192.0.2.7:80", Path: "/health?deep=1", Accept: []int{200}},
		},
		{
			`address = "127.0.0.1:8080"` + "\n" + `http = "/"` + "\naccept = [200, 401]",
			Forward{Name: "127.0.0.1:8080", Address: at("tcp", "127.0.0.1:8080"), Path: "/", Accept: []int{200, 401}},
			Ready{Kind: "http", Address: at("tcp", "127.0.0.1:8080"), Host: "127.0.0.1:8080", Path: "/", Accept: []int{200, 401}},
		},
	} {
		p, err := Parse("demo", []byte(rest+"[[forward]]\n"+c.toml+"\n"))
		if err != nil {
			t.Errorf("%s: %v", c.toml, err)
			continue
		}
		if !reflect.DeepEqual(p.Forwards, []Forward{c.want}) || !reflect.DeepEqual(p.Forwards[0].Check(), c.check) {
			t.Errorf("%s: %+v, asked as %+v", c.toml, p.Forwards, p.Forwards[0].Check())
		}
	}
}
