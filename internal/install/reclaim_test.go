package install

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/gatewarden/gatewarden/internal/mount"
)

func TestARunDirectoryIsMadeAnewWithItsRecordAndLock(t *testing.T) {
	base := t.TempDir()
	record := Install{
		Version: recordVersion, Namespace: "default", ID: "web", Bundle: "/b", Rootfs: "/b/rootfs", InitPID: 7, InitStart: 8, Profile: "demo",
		Mounts: []mount.Placed{}, PostureAllows: []string{},
		Config: Paths{ProfileDir: "/p", RunDir: filepath.Join(base, "run"), StateDir: "/s", LogDir: "/l"},
	}
	dir := record.RunDir()
	for name, before := range map[string]func(){
		"nothing is there": func() {},
		"another's file": func() {
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "control.sock"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if err := os.RemoveAll(base + "/run"); err != nil {
			t.Fatal(err)
		}
		before()
		lock, err := record.Reclaim()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := Read(dir); err != nil || !reflect.DeepEqual(got, record) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := tryLock(dir, 0); !errors.Is(err, errLocked) {
			t.Errorf("%s: it is not locked: %v", name, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
		// A live warden's place is not taken.
		if l, err := record.Reclaim(); err == nil {
			l.Close()
			t.Errorf("%s: claimed twice", name)
		}
		lock.Close()
	}
}
