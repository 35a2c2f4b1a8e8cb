package generation

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheChangesBetweenGenerations(t *testing.T) {
	base := func() *Generation {
		return &Generation{Profile: "p", Mounts: []Mount{
			{"/etc/gateway", []File{{"./", 0o755, 0, ""}, {"b", 0o644, 1, "bb"}, {"d/", 0o755, 0, ""}, {"d/x", 0o644, 1, "xx"}}},
			{"/etc/token", []File{{".", 0o640, 1, "tt"}}},
		}}
	}
	for _, c := range []struct {
		name string
		edit func(g *Generation)
		want string
	}{
		{"none", func(*Generation) {}, "[]"},
		{"of the profile", func(g *Generation) { g.Profile = "q" }, "[{profile changed}]"},
		{"of a content", func(g *Generation) { g.Mounts[0].Files[3].Digest = "yy" }, "[{/etc/gateway/d/x changed}]"},
		{"of a mode", func(g *Generation) { g.Mounts[1].Files[0].Mode = 0o644 }, "[{/etc/token mode}]"},
		{"of a mode and a content", func(g *Generation) { g.Mounts[1].Files[0] = File{".", 0o644, 1, "uu"} }, "[{/etc/token changed}]"},
		{"a file more and less", func(g *Generation) { g.Mounts[0].Files[1].Path = "a" }, "[{/etc/gateway/a added} {/etc/gateway/b removed}]"},
		{"a directory that becomes a file", func(g *Generation) {
			g.Mounts[0].Files = append(g.Mounts[0].Files[:2], File{"d", 0o644, 0, ""})
		}, "[{/etc/gateway/d changed} {/etc/gateway/d/x removed}]"},
		{"of a mount", func(g *Generation) { g.Mounts[1].Target = "/etc/a" }, "[{/etc/a added} {/etc/token removed}]"},
		{"of all", func(g *Generation) { g.Profile, g.Mounts = "q", nil },
			"[{/etc/gateway removed} {/etc/gateway/b removed} {/etc/gateway/d removed} {/etc/gateway/d/x removed} {/etc/token removed} {profile changed}]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := base()
			c.edit(next)
			if got := fmt.Sprint(base().Changes(next)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestTheDifferenceOfGenerationsIsUnifiedText(t *testing.T) {
	long := strings.Repeat("a long line\n", maxDiffFile/12+1)
	for _, c := range []struct {
		name string
		edit func(s *scratch)
		want string
	}{
		{"none", func(*scratch) {}, ""},
		{"a line", func(s *scratch) { write(s.t, s.source+"/conf", "two\n") },
			"--- generation 1: /etc/gateway/conf\n+++ generation 2: /etc/gateway/conf\n@@ -1,1 +1,1 @@\n-one\n+two\n"},
		{"without a last newline", func(s *scratch) { write(s.t, s.source+"/conf", "one") },
			"--- generation 1: /etc/gateway/conf\n+++ generation 2: /etc/gateway/conf\n@@ -1,1 +1,1 @@\n-one\n+one\n\\ No newline at end of file\n"},
		{"a file more", func(s *scratch) { write(s.t, s.source+"/more", "x\n") },
			"--- generation 1: /etc/gateway/more\n+++ generation 2: /etc/gateway/more\n@@ -0,0 +1,1 @@\n+x\n"},
		{"an empty file more", func(s *scratch) { write(s.t, s.source+"/more", "") }, "added /etc/gateway/more\n"},
		{"a file less", func(s *scratch) { os.Remove(s.source + "/conf") },
			"--- generation 1: /etc/gateway/conf\n+++ generation 2: /etc/gateway/conf\n@@ -1,1 +0,0 @@\n-one\n"},
		{"a mode", func(s *scratch) { chmod(s.t, s.source+"/conf", 0o755) }, "mode /etc/gateway/conf\n"},
		{"a directory", func(s *scratch) { mkdir(s.t, s.source+"/d", 0o755) }, "added /etc/gateway/d\n"},
		{"a directory in a file's place", func(s *scratch) {
			os.Remove(s.source + "/conf")
			mkdir(s.t, s.source+"/conf", 0o755)
		}, "changed /etc/gateway/conf\n"},
		{"zeros", func(s *scratch) { write(s.t, s.source+"/conf", "one\x00\n") }, "changed /etc/gateway/conf\n"},
		{"no text", func(s *scratch) { write(s.t, s.source+"/conf", "\xff\xfe\n") }, "changed /etc/gateway/conf\n"},
		{"too long", func(s *scratch) { write(s.t, s.source+"/conf", long) }, "changed /etc/gateway/conf\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScratch(t)
			before := s.stage(s.plan("version = 1\n"))
			s.must(s.Begin(before, before.From))
			c.edit(s)
			got, err := s.Diff(before, s.stage(s.plan("version = 1\n")))
			if err != nil || got != c.want {
				t.Errorf("got\n%s%v\nwant\n%s", got, err, c.want)
			}
		})
	}
}

func TestTheDifferenceShowsTheProfileToo(t *testing.T) {
	s := begun(t)
	before, err := s.Get(1)
	s.must(err)
	got, err := s.Diff(before, s.accept("version 2"))
	if want := "--- generation 1: profile\n+++ generation 2: profile\n"; err != nil || !strings.HasPrefix(got, want) || !strings.Contains(got, "-version 1\n") || !strings.Contains(got, "+version 2\n") {
		t.Errorf("got\n%s%v", got, err)
	}
	write(t, s.path(1)+"/"+profileName, "edited")
	if got, err := s.Diff(before, s.accept("version 3")); err == nil || got != "" {
		t.Errorf("of an edited generation it gave %q, %v", got, err)
	}
}

func TestTheDifferenceOfManyFilesIsCut(t *testing.T) {
	s := begun(t)
	for i := range 40 {
		write(t, fmt.Sprintf("%s/%02d", s.source, i), strings.Repeat("a line\n", 1500))
	}
	before, err := s.Get(1)
	s.must(err)
	got, err := s.Diff(before, s.accept("version 1"))
	if err != nil || len(got) > maxDiff+32 || len(got) < maxDiff/2 || !strings.HasSuffix(got, "+a line\n… and more\n") {
		t.Errorf("it has %d bytes and ends in %q (%v)", len(got), got[max(0, len(got)-40):], err)
	}
}
