//go:build packages

// The tests see what make packages has made as the tools of Debian and rpm do.
package packages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
)

var (
	dist    = flag.String("dist", "", "directory of the packages")
	newer   = flag.String("newer", "", "directory of packages with a newer version, for amd64")
	again   = flag.String("again", "", "directory of the packages as another checkout has made them, for amd64")
	debian  = flag.String("debian", "", "tar of a minimal Debian")
	qemu    = flag.String("qemu", "qemu-aarch64-static", "runs programs of arm64")
	version = flag.String("version", "", "what the programs of the packages in dist say of their version")
	later   = flag.String("newer-version", "", "and those in newer")
)

// repository is the checkout.
var repository string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if repository, err = harness.FindRepository(); err == nil && (*dist == "" || *newer == "" || *again == "" || *debian == "") {
		err = errors.New("run it by make packages-test")
	}
	if err == nil && os.Getuid() != 0 {
		err = errors.New("this needs root")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests of the packages:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// commandTime bounds one command.
const commandTime = 3 * time.Minute

// result is what a command said.
type result struct {
	args           []string
	stdout, stderr string
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("$ %s\n%s%s[exit status %d]", strings.Join(r.args, " "), r.stdout, r.stderr, r.status)
}

// try runs a command, in a plain environment, with further variables.
func try(t *testing.T, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandTime) // it serves cleanups too
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = "/"
	err := cmd.Run()
	r := result{append([]string{name}, args...), stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("%v\n%v", r, err)
	}
	return r
}

// do is try for a command that has to succeed. It gives what it wrote to its standard output.
func do(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := try(t, nil, name, args...)
	if r.status != 0 {
		t.Fatal(r)
	}
	return r.stdout
}

// pkg gives the one package in dir that ends in suffix.
func pkg(t *testing.T, dir, suffix string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s has %v with the ending %s (%v), want one", dir, found, suffix, err)
	}
	return found[0]
}

// unpacked gives a directory with what a deb has.
func unpacked(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	do(t, "dpkg-deb", "-x", deb, dir)
	return dir
}

func TestPackagesBillsAndChecksumsOfBothArchitecturesAreThere(t *testing.T) {
	for _, suffix := range []string{"_amd64.deb", "_arm64.deb", ".x86_64.rpm", ".aarch64.rpm", "_amd64.cdx.json", "_arm64.cdx.json"} {
		pkg(t, *dist, suffix)
	}
	r := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	r.Dir = *dist
	out, err := r.CombinedOutput()
	if err != nil || strings.Count(string(out), ": OK\n") != 6 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAnotherCheckoutMakesTheSamePackagesToTheLastByte(t *testing.T) {
	for _, suffix := range []string{"_amd64.deb", ".x86_64.rpm", "_amd64.cdx.json"} {
		one, two := pkg(t, *dist, suffix), pkg(t, *again, suffix)
		a, err := os.ReadFile(one)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(two)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(one) != filepath.Base(two) || !bytes.Equal(a, b) {
			t.Errorf("%s (%x) and %s (%x) differ", one, sha256.Sum256(a), two, sha256.Sum256(b))
		}
	}
}

func TestLintianFindsNothing(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		r := try(t, nil, "lintian", "--allow-root", "--tag-display-limit", "0", "--display-info", "--pedantic", "--show-overrides", pkg(t, *dist, "_"+arch+".deb"))
		t.Log(r)
		// What is known: of information the unneeded section that the C compiler makes, words in others' programs, and no init script.
		for line := range strings.Lines(r.stdout) {
			known := strings.HasPrefix(line, "N:") || strings.HasPrefix(line, "O:") || strings.HasPrefix(line, "I: gatewarden: spelling-error-in-binary ") ||
				strings.HasPrefix(line, "I: gatewarden: binary-has-unneeded-section .comment ") ||
				strings.HasPrefix(line, "I: gatewarden: package-supports-alternative-init-but-no-init.d-script ")
			if !known {
				t.Errorf("lintian of %s: %s", arch, line)
			}
		}
		if strings.Contains(r.stdout, "unused-override") || !strings.Contains(r.stdout, "O: gatewarden: statically-linked-binary") {
			t.Errorf("lintian of %s does not say what it should", arch)
		}
	}
}

func TestScriptsAreOfThePOSIXShell(t *testing.T) {
	var scripts []string
	for _, pattern := range []string{"deb/p*", "rpm/p*", "install.sh"} {
		found, err := filepath.Glob(filepath.Join(repository, "packaging", pattern))
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		scripts = append(scripts, found...)
	}
	do(t, "shellcheck", append([]string{"--shell=sh"}, scripts...)...)
	for _, s := range scripts {
		data, err := os.ReadFile(s)
		if err != nil || !strings.HasPrefix(string(data), "#!/bin/sh\n") || !strings.Contains(string(data), "\nset -e") {
			t.Errorf("%s does not begin with #!/bin/sh, or goes on after a failure (%v)", s, err)
		}
	}
}

