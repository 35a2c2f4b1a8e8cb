//go:build integration

package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// shipped is a container whose gateway has one of the profiles that are shipped.
type shipped struct {
	*container
	config string // its configuration's directory on the host
}

// runShipped makes a container with packaging/profiles/NAME.toml as it is, but that what it has in /etc/gatewarden is where this
// host has its own: the configuration that is shipped beside it, and these secrets.
func runShipped(t *testing.T, name string, secrets map[string]string, o options) *shipped {
	t.Helper()
	if err := importPrograms(); err != nil {
		t.Fatal(err)
	}
	profiles := filepath.Join(host.Repository, "packaging", "profiles")
	dir := mountDir(t)
	for _, sub := range []string{"config", "secrets"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config", name)
	if err := os.CopyFS(config, os.DirFS(filepath.Join(profiles, name))); err != nil {
		t.Fatal(err)
	}
	for file, content := range secrets {
		writeFile(t, filepath.Join(dir, "secrets", file), content, 0o600)
	}
	text, err := os.ReadFile(filepath.Join(profiles, name+".toml"))
	if err != nil {
		t.Fatal(err)
	}
	o.name = uniqueID(name)
	if err := host.WriteProfile(o.name, strings.ReplaceAll(string(text), `"/etc/gatewarden/`, `"`+dir+"/")); err != nil {
		t.Fatal(err)
	}
	if o.image == "" {
		o.image = harness.ProgramsImage
	}
	o.flags = append(o.flags, "--annotation", oci.GatewayAnnotation+"="+o.name)
	return &shipped{run(t, o), config}
}

// get asks a port of the container, from inside.
func (s *shipped) get(url string) string {
	s.t.Helper()
	return s.mustExec("testworkload", "get", url)
}

// restarts restarts the gateway, which has to end by itself and in good order.
func (s *shipped) restarts() receipt.Receipt {
	s.t.Helper()
	r := s.restart()
	if r.Outcome != receipt.Replaced || r.Old.Forced || r.Old.ExitCode != 0 || !r.Workload.Unchanged || r.Probe.Status != 200 {
		s.t.Errorf("the receipt is %+v, of the old process %+v, the probe %+v", r, r.Old, r.Probe)
	}
	return r
}

// refusesConfig applies the configuration with a file spoilt, which the preflight command has to refuse, and then with a comment
// more.
func (s *shipped) refusesConfig(file string, spoil func(string) string, want string) {
	s.t.Helper()
	path := filepath.Join(s.config, file)
	good, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	before := s.status().PID
	writeFile(s.t, path, spoil(string(good)), 0o644)
	r := gatewarden(s.t, "apply", s.name())
	refused(s.t, r, code.ExitRefused, string(code.PreflightFailed))
	if !strings.Contains(r.Stderr, want) || s.status().PID != before {
		s.t.Errorf("the refusal does not tell %q, or process %d was touched:\n%v", want, before, r)
	}
	writeFile(s.t, path, string(good)+"\n# changed\n", 0o644)
	if r := gatewarden(s.t, "apply", s.name()); r.Status != code.ExitOK || s.status().Generation < 2 {
		s.t.Errorf("the good configuration is not taken: %v", r)
	}
}

// upstream is a workload that tells what Authorization it gets, on port 9000.
var upstream = []string{harness.Python, "-c", `
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers["Authorization"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 9000), H).serve_forever()`}

func TestTheProfileOfNginx(t *testing.T) {
	s := runShipped(t, "nginx", map[string]string{"nginx-upstream": "proxy_set_header Authorization \"Bearer hunter2\";\n"}, options{command: upstream})
	inode := s.parked().Listeners[0].Inode
	passesOn := func(want string) {
		t.Helper()
		var got string
		eventually(t, eventTime, "nginx passes on, with the key", func() bool {
			r := s.exec("testworkload", "get", "http://127.0.0.1:8080/")
			got = r.String()
			return r.Status == 0 && r.Stdout == want
		}, func() string { return got })
	}
	passesOn("Bearer hunter2")
	for range 2 {
		if r := s.restarts(); r.Listeners[0].Inode != inode {
			t.Errorf("the listener is %+v, before it had inode %d", r.Listeners[0], inode)
		}
	}
	// A rotated key is a restart away.
	secret := filepath.Join(filepath.Dir(filepath.Dir(s.config)), "secrets", "nginx-upstream")
	writeFile(t, secret, "proxy_set_header Authorization \"Bearer swordfish\";\n", 0o600)
	s.restarts()
	passesOn("Bearer swordfish")
	s.refusesConfig("nginx.conf", func(good string) string { return good + "no_such_directive on;\n" }, "no_such_directive")
	passesOn("Bearer swordfish")
}

func TestTheProfileOfHAProxy(t *testing.T) {
	s := runShipped(t, "haproxy", map[string]string{"haproxy.pem": certificate(t)}, options{command: upstream})
	before := s.parked()
	endsTLS := func() {
		t.Helper()
		// As the workload's user, which cannot read the key.
		got := s.mustExec(harness.Python, "-c", `
import ssl, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
print(urllib.request.urlopen("https://127.0.0.1:8443/", context=context, timeout=5).status)`)
		if strings.TrimSpace(got) != "200" {
			t.Errorf("the answer is %q", got)
		}
	}
	endsTLS()
	for range 2 {
		if r := s.restarts(); len(r.Listeners) != 2 || r.Listeners[0].Inode != before.Listeners[0].Inode || r.Listeners[1].Inode != before.Listeners[1].Inode {
			t.Errorf("the listeners are %+v, and were %+v", r.Listeners, before.Listeners)
		}
		endsTLS()
	}
	s.refusesConfig("haproxy.cfg", func(good string) string { return good + "no-such-section\n" }, "no-such-section")
	endsTLS()
}

// certificate gives a key with a certificate of itself, as haproxy takes them.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour)}
	public, err := x509.CreateCertificate(rand.Reader, &form, &form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, b := range []pem.Block{{Type: "PRIVATE KEY", Bytes: private}, {Type: "CERTIFICATE", Bytes: public}} {
		if err := pem.Encode(&out, &b); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// TestTheProfileOfEnvoy has a stand-in that behaves as Envoy's documents say (integration/standin/envoy.py).
func TestTheProfileOfEnvoy(t *testing.T) {
	s := runShipped(t, "envoy", nil, options{})
	s.parked()
	r := s.restarts()
	if r.Millis.Total < 1000 {
		t.Errorf("it counted as ready after %v ms, while it still initialized", r.Millis.Total)
	}
	if len(r.Listeners) != 2 || r.Listeners[0].OwnerPID != r.New.PID || r.Listeners[1].OwnerPID != r.New.PID {
		t.Errorf("the listeners are %+v, want both to be %d's", r.Listeners, r.New.PID)
	}
	if got := s.get("http://127.0.0.1:19003/ready"); got != "LIVE\n" {
		t.Errorf("it says %q", got)
	}
	// The workload gets at nothing else of the admin interface.
	for _, args := range [][]string{
		{"testworkload", "get", "http://127.0.0.1:19003/quitquitquit"}, {"/bin/ls", "/var/lib/gateway"},
	} {
		if r := s.exec(args...); r.Status == 0 {
			t.Errorf("the workload can: %v", r)
		}
	}
	s.refusesConfig("envoy.yaml", func(good string) string { return strings.Replace(good, "pipe:", "no_pipe:", 1) }, "error initializing configuration")
}

// TestTheProfileOfAPythonGateway has a stand-in with two ports (integration/standin/hermes.py).
func TestTheProfileOfAPythonGateway(t *testing.T) {
	s := runShipped(t, "hermes", map[string]string{"hermes.env": "HERMES_TOKEN=x\n", "hermes.key": "correct horse"}, options{})
	before := s.parked()
	r := s.restarts()
	if len(r.Listeners) != 2 || r.Listeners[0].Inode != before.Listeners[0].Inode || r.Listeners[1].Inode != before.Listeners[1].Inode {
		t.Errorf("the listeners are %+v, and were %+v", r.Listeners, before.Listeners)
	}
	for _, port := range []string{"18642", "8642"} {
		want := fmt.Sprintf(`{"pid": %d, "key": 13, "token": true}`, r.New.NSPID)
		if got := s.get("http://127.0.0.1:" + port + "/"); got != want {
			t.Errorf("port %s answers %s, want %s", port, got, want)
		}
	}
	// Its state outlives it.
	data, err := os.ReadFile(filepath.Join(s.stateDir(), "state", "var%2Flib%2Fgateway", "started"))
	if err != nil || string(data) != "once more\nonce more\n" {
		t.Errorf("its state is %q, %v", data, err)
	}
}
