package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// HookTimeout is what AddHooks allows each hook, in seconds. The hook itself gives up well before; the runtime's limit
// is for a host on which nothing moves.
const HookTimeout = 30

// hookEnv is the whole environment of an added hook: without an env member, runc gives a hook its own environment.
var hookEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// AddHooks puts the hook program at hookPath into spec's createRuntime and poststop hooks, after those that are there
// (such as the one by which nerdctl sets up the network). Its command line is the stage's name followed by args. A stage
// that runs this program already, with whatever arguments, is left as it is: what the administrator wrote counts.
func AddHooks(spec *specs.Spec, hookPath string, args []string) {
	if spec.Hooks == nil {
		spec.Hooks = &specs.Hooks{}
	}
	add := func(hooks []specs.Hook, stage Stage) []specs.Hook {
		if slices.ContainsFunc(hooks, func(h specs.Hook) bool { return h.Path == hookPath }) {
			return hooks
		}
		return append(hooks, hook(hookPath, stage, args))
	}
	spec.Hooks.CreateRuntime = add(spec.Hooks.CreateRuntime, CreateRuntime)
	spec.Hooks.Poststop = add(spec.Hooks.Poststop, Poststop)
}

// hook is the entry for one stage: its command line is the stage's name followed by args.
func hook(path string, stage Stage, args []string) specs.Hook {
	timeout := HookTimeout
	return specs.Hook{
		Path: path, Args: append([]string{filepath.Base(path), string(stage)}, args...), Env: slices.Clone(hookEnv), Timeout: &timeout,
	}
}

// LoadSpec reads the config.json of a bundle. It must be a regular file, not a link, of at most MaxConfig bytes.
func LoadSpec(bundle string) (*specs.Spec, error) { return load[specs.Spec](bundle) }

// LoadProcess is LoadSpec for a reader who wants to know what runs in the container and as whom. The other members of the
// specification are left empty, and cost nothing: what a JSON decoder has to know of all of them takes it a quarter of a
// megabyte, for as long as the program runs.
func LoadProcess(bundle string) (*specs.Spec, error) {
	part, err := load[struct {
		Process     *specs.Process    `json:"process"`
		Root        *specs.Root       `json:"root"`
		Annotations map[string]string `json:"annotations"`
		Linux       *struct {
			Namespaces []specs.LinuxNamespace `json:"namespaces"`
		} `json:"linux"`
	}](bundle)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{Process: part.Process, Root: part.Root, Annotations: part.Annotations}
	if part.Linux != nil {
		spec.Linux = &specs.Linux{Namespaces: part.Linux.Namespaces}
	}
	return spec, nil
}

// LoadAnnotations is LoadSpec for a reader who wants to know the annotations alone.
func LoadAnnotations(bundle string) (map[string]string, error) {
	part, err := load[struct {
		Annotations map[string]string `json:"annotations"`
	}](bundle)
	if err != nil {
		return nil, err
	}
	return part.Annotations, nil
}

// load reads the members of a bundle's config.json that T has.
func load[T any](bundle string) (*T, error) {
	dir, err := openBundle(bundle)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	data, _, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	return parse[T](bundle, data)
}

// EditBundle changes the config.json of a bundle in place: it hands the specification to edit and writes back what edit
// changed, and nothing else. Members that this version of the specification does not know keep their place and value,
// and numbers their digits. The file is replaced at once (rename(2)) and keeps its mode and owner; if edit changes
// nothing, it is not written at all.
//
// Of a list, members that are unknown here survive when edit appends to it or keeps its length; otherwise the list is
// written as edit left it.
func EditBundle(bundle string, edit func(*specs.Spec) error) error { return editBundle(bundle, edit) }

// EditConfig is EditBundle for the text of a config.json: it gives that text with what edit changed, or config itself if that is
// nothing. More than MaxConfig bytes are an error.
func EditConfig(config []byte, edit func(*specs.Spec) error) ([]byte, error) {
	if len(config) > MaxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes", ConfigName, MaxConfig)
	}
	edited, err := editSpec("", config, edit)
	if edited == nil && err == nil {
		return config, nil
	}
	return edited, err
}

// AddHooksToBundle is AddHooks with the config.json of a bundle, which it changes as EditBundle does. Only the hooks are
// decoded.
func AddHooksToBundle(bundle, hookPath string, args []string) error {
	type hooks struct {
		Hooks *specs.Hooks `json:"hooks,omitempty"`
	}
	return editBundle(bundle, func(h *hooks) error {
		spec := specs.Spec{Hooks: h.Hooks}
		AddHooks(&spec, hookPath, args)
		h.Hooks = spec.Hooks
		return nil
	})
}

// editBundle is EditBundle for the members that T has.
func editBundle[T any](bundle string, edit func(*T) error) error {
	dir, err := openBundle(bundle)
	if err != nil {
		return err
	}
	defer dir.Close()
	data, st, err := readConfig(dir)
	if err != nil {
		return err
	}
	edited, err := editSpec(bundle, data, edit)
	if err != nil {
		return err
	}
	if edited == nil {
		return nil
	}
	if err := replaceConfig(dir, edited, st); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(bundle, ConfigName), err)
	}
	return nil
}

