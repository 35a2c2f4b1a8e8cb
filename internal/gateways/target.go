package gateways

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

// AmbiguousError is a name that several containers have. The text lists them.
type AmbiguousError struct {
	Name       string
	Candidates []Target
}

// maxCandidates bounds the list in the message.
const maxCandidates = 20

func (e *AmbiguousError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q could be any of %d containers; name one of them", e.Name, len(e.Candidates))
	for i, t := range e.Candidates {
		if i == maxCandidates {
			fmt.Fprintf(&b, "\n  … and %d more", len(e.Candidates)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s", t)
	}
	return b.String()
}

// Find resolves ID, NAMESPACE/ID or a unique prefix of either to a container that has a directory below one of dirs (the settings'
// run_dir, state_dir, log_dir). An ID in the host's namespace wins over the same ID elsewhere, as with ctr; a whole ID wins over a
// prefix. The error is an *AmbiguousError, has the code not_managed, or wraps the system's.
func (h Host) Find(name string, dirs ...string) (Target, error) {
	all, err := List(dirs...)
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
		if t.ID == id && (qualified || t.Namespace == h.Namespace) {
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
			return Target{}, &AmbiguousError{name, found}
		}
	}
	return Target{}, code.Errorf(code.NotManaged, code.StageQueue,
		"no container with a gateway is called %q on this host", name)
}

// List gives the containers that have a directory below one of dirs, sorted. A directory that does not exist has none.
func List(dirs ...string) ([]Target, error) {
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
