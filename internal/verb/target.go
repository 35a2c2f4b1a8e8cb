package verb

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
)

// Target names one container.
type Target struct {
	Namespace string // containerd namespace
	ID        string
}

// String gives NAMESPACE/ID.
func (t Target) String() string { return t.Namespace + "/" + t.ID }

func (t Target) compare(o Target) int {
	return cmp.Or(strings.Compare(t.Namespace, o.Namespace), strings.Compare(t.ID, o.ID))
}

// ambiguousError is a name that several containers have. The text lists them.
type ambiguousError struct {
	name       string
	candidates []Target
}

// maxCandidates bounds the list in the message.
const maxCandidates = 20

func (e *ambiguousError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q could be any of %d containers; name one of them", e.name, len(e.candidates))
	for i, t := range e.candidates {
		if i == maxCandidates {
			fmt.Fprintf(&b, "\n  … and %d more", len(e.candidates)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s", t)
	}
	return b.String()
}

// target gives the container that the invocation is about: the virtual exec's own, or the one that its only argument
// names. dirs are the directories below which NAMESPACE/ID directories are looked for.
func (in *Invocation) target(dirs ...string) (Target, int) {
	if in.Target != nil {
		if len(in.Args) != 0 {
			return Target{}, in.Usage("inside a container %s acts on that container and takes no argument such as %q", in.Command.Name, in.Args[0])
		}
		return *in.Target, code.ExitOK
	}
	switch len(in.Args) {
	case 0:
		return Target{}, in.Usage("%s needs a container; gatewarden ps lists them", in.Command.Name)
	case 1:
	default:
		return Target{}, in.Usage("%s takes one container, not %d arguments", in.Command.Name, len(in.Args))
	}
	t, err := find(in.Args[0], in.Namespace, dirs)
	if e, ok := errors.AsType[*ambiguousError](err); ok {
		fmt.Fprintf(in.Stderr, "gatewarden: %s\n", e)
		return Target{}, code.ExitUsage
	}
	if err != nil {
		exit := in.Fail(err)
		if code.From(err, code.StageQueue).Code == code.NotManaged {
			in.advise(Target{}, "", code.NotManaged)
		}
		return Target{}, exit
	}
	return t, code.ExitOK
}

// find resolves ID, NAMESPACE/ID or a unique prefix of either. An ID in namespace wins over the same ID elsewhere, as
// with ctr; a whole ID wins over a prefix.
func find(name, namespace string, dirs []string) (Target, error) {
	all, err := list(dirs)
	if err != nil {
		return Target{}, err
	}
	ns, id, qualified := strings.Cut(name, "/")
	if !qualified {
		ns, id = "", name
	}
	var exact, prefixed []Target
	for _, t := range all {
		if qualified && t.Namespace != ns {
			continue
		}
		if t.ID == id && (qualified || t.Namespace == namespace) {
			return t, nil
		}
		if t.ID == id {
			exact = append(exact, t)
		}
		if id != "" && strings.HasPrefix(t.ID, id) {
			prefixed = append(prefixed, t)
		}
	}
	for _, found := range [][]Target{exact, prefixed} {
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return Target{}, &ambiguousError{name, found}
		}
	}
	return Target{}, code.Errorf(code.NotManaged, code.StageQueue,
		"no container with a gateway is called %q on this host", name)
}

// list gives the containers that have a directory below one of dirs, sorted. A directory that does not exist has none.
func list(dirs []string) ([]Target, error) {
	var all []Target
	for _, dir := range dirs {
		namespaces, err := subdirs(dir)
		if err != nil {
			return nil, err
		}
		for _, ns := range namespaces {
			ids, err := subdirs(filepath.Join(dir, ns))
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				all = append(all, Target{ns, id})
			}
		}
	}
	slices.SortFunc(all, Target.compare)
	return slices.Compact(all), nil
}

func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot list the containers: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
