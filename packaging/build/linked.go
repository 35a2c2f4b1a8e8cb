package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// programs are what the packages have.
var programs = []string{"containerd-shim-gatewarden-v2", "gatewarden", "gatewarden-hook"}

// library is a Debian source package of which something is linked into the hook, which is static.
type library struct{ name, version string }

func parseLibrary(s string) (library, error) {
	name, version, ok := strings.Cut(s, "=")
	if !ok || name == "" || version == "" || strings.ContainsAny(s, " \n,()") {
		return library{}, fmt.Errorf("%q is not NAME=VERSION", s)
	}
	if about(name).license == "" {
		return library{}, fmt.Errorf("nothing is known about the licence of %s: say it in packaging/build/copyright.go", name)
	}
	return library{name, version}, nil
}

// module is a Go module that is linked into a program.
type module struct {
	path, version, sum string
	license            string // SPDX identifiers, joined by " AND "
	texts              []text
	programs           []string
}

// text is a licence file of a module.
type text struct{ name, license, content string }

// linked is what the programs are made of, as they say themselves.
type linked struct {
	goVersion string
	modules   []*module
}

// readLinked reads it from the programs, and the licences from the modules' sources in Go's cache.
func readLinked(bin string) (*linked, error) {
	l := &linked{}
	byPath := map[string]*module{}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(filepath.Join(bin, program))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		if l.goVersion != "" && l.goVersion != info.GoVersion {
			return nil, fmt.Errorf("%s was built with %s and another program with %s", program, info.GoVersion, l.goVersion)
		}
		l.goVersion = info.GoVersion
		for _, d := range info.Deps {
			if d.Replace != nil {
				return nil, fmt.Errorf("%s: module %s is replaced, and its source would not be found by its name", program, d.Path)
			}
			m := byPath[d.Path]
			if m == nil {
				m = &module{path: d.Path, version: d.Version, sum: d.Sum}
				byPath[d.Path] = m
				l.modules = append(l.modules, m)
			}
			if m.version != d.Version {
				return nil, fmt.Errorf("%s has %s %s and another program %s", program, d.Path, d.Version, m.version)
			}
			m.programs = append(m.programs, program)
		}
	}
	slices.SortFunc(l.modules, func(a, b *module) int { return cmp.Compare(a.path, b.path) })
	if err := l.readLicenses(); err != nil {
		return nil, err
	}
	std := &module{path: "std", version: strings.TrimPrefix(l.goVersion, "go"), programs: programs}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	// Debian's Go has it in the documentation of the package.
	if err := std.readTexts(strings.TrimSpace(string(root)), "/usr/share/doc/golang-"+strings.Join(strings.SplitN(std.version, ".", 3)[:2], ".")); err != nil {
		return nil, err
	}
	if std.version != strings.TrimPrefix(runtime.Version(), "go") {
		return nil, fmt.Errorf("the programs were built with %s and this with %s: the licence of another library would be told", l.goVersion, runtime.Version())
	}
	l.modules = append(l.modules, std)
	return l, nil
}

func (l *linked) readLicenses() error {
	args := []string{"mod", "download", "-json"}
	for _, m := range l.modules {
		args = append(args, m.path+"@"+m.version)
	}
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go mod download: %w", err)
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("go mod download: %w", err)
		}
		dirs[m.Path] = m.Dir
	}
	for _, m := range l.modules {
		if err := m.readTexts(dirs[m.path]); err != nil {
			return err
		}
	}
	return nil
}

// readTexts reads the licence files of the first of dirs that has any.
func (m *module) readTexts(dirs ...string) error {
	for _, dir := range dirs {
		names, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, n := range names {
			upper := strings.ToUpper(n.Name())
			if !n.Type().IsRegular() || !strings.HasPrefix(upper, "LICEN") && !strings.HasPrefix(upper, "COPYING") && !strings.HasPrefix(upper, "NOTICE") &&
				upper != "COPYRIGHT" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, n.Name()))
			if err != nil {
				return err
			}
			t := text{n.Name(), classify(string(data)), strings.TrimSpace(strings.ReplaceAll(string(data), "\r\n", "\n"))}
			if strings.HasPrefix(upper, "NOTICE") {
				t.license = ""
			}
			m.texts = append(m.texts, t)
		}
		if len(m.texts) > 0 {
			break
		}
	}
	var licenses []string
	for _, t := range m.texts {
		if t.license != "" && !slices.Contains(licenses, t.license) {
			licenses = append(licenses, t.license)
		}
	}
	if len(licenses) == 0 {
		return fmt.Errorf("module %s %s: no licence was recognised in %s; teach packaging/build/linked.go about it", m.path, m.version, strings.Join(dirs, ", "))
	}
	m.license = strings.Join(licenses, " AND ")
	return nil
}

// marks are sentences that one licence alone has. The first that fits says which it is.
var marks = []struct{ license, sentence string }{
	{"Apache-2.0", "apache license version 2.0"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"BSD-3-Clause", "neither the name of"},
	{"BSD-3-Clause", "names of its contributors may be used to endorse"},
	{"BSD-2-Clause", "redistributions in binary form must reproduce the above copyright notice"},
}

// classify gives the SPDX identifier of a licence's text, or "".
func classify(content string) string {
	plain := strings.Join(strings.Fields(strings.ToLower(strings.NewReplacer(",", " ", "*", " ", "#", " ").Replace(content))), " ")
	for _, m := range marks {
		if strings.Contains(plain, strings.Join(strings.Fields(strings.ReplaceAll(m.sentence, ",", " ")), " ")) {
			return m.license
		}
	}
	return ""
}
