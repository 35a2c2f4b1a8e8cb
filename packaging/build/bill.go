package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// bill writes the bill of materials, CycloneDX: the programs, what each is made of, and under which licences.
func (p *release) bill(w io.Writer) error {
	bom := cdx.NewBOM()
	root := cdx.Component{BOMRef: "gatewarden", Type: cdx.ComponentTypeApplication, Name: "gatewarden", Version: p.version,
		PackageURL: "pkg:golang/github.com/gatewarden/gatewarden@" + p.version, Licenses: licenses("Apache-2.0")}
	bom.Metadata = &cdx.Metadata{Timestamp: p.time.Format(time.RFC3339), Component: &root}
	var components []cdx.Component
	needs := map[string][]string{}
	for _, program := range programs {
		data, err := os.ReadFile(filepath.Join(p.bin, program))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		components = append(components, cdx.Component{BOMRef: program, Type: cdx.ComponentTypeApplication, Name: program, Version: p.version,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}, Licenses: licenses("Apache-2.0"),
			Properties: &[]cdx.Property{{Name: "gatewarden:arch", Value: p.arch}}})
		needs["gatewarden"] = append(needs["gatewarden"], program)
	}
	for _, m := range p.linked.modules {
		url := fmt.Sprintf("pkg:golang/%s@%s", m.path, m.version)
		c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: url,
			Licenses: licenses(strings.Split(m.license, " AND ")...)}
		if m.sum != "" {
			c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.sum}}
		}
		components = append(components, c)
		for _, program := range m.programs {
			needs[program] = append(needs[program], url)
		}
	}
	for _, l := range p.libraries {
		url := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=source", l.name, strings.ReplaceAll(l.version, "+", "%2B"))
		components = append(components, cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: l.name, Version: l.version, PackageURL: url,
			Licenses: &cdx.Licenses{{License: &cdx.License{Name: about(l.name).license}}}})
		needs["gatewarden-hook"] = append(needs["gatewarden-hook"], url)
	}
	var dependencies []cdx.Dependency
	for _, from := range append([]string{"gatewarden"}, programs...) {
		on := needs[from]
		dependencies = append(dependencies, cdx.Dependency{Ref: from, Dependencies: &on})
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom)
}

func licenses(ids ...string) *cdx.Licenses {
	var all cdx.Licenses
	for _, id := range ids {
		all = append(all, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return &all
}
