package profile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

// rootDir makes a directory that is root's alone up to "/", which those of t.TempDir below /tmp are not.
func rootDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	dir, err := os.MkdirTemp("/run", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, file, data string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheEnvFileIsTakenLiterally(t *testing.T) {
	file := write(t, filepath.Join(rootDir(t), "env"), `# secrets

  	
A=1
B="quoted # $HOME \n"
_c9=a=b=c
EMPTY=
TAB=a	b`, 0o600)
	p := &Profile{Name: "web", Gateway: Gateway{EnvFile: file, Env: map[string]string{"A": "of the profile", "Z": "z", "HOME": "/h"}}}
	got, err := p.ReadEnvFile()
	want := []string{"A=1", `B="quoted # $HOME \n"`, "_c9=a=b=c", "EMPTY=", "TAB=a\tb"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	got, err = p.Environ()
	want = []string{"A=1", `B="quoted # $HOME \n"`, "EMPTY=", "HOME=/h", "TAB=a\tb", "Z=z", "_c9=a=b=c"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if p.Gateway.Env["A"] != "of the profile" || len(p.Gateway.Env) != 3 {
		t.Errorf("the profile was changed: %v", p.Gateway.Env)
	}
}

func TestTheEnvFileIsReadAgainForEachStart(t *testing.T) {
	file := write(t, filepath.Join(rootDir(t), "env"), "A=1\n", 0o600)
	p := &Profile{Gateway: Gateway{EnvFile: file}}
	for _, want := range []string{"A=1", "A=2"} {
		write(t, file, want, 0o600)
		if got, err := p.Environ(); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("got %q, %v, want %s", got, err, want)
		}
	}
}

func TestNothingIsInherited(t *testing.T) {
	t.Setenv("LD_PRELOAD", "/evil.so")
	if got, err := (&Profile{}).Environ(); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestABadEnvFileIsRefusedWithItsLinesAndWithoutTheirText(t *testing.T) {
	const secret = "hunter2"
	for line, want := range map[string]string{
		secret:                                  "2: has no =",
		"export A=" + secret:                    `2: begins with "export"`,
		" A=" + secret:                          "2: begins with a blank",
		"A =" + secret:                          "2: has a blank before =",
		"=" + secret:                            "2: is refused: the key is empty",
		"1" + secret + "=x":                     "2: is refused: the key may hold only",
		secret + "-b=x":                         "2: is refused: the key may hold only",
		"LISTEN_FDS=" + secret:                  "2: is refused: the key begins with LISTEN_",
		"A=" + secret + " ":                     "2: ends in a blank",
		"A=" + secret + "\t":                    "2: ends in a blank",
		"A=" + secret + "\r":                    "2: ends in a carriage return",
		"A=" + secret + "\x00":                  "2: holds a control character",
		"A=\x1b[" + secret:                      "2: holds a control character",
		"A=" + secret + "\xff":                  "2: is not UTF-8",
		"OK=" + secret + "\nOK=x":               "3: sets the same key as line 2",
		strings.Repeat("x", 300) + "=" + secret: "2: is refused: the key is longer than 255 bytes",
	} {
		env, err := parseEnv("/etc/e.env", []byte("# comment\n"+line+"\n"))
		if err == nil || !strings.Contains(err.Error(), "/etc/e.env:"+want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: got %q, %v, want %q", line, env, err, want)
		}
	}
}

func TestAnEnvFileThatOthersCanReadIsRefused(t *testing.T) {
	dir := rootDir(t)
	p := &Profile{Name: "web", Gateway: Gateway{EnvFile: write(t, filepath.Join(dir, "env"), "A=1\n", 0o640)}}
	_, err := p.Environ()
	var untrusted *trusted.Error
	if !errors.As(err, &untrusted) || !strings.Contains(err.Error(), "chmod 0600 "+p.Gateway.EnvFile) {
		t.Errorf("got %v", err)
	}
	p.Gateway.EnvFile = filepath.Join(dir, "absent")
	if _, err := p.Environ(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	p.Gateway.EnvFile = write(t, filepath.Join(dir, "big"), strings.Repeat("#", MaxSize+1), 0o600)
	if _, err := p.Environ(); err == nil || !strings.Contains(err.Error(), "at most 65536 are read") {
		t.Errorf("got %v", err)
	}
}

func TestAnEnvFileMustNotSetWhatTheCredentialsSet(t *testing.T) {
	file := write(t, filepath.Join(rootDir(t), "env"), "CREDENTIALS_DIRECTORY=/hunter2\n", 0o600)
	p := &Profile{Name: "web", Gateway: Gateway{EnvFile: file}}
	if got, err := p.Environ(); err != nil || len(got) != 1 {
		t.Errorf("without credentials: %q, %v", got, err)
	}
	p.Credentials = []Credential{{Name: "token", Source: "/etc/secret"}}
	_, err := p.Environ()
	if err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY, which [credentials] sets; remove it from "+file) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestTheWholeEnvironmentIsBounded(t *testing.T) {
	p := &Profile{Name: "web", Gateway: Gateway{Env: map[string]string{}}}
	for _, k := range []string{"A", "B", "C", "D"} {
		p.Gateway.Env[k] = strings.Repeat("x", 32<<10)
	}
	if _, err := p.Environ(); err == nil || !strings.Contains(err.Error(), "at most 256 of 131072 are allowed") {
		t.Errorf("got %v", err)
	}
}

func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"A=1\nB=2", "# c\n\n \t\nA=\"x\"", "A=1\nA=2", "export A=1", "A=1\r\n", "LISTEN_PID=1", "=\n", "A=\x00", "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		env, err := parseEnv("e", data)
		if err != nil {
			if env != nil || len(err.(*Problems).List) == 0 {
				t.Errorf("got %q and %v", env, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, kv := range env {
			key, value, ok := strings.Cut(kv, "=")
			if !ok || envName(key) != "" || seen[key] || strings.ContainsAny(value, "\x00\n\r") || !utf8.ValidString(kv) {
				t.Errorf("accepted %q", kv)
			}
			seen[key] = true
		}
	})
}
