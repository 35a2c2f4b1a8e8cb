package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// description is what nfpm is told about the packages, besides their content.
const description = "packaging/nfpm.yaml"

// release is what is packaged.
type release struct {
	version, arch string
	time          time.Time // of the source: of all files in the packages
	bin, out      string
	libraries     []library
	staging       string // for what is made on the way

	revision, maintainer string // of the description
	linked               *linked
}

// write makes the packages and the bill of materials.
func (p *release) write() error {
	var err error
	if p.linked, err = readLinked(p.bin); err != nil {
		return err
	}
	if err := os.MkdirAll(p.out, 0o755); err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		if err := p.pack(format); err != nil {
			return fmt.Errorf("%s of %s: %w", format, p.arch, err)
		}
	}
	name := fmt.Sprintf("gatewarden_%s_%s.cdx.json", p.version, p.arch)
	return p.writeFile(name, p.bill)
}

func (p *release) pack(format string) error {
	config, err := nfpm.ParseFileWithEnvMapping(description, p.variable)
	if err != nil {
		return fmt.Errorf("%s: %w", description, err)
	}
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	p.revision, p.maintainer = info.Release, info.Maintainer
	info.MTime = p.time
	if format == "rpm" {
		info.Description = rpmDescription(info.Description)
	}
	info.RPM.BuildHost = "localhost" // else the name of the machine is in the package
	if info.Contents, err = p.contents(format); err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	return p.writeFile(packager.ConventionalFileName(info), func(w io.Writer) error { return packager.Package(info, w) })
}

// rpmDescription leaves out what is Debian's alone: the synopsis, which is rpm's Summary, and the dots of empty lines.
func rpmDescription(description string) string {
	_, description, _ = strings.Cut(description, "\n")
	return strings.ReplaceAll(description, "\n.\n", "\n\n")
}

// variable gives what the description leaves open.
func (p *release) variable(name string) string {
	switch name {
	case "VERSION":
		return p.version
	case "ARCH":
		return p.arch
	case "BUILT_USING":
		var all []string
		for _, l := range p.libraries {
			all = append(all, fmt.Sprintf("%s (= %s)", l.name, l.version))
		}
		return strings.Join(all, ", ")
	}
	return ""
}

// writeFile writes a file of the release, whole or not at all.
func (p *release) writeFile(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(p.out, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Println(name)
	return os.Rename(f.Name(), filepath.Join(p.out, name))
}

// sumsFile has the checksums, as sha256sum --check reads them.
const sumsFile = "SHA256SUMS"

func writeSums(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	p := release{out: dir}
	return p.writeFile(sumsFile, func(w io.Writer) error {
		for _, n := range names { // sorted
			if !slices.Contains([]string{".deb", ".rpm", ".json"}, filepath.Ext(n.Name())) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, n.Name()))
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			if _, err := fmt.Fprintf(w, "%s  %s\n", hex.EncodeToString(sum[:]), n.Name()); err != nil {
				return err
			}
		}
		return nil
	})
}
