package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/oci"
)

// Options are the hook's own flags.
type Options struct {
	Namespace string // containerd namespace; "": learned from the bundle's path, else "default"
	Profile   string // named by the administrator, so that no annotation is needed and [select] does not count
	Early     *Early // for the container's warden; nil: it is started when it is needed
}

// CreateRuntime installs the gateway of the container whose state is on stdin. A container for which neither opt nor an
// annotation names a profile is left alone. The error is one that the user of the container should read; of what it made,
// CreateRuntime has then removed everything.
func CreateRuntime(stdin io.Reader, cfg config.Config, opt Options) error {
	state, err := oci.ReadState(stdin, oci.CreateRuntime)
	if err != nil {
		return fmt.Errorf("cannot install a gateway: %w", err)
	}
	namespace, err := namespaceOf(state, opt)
	if err != nil {
		return fmt.Errorf("cannot install a gateway for %s: %w", state.ID, err)
	}
	container := namespace + "/" + state.ID
	spec, err := oci.LoadProcess(state.Bundle)
	if err != nil {
		return fmt.Errorf("cannot install a gateway for %s: %w", container, err)
	}
	name, annotated, err := profileName(spec, opt)
	if err != nil {
		return fmt.Errorf("cannot install a gateway for %s: %w", container, err)
	}
	if name == "" {
		return nil
	}
	if err := Privileged(); err != nil {
		return fmt.Errorf("cannot install gateway %q for %s: %w", name, container, err)
	}
	i := &installation{state: state, spec: spec, record: Install{
		Version: recordVersion, Namespace: namespace, ID: state.ID, Bundle: state.Bundle, Profile: name, Config: paths(cfg),
	}}
	defer i.unlock()
	if err := i.run(annotated, opt.Early); err != nil {
		i.undo()
		return fmt.Errorf("cannot install gateway %q for %s: %w", name, container, err)
	}
	return nil
}

// namespaceOf is the containerd namespace of a container, which hooks are not told: containerd's bundles are at
// STATE/io.containerd.runtime.v2.task/NAMESPACE/ID.
func namespaceOf(state oci.State, opt Options) (string, error) {
	namespace := opt.Namespace
	if namespace == "" {
		namespace = "default"
		dir, id := filepath.Split(state.Bundle)
		tasks, ns := filepath.Split(filepath.Clean(dir))
		if id == state.ID && filepath.Base(tasks) == "io.containerd.runtime.v2.task" {
			namespace = ns
		}
	}
	if !oci.ValidID(namespace) {
		return "", fmt.Errorf("namespace %.80q is not a containerd namespace", namespace)
	}
	return namespace, nil
}

// profileName is the profile of a container, or "", and whether an annotation alone named it.
func profileName(spec *specs.Spec, opt Options) (name string, annotated bool, err error) {
	if opt.Profile != "" && !oci.ValidProfileName(opt.Profile) {
		return "", false, fmt.Errorf("--profile %.80q is not a profile's name", opt.Profile)
	}
	switch name, err = oci.Gateway(spec.Annotations); {
	case err != nil:
		return "", false, err
	case opt.Profile == "":
		return name, name != "", nil
	case name != "" && name != opt.Profile:
		return "", false, fmt.Errorf("its annotation names profile %q, and the hook's --profile (of a device, or of its config.json) %q: a container has one gateway; leave one of them out",
			name, opt.Profile)
	}
	return opt.Profile, false, nil
}

// installation is one createRuntime in progress.
type installation struct {
	state   oci.State
	spec    *specs.Spec
	record  Install
	profile *profile.Profile
	init    *process.Process
	maps    idmap.Maps // of the container's user namespace
	host    idmap.ID   // who the gateway is here
	lock    *os.File
	made    []func() // removes what was made, in the order in which it was made

	configuration configuration
}

func (i *installation) undo() {
	for _, remove := range slices.Backward(i.made) {
		remove()
	}
}

// unlock lets go of this process's hold of the lock. The warden's, if there is one, is of the same open file description
// and keeps it locked (flock(2)).
func (i *installation) unlock() {
	if i.lock != nil {
		i.lock.Close()
	}
}

