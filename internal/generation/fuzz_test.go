package generation

import (
	"encoding/json"
	"path/filepath"
	"testing"
)

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"demo","current":1,"trying":2,"next":3,"seen":{"profile":"a","sources":["b"]},"rejected":null}`))
	f.Add([]byte(`{"version":1,"current":3,"next":4,"rejected":{"generation":2,"code":"probe_failed","message":"x","time":"2026-11-26T00:00:00Z"}}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		if r.Current <= 0 || r.Trying < 0 || r.Current >= r.Next || r.Trying >= r.Next {
			t.Errorf("accepted %+v", r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(again); err != nil {
			t.Errorf("accepted %s, but not as %s: %v", data, again, err)
		}
	})
}

func FuzzGeneration(f *testing.F) {
	f.Add([]byte(`{"version":1,"number":2,"parent":1,"origin":"apply","mounts":[{"target":"/etc/gw","files":[{"path":"./","mode":493,"size":0},` +
		`{"path":"conf","mode":420,"size":1,"digest":"aa"}]}],"from":{"profile":"a","sources":[""]}}`))
	f.Add([]byte(`{"version":1,"number":1}`))
	f.Add([]byte(`{"version":1,"number":1,"mounts":[{"files":[{"path":"../x"}]}],"from":{"sources":["a"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := parseGeneration(data)
		if err != nil {
			if g != nil {
				t.Error("a generation beside an error")
			}
			return
		}
		if g.Number <= g.Parent || len(g.Mounts) != len(g.From.Sources) {
			t.Errorf("accepted %+v", g)
		}
		for _, m := range g.Mounts {
			for _, file := range m.Files {
				if !filepath.IsLocal(file.Path) {
					t.Errorf("accepted the file %q", file.Path)
				}
			}
		}
		if all := g.Changes(g); len(all) != 0 {
			t.Errorf("it differs from itself: %+v", all)
		}
		again, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseGeneration(again); err != nil {
			t.Errorf("accepted %s, but not as %s: %v", data, again, err)
		}
	})
}