func TestManualPagesHaveNoWarnings(t *testing.T) {
	t.Parallel()
	root := unpacked(t, pkg(t, *dist, "_amd64.deb"))
	pages, err := filepath.Glob(root + "/usr/share/man/man*/*.gz")
	if err != nil || len(pages) != 5 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, p := range pages {
		text := do(t, "gzip", "-dc", p)
		if strings.Contains(text, "@DATE@") || strings.Contains(text, "@VERSION@") {
			t.Errorf("%s: the date or the version is not filled in", p)
		}
		plain := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(p), ".gz"))
		if err := os.WriteFile(plain, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := try(t, nil, "mandoc", "-T", "lint", "-W", "warning", plain); r.status != 0 || r.stdout != "" {
			t.Error(r)
		}
		r := try(t, []string{"MANROFFSEQ=", "MANWIDTH=80"}, "man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", plain)
		if r.status != 0 || r.stderr != "" {
			t.Error(r.stderr, r.status)
		}
		name, section, _ := strings.Cut(strings.TrimSuffix(filepath.Base(p), ".gz"), ".")
		if shown := do(t, "man", "-l", plain); !strings.Contains(shown, "NAME\n       "+name) || len(shown) < 1000 {
			t.Errorf("man shows of %s(%s):\n%s", name, section, shown)
		}
	}
}

func TestBothFormatsHaveTheSameFiles(t *testing.T) {
	deb := unpacked(t, pkg(t, *dist, "_amd64.deb"))
	rpm := t.TempDir()
	// In the archive of an rpm of nfpm's the names begin with a slash.
	do(t, "sh", "-c", `cd "$1" && rpm2cpio "$2" | cpio -idm --quiet --no-absolute-filenames`, "sh", rpm, pkg(t, *dist, ".x86_64.rpm"))
	a, b := tree(t, deb), tree(t, rpm)
	// Each has its own way with these.
	for _, name := range []string{"/usr/share/doc/gatewarden/changelog.gz", "/usr/share/doc/gatewarden/changelog.Debian.gz", "/usr/share/lintian/overrides/gatewarden",
		"/usr/share/zsh/vendor-completions/_gatewarden"} {
		if a[name] == "" {
			t.Errorf("the deb does not have %s", name)
		}
		delete(a, name)
	}
	for _, name := range []string{"/usr/share/doc/gatewarden/CHANGELOG.md", "/usr/share/doc/gatewarden/LICENSE", "/usr/share/zsh/site-functions/_gatewarden"} {
		if b[name] == "" {
			t.Errorf("the rpm does not have %s", name)
		}
		delete(b, name)
	}
	for name, what := range a {
		if !strings.HasPrefix(what, "d") && b[name] != what {
			t.Errorf("%s is %s in the deb and %q in the rpm", name, what, b[name])
		}
	}
	for name, what := range b {
		if !strings.HasPrefix(what, "d") && a[name] == "" {
			t.Errorf("%s is in the rpm only", name)
		}
	}
}

// tree gives all below dir by path: mode, and for files the content's digest.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		what := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			what += " " + hex.EncodeToString(sum[:])
		}
		all[strings.TrimPrefix(path, dir)] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMakeInstallPutsTheSameFilesWherePackagesDo(t *testing.T) {
	t.Parallel()
	deb := tree(t, unpacked(t, pkg(t, *dist, "_amd64.deb")))
	install := func(prefix string) (string, map[string]string) {
		dir := t.TempDir()
		r := try(t, []string{"BIN=" + filepath.Join(repository, ".cache/packages/amd64"), "PREFIX=" + prefix, "DESTDIR=" + dir, "VERSION=1.2.3", "SOURCE_DATE_EPOCH=1795667000"},
			filepath.Join(repository, "packaging/install.sh"))
		if r.status != 0 {
			t.Fatal(r)
		}
		return dir, tree(t, dir)
	}
	_, usr := install("/usr/")
	for name, what := range deb {
		switch {
		case strings.HasPrefix(what, "d"), strings.HasPrefix(name, "/usr/share/doc/"), strings.HasPrefix(name, "/usr/share/lintian/"),
			strings.HasPrefix(name, "/usr/share/zsh/"), strings.HasPrefix(name, "/usr/share/man/"):
		case usr[name] != what:
			t.Errorf("%s is %s in the deb, and %q by make install", name, what, usr[name])
		}
	}
	for name := range deb {
		if page, is := strings.CutSuffix(name, ".gz"); is && strings.HasPrefix(name, "/usr/share/man/") && usr[page] == "" {
			t.Errorf("make install leaves out %s", page)
		}
	}
	dir, local := install("/usr/local")
	for _, name := range []string{"/usr/local/bin/gatewarden", "/usr/local/libexec/gatewarden/gatewarden-hook", "/usr/local/lib/systemd/system/gatewarden-metrics.service",
		"/usr/local/share/man/man1/gatewarden.1", "/etc/gatewarden/gateways.d", "/var/lib/gatewarden"} {
		if local[name] == "" {
			t.Errorf("make install PREFIX=/usr/local does not make %s", name)
		}
	}
	for file, want := range map[string]string{
		"/etc/gatewarden/config.toml":                               "\nhook = \"/usr/local/libexec/gatewarden/gatewarden-hook\"\n",
		"/usr/local/lib/systemd/system/gatewarden-metrics.service":  "\nExecStart=/usr/local/bin/gatewarden metrics ",
		"/usr/local/share/man/man8/containerd-shim-gatewarden-v2.8": `2026-11-26 "gatewarden 1.2.3"`,
	} {
		if data, err := os.ReadFile(dir + file); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s does not say %q (%v):\n%s", file, want, err, data)
		}
	}
}

