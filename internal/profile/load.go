package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// Load reads the profile name of the profile directory dir. Its error is a *Problems, a *trusted.Error if the file or a
// parent of it is not root's alone, or wraps the system's (fs.ErrNotExist).
func Load(dir, name string) (*Profile, error) { return load(dir, name, nil) }

// Reload is Load for a profile that was loaded before: the same Profile comes back if the file still has the same content.
func (p *Profile) Reload(dir string) (*Profile, error) { return load(dir, p.Name, p) }

func load(dir, name string, before *Profile) (*Profile, error) {
	if why := checkName(name); why != "" {
		return nil, errors.New(why)
	}
	file := filepath.Join(dir, name+".toml")
	data, err := trusted.ReadFile(file, MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no profile named %s: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", name, err)
	}
	if before != nil && bytes.Equal(before.text, data) {
		return before, nil
	}
	p, err := parse(name, file, data)
	if err == nil {
		p.text = data
	}
	return p, err
}

// Text is the content of the file that the profile was loaded from; nil for one that comes from elsewhere.
func (p *Profile) Text() []byte { return p.text }

// Check reads the profile at path, which may be relative, for somebody who wants to know everything that is wrong with
// it: beside Parse's problems the *Problems hold, with line 0, why Load would refuse the file itself. What could be read
// of the file is returned too, for Problems.Format. Any other error means that there is nothing to explain.
func Check(path string) (*Profile, []byte, error) {
	file, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, fmt.Errorf("check %s: %w", path, err)
	}
	var problems []Problem
	data, err := trusted.ReadFile(file, MaxSize)
	var untrusted *trusted.Error
	switch {
	case errors.As(err, &untrusted):
		for _, f := range untrusted.Findings {
			problems = append(problems, Problem{Message: f.String()})
		}
		if data, err = readUntrusted(file); err != nil {
			return nil, nil, &Problems{File: path, List: problems}
		}
	case err != nil:
		return nil, nil, err
	}
	name, isTOML := strings.CutSuffix(filepath.Base(file), ".toml")
	if !isTOML {
		problems = append(problems, Problem{Message: "the name does not end in .toml, so no container would find it"})
	}
	if why := checkName(name); why != "" {
		problems = append(problems, Problem{Message: "the file's name: " + why})
		name = "unnamed" // the rest can be explained nevertheless
	}
	p, err := parse(name, path, data)
	var found *Problems
	if errors.As(err, &found) {
		problems = slices.Concat(problems, found.List)
	}
	if len(problems) > 0 {
		return nil, data, &Problems{File: path, List: problems}
	}
	return p, data, nil
}

// readUntrusted reads a regular file, whoever it belongs to, to explain what is in it. It never blocks.
func readUntrusted(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > MaxSize {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", file, MaxSize)
	}
	return io.ReadAll(io.LimitReader(f, MaxSize))
}

// SelectableBy says whether an annotation may name the profile on a container in that containerd namespace, and of a pod in that
// Kubernetes namespace ("": of none); the error says why not, and what to do.
func (p *Profile) SelectableBy(namespace, podNamespace string) error {
	if !p.Select.Annotation {
		return fmt.Errorf("profile %s may not be chosen by an annotation; an administrator allows it with [select] annotation = true in the profile, or names the profile in the hook's own --profile", p.Name)
	}
	if len(p.Select.Namespaces) > 0 && !slices.Contains(p.Select.Namespaces, namespace) {
		return fmt.Errorf("profile %s may not be chosen from the containerd namespace %s; an administrator allows it by adding the namespace to [select] namespaces in the profile, which has %s",
			p.Name, stricttoml.Quote(namespace), strings.Join(p.Select.Namespaces, ", "))
	}
	if len(p.Select.PodNamespaces) > 0 && !slices.Contains(p.Select.PodNamespaces, podNamespace) {
		from := "the Kubernetes namespace " + stricttoml.Quote(podNamespace) + "; an administrator allows it by adding the namespace to"
		if podNamespace == "" {
			from = "outside of pods; an administrator allows it by removing"
		}
		return fmt.Errorf("profile %s may not be chosen from %s [select] pod_namespaces in the profile, which has %s",
			p.Name, from, strings.Join(p.Select.PodNamespaces, ", "))
	}
	return nil
}
