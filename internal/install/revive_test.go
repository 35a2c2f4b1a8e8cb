package install

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// heldLock is a run directory whose lock somebody holds.
func heldLock(t *testing.T) (dir string, lock *os.File) {
	t.Helper()
	dir = t.TempDir()
	lock, err := tryLock(dir, unix.O_CREAT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return dir, lock
}

func TestTheLockOfADyingWardenIsWaitedFor(t *testing.T) {
	for name, dying := range map[string]func(t *testing.T, dir string){
		"its socket is closed already": func(*testing.T, string) {},
		"its socket still takes connections, and nobody answers": func(t *testing.T, dir string) {
			controltest.Serve(t, dir, func(control.Request, func(control.Message)) {})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lock := heldLock(t)
			dying(t, dir)
			time.AfterFunc(100*time.Millisecond, func() { lock.Close() })
			mine, err := lockOrReach(dir, 0)
			if err != nil || mine == nil {
				t.Fatalf("lock %v, %v; want the lock", mine, err)
			}
			mine.Close()
		})
	}
}

func TestAWardenThatHoldsItsLockAndAnswersIsTheOneToAsk(t *testing.T) {
	dir, _ := heldLock(t)
	// It comes up while we look.
	time.AfterFunc(50*time.Millisecond, func() {
		controltest.Serve(t, dir, func(_ control.Request, send func(control.Message)) {
			send(control.Message{Status: &receipt.Status{Listeners: []receipt.Listener{}}, Done: true})
		})
	})
	if mine, err := lockOrReach(dir, 0); err != nil || mine != nil {
		t.Errorf("lock %v, %v; want neither", mine, err)
	}
}