func (i *installation) run(annotated bool, early *Early) (err error) {
	// What can be judged without touching anything comes first.
	if i.profile, err = profile.Load(i.record.Config.ProfileDir, i.record.Profile); err != nil {
		return invalid(err)
	}
	if annotated {
		in, err := oci.PlaceOf(i.spec.Annotations)
		if err != nil {
			return err
		}
		if err := i.profile.SelectableBy(i.record.Namespace, in.Namespace); err != nil {
			return invalid(err)
		}
	}
	if i.init, err = process.Open(i.state.PID); err != nil {
		return fmt.Errorf("cannot take hold of the container's init: %w", err)
	}
	defer i.init.Close()
	i.record.InitPID, i.record.InitStart = i.init.PID(), i.init.Start()
	if i.maps, err = idmap.Of(i.init); err != nil {
		return err
	}
	if i.host, err = posture.Host(i.profile, i.maps); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), copyTime)
	defer cancel()
	err = i.configure(ctx)
	defer generation.Close(i.configuration.sources)
	if err != nil {
		return err
	}
	// The profile can be another one by now.
	if i.host, err = posture.Host(i.profile, i.maps); err != nil {
		return err
	}
	judged := posture.Check(i.spec, i.profile, i.maps.Apart)
	if err := judged.Err(); err != nil {
		return err
	}
	if i.record.Rootfs, err = rootfs(i.state.Bundle, i.spec); err != nil {
		return err
	}
	program, err := i.checkProgram()
	if err != nil {
		return err
	}
	if err := program.Err(); err != nil {
		return err
	}
	i.record.PostureAllows = posture.Allows(judged, program)
	if i.record.RuntimeRoot, err = runtimeRoot(i.state.Bundle, i.record.Namespace, i.state.ID, os.Getppid()); err != nil {
		return err
	}
	// Not known is no reason to refuse: a warden that needs it says so.
	i.record.Runtime, _ = runtimeProgram(os.Getppid())

	if err := i.claim(); err != nil {
		return err
	}
	sources, err := i.sources(ctx)
	defer mount.Close(sources)
	if err != nil {
		return err
	}
	// The runtime fails the create if we fail, and the mounts die with the container's mount namespace.
	if len(sources) == 0 {
		i.record.Mounts = []mount.Placed{}
	} else if i.record.Mounts, err = mount.Place(i.init, i.record.Rootfs, sources, mount.Options{
		PinParents:   posture.OwnsRoot(i.spec, i.maps),
		ReadOnlyRoot: i.spec.Root.Readonly,
		Root:         i.maps.UIDs.HostOrNone(0),
		RootGroup:    i.maps.GIDs.HostOrNone(0),
	}); err != nil {
		return err
	}
	// The directory is locked and was emptied. Nobody reads the record before the warden does.
	if err := i.record.Write(); err != nil {
		return err
	}
	return i.startWarden(early)
}

// invalid makes one line with a code of what is wrong with a profile.
func invalid(err error) error {
	if p, ok := errors.AsType[*profile.Problems](err); ok {
		return code.Errorf(code.InvalidProfile, code.StageInstall, "%s", p.OneLine())
	}
	return code.Errorf(code.InvalidProfile, code.StageInstall, "%w", err)
}

func rootfs(bundle string, spec *specs.Spec) (string, error) {
	if spec.Root == nil || spec.Root.Path == "" {
		return "", errors.New("the specification has no root filesystem")
	}
	if filepath.IsAbs(spec.Root.Path) {
		return filepath.Clean(spec.Root.Path), nil
	}
	return filepath.Join(bundle, spec.Root.Path), nil
}

// sources opens what is to be mounted: what the configuration has for [[mount]] entries, then [[state]] directories, which are
// made if need be.
func (i *installation) sources(ctx context.Context) ([]mount.Source, error) {
	n, err := i.settle(ctx)
	// One that was just made is this gateway's already.
	if err == nil && i.configuration.before != nil {
		err = i.giveGenerations()
	}
	if err != nil {
		return nil, err
	}
	sources, err := MountSources(i.configuration.store, n, i.profile, i.configuration.unlocked)
	if err != nil {
		return sources, err
	}
	for _, s := range i.profile.States {
		f, err := i.stateSource(s.Target)
		if err != nil {
			return sources, err
		}
		sources = append(sources, mount.Source{File: f, Path: f.Name(), Target: s.Target, Writable: true})
	}
	return sources, nil
}

// Poststop removes what CreateRuntime made for the container whose state is on stdin, except [[state]] directories and a
// configuration that was applied; of a container of a Kubernetes pod it removes these too, since that has an ID that never
// comes again: the kubelet makes another container instead of starting one anew. A container that has no gateway, or whose
// installation failed, is no error. The warden ends by itself with the container's init; Poststop waits for that.
func Poststop(stdin io.Reader, cfg config.Config, opt Options) error {
	state, err := oci.ReadState(stdin, oci.Poststop)
	if err != nil {
		return fmt.Errorf("cannot clean up after a gateway: %w", err)
	}
	namespace, err := namespaceOf(state, opt)
	if err != nil {
		return fmt.Errorf("cannot clean up after the gateway of %s: %w", state.ID, err)
	}
	if Privileged() != nil {
		return nil // then CreateRuntime has made nothing
	}
	i := Install{Namespace: namespace, ID: state.ID, Config: paths(cfg)}
	keep := []string{stateName, generation.DirName}
	if in, err := oci.PlaceOf(state.Annotations); err == nil && in.Pod {
		keep = nil
	}
	if err := i.clean(state.Bundle, keep, wardenEnds); err != nil {
		return fmt.Errorf("cannot clean up after the gateway of %s/%s: %w", namespace, state.ID, err)
	}
	return nil
}

// wardenEnds is how long poststop waits for the warden of a container whose init is gone.
const wardenEnds = 5 * time.Second

// clean removes the traces of i's container, which ran from bundle, but for the entries named keep of its state directory.
func (i Install) clean(bundle string, keep []string, patience time.Duration) error {
	dir := i.RunDir()
	// Two runtimes can each have a container of this name, in roots of their own. Only one of them got a gateway.
	record, err := Read(dir)
	if err == nil && record.Bundle != bundle {
		return nil
	}
	lock, err := lockExisting(dir, patience)
	switch {
	case errors.Is(err, errLocked):
		if record.Version != 0 && alive(record) {
			return nil
		}
		return fmt.Errorf("its warden has not ended %v after the container; see %s", patience, filepath.Join(i.LogDir(), LogName))
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		defer lock.Close()
	}
	return errors.Join(RemoveRunDir(dir), removeLogs(i.LogDir()), i.removeState(keep))
}

// alive tells whether the container's init, that very process, still runs.
func alive(i Install) bool {
	p, err := process.Open(i.InitPID)
	if err != nil {
		return false
	}
	defer p.Close()
	return p.Start() == i.InitStart && !p.Exited()
}
