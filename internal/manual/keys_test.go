package manual

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/stricttoml"
)

// place is where the keys of a table can stand: a document that the parser takes, cut in two.
type place struct{ before, after string }

const (
	head    = "version = 1\n"
	gateway = "[gateway]\ncommand = [\"/bin/gw\"]\nuser = 64990\ngroup = 64990\n"
	// held is a held listener, so that all keys of a listener have a meaning.
	held     = "[[listen]]\nname = \"api\"\naddress = \"tcp6://[::1]:8080\"\nmode = \"inherit\"\n"
	heldUnix = "[[listen]]\nname = \"api\"\naddress = \"unix:///run/x\"\nmode = \"inherit\"\n"
	shown    = "[[mount]]\nsource = \"/etc/x\"\ntarget = \"/etc/gateway\"\n"
)

// profilePlaces are those of the tables of a profile, with what each requires.
var profilePlaces = map[string]place{
	"":                {head, gateway + held},
	"gateway":         {head + gateway, held},
	"listen":          {head + gateway + held, ""},
	"listen.options":  {head + gateway + held + "options = { ", " }\n"},
	"ready":           {head + gateway + held + "[ready]\n", ""},
	"preflight":       {head + gateway + held + "[preflight]\ncommand = [\"/bin/check\"]\n", ""},
	"stop":            {head + gateway + held + "[stop]\n", ""},
	"restart":         {head + gateway + held + "[restart]\n", ""},
	"restart.backoff": {head + gateway + held + "[restart.backoff]\n", ""},
	"mount":           {head + gateway + held + shown, ""},
	"state":           {head + gateway + held + "[[state]]\ntarget = \"/var/lib/x\"\n", ""},
	"unlock":          {head + gateway + held + shown + "[unlock]\npaths = [\"/etc/gateway\"]\n", ""},
	"start":           {head + gateway + held + "[start]\n", ""},
	"forward":         {head + gateway + held + "[[forward]]\naddress = \"127.0.0.1:8080\"\n", ""},
	"select":          {head + gateway + held + "[select]\n", ""},
	"posture":         {head + gateway + held + "[posture]\n", ""},
}

// keyPlaces are those of keys that have a meaning only beside another one, or beside none.
var keyPlaces = map[string]place{
	"listen.socket_mode":          {head + gateway + heldUnix, ""},
	"ready.accept":                {head + gateway + held + "[ready]\nhttp = \"http://[::1]:8080/\"\n", ""},
	"ready.service":               {head + gateway + held + "[ready]\ngrpc = \"tcp6://[::1]:8080\"\n", ""},
	"forward.accept":              {head + gateway + held + "[[forward]]\naddress = \"127.0.0.1:8080\"\nhttp = \"/\"\n", ""},
	"listen.mode":                 {head + gateway + "[[listen]]\nname = \"api\"\naddress = \"tcp6://[::1]:8080\"\n", ""},
	"listen.options.defer_accept": {head + gateway + held + "options = { ", " }\n[ready]\nhttp = \"http://[::1]:8080/\"\n"},
	"restart.backoff.initial":     {head + gateway + held + "[restart.backoff]\nmax = \"1h\"\n", ""},
	"restart.backoff.max":         {head + gateway + held + "[restart.backoff]\ninitial = \"1ms\"\n", ""},
}

func parseProfile(text string) (any, error) { return profile.Parse("x", []byte(text)) }
func parseSettings(text string) (any, error) {
	return config.Parse("config.toml", []byte(text))
}

// formats are the files whose keys are documented.
var formats = []struct {
	name   string
	tables []Table
	places map[string]place
	parse  func(string) (any, error)
}{
	{"profile", Profile, profilePlaces, parseProfile},
	{"config.toml", Settings, map[string]place{"config.toml": {head, ""}}, parseSettings},
}

func TestTheReferenceHasTheKeysThatTheParserKnowsAndNoOthers(t *testing.T) {
	for _, f := range formats {
		for _, table := range f.tables {
			at := f.places[table.Name]
			var documented []string
			for _, k := range table.Keys {
				documented = append(documented, k.Name)
			}
			if table.Name == "" { // and the tables themselves
				for _, other := range append(f.tables, Table{Name: "credentials"}) {
					if other.Name != "" && !strings.Contains(other.Name, ".") {
						documented = append(documented, other.Name)
					}
				}
			}
			const nonsense = "zzzzzzzzzzzzzzzzzzzzzzzz"
			_, err := f.parse(at.with(nonsense, "1"))
			var problems *stricttoml.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("%s [%s]: an unknown key gives %v", f.name, table.Name, err)
			}
			_, list, ok := strings.Cut(problems.List[0].Message, "known here: ")
			if !ok || len(problems.List) != 1 {
				t.Fatalf("%s [%s]: an unknown key gives %v", f.name, table.Name, err)
			}
			known := strings.Split(list, ", ")
			slices.Sort(known)
			slices.Sort(documented)
			if !slices.Equal(known, documented) {
				t.Errorf("%s [%s]: the parser knows\n  %s\nand the reference has\n  %s", f.name, table.Name, known, documented)
			}
		}
	}
}

