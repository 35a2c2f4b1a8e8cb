package install

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/generation"
)

// startInitIn starts the container's init in a user namespace whose IDs are those of the host from first on.
func (h *host) startInitIn(first int) {
	h.t.Helper()
	h.endInit()
	h.must(os.Chmod(h.dir, 0o711))
	cmd := exec.Command("/bin/busybox", "sh", "-ec", `mount --bind "$1" "$1"; echo ready; exec sleep 600`, "sh", h.bundle+"/rootfs")
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: maps, GidMappings: maps, Credential: &syscall.Credential{},
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	h.must(err)
	h.must(cmd.Start())
	h.init = cmd
	_, err = bufio.NewReader(out).ReadString('\n')
	h.must(err)
}

// again ends the container and begins the next one of its name, in another user namespace.
func (h *host) again(first int) {
	h.t.Helper()
	h.endInit()
	h.must(h.poststop())
	h.startInitIn(first)
}

func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestStateBelongsToTheGatewaysNumbersOnTheHostAndIsNotGivenAway(t *testing.T) {
	h := newHost(t)
	h.startInitIn(200000)
	h.must(h.create(Options{}))
	state := h.dir + "/state/default/web/state/var%2Flib%2Fgateway"
	if got := ownerOf(t, state); got != "264990:264991" {
		t.Errorf("the state directory belongs to %s", got)
	}
	h.must(os.WriteFile(state+"/kept", nil, 0o600))
	// The same numbers inside are other ones here.
	h.again(300000)
	err := h.create(Options{})
	for _, want := range []string{"belongs to 264990:264991", "the gateway is 364990:364991 (64990:64991 in the container", "0-65535 (300000-365535 here)", "chown -R 364990:364991 " + state} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if got := ownerOf(t, state+"/kept"); got != "0:0" {
		t.Errorf("what was kept belongs to %s now", got)
	}
	// The cure works.
	if out, err := exec.Command("chown", "-R", "364990:364991", state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.must(h.create(Options{}))
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/rootfs/var/lib/gateway/kept", h.init.Process.Pid, h.bundle)); err != nil {
		t.Error(err)
	}
	h.endInit()
	h.must(h.poststop())
}

func TestAGenerationThatIsKeptCanBeReadByTheGatewayOfAnotherUserNamespace(t *testing.T) {
	h := newHost(t)
	h.profile("demo", strings.Replace(demo, "[[state]]\ntarget = \"/var/lib/gateway\"\n", "", 1))
	h.startInitIn(200000)
	h.must(h.create(Options{}))
	if got := ownerOf(t, h.store().Tree(1, 0)+"/config"); got != "0:264991" {
		t.Errorf("the configuration belongs to %s", got)
	}
	g, seen := h.staged("applied")
	h.must(h.store().Accept(g.Number, seen))
	h.again(300000)
	h.must(h.create(Options{}))
	if got := h.sees(); got != "applied" {
		t.Errorf("the container sees %q", got)
	}
	for _, name := range []string{"", "/config"} {
		if got := ownerOf(t, h.store().Tree(g.Number, 0)+name); got != "0:364991" {
			t.Errorf("%q of the configuration belongs to %s", name, got)
		}
	}
	h.must(h.store().Verify(t.Context(), g.Number, 364990))
	h.endInit()
	h.must(h.poststop())
}

func TestWhatIsUnlockedIsLockedForTheGatewayOfAnotherUserNamespace(t *testing.T) {
	h := newHost(t)
	h.profile("demo", strings.Replace(demo, "[[state]]\ntarget = \"/var/lib/gateway\"\n", "", 1))
	h.startInitIn(200000)
	h.must(h.create(Options{}))
	g, err := h.store().Get(1)
	h.must(err)
	u := generation.Unlocked{Since: time.Now(), Until: time.Now().Add(time.Hour), For: time.Hour, UID: 264990, GID: 264991}
	h.must(h.store().Unlock(t.Context(), g, []string{"/etc/gateway/config"}, u))
	written := h.store().Working(0) + "/config"
	if got := ownerOf(t, written); got != "264990:264991" {
		t.Errorf("what is unlocked belongs to %s", got)
	}
	h.must(os.WriteFile(written, []byte("written"), 0))
	h.again(200000)
	h.must(h.create(Options{}))
	if r, err := h.store().Record(); err != nil || r.Unlocked == nil {
		t.Errorf("the same user namespace: %+v, %v; it should be unlocked still", r, err)
	}
	h.again(300000)
	h.must(h.create(Options{}))
	r, err := h.store().Record()
	if err != nil || r.Unlocked != nil || r.Current != 2 {
		t.Errorf("another user namespace: %+v, %v; it should be locked", r, err)
	}
	if got := h.sees(); got != "written" {
		t.Errorf("the container sees %q", got)
	}
	if got := ownerOf(t, h.store().Tree(2, 0)+"/config"); got != "0:364991" {
		t.Errorf("the configuration belongs to %s", got)
	}
	h.endInit()
	h.must(h.poststop())
}
