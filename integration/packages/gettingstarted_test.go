//go:build packages

package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
)

// document is what a document has the reader do.
type document map[string][]step // by section

// step is a block of commands and what they print; "" if the document does not tell.
type step struct{ commands, prints string }

// readDocument reads the blocks that are marked "sh", each with the one marked "text" that follows it.
func readDocument(t *testing.T, path string) document {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, section, kind := document{}, "", ""
	var block strings.Builder
	for line := range strings.Lines(string(data)) {
		switch fence := strings.HasPrefix(line, "```"); {
		case fence && kind == "":
			if kind = strings.TrimSpace(line[3:]); kind == "" {
				kind = "other"
			}
		case fence:
			steps := all[section]
			switch kind {
			case "sh":
				all[section] = append(steps, step{commands: block.String()})
			case "text":
				if len(steps) == 0 || steps[len(steps)-1].prints != "" {
					t.Fatalf("%s: in section %q something is printed by nothing:\n%s", path, section, &block)
				}
				steps[len(steps)-1].prints = block.String()
			}
			kind = ""
			block.Reset()
		case kind != "":
			block.WriteString(line)
		case strings.HasPrefix(line, "## "):
			section = strings.TrimSpace(line[3:])
		}
	}
	return all
}

// prints tells whether output is what a document says, line by line; "…" stands for anything, lines too.
func prints(output, says string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(says)), "…", `(?s:.*)`)
	// Columns are as wide as what is in them.
	pattern = regexp.MustCompile(` +`).ReplaceAllString(pattern, ` +`)
	return regexp.MustCompile(`(?s)` + pattern).MatchString(output)
}

// What has no counterpart here: there is no registry, so the image is there before it is pulled, and no service manager.
const absent = `systemctl() { :; }
ctr() { case "$*" in "images pull "*) ;; *) command ctr "$@" ;; esac; }
podman() { case "$1" in pull) ;; *) command podman "$@" ;; esac; }
`

// follow carries out sections of a document in a root.
func (r *root) follow(d document, sections ...string) {
	r.t.Helper()
	for _, section := range sections {
		if len(d[section]) == 0 {
			r.t.Fatalf("the document has no commands in section %q", section)
		}
		for _, s := range d[section] {
			r.write("/tmp/step", "set -ex\ncd /tmp\nPATH=/usr/bin:/usr/sbin:/bin:/sbin:/opt/tools DEBIAN_FRONTEND=noninteractive\nexport PATH DEBIAN_FRONTEND\n"+absent+s.commands)
			got := r.try(nil, "sh", "/tmp/step")
			if got.status != 0 {
				r.t.Fatalf("these commands of section %q fail:\n%s\n%v", section, s.commands, got)
			}
			if s.prints != "" && !prints(got.stdout, s.prints) {
				r.t.Errorf("section %q says that\n%s\nprints\n%s\nbut it prints\n%s", section, s.commands, s.prints, got.stdout)
			}
		}
	}
}

// gettingStarted is a root in which the document has been followed up to the profile.
func gettingStarted(t *testing.T) (*root, document, string) {
	t.Helper()
	d := readDocument(t, filepath.Join(repository, "docs/getting-started.md"))
	r := newRoot(t)
	r.put(pkg(t, *dist, "_amd64.deb"))
	r.follow(d, "Install")
	archive, err := (&harness.Host{Repository: repository}).Archive(&harness.Image{Name: "docker.io/library/busybox:1.36",
		Files: []harness.File{{Path: "/etc/hostname", Mode: 0o644, Content: []byte("hello\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	return r, d, r.write("/tmp/busybox.tar", string(archive))
}

func TestGettingStartedWithContainerdIsWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	r, d, image := gettingStarted(t)
	// Containerd's snapshots of the default kind need a filesystem that can be below an overlay.
	r.do("sh", "-c", "mkdir -p /var/lib/containerd && mount -t tmpfs snapshots /var/lib/containerd")
	e := startEngine(t, r)
	e.namespace = "default"
	e.ctr("image", "import", image)
	r.follow(d, "containerd")
	for _, dir := range cgroups(t, "default") {
		os.Remove(dir)
	}
}

// podmanConf keeps to what any machine has: limits within root's, and no network but loopback, so that the host's is left alone.
const podmanConf = `[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

func TestGettingStartedWithPodmanIsWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	r, d, image := gettingStarted(t)
	r.write("/etc/containers/containers.conf.d/00-machine.conf", podmanConf)
	r.write("/etc/resolv.conf", string(mustRead(t, "/etc/resolv.conf")))
	// Crun refuses a host of both versions of control groups, and locks of podman's are one for all that share /dev/shm.
	r.do("sh", "-c", "mount --make-rprivate / && { ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; } && "+
		"mount -t tmpfs shm /dev/shm && mkdir -p /var/lib/containers && mount -t tmpfs storage /var/lib/containers && apt-get update -qq")
	install := d["podman"][0]
	before, after, ok := strings.Cut(install.commands, "apt-get install --yes podman\n")
	if !ok {
		t.Fatalf("the document installs podman otherwise:\n%s", install.commands)
	}
	r.do("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "-qq", "podman")
	r.do("podman", "load", "--input", image)
	d["podman"][0].commands = before + after
	r.follow(d, "podman")
	for _, dir := range append(cgroups(t, "libpod_parent/conmon"), cgroups(t, "libpod_parent")...) {
		os.Remove(dir)
	}
}

func TestGettingStartedSwitchesKubernetesNodesAndDockerOnAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	r, d, _ := gettingStarted(t)
	r.follow(d, "Kubernetes", "docker")
	for file, has := range map[string]string{
		"/etc/containerd/conf.d/99-gatewarden.toml": "/usr/bin/containerd-shim-gatewarden-v2", "/etc/docker/daemon.json": "gatewarden",
		"/etc/cdi/gatewarden.io-gateway.json": "hello",
	} {
		if got := r.do("cat", file); !strings.Contains(got, has) {
			t.Errorf("%s: %s", file, got)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// cgroups gives the cgroups of that name.
func cgroups(t *testing.T, name string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return append(dirs, "/sys/fs/cgroup/"+name)
}

func TestADocumentIsReadAsItIsMeant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "document.md")
	if err := os.WriteFile(path, []byte("## One\n```sh\na\n```\ntext\n```text\nA … b\n```\n```\nnot run\n```\n## Two\n```sh\nb\nc\n```\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := readDocument(t, path)
	if len(d) != 2 || len(d["One"]) != 1 || d["One"][0] != (step{"a\n", "A … b\n"}) || len(d["Two"]) != 1 || d["Two"][0] != (step{"b\nc\n", ""}) {
		t.Errorf("%+v", d)
	}
	for output, want := range map[string]bool{"A 1 b\n": true, "x\nA 1\n2    b": true, "A b": false, "a 1 b": false} {
		if prints(output, "A … b\n") != want {
			t.Errorf("%q is taken for it: %v", output, !want)
		}
	}
}
