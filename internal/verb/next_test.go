package verb

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// codes are all codes that package code declares.
func codes(t *testing.T) []code.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../code/code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []code.Code
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, s := range group.Specs {
			spec := s.(*ast.ValueSpec)
			if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Code" {
				continue
			}
			c, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, code.Code(c))
		}
	}
	if len(all) < 19 {
		t.Fatalf("only %q", all)
	}
	return all
}

var quoted = regexp.MustCompile("`([^`]*)`")

func TestEveryCodeHasANextCommandThatExistsAndIsNotTheOneThatFailed(t *testing.T) {
	settings := config.Config{RunDir: "/run/gw", StateDir: "/var/lib/gw", LogDir: "/var/log/gw", ProfileDir: "/etc/gw"}
	container := gateways.Target{Namespace: "default", ID: "web"}
	profileCheck := Command{Name: "profile", Host: true}
	doctor := Command{Name: "doctor", Host: true}
	for _, target := range []*gateways.Target{nil, &container} {
		for _, failed := range []string{"restart", "recover", "status", "probe", "logs", "receipts", "upgrade-warden"} {
			for _, c := range codes(t) {
				var out bytes.Buffer
				in := Invocation{Env: Env{Config: settings, Target: target, Stdout: io.Discard, Stderr: &out}, Command: &Command{Name: failed}}
				in.advise(container, "demo", c)
				said := out.String()
				if c == code.RolledBack { // reserved: nothing has it
					continue
				}
				if !strings.HasPrefix(said, "next: ") || strings.Count(said, "\n") != 1 {
					t.Errorf("%s of %s: %q", c, failed, said)
					continue
				}
				commands := quoted.FindAllStringSubmatch(said, -1)
				if len(commands) == 0 {
					t.Errorf("%s of %s names no command: %s", c, failed, said)
				}
				for i, m := range commands {
					words := strings.Fields(m[1])
					if words[0] == "ctr" {
						continue
					}
					name := words[1]
					onHost := strings.Contains(said, "on the host, "+m[0])
					offered := append(commandsOf(target), profileCheck.Name, doctor.Name)
					if target != nil {
						offered = commandsOf(target)
					}
					if onHost {
						offered = append(commandsOf(nil), profileCheck.Name, doctor.Name)
					}
					if words[0] != "gatewarden" || !slices.Contains(offered, name) {
						t.Errorf("%s of %s: %q is not offered there: %s", c, failed, m[1], said)
					}
					// A command that only reads can say that it is not the time to read, and be the one that shows more later.
					if i == 0 && name == failed && (failed == "restart" || failed == "recover" || failed == "status" || failed == "upgrade-warden") {
						t.Errorf("%s: it names the command that failed: %s", c, said)
					}
				}
			}
		}
	}
}

func commandsOf(target *gateways.Target) []string {
	var names []string
	for _, c := range commands(Env{Target: target}) {
		names = append(names, c.Name)
	}
	return names
}
