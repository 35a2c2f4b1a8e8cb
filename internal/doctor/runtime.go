package doctor

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// runTime is how long a program may take to tell its version.
const runTime = 5 * time.Second

// maxOutput bounds what is read of it.
const maxOutput = 4 << 10

// maxVersion bounds a version in it, in bytes.
const maxVersion = 64

// runtimes looks for runc, and for crun where there is none.
func runtimes(ctx context.Context, path string) []Finding {
	f := Finding{Area: "runtime", Name: "runc", Level: OK}
	file := lookPath("runc", path)
	if file == "" {
		f.Level, f.Detail = Fail, "runc is not in PATH ("+path+")"
		f.Remedy = "apt-get install runc, or put runc 1.1 or newer into PATH"
		if crun := lookPath("crun", path); crun != "" {
			f.Level, f.Detail = Warn, "runc is not in PATH, crun is: "+crun
		}
		return []Finding{f}
	}
	out, err := output(ctx, file, "--version")
	if err != nil {
		f.Level, f.Detail, f.Remedy = Fail, err.Error(), "reinstall runc; `"+file+" --version` must work"
		return []Finding{f}
	}
	return runcFindings(file, out)
}

// runcFindings reads `runc --version`.
func runcFindings(file, out string) []Finding {
	f := Finding{Area: "runtime", Name: "runc", Level: OK}
	version, major, minor, ok := runcVersion(out)
	if !ok {
		f.Level, f.Detail, f.Remedy = Fail, file+" does not tell a runc version", "put runc 1.1 or newer into PATH"
		return []Finding{f}
	}
	f.Detail = file + ", version " + version
	if major < 1 || major == 1 && minor < 1 {
		f.Level, f.Remedy = Fail, "install runc 1.1 or newer"
	}
	s := Finding{Area: "runtime", Name: "runc seccomp", Level: OK, Detail: "built with libseccomp"}
	if !strings.Contains(out, "\nlibseccomp:") {
		s.Level, s.Detail = Warn, "runc was built without libseccomp: containers run without a filter"
		s.Remedy = "install a runc that prints a libseccomp line in `runc --version`"
	}
	return []Finding{f, s}
}

// runcVersion finds the line "runc version 1.2.3" and gives what follows, and the first two of its numbers. No regular
// expression does it: package regexp and its tables of Unicode would cost every command at its start, not only doctor.
func runcVersion(out string) (version string, major, minor uint64, ok bool) {
	_, rest, _ := strings.Cut("\n"+out, "\nrunc version ")
	line, _, _ := strings.Cut(rest, "\n")
	words := strings.Fields(line)
	if len(words) == 0 || len(words[0]) > maxVersion {
		return "", 0, 0, false
	}
	version = words[0]
	first, after, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	second := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
	major, err := strconv.ParseUint(first, 10, 16)
	if err == nil {
		minor, err = strconv.ParseUint(second, 10, 16)
	}
	return version, major, minor, err == nil
}

// lookPath finds an executable file in a PATH; empty: there is none.
func lookPath(name, path string) string {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// output runs a program that prints its version, with an empty environment, and gives the first bytes that it prints.
func output(ctx context.Context, file string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a child of the program's that keeps the pipe must not hold us up
	var b limited
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", runTime)
		}
		return "", fmt.Errorf("%s %s: %w%s", file, strings.Join(args, " "), err, saying(b.text))
	}
	return string(b.text), nil
}

func saying(out []byte) string {
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if first == "" {
		return ""
	}
	return ": " + strconv.Quote(first)
}

// limited keeps the first maxOutput bytes and drops the rest, so that the writer never blocks.
type limited struct{ text []byte }

var _ io.Writer = (*limited)(nil)

func (l *limited) Write(b []byte) (int, error) {
	l.text = append(l.text, b[:min(len(b), maxOutput-len(l.text))]...)
	return len(b), nil
}
