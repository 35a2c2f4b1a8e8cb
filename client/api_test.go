package client

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var update = flag.Bool("update", false, "write testdata/api.txt anew")

// TestWhatIsExportedStaysAsItIs compares the package's exported declarations with those of testdata/api.txt. A change that adds
// something is written down by -update; one that takes away or changes something breaks programs of others.
func TestWhatIsExportedStaysAsItIs(t *testing.T) {
	const golden = "testdata/api.txt"
	got := exported(t)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	had, has := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for _, line := range had {
		if !slices.Contains(has, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range has {
		if !slices.Contains(had, line) {
			t.Errorf("new: %s", line)
		}
	}
	if !t.Failed() && got != string(want) {
		t.Errorf("what was in one declaration is in another now")
	}
	if t.Failed() {
		t.Logf("if that only adds to what programs of others use: go test ./client -run %s -update", t.Name())
	}
}

// exported prints the exported declarations of the package's files, sorted, without comments and bodies.
func exported(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(f)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				d.Body = nil
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
			}
			var out strings.Builder
			if err := (&printer.Config{Mode: printer.UseSpaces, Tabwidth: 2}).Fprint(&out, set, d); err != nil {
				t.Fatal(err)
			}
			all = append(all, out.String()+"\n")
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

// TestThePublicTypesHaveTheFormOfWhatWardensSay compares field by field, so that nothing that a warden tells is left out.
func TestThePublicTypesHaveTheFormOfWhatWardensSay(t *testing.T) {
	seen := map[reflect.Type]bool{}
	for _, pair := range []struct{ public, inner any }{
		{Status{}, receipt.Status{}}, {Receipt{}, receipt.Receipt{}}, {Report{}, control.Report{}}, {Plan{}, control.Plan{}},
	} {
		sameForm(t, reflect.TypeOf(pair.public), reflect.TypeOf(pair.inner), seen)
	}
	if len(seen) < 20 {
		t.Errorf("only %d types were compared", len(seen))
	}
}

func TestTheBoundsAreTheWardens(t *testing.T) {
	if MaxReason != control.MaxReason || MaxRequestID != control.MaxRequestID {
		t.Errorf("%d and %d, wardens have %d and %d", MaxReason, MaxRequestID, control.MaxReason, control.MaxRequestID)
	}
	for _, timeout := range []time.Duration{MaxTimeout, MaxTimeout + 1} {
		if err := check(control.Request{Verb: control.Restart, Timeout: timeout}); (err == nil) != (timeout == MaxTimeout) {
			t.Errorf("a timeout of %v: %v", timeout, err)
		}
	}
	for _, n := range []int{MaxVia, MaxVia + 1} {
		if err := check(control.Request{Verb: control.Restart, Via: strings.Repeat("x", n)}); (err == nil) != (n == MaxVia) {
			t.Errorf("a via of %d bytes: %v", n, err)
		}
	}
}

func sameForm(t *testing.T, public, inner reflect.Type, seen map[reflect.Type]bool) {
	t.Helper()
	if public == inner || seen[public] {
		return
	}
	if public.Kind() != inner.Kind() {
		t.Errorf("%v is a %v, %v is a %v", public, public.Kind(), inner, inner.Kind())
		return
	}
	switch public.Kind() {
	case reflect.Pointer, reflect.Slice:
		sameForm(t, public.Elem(), inner.Elem(), seen)
	case reflect.Struct:
		seen[public] = true
		describe := func(s reflect.Type) (fields []string) {
			for f := range s.Fields() {
				fields = append(fields, fmt.Sprintf("%s %s", f.Name, f.Tag))
			}
			return fields
		}
		if p, i := describe(public), describe(inner); !slices.Equal(p, i) {
			t.Errorf("%v has the fields\n%q\n%v has\n%q", public, p, inner, i)
			return
		}
		for i := range public.NumField() {
			sameForm(t, public.Field(i).Type, inner.Field(i).Type, seen)
		}
	}
}

// TestEveryStringThatWardensUseHasAConstant reads both lists from the source.
func TestEveryStringThatWardensUseHasAConstant(t *testing.T) {
	for _, c := range []struct{ public, file, inner string }{
		{"Code", "../internal/code/code.go", "Code"},
		{"Stage", "../internal/code/code.go", "Stage"},
		{"State", "../internal/receipt/receipt.go", "State"},
		{"Outcome", "../internal/receipt/receipt.go", "Outcome"},
		{"Verb", "../internal/receipt/receipt.go", "Action"},
	} {
		var public []string
		for _, file := range []string{"types.go", "error.go"} {
			public = append(public, constants(t, file, c.public)...)
		}
		inner := constants(t, c.file, c.inner)
		slices.Sort(public)
		slices.Sort(inner)
		if len(inner) == 0 || !slices.Equal(public, inner) {
			t.Errorf("%s: the constants are %q, wardens use %q", c.public, public, inner)
		}
	}
}

// constants gives the values of the string constants of that type in a file.
func constants(t *testing.T, file, of string) (values []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); ok && name.Name == of {
			if value, ok := spec.Values[0].(*ast.BasicLit); ok && value.Kind == token.STRING {
				values = append(values, value.Value)
			}
		}
		return true
	})
	return values
}
