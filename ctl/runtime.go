package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/engine"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/oci"
)

// shimName is our shim's program.
const shimName = "containerd-shim-gatewarden-v2"

// runtimeCommand changes engines' configurations; path is that of gatewarden's own settings, "" for the usual ones.
func runtimeCommand(path string) verb.Command {
	return verb.Command{
		Name: "runtime", Args: "configure|unconfigure ENGINE", Host: true,
		Summary: "switch gatewarden on in containerd, crio, podman or docker, or off",
		Help: `Writes what ENGINE (containerd, crio, podman, docker) needs, in a file of gatewarden's own where the engine takes one,
and shows it as a diff. A second time it does nothing. unconfigure takes away exactly that. What somebody else wrote, or
edited since, is refused and stays. Engines are not restarted: what they need is told.

  --dry-run          only show what would be done
  --set-default      containerd, docker: make gatewarden the runtime of containers that ask for none
  --in-place         containerd: lines of gatewarden's may be added to its config.toml. Without it they are shown where
                     containerd reads no drop-ins
  --cdi              also write (unconfigure: remove) the CDI specification of ` + "`gatewarden cdi generate`" + `, in
                     ` + engine.CDIFile + `
  --profile NAME     with --cdi: a profile that is a device, up to 1024 times; see gatewarden help cdi
  --shim FILE        the shim's program; beside this command if not given
  --file FILE        the engine's configuration, if it is not /etc/containerd/config.toml or /etc/docker/daemon.json
  --root DIR         look for every file of the engine's, and for the profiles, below DIR
  --json             {"engine", "action", "dry_run", "changed", "files": [{path, action, diff}], "notes", "next"}
  -q, --quiet        no output, same exit status

Exit status: 0 done, or nothing to do; 1 a file could not be written, those before it were; 2 usage; 3 refused, nothing
was written.
`,
		Examples: "  gatewarden runtime configure containerd --dry-run\n  gatewarden runtime configure podman --cdi --profile openclaw\n  gatewarden runtime unconfigure docker\n",
		New: func(fs *flag.FlagSet) func(context.Context, *verb.Invocation) int {
			var o engine.Options
			dry := fs.Bool("dry-run", false, "")
			fs.BoolVar(&o.SetDefault, "set-default", false, "")
			fs.BoolVar(&o.InPlace, "in-place", false, "")
			fs.BoolVar(&o.CDI, "cdi", false, "")
			names := profileFlag(fs)
			fs.StringVar(&o.Shim, "shim", "", "")
			fs.StringVar(&o.File, "file", "", "")
			fs.StringVar(&o.Root, "root", "", "")
			return func(ctx context.Context, in *verb.Invocation) int {
				switch {
				case len(in.Args) != 2 || in.Args[0] != "configure" && in.Args[0] != "unconfigure":
					return in.Usage("runtime knows: runtime configure ENGINE, runtime unconfigure ENGINE")
				case !slices.Contains(engine.Names(), in.Args[1]):
					return in.Usage("%.80q is no engine that gatewarden can configure; there are %s", in.Args[1], strings.Join(engine.Names(), ", "))
				case len(*names) > 0 && (!o.CDI || in.Args[0] == "unconfigure"):
					return in.Usage("--profile is for runtime configure with --cdi")
				case o.Root != "" && !filepath.IsAbs(o.Root), o.File != "" && !filepath.IsAbs(o.File), o.Shim != "" && !filepath.IsAbs(o.Shim):
					return in.Usage("--root, --file and --shim need absolute paths")
				}
				r := &runtimeRun{in: in, o: o, dry: *dry, names: *names}
				if err := r.options(ctx, path); err != nil {
					return r.refuse(fmt.Errorf("cannot %s %.80s: %w", in.Args[0], in.Args[1], err))
				}
				return r.run()
			}
		},
	}
}

func profileFlag(fs *flag.FlagSet) *[]string {
	names := new([]string)
	fs.Func("profile", "", func(s string) error {
		switch {
		case !oci.ValidProfileName(s):
			return errors.New("not a profile's name")
		case len(*names) == oci.MaxProfiles:
			return fmt.Errorf("more than %d profiles", oci.MaxProfiles)
		}
		*names = append(*names, s)
		return nil
	})
	return names
}

// runtimeRun is one call of the verb.
type runtimeRun struct {
	in    *verb.Invocation
	o     engine.Options
	dry   bool
	names []string // of profiles
	notes []string // beside the plan's
}

// options completes those of the command line.
func (r *runtimeRun) options(ctx context.Context, path string) error {
	r.o.Hook = r.in.Config.Hook
	r.o.HookArgs = hookArgs(path)
	r.o.Containerd = func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		said, err := exec.CommandContext(ctx, "containerd", "--version").Output()
		return string(said), err
	}
	if r.in.Args[0] == "unconfigure" {
		return nil
	}
	needs := r.o.Hook
	switch r.in.Args[1] {
	case "containerd", "docker": // run the shim
		if len(r.o.HookArgs) > 0 {
			r.notes = append(r.notes, fmt.Sprintf("%s has to have GATEWARDEN_CONFIG=%s in its environment", r.in.Args[1], r.o.HookArgs[1]))
		}
		if r.o.Shim == "" {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot tell where the shim is, name it with --shim: %w", err)
			}
			r.o.Shim = filepath.Join(filepath.Dir(self), shimName)
		}
		needs = r.o.Shim
	}
	if err := executable(filepath.Join("/", r.o.Root, needs)); err != nil {
		return err
	}
	if !r.o.CDI {
		return nil
	}
	var omitted []string
	var err error
	r.o.Devices, omitted, err = devices(r.in.Config, r.o.Root, r.names)
	r.notes = append(r.notes, omitted...)
	return err
}

