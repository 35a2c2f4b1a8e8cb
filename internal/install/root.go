package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

// Bounds of what is read while looking for the runtime's root, in bytes.
const (
	maxOptions = 1 << 20
	maxCmdline = 128 << 10
)

// optionsName is the file in which containerd's runc shim keeps the runtime options of a bundle's container.
const optionsName = "options.json"

// defaultRoots are where runtimes keep their state without being told. Containerd's and moby's have a directory per
// containerd namespace below.
var defaultRoots = []struct {
	path         string
	perNamespace bool
}{
	{containerdRoot, true},
	{"/run/docker/runtime-runc", true},
	{"/run/runc", false},
	{"/run/crun", false},
}

const containerdRoot = "/run/containerd/runc"

// runtimeRoot finds the directory in which the runtime that runs this hook keeps its containers. Only a directory that
// has one for id counts; that is there from the beginning of create, with runc and with crun.
func runtimeRoot(bundle, namespace, id string, parent int) (string, error) {
	var candidates []string
	options, err := readBounded(filepath.Join(bundle, optionsName), maxOptions)
	switch {
	case err == nil:
		root, err := rootOfOptions(options)
		if err != nil {
			return "", fmt.Errorf("cannot use %s: %w", filepath.Join(bundle, optionsName), err)
		}
		candidates = append(candidates, filepath.Join(root, namespace))
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	// The parent of a createRuntime hook is the runtime itself.
	if cmdline, err := readBounded("/proc/"+strconv.Itoa(parent)+"/cmdline", maxCmdline); err == nil {
		if root := rootOfCommand(cmdline); root != "" {
			candidates = append(candidates, root)
		}
	}
	for _, d := range defaultRoots {
		root := d.path
		if d.perNamespace {
			root = filepath.Join(root, namespace)
		}
		candidates = append(candidates, root)
	}
	for _, root := range candidates {
		if st, err := os.Stat(filepath.Join(root, id)); err == nil && st.IsDir() {
			return root, nil
		}
	}
	return "", fmt.Errorf("cannot find the root directory of the OCI runtime: none of %s has a container %s; start the runtime with --root DIR", strings.Join(candidates, ", "), id)
}

// rootOfOptions gives the root in options.json, to which containerd adds its namespace. The file is the JSON form of
// containerd's runc options (api/types/runc/options), with "root" left out when it is the default.
func rootOfOptions(data []byte) (string, error) {
	var options struct {
		Root string `json:"root"`
	}
	if err := json.Unmarshal(data, &options); err != nil {
		return "", err
	}
	switch {
	case options.Root == "":
		return containerdRoot, nil
	case !filepath.IsAbs(options.Root) || strings.ContainsRune(options.Root, 0):
		return "", fmt.Errorf("root %.200q is not an absolute path", options.Root)
	}
	return filepath.Clean(options.Root), nil
}

// rootOfCommand gives the --root of a runtime's command line as /proc/PID/cmdline has it, or "". Global options come
// before the command, and the first --root wins only if it is one: "-" or "--", "=" or the next argument.
func rootOfCommand(cmdline []byte) string {
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	for n, arg := range args[1:] {
		option, ok := strings.CutPrefix(arg, "-")
		if !ok {
			continue
		}
		name, value, inline := strings.Cut(strings.TrimPrefix(option, "-"), "=")
		if name != "root" {
			continue
		}
		if !inline {
			if n+2 >= len(args) {
				return ""
			}
			value = args[n+2]
		}
		if !filepath.IsAbs(value) {
			return ""
		}
		return filepath.Clean(value)
	}
	return ""
}

// readBounded reads a file of at most max bytes, following no link in last place.
func readBounded(path string, max int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, max)
	}
	return data, nil
}

// programDirs are where a runtime is looked for whose command line does not say where it is: the directories that conmon, podman
// and containerd start it from, which look in their PATH.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// maxProgram bounds the size of a runtime that is compared with another, in bytes.
const maxProgram = 64 << 20

// runtimeProgram finds the program of the runtime that runs this hook, so that it can be asked to start a process in the container
// later on. A path counts only if what it names is what the parent of the hook runs. An error is no reason to refuse
// the container: libcontainer does without it.
func runtimeProgram(parent int) (string, error) {
	proc := "/proc/" + strconv.Itoa(parent)
	running, err := os.Open(proc + "/exe")
	if err != nil {
		return "", fmt.Errorf("cannot open the OCI runtime, process %d: %w", parent, err)
	}
	defer running.Close()
	var candidates []string
	// crun runs a copy or a mount of itself, whose name says nothing, and runc may.
	if path, err := os.Readlink(proc + "/exe"); err == nil {
		candidates = append(candidates, path)
	}
	cmdline, err := readBounded(proc+"/cmdline", maxCmdline)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(string(cmdline), "\x00")
	if filepath.IsAbs(name) {
		candidates = append(candidates, filepath.Clean(name))
	} else {
		for _, dir := range programDirs {
			candidates = append(candidates, filepath.Join(dir, filepath.Base(name)))
		}
	}
	for _, path := range candidates {
		// The path is kept, so it must not change its meaning with a link. On a merged /usr, /bin is one.
		real, err := filepath.EvalSymlinks(path)
		if err != nil || !filepath.IsAbs(real) {
			continue
		}
		f, err := trusted.OpenPath(real)
		if err != nil {
			continue
		}
		f.Close()
		if same, err := sameProgram(running, real); err == nil && same {
			return real, nil
		}
	}
	return "", fmt.Errorf("cannot find the program of the OCI runtime, process %d: none of %s is root's alone and what it runs",
		parent, strings.Join(candidates, ", "))
}

// sameProgram tells whether the file at path is the one that is running, or has the same content.
func sameProgram(running *os.File, path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	a, err := running.Stat()
	if err != nil {
		return false, err
	}
	b, err := f.Stat()
	if err != nil || !b.Mode().IsRegular() {
		return false, err
	}
	if os.SameFile(a, b) {
		return true, nil
	}
	if a.Size() != b.Size() || a.Size() > maxProgram {
		return false, nil
	}
	const chunk = 64 << 10
	one, other := make([]byte, chunk), make([]byte, chunk)
	for at := int64(0); at < a.Size(); at += chunk {
		n, err := running.ReadAt(one, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		m, err := f.ReadAt(other, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n != m || !bytes.Equal(one[:n], other[:m]) {
			return false, nil
		}
	}
	return true, nil
}