// find gives the place of a key.
func find(places map[string]place, table string, key Key) place {
	if at, ok := keyPlaces[table+"."+key.Name]; ok {
		return at
	}
	return places[table]
}

// with is the document with a value for the key, in the place of one that is there already.
func (p place) with(key, value string) string {
	before := p.before
	if at := strings.LastIndex("\n"+before, "\n"+key+" = "); key == "version" && at >= 0 {
		before = ""
	} else if at >= 0 {
		line, rest, _ := strings.Cut(before[at:], "\n")
		before = strings.TrimSuffix(before, line+"\n"+rest) + rest
	}
	return before + place{key + " = " + value, p.after}.joined()
}

// joined ends the line between, but in an inline table, which is one line.
func (p place) joined() string {
	if strings.HasPrefix(p.after, " }") {
		return p.before + p.after
	}
	return p.before + "\n" + p.after
}

func TestTheDefaultsOfTheReferenceAreWhatIsTakenWithoutTheKey(t *testing.T) {
	for _, f := range formats {
		for _, table := range f.tables {
			for _, k := range table.Keys {
				if k.Required && (k.Default != "" || k.Absent != "") {
					t.Errorf("%s %s.%s: required, and has a default", f.name, table.Name, k.Name)
				}
				if k.Default == "" {
					continue
				}
				at := find(f.places, table.Name, k)
				absent, err := f.parse(at.before + at.after)
				if err != nil {
					t.Fatalf("%s %s.%s: without it: %v", f.name, table.Name, k.Name, err)
				}
				text := at.with(k.Name, k.Default)
				given, err := f.parse(text)
				if err != nil {
					t.Errorf("%s %s.%s: its default %s is refused: %v\n%s", f.name, table.Name, k.Name, k.Default, err, text)
					continue
				}
				if !same(absent, given) {
					t.Errorf("%s %s.%s: with its default %s the result is\n%+v\nand without it\n%+v", f.name, table.Name, k.Name, k.Default, given, absent)
				}
			}
		}
	}
}

// same compares what was read. An empty list and none are the same.
func same(a, b any) bool {
	return reflect.DeepEqual(a, b) || fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

func TestRequiredKeysOfTheReferenceAreRequired(t *testing.T) {
	for _, f := range formats {
		for _, table := range f.tables {
			for _, k := range table.Keys {
				if !k.Required {
					continue
				}
				at := f.places[table.Name]
				if table.Name == "config.toml" || table.Name == "" {
					at.before = ""
				}
				// The place has all that is required; without the key's line in its table it has not.
				text := at.before
				if i := strings.LastIndex(text, "\n"+k.Name+" = "); i >= 0 {
					line, _, _ := strings.Cut(text[i+1:], "\n")
					text = text[:i+1] + text[i+1+len(line)+1:]
				} else if at.before != "" {
					t.Errorf("%s %s.%s: the place of the test does not have it", f.name, table.Name, k.Name)
				}
				if _, err := f.parse(text + at.after); err == nil || !strings.Contains(err.Error(), k.Name+": missing") {
					t.Errorf("%s %s.%s: without it: %v", f.name, table.Name, k.Name, err)
				}
			}
		}
	}
}

func TestTheBoundsOfTheReferenceAreTheParsers(t *testing.T) {
	for _, f := range formats {
		for _, table := range f.tables {
			for _, k := range table.Keys {
				if k.Low == "" {
					continue
				}
				at := find(f.places, table.Name, k)
				for _, value := range []string{k.Low, k.High} {
					if _, err := f.parse(at.with(k.Name, value)); err != nil {
						t.Errorf("%s %s.%s = %s is refused: %v", f.name, table.Name, k.Name, value, err)
					}
				}
				below, above := beyond(t, k)
				for _, value := range []string{below, above} {
					if _, err := f.parse(at.with(k.Name, value)); err == nil {
						t.Errorf("%s %s.%s = %s is taken", f.name, table.Name, k.Name, value)
					}
				}
			}
		}
	}
}

// beyond gives the values next to the bounds, outside.
func beyond(t *testing.T, k Key) (below, above string) {
	t.Helper()
	if k.Type == "integer" {
		low, err1 := strconv.ParseInt(k.Low, 10, 64)
		high, err2 := strconv.ParseInt(k.High, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return strconv.FormatInt(low-1, 10), strconv.FormatInt(high+1, 10)
	}
	low, err1 := time.ParseDuration(bare(k.Low))
	high, err2 := time.ParseDuration(bare(k.High))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	// A whole second beyond, or else the unit would be what is refused.
	return strconv.Quote((low - 1).String()), strconv.Quote((high + time.Second).String())
}
