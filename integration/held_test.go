//go:build integration

package integration

import (
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
)

// heldListen declares the usual address as a held listener.
func heldListen(mode string, more ...string) string {
	s := "[[listen]]\nname = \"api\"\naddress = \"tcp://" + harness.GatewayAddress + "\"\nmode = \"" + mode + "\"\n"
	for _, m := range more {
		s += m + "\n"
	}
	return s
}

// heldProfile is a profile of the test gateway with a held listener.
func heldProfile(mode string, args ...string) *harness.Profile {
	p := &harness.Profile{Listen: heldListen(mode), Args: args}
	if mode == "inherit" {
		p.Command = append([]string{"/usr/local/bin/testgateway", "--inherit"}, args...)
	}
	return p
}

func TestAHeldListenerIsTheSameSocketThroughRestartsAndCrashes(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			c := run(t, options{profile: heldProfile(mode)})
			s := c.parked()
			if len(s.Listeners) != 1 || s.Listeners[0].Inode == 0 || s.Listeners[0].Mode != mode || s.Listeners[0].OwnerPID != s.PID {
				t.Fatalf("listeners %+v", s.Listeners)
			}
			for range 3 {
				if r := c.restart(); r.Listeners[0].Inode != s.Listeners[0].Inode || r.Listeners[0].OwnerPID != r.New.PID {
					t.Errorf("listeners %+v, want the socket %d", r.Listeners, s.Listeners[0].Inode)
				} else {
					t.Logf("%+v", r.Millis)
				}
				c.ask()
			}
		})
	}
}
