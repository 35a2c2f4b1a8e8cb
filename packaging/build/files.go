package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goreleaser/nfpm/v2/files"
)

// listFile says what an installation has.
const listFile = "packaging/files"

// entry is one line of the list.
type entry struct {
	mode   os.FileMode
	source string // in the repository; "-": a directory
	target string
	marks  []string // "config"; or the formats that alone have it
}

// formats are those that a line of the list can be meant for.
var formats = []string{"deb", "rpm", "install"}

// parseList reads the list.
func parseList(data []byte) ([]entry, error) {
	var all []entry
	for i, line := range strings.Split(string(data), "\n") {
		field := strings.Fields(line)
		if len(field) == 0 || strings.HasPrefix(field[0], "#") {
			continue
		}
		if len(field) < 3 || len(field) > 4 {
			return nil, fmt.Errorf("%s:%d: a line is MODE SOURCE TARGET [MARKS]", listFile, i+1)
		}
		mode, err := strconv.ParseUint(field[0], 8, 12)
		if err != nil || mode&0o022 != 0 || mode > 0o777 {
			return nil, fmt.Errorf("%s:%d: %q is not a mode that others than root may not write to", listFile, i+1, field[0])
		}
		e := entry{mode: os.FileMode(mode), source: field[1], target: field[2]}
		if !path.IsAbs(e.target) || path.Clean(e.target) != e.target {
			return nil, fmt.Errorf("%s:%d: %q is not an absolute path in its shortest form", listFile, i+1, e.target)
		}
		if len(field) == 4 {
			e.marks = strings.Split(field[3], ",")
		}
		for _, m := range e.marks {
			if m != "config" && !slices.Contains(formats, m) {
				return nil, fmt.Errorf("%s:%d: unknown mark %q", listFile, i+1, m)
			}
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no lines", listFile)
	}
	return all, nil
}

// in tells whether a format has the entry.
func (e entry) in(format string) bool {
	if slices.Contains(e.marks, format) {
		return true
	}
	return !slices.ContainsFunc(e.marks, func(m string) bool { return slices.Contains(formats, m) })
}

// contents gives the packages' content for a format: the list, and what is made here.
func (p *release) contents(format string) (files.Contents, error) {
	data, err := os.ReadFile(listFile)
	if err != nil {
		return nil, err
	}
	list, err := parseList(data)
	if err != nil {
		return nil, err
	}
	var all files.Contents
	add := func(source, target, kind string, mode os.FileMode) {
		all = append(all, &files.Content{Source: source, Destination: target, Type: kind,
			FileInfo: &files.ContentFileInfo{Mode: mode, Owner: "root", Group: "root", MTime: p.time}})
	}
	for _, e := range list {
		if !e.in(format) {
			continue
		}
		kind, source, target := files.TypeFile, e.source, e.target
		switch program, isProgram := strings.CutPrefix(e.source, "bin/"); {
		case e.source == "-":
			add("", target, files.TypeDir, e.mode)
			continue
		case isProgram:
			source = filepath.Join(p.bin, program)
		case slices.Contains(e.marks, "config"):
			kind = files.TypeConfigNoReplace
		case strings.HasPrefix(target, "/usr/share/man/"), path.Base(target) == "changelog":
			text, err := os.ReadFile(e.source)
			if err != nil {
				return nil, err
			}
			if source, err = p.stage(target+".gz", compress(p.fill(text))); err != nil {
				return nil, err
			}
			target += ".gz"
		}
		if format == "rpm" && strings.HasPrefix(target, "/usr/share/doc/") {
			kind = files.TypeRPMDoc
		}
		add(source, target, kind, e.mode)
	}
	copyright, err := p.copyright()
	if err != nil {
		return nil, err
	}
	source, err := p.stage("copyright", copyright)
	if err != nil {
		return nil, err
	}
	kind := files.TypeFile
	if format == "rpm" {
		kind = files.TypeRPMLicense
	}
	add(source, "/usr/share/doc/gatewarden/copyright", kind, 0o644)
	if format == "deb" {
		if source, err = p.stage("changelog.Debian.gz", compress(p.debianChangelog())); err != nil {
			return nil, err
		}
		add(source, "/usr/share/doc/gatewarden/changelog.Debian.gz", files.TypeFile, 0o644)
		add("packaging/deb/lintian-overrides", "/usr/share/lintian/overrides/gatewarden", files.TypeFile, 0o644)
	}
	return all, nil
}

// stage writes a file that is made here.
func (p *release) stage(name string, data []byte) (string, error) {
	file := filepath.Join(p.staging, strings.ReplaceAll(strings.Trim(name, "/"), "/", "_"))
	return file, os.WriteFile(file, data, 0o644)
}

// fill writes the date and version into a text that has marks for them.
func (p *release) fill(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("@DATE@"), []byte(p.time.Format("2006-01-02")))
	return bytes.ReplaceAll(text, []byte("@VERSION@"), []byte(p.version))
}

// compress is gzip -9n: without a name or time, so that the same text gives the same bytes.
func compress(text []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
		err = errors.Join(err, w.Close())
	}
	if err != nil { // a buffer takes everything
		panic(err)
	}
	return b.Bytes()
}

// debianChangelog is the changelog of the packaging, in Debian's form; what changed in gatewarden is in the changelog beside it.
func (p *release) debianChangelog() []byte {
	return fmt.Appendf(nil, "gatewarden (%s-%s) unstable; urgency=medium\n\n  * What is new in gatewarden is told in changelog.gz.\n\n -- %s  %s\n",
		p.version, p.revision, p.maintainer, p.time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}