// editSpec gives data with what edit changes, or nil if that is nothing.
func editSpec[T any](bundle string, data []byte, edit func(*T) error) ([]byte, error) {
	spec, err := parse[T](bundle, data)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the specification of bundle %s: %w", bundle, err)
	}
	if err := edit(spec); err != nil {
		return nil, err
	}
	after, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the specification of bundle %s: %w", bundle, err)
	}
	if bytes.Equal(before, after) {
		return nil, nil
	}
	edited, err := merge(data, before, after)
	if err != nil {
		return nil, fmt.Errorf("cannot edit %s: %w", filepath.Join(bundle, ConfigName), err)
	}
	// A file with a member twice, or as "Hooks" beside "hooks", can be read in more than one way. What was written must
	// read as what was meant, and of what T does not have nobody can tell.
	check, err := parse[T](bundle, edited)
	if err != nil {
		return nil, err
	}
	if reread, err := json.Marshal(check); err != nil || !bytes.Equal(reread, after) || repeats(data) {
		return nil, fmt.Errorf("cannot edit %s: it has ambiguous members; write each member once, in lower case", filepath.Join(bundle, ConfigName))
	}
	return edited, nil
}

// repeats tells whether the JSON object data has two members of one name, as a reader may see it who does not tell upper
// case from lower.
func repeats(data []byte) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return false
	}
	var names []string
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return false
		}
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, fmt.Sprint(name)) }) {
			return true
		}
		names = append(names, fmt.Sprint(name))
	}
	return false
}

func parse[T any](bundle string, data []byte) (*T, error) {
	var spec T
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("cannot parse %s: %w", filepath.Join(bundle, ConfigName), err)
	}
	return &spec, nil
}

func openBundle(bundle string) (*os.File, error) {
	fd, err := unix.Open(bundle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open the bundle", Path: bundle, Err: err}
	}
	return os.NewFile(uintptr(fd), bundle), nil
}

func readConfig(dir *os.File) ([]byte, *unix.Stat_t, error) {
	path := filepath.Join(dir.Name(), ConfigName)
	// O_NONBLOCK: opening a FIFO must not wait for its writer.
	fd, err := unix.Openat(int(dir.Fd()), ConfigName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, nil, fmt.Errorf("%s is a symbolic link; it must be a regular file", path)
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxConfig+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > MaxConfig {
		return nil, nil, fmt.Errorf("%s is larger than %d bytes", path, MaxConfig)
	}
	return data, &st, nil
}

// temporaryName is where config.json is written before it takes its place. A bundle has one editor at a time, its
// container's creator; a leftover of one that was killed is overwritten.
const temporaryName = "." + ConfigName + ".gatewarden"

func replaceConfig(dir *os.File, data []byte, st *unix.Stat_t) (err error) {
	if err := unix.Unlinkat(int(dir.Fd()), temporaryName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), temporaryName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temporaryName)
	defer func() {
		f.Close()
		if err != nil {
			unix.Unlinkat(int(dir.Fd()), temporaryName, 0)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// After chown, which clears set-ID bits.
	if err := unix.Fchmod(int(f.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	return unix.Renameat(int(dir.Fd()), temporaryName, int(dir.Fd()), ConfigName)
}

// merge applies to raw the difference between before and after, which are two encodings of what this program knows of
// raw. All three are JSON values.
func merge(raw, before, after json.RawMessage) (json.RawMessage, error) {
	if bytes.Equal(before, after) && raw != nil {
		return raw, nil
	}
	switch {
	case kind(raw) == '{' && kind(before) == '{' && kind(after) == '{':
		return mergeObjects(raw, before, after)
	case kind(raw) == '[' && kind(before) == '[' && kind(after) == '[':
		return mergeLists(raw, before, after)
	}
	return after, nil
}

func mergeObjects(raw, before, after json.RawMessage) (json.RawMessage, error) {
	r, b, a := map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for data, m := range map[*json.RawMessage]*map[string]json.RawMessage{&raw: &r, &before: &b, &after: &a} {
		if err := json.Unmarshal(*data, m); err != nil {
			return nil, err
		}
	}
	for key, value := range a {
		if old, ok := b[key]; ok && bytes.Equal(old, value) {
			continue
		}
		merged, err := merge(r[key], b[key], value)
		if err != nil {
			return nil, err
		}
		r[key] = merged
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			delete(r, key)
		}
	}
	return json.Marshal(r)
}

func mergeLists(raw, before, after json.RawMessage) (json.RawMessage, error) {
	var r, b, a []json.RawMessage
	for data, l := range map[*json.RawMessage]*[]json.RawMessage{&raw: &r, &before: &b, &after: &a} {
		if err := json.Unmarshal(*data, l); err != nil {
			return nil, err
		}
	}
	appended := len(a) >= len(b) && slices.EqualFunc(a[:len(b)], b, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) })
	if len(r) != len(b) || len(a) != len(b) && !appended {
		return after, nil
	}
	for i := range a {
		if i >= len(r) {
			r = append(r, a[i])
			continue
		}
		merged, err := merge(r[i], b[i], a[i])
		if err != nil {
			return nil, err
		}
		r[i] = merged
	}
	return json.Marshal(r)
}

// kind is the first byte of a JSON value.
func kind(raw json.RawMessage) byte {
	if t := bytes.TrimLeft(raw, " \t\r\n"); len(t) > 0 {
		return t[0]
	}
	return 0
}
