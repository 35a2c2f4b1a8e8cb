package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// terms are what is known of a library.
type terms struct{ holder, license, note string }

// libraries are those of Debian's that the hook is linked with, and their licences as Debian tells them.
var libraries = map[string]terms{
	"libseccomp": {"2012-2022 Red Hat, Inc., Microsoft Corporation, Canonical Ltd. and others", "LGPL-2.1",
		"Upstream: https://github.com/seccomp/libseccomp."},
	"glibc": {"1991-2022 Free Software Foundation, Inc. and others", "LGPL-2.1+",
		"Upstream: https://sourceware.org/glibc/."},
	"gcc": {"1986-2022 Free Software Foundation, Inc.", "GPL-3+ with GCC Runtime Library Exception",
		"Parts of libgcc. Upstream: https://gcc.gnu.org/."},
}

// about gives what is known of a Debian source package. Those of GCC have its version in their name.
func about(name string) terms {
	if version, is := strings.CutPrefix(name, "gcc-"); is && strings.Trim(version, "0123456789") == "" {
		name = "gcc"
	}
	return libraries[name]
}

// relink says how the right that the LGPL gives is used here.
const relink = `Linked statically into /usr/libexec/gatewarden/gatewarden-hook. Its source is that of the Debian source package %s
%s, https://snapshot.debian.org/package/%s/%s/. Whoever wants to use
another version builds the hook anew: all of gatewarden's own source is under the Apache License, and "make hook" links it with
the libseccomp.a and libc.a that the compiler finds.`

// copyright gives the copyright file in Debian's machine-readable form (DEP-5, copyright-format 1.0): of gatewarden, and of all that is
// linked into its programs.
func (p *release) copyright() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: gatewarden
Source: https://github.com/gatewarden/gatewarden
Comment: The programs are static. The paragraphs after the first tell of what is linked into them; their Files are Go modules
 by their path, and Debian source packages, which are not part of gatewarden's source.

Files: *
Copyright: 2026 the gatewarden authors
License: Apache-2.0
`)
	// Modules with the same texts share a paragraph.
	groups := map[string][]*module{}
	for _, m := range p.linked.modules {
		key := m.license
		for _, t := range m.texts {
			if t.license != "Apache-2.0" {
				key += "\x00" + t.content
			}
		}
		groups[key] = append(groups[key], m)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		group := groups[key]
		b.WriteString("\nFiles:")
		holders := []string{}
		for _, m := range group {
			fmt.Fprintf(&b, " %s/*\n", m.path)
			for _, h := range m.holders() {
				if !slices.Contains(holders, h) {
					holders = append(holders, h)
				}
			}
		}
		b.WriteString("Copyright: " + strings.Join(holders, "\n ") + "\n")
		fmt.Fprintf(&b, "License: %s\n", strings.ReplaceAll(group[0].license, " AND ", " and "))
		own := false
		for _, t := range group[0].texts {
			if t.license != "Apache-2.0" && t.license != "" {
				b.WriteString(field(t.content))
				own = true
			}
		}
		if !own && group[0].license != "Apache-2.0" {
			return nil, fmt.Errorf("module %s: the text of %s is not there", group[0].path, group[0].license)
		}
		var said []string
		for _, m := range group {
			said = append(said, fmt.Sprintf("%s %s, linked into %s. Source: https://pkg.go.dev/%s@%s", m.path, m.version, strings.Join(m.programs, ", "), m.path, m.version))
		}
		for _, t := range group[0].texts {
			if t.license == "" {
				said = append(said, "", "The file "+t.name+" of "+group[0].path+":", "", t.content)
			}
		}
		b.WriteString("Comment:\n" + field(strings.Join(said, "\n")))
	}
	for _, l := range p.libraries {
		known := about(l.name)
		fmt.Fprintf(&b, "\nFiles: %s/*\nCopyright: %s\nLicense: %s\nComment:\n%s", l.name, known.holder, known.license,
			field(known.note+" "+fmt.Sprintf(relink, l.name, l.version, l.name, l.version)))
	}
	b.WriteString(`
License: Apache-2.0
 Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with the
 License. You may obtain a copy of the License at https://www.apache.org/licenses/LICENSE-2.0
 .
 Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
 "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific
 language governing permissions and limitations under the License.
Comment: On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0; other packages have it in LICENSE.

License: LGPL-2.1
 On Debian systems the full text of the GNU Lesser General Public License, version 2.1, is in
 /usr/share/common-licenses/LGPL-2.1; elsewhere: https://www.gnu.org/licenses/old-licenses/lgpl-2.1.html

License: LGPL-2.1+
 Version 2.1 of the GNU Lesser General Public License or any later one. On Debian systems the full text is in
 /usr/share/common-licenses/LGPL-2.1; elsewhere: https://www.gnu.org/licenses/old-licenses/lgpl-2.1.html

License: GPL-3+ with GCC Runtime Library Exception
 Version 3 of the GNU General Public License or any later one, with the GCC Runtime Library Exception, version 3.1, by which
 programs that are compiled with GCC can be distributed under terms of their own. On Debian systems the full text of the former is
 in /usr/share/common-licenses/GPL-3; elsewhere: https://www.gnu.org/licenses/gpl-3.0.html and
 https://www.gnu.org/licenses/gcc-exception-3.1.html
`)
	return b.Bytes(), nil
}

// field writes a text as the continuation of a field.
func field(text string) string {
	var b strings.Builder
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(strings.ReplaceAll(line, "\t", "        "), " \f")
		if line == "" {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	return b.String()
}

// holders are the lines of the licence files that begin with Copyright.
func (m *module) holders() []string {
	var all []string
	for _, t := range m.texts {
		for line := range strings.Lines(t.content) {
			line = strings.TrimSpace(line)
			rest, is := strings.CutPrefix(line, "Copyright ")
			if !is || strings.ContainsAny(rest, "[{") || !strings.ContainsAny(rest, "0123456789") {
				continue
			}
			rest = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(rest, "(c)"), "(C)"), "©"))
			if !slices.Contains(all, rest) {
				all = append(all, rest)
			}
		}
	}
	if len(all) == 0 {
		all = append(all, "the authors of "+m.path)
	}
	return all
}
