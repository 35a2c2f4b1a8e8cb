package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// paths looks at the settings and at the directories that they name.
func paths(h Host) []Finding {
	named := h.ConfigPath
	if named == "" {
		named = config.DefaultPath
	}
	f := Finding{Area: "permissions", Name: "settings", Level: OK, Detail: named}
	if _, err := os.Stat(named); errors.Is(err, fs.ErrNotExist) {
		f.Detail += " is not there: the defaults hold"
	}
	if h.ConfigErr != nil {
		f.Level, f.Detail = Fail, oneLine(h.ConfigErr)
		f.Remedy = "correct " + named + "; what follows is judged by the defaults"
	}
	c := h.Config
	return []Finding{
		f,
		directory("profile_dir", c.ProfileDir, true),
		directory("run_dir", c.RunDir, false),
		directory("state_dir", c.StateDir, false),
		directory("log_dir", c.LogDir, false),
	}
}

// directory judges a directory and its parents. One that the hook makes itself may be missing.
func directory(name, path string, needed bool) Finding {
	f := Finding{Area: "permissions", Name: name, Level: OK, Detail: path}
	existing := path
	for {
		_, err := os.Lstat(existing)
		if err == nil || existing == "/" {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			f.Level, f.Detail, f.Remedy = Fail, err.Error(), "make "+path+" a directory that root can read"
			return f
		}
		existing = filepath.Dir(existing)
	}
	if existing != path {
		f.Detail = path + " does not exist yet"
		if needed {
			f.Level, f.Remedy = Warn, "install -d -o root -g root -m 0755 "+path
		} else {
			f.Detail += "; it is made when it is needed"
		}
	}
	dir, err := trusted.OpenDir(existing)
	if err != nil {
		f.Level, f.Detail, f.Remedy = Fail, oneLine(err), cures(err, "chown root:root "+existing+" && chmod go-w "+existing)
		return f
	}
	dir.Close()
	return f
}

// cures gives what trusted proposes for each of its findings, or else otherwise.
func cures(err error, otherwise string) string {
	e, ok := errors.AsType[*trusted.Error](err)
	if !ok {
		return otherwise
	}
	var all []string
	for _, f := range e.Findings {
		if f.Cure != "" {
			all = append(all, f.Cure)
		}
	}
	if len(all) == 0 {
		return otherwise
	}
	return strings.Join(all, "; ")
}

// profiles checks each profile of dir.
func profiles(dir string) []Finding {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []Finding{{"profiles", "profile_dir", Fail, err.Error(), "make " + dir + " a directory that root can read"}}
	}
	var all []Finding
	for _, e := range files {
		name, ok := strings.CutSuffix(e.Name(), ".toml")
		if !ok {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f := Finding{Area: "profiles", Name: name, Level: OK}
		p, _, err := profile.Check(path)
		if err != nil {
			f.Level, f.Detail, f.Remedy = Fail, problemLine(err), "gatewarden profile check "+path+" explains each problem"
		} else {
			f.Detail = fmt.Sprintf("runs %s as %d:%d", p.Gateway.Command[0], p.Gateway.User, p.Gateway.Group)
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return []Finding{{"profiles", "profiles", Warn, "there is none in " + dir, "write " + dir + "/NAME.toml; gatewarden profile check FILE tells whether it is good"}}
	}
	return all
}

func problemLine(err error) string {
	if p, ok := errors.AsType[*profile.Problems](err); ok {
		return p.OneLine()
	}
	return oneLine(err)
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
