package install

import (
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
