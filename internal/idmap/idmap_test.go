package idmap

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gatewarden/gatewarden/internal/process"
)

const (
	whole = "         0          0 4294967295\n"
	two   = "         0     200000       1000\n      1000     300000          1\n"
)

func TestAMapIsReadAsTheKernelWritesIt(t *testing.T) {
	for _, test := range []struct {
		text string
		want Ranges
	}{
		{whole, Ranges{{0, 0, None}}},
		{two, Ranges{{0, 200000, 1000}, {1000, 300000, 1}}},
		{strings.Repeat("1 2 3\n", maxRanges), slices.Repeat(Ranges{{1, 2, 3}}, maxRanges)},
		{"4294967294 4294967294 1\n", Ranges{{None - 1, None - 1, 1}}},
	} {
		if got, err := Parse([]byte(test.text)); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q: %v, %v, want %v", test.text, got, err, test.want)
		}
	}
}

func TestAMapThatTellsNobodysIDsIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"not written yet":                "",
		"two numbers":                    "0 200000\n",
		"four numbers":                   "0 200000 1 1\n",
		"an empty line":                  whole + "\n",
		"no number":                      "0 root 1\n",
		"a negative number":              "0 -1 1\n",
		"more than 32 bits":              "0 0 4294967296\n",
		"nobody's here":                  "0 4294967295 1\n",
		"no IDs":                         "0 200000 0\n",
		"more IDs than there are inside": "1 0 4294967295\n",
		"more IDs than there are here":   "0 1 4294967295\n",
		"more lines than the kernel has": strings.Repeat("1 2 3\n", maxRanges+1),
	} {
		if got, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestIDsAreThoseOfTheRangeThatTheyAreIn(t *testing.T) {
	r, err := Parse([]byte(two))
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]uint32{0: 200000, 999: 200999, 1000: 300000, 1001: None, None: None} {
		if got, ok := r.Host(id); got != want || ok != (want != None) || r.HostOrNone(id) != want {
			t.Errorf("%d is %d, %v here, want %d", id, got, ok, want)
		}
	}
	if got, want := r.String(), "0-999 (200000-200999 here), 1000 (300000 here)"; got != want {
		t.Errorf("it reads %q, want %q", got, want)
	}
	m := Maps{UIDs: r, GIDs: r[:1]}
	if got, ok := m.Host(ID{UID: 1000, GID: 5, Groups: []uint32{6}}); !ok || got.UID != 300000 || got.GID != 200005 || !slices.Equal(got.Groups, []uint32{200006}) {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, id := range []ID{{UID: 1001}, {GID: 1000}, {Groups: []uint32{0, 1000}}} {
		if got, ok := m.Host(id); ok {
			t.Errorf("%+v is %+v here", id, got)
		}
	}
}

func TestTheMapsOfAProcessAreThoseOfItsUserNamespace(t *testing.T) {
	self, err := process.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if m, err := Of(self); err != nil || m.Apart || !m.UIDs.Identity() || !m.GIDs.Identity() {
		t.Errorf("our own: %+v, %v: these tests need root of the initial user namespace", m, err)
	}
	if err := Initial(); err != nil {
		t.Error(err)
	}
	cmd := exec.Command("/bin/busybox", "sh", "-c", "echo ready; read line")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 1000}, {ContainerID: 1000, HostID: 300000, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 400000, Size: 65536}},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m, err := Of(p)
	if err != nil || !m.Apart || !slices.Equal(m.UIDs, Ranges{{0, 200000, 1000}, {1000, 300000, 1}}) || !slices.Equal(m.GIDs, Ranges{{0, 400000, 65536}}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", whole, two, "0 0", "0 4294967295 1\n", "x y z\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		for _, m := range r {
			// The first and the last ID of a range are each in one, and none is nobody's.
			for _, id := range []uint32{m.Inside, m.Inside + m.Count - 1} {
				if host, ok := r.Host(id); !ok || host == None {
					t.Errorf("%v: %d is %d, %v", r, id, host, ok)
				}
			}
		}
	})
}