func TestTheBillOfMaterialsNamesWhatIsLinked(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		data, err := os.ReadFile(pkg(t, *dist, "_"+arch+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bill struct {
			BOMFormat  string
			Components []struct {
				Name, Version string
				Hashes        []struct{ Content string }
				Licenses      []any
			}
			Dependencies []struct {
				Ref       string
				DependsOn []string
			}
		}
		if err := json.Unmarshal(data, &bill); err != nil || bill.BOMFormat != "CycloneDX" {
			t.Fatal(err, bill.BOMFormat)
		}
		root := unpacked(t, pkg(t, *dist, "_"+arch+".deb"))
		hook, err := os.ReadFile(root + "/usr/libexec/gatewarden/gatewarden-hook")
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]string{}
		for _, c := range bill.Components {
			names[c.Name] = c.Version
			if len(c.Licenses) == 0 || c.Version == "" {
				t.Errorf("%s: %+v is without a licence or a version", arch, c)
			}
			if sum := sha256.Sum256(hook); c.Name == "gatewarden-hook" && (len(c.Hashes) != 1 || c.Hashes[0].Content != hex.EncodeToString(sum[:])) {
				t.Errorf("%s: the hook in the package has the digest %x, and the bill %+v", arch, sum, c.Hashes)
			}
		}
		for _, name := range []string{"gatewarden", "containerd-shim-gatewarden-v2", "github.com/opencontainers/runc", "github.com/containerd/containerd/v2", "std", "libseccomp", "glibc"} {
			if names[name] == "" {
				t.Errorf("%s: the bill does not have %s", arch, name)
			}
		}
		for _, line := range strings.Split(do(t, "go", "version", "-m", root+"/usr/libexec/gatewarden/gatewarden-hook"), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "dep" && names[f[1]] != f[2] {
				t.Errorf("%s: the hook has %s %s, and the bill %q", arch, f[1], f[2], names[f[1]])
			}
		}
		if len(bill.Dependencies) != 4 || !slices.ContainsFunc(bill.Dependencies, func(d struct {
			Ref       string
			DependsOn []string
		}) bool {
			return d.Ref == "gatewarden-hook" && slices.ContainsFunc(d.DependsOn, func(s string) bool { return strings.Contains(s, "libseccomp@") })
		}) {
			t.Errorf("%s: that the hook needs libseccomp is not told: %+v", arch, bill.Dependencies)
		}
	}
}

func TestTheCopyrightFileHasTheLicencesOfWhatIsLinked(t *testing.T) {
	root := unpacked(t, pkg(t, *dist, "_amd64.deb"))
	data, err := os.ReadFile(root + "/usr/share/doc/gatewarden/copyright")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n", "\nFiles: libseccomp/*\n", "\nLicense: LGPL-2.1\n", "snapshot.debian.org/package/libseccomp/",
		" golang.org/x/sys/*\n", "\nLicense: MPL-2.0 and BSD-3-Clause\n", " Mozilla Public License", " std/*\n", "\nLicense: BSD-3-Clause\n", "Neither the name of Google",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the copyright file does not have %q", want)
		}
	}
	for _, program := range []string{"/usr/bin/gatewarden", "/usr/bin/containerd-shim-gatewarden-v2", "/usr/libexec/gatewarden/gatewarden-hook"} {
		for _, line := range strings.Split(do(t, "go", "version", "-m", root+program), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "dep" && !strings.Contains(string(data), f[1]+" "+f[2]+", linked into ") {
				t.Errorf("%s has %s %s, which the copyright file does not tell", program, f[1], f[2])
			}
		}
	}
}
