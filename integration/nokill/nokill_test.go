// Package nokill holds the check that no signal goes to a process by its number. A number can have become another
// process's between the look and the signal; a pidfd cannot (pidfd_open(2), and rule 2 of the design).
package nokill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// forbidden are the functions, methods and constants, as go/types names them, that signal a process by its number or may
// fall back to that.
var forbidden = []string{
	"golang.org/x/sys/unix.Kill", "golang.org/x/sys/unix.Tgkill",
	"golang.org/x/sys/unix.SYS_KILL", "golang.org/x/sys/unix.SYS_TKILL", "golang.org/x/sys/unix.SYS_TGKILL",
	"golang.org/x/sys/unix.SYS_RT_SIGQUEUEINFO", "golang.org/x/sys/unix.SYS_RT_TGSIGQUEUEINFO",
	"syscall.Kill", "syscall.Tgkill",
	"syscall.SYS_KILL", "syscall.SYS_TKILL", "syscall.SYS_TGKILL",
	"syscall.SYS_RT_SIGQUEUEINFO", "syscall.SYS_RT_TGSIGQUEUEINFO",
	"os.FindProcess", "(*os.Process).Kill", "(*os.Process).Signal",
}

// inC are C's functions that do it.
var inC = []string{"kill", "killpg", "tgkill", "raise", "sigqueue", "pthread_kill", "syscall"}

// programs are those that do it for somebody else.
var programs = []string{"kill", "pkill", "killall", "skill", "fuser"}

// tags are those of the hook: what is built with them must be looked at too.
const tags = "seccomp,netgo,osusergo,runc_nocriu"

// everything is the pattern of all packages.
const everything = "./..."

// exempt tells whether a package is not part of the product.
func exempt(path string) bool { return strings.Contains(path+"/", "/integration/") }

func TestNoSignalGoesToAProcessByItsNumber(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found, looked, err := check(root, everything)
	if err != nil {
		t.Fatal(err)
	}
	// A check that looks at nothing finds nothing.
	if looked < 10 {
		t.Errorf("only %d packages were looked at", looked)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// TestTheCheckFindsWhatItForbids runs it on a package that does all of it.
func TestTheCheckFindsWhatItForbids(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// Outside of the module's own packages, so that nothing else builds it.
	found, _, err := check(root, "./integration/nokill/testdata/guilty")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"unix.Kill", "unix.Tgkill", "syscall.Kill", "os.FindProcess", "(*os.Process).Kill", "(*os.Process).Signal", "unix.SYS_KILL", `pkill"`, "C.kill",
	} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%s was not found in %v", want, found)
		}
	}
}

func TestTheLauncherMakesNoSystemCallThatSignals(t *testing.T) {
	calls := regexp.MustCompile(`(?i)\b(kill|tkill|tgkill|raise|sys_kill|sys_tkill|sys_tgkill|rt_sigqueueinfo)\b\s*[(,=]`)
	for _, dir := range []string{"hook", "plugin", "ctl", "internal", "oci"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".c", ".h", ".s", ".S", ".sh"}, filepath.Ext(path)) {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for i, line := range strings.Split(string(data), "\n") {
				if calls.MatchString(line) {
					t.Errorf("%s:%d: %s", path, i+1, strings.TrimSpace(line))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Export     string
	DepOnly    bool
}

// check looks at the packages that match pattern, and their tests not, and gives what it found and in how many.
func check(root, pattern string) (found []string, looked int, err error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-tags", tags, "-json=ImportPath,Dir,GoFiles,CgoFiles,Export,DepOnly", pattern)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, 0, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	exports := map[string]string{}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, 0, err
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly && (!exempt(p.ImportPath) || pattern != everything) {
			packages = append(packages, p)
		}
	}
	for _, p := range packages {
		f, err := look(root, p, exports)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", p.ImportPath, err)
		}
		found = append(found, f...)
	}
	return found, len(packages), nil
}

// isC tells whether x is the package of cgo.
func isC(x ast.Expr) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == "C"
}

// look type-checks one package, so that an alias, a method value or a dot import hides nothing.
func look(root string, p listed, exports map[string]string) ([]string, error) {
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	// What C has is not resolved; C's own files are looked at by another test.
	config := types.Config{FakeImportC: len(p.CgoFiles) > 0, Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data for %s", path)
		}
		return os.Open(exports[path])
	})}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	if _, err := config.Check(p.ImportPath, fset, files, info); err != nil {
		return nil, err
	}
	var found []string
	report := func(at token.Pos, what string) {
		position := fset.Position(at)
		if relative, err := filepath.Rel(root, position.Filename); err == nil {
			position.Filename = relative
		}
		found = append(found, fmt.Sprintf("%s: %s: signal a pidfd instead (unix.PidfdSendSignal)", position, what))
	}
	for id, object := range info.Uses {
		if name := nameOf(object); slices.Contains(forbidden, name) {
			report(id.Pos(), name)
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.SelectorExpr); ok && isC(c.X) && slices.Contains(inC, c.Sel.Name) {
				report(c.Pos(), "C."+c.Sel.Name)
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || !runsProgram(call, info) {
				return true
			}
			for _, arg := range call.Args {
				if program, ok := literal(arg); ok && slices.Contains(programs, filepath.Base(program)) {
					report(arg.Pos(), fmt.Sprintf("a program %q", program))
				}
			}
			return true
		})
	}
	slices.Sort(found)
	return found, nil
}

// nameOf is "path.Name" or "(*path.Type).Method".
func nameOf(object types.Object) string {
	if f, ok := object.(*types.Func); ok {
		return f.FullName()
	}
	if object.Pkg() == nil || object.Parent() != object.Pkg().Scope() {
		return ""
	}
	return object.Pkg().Path() + "." + object.Name()
}

func runsProgram(call *ast.CallExpr, info *types.Info) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	f, ok := info.Uses[selector.Sel].(*types.Func)
	return ok && slices.Contains([]string{"os/exec.Command", "os/exec.CommandContext", "os.StartProcess", "syscall.Exec", "syscall.ForkExec"}, f.FullName())
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}