// executable says why the program at path cannot be run, if it cannot.
func executable(path string) error {
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s, which the engine would run; install it there, or say where it is (--shim, or hook in gatewarden's config.toml)", path)
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not a program", path)
	}
	return nil
}

// hookArgs are what the hook has to be called with so that it finds the settings that this command was given.
func hookArgs(path string) []string {
	if path == "" || path == config.DefaultPath {
		return nil
	}
	if full, err := filepath.Abs(path); err == nil {
		path = full
	}
	return []string{"--config", path}
}

// devices gives the profiles that are CDI devices: those of these names, or, without any, those that anybody may choose by an
// annotation in any namespace, for whom a device changes nothing. It also says why others of that kind are left out.
func devices(cfg config.Config, root string, names []string) (list, omitted []string, err error) {
	dir := filepath.Join("/", root, cfg.ProfileDir)
	for _, name := range names {
		if _, err := profile.Load(dir, name); err != nil {
			return nil, nil, fmt.Errorf("profile %s cannot be a device: %w", name, oneLine(err))
		}
		list = append(list, name)
	}
	if len(names) > 0 {
		return list, nil, nil
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot list the profiles: %w", err)
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".toml")
		if !ok || !oci.ValidProfileName(name) {
			continue
		}
		p, err := profile.Load(dir, name)
		switch {
		case err != nil:
			omitted = append(omitted, fmt.Sprintf("profile %s is left out: %v", name, oneLine(err)))
		case !p.Select.Annotation || len(p.Select.Namespaces) > 0:
		case !oci.ValidDeviceName(name):
			omitted = append(omitted, fmt.Sprintf("profile %s is left out: a device's name ends with a letter or digit", name))
		default:
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return nil, omitted, fmt.Errorf("no profile in %s may be chosen by anybody ([select] annotation = true, without namespaces); say which are devices with --profile NAME", dir)
	}
	return list, omitted, nil
}

// oneLine is err for the place of one.
func oneLine(err error) error {
	if p, ok := errors.AsType[*profile.Problems](err); ok {
		return errors.New(p.OneLine())
	}
	return err
}

// refuse reports why nothing was written.
func (r *runtimeRun) refuse(err error) int {
	if r.in.JSON {
		r.in.PrintJSON(map[string]any{"error": map[string]any{"message": err.Error()}})
	}
	fmt.Fprintf(r.in.Stderr, "gatewarden: %v\n", err)
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintln(r.in.Stderr, "next: engines' configurations are root's; run gatewarden as root")
	}
	return code.ExitRefused
}

// runtimeFile is a file of `runtime --json`.
type runtimeFile struct {
	Path   string `json:"path"`
	Action string `json:"action"`
	Diff   string `json:"diff"`
}

func (r *runtimeRun) run() int {
	verb, name := r.in.Args[0], r.in.Args[1]
	do := engine.Configure
	if verb == "unconfigure" {
		do = engine.Unconfigure
	}
	plan, err := do(name, r.o)
	if err != nil {
		return r.refuse(err)
	}
	notes := append(append([]string{}, r.notes...), plan.Notes...)
	files := []runtimeFile{}
	for _, c := range plan.Changes {
		files = append(files, runtimeFile{c.Path, c.Action(), c.Diff()})
		if !r.in.JSON {
			fmt.Fprint(r.in.Stdout, c.Diff())
		}
	}
	exit := code.ExitOK
	if !r.dry {
		done, err := plan.Apply()
		if !r.in.JSON {
			for _, c := range done {
				fmt.Fprintf(r.in.Stdout, "%s: %s\n", c.Path, map[string]string{"create": "created", "change": "changed", "remove": "removed"}[c.Action()])
			}
		}
		if err != nil {
			fmt.Fprintf(r.in.Stderr, "gatewarden: %v; of %d files %d are written, repeat this when it is mended\n", err, len(files), len(done))
			exit, files = code.ExitFailed, files[:len(done)]
		}
	}
	if r.in.JSON {
		r.in.PrintJSON(map[string]any{"engine": name, "action": verb, "dry_run": r.dry, "changed": len(files) > 0, "files": files,
			"notes": notes, "next": append([]string{}, plan.Next...)})
		return exit
	}
	if len(files) == 0 && exit == code.ExitOK {
		fmt.Fprintf(r.in.Stdout, "nothing to do for %s\n", name)
	}
	for _, n := range notes {
		fmt.Fprintf(r.in.Stdout, "note: %s\n", n)
	}
	for _, n := range plan.Next {
		fmt.Fprintf(r.in.Stdout, "next: %s\n", n)
	}
	return exit
}
