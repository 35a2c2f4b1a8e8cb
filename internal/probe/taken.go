package probe

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// Taken tells what has become of a connection to a listening socket that more than the gateway has open. The kernel completes
// connections to such a socket whoever is there, and hands each to whoever accepts first: so neither that it could be made
// nor an answer over it says anything of the gateway, unless the gateway is who accepted it.
type Taken func(conn net.Conn) (Taker, error)

// Taker is who has accepted a connection.
type Taker int

// The takers.
const (
	Nobody Taker = iota // it waits in the queue
	Gateway
	Another
)

// Of an attempt with Taken. Several connections at once reach whoever is idle; one after the other would all go to the same
// process, where the kernel wakes waiters in a fixed order.
const (
	connections = 8
	takenPace   = time.Millisecond // between two looks at them; doubled up to takenMax
	takenMax    = 20 * time.Millisecond
)

// connect makes a connection; with taken, one that the gateway has accepted.
func connect(ctx context.Context, ns *os.File, root int, a profile.Address, taken Taken) (chosen net.Conn, err error) {
	if taken == nil {
		return dial(ctx, ns, root, a)
	}
	var waiting []net.Conn
	defer func() {
		for _, c := range waiting {
			if c != chosen {
				c.Close()
			}
		}
	}()
	for range connections {
		c, err := dial(ctx, ns, root, a)
		if err != nil {
			return nil, err
		}
		waiting = append(waiting, c)
	}
	pace := time.NewTimer(0)
	defer pace.Stop()
	for wait := takenPace; ; wait = min(2*wait, takenMax) {
		others := 0
		for _, c := range waiting {
			switch by, err := taken(c); {
			case err != nil:
				return nil, err
			case by == Gateway:
				return c, nil
			case by == Another:
				others++
			}
		}
		if others == len(waiting) {
			return nil, ElsewhereError(fmt.Sprintf("%d connections to %s were all accepted by the gateway that is to be replaced", others, a))
		}
		pace.Reset(wait)
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("the gateway accepts no connection to %s: %w", a, ctx.Err())
		}
	}
}
