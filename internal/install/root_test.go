package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestTheProgramOfTheRuntimeIsTheOneThatRuns(t *testing.T) {
	// A directory that is root's in every component.
	dir, err := os.MkdirTemp("/var/lib", "gwt-runtime-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, program, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := put("runtime", 0o755)
	system, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		path  string // that is executed
		argv0 string
		after func() error // done to the file while it runs
		want  string
	}{
		{name: "by its path", path: own, argv0: own, want: own},
		{name: "whatever it calls itself", path: own, argv0: "/bin/cat", want: own},
		{name: "a copy of one in the system's directories", path: put("copy", 0o755), argv0: "sleep", want: system,
			after: func() error { return os.Remove(filepath.Join(dir, "copy")) }},
		{name: "replaced by the same", path: put("old", 0o755), argv0: filepath.Join(dir, "old"), want: filepath.Join(dir, "old"),
			after: func() error { os.Remove(filepath.Join(dir, "old")); put("old", 0o755); return nil }},
		{name: "replaced by another", path: put("older", 0o755), argv0: filepath.Join(dir, "older"),
			after: func() error {
				os.Remove(filepath.Join(dir, "older"))
				return os.WriteFile(filepath.Join(dir, "older"), program[1:], 0o755)
			}},
		{name: "writable by others", path: put("open", 0o777), argv0: filepath.Join(dir, "open")},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := &exec.Cmd{Path: c.path, Args: []string{c.argv0, "60"}}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			if c.after != nil {
				if err := c.after(); err != nil {
					t.Fatal(err)
				}
			}
			// Between the two, execve(2) has closed what tells Start of it, and not laid out the arguments yet.
			for line := []byte{}; len(line) == 0; {
				if line, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid)); err != nil {
					t.Fatal(err)
				}
			}
			got, err := runtimeProgram(cmd.Process.Pid)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
