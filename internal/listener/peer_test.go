package listener

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
)

func TestTheOtherEndOfAConnectionIsKnownOnceItIsAccepted(t *testing.T) {
	for name, c := range map[string]struct{ network, listen, dial string }{
		"IPv4":                          {"tcp", "127.0.0.1:4711", "127.0.0.1:4711"},
		"IPv6":                          {"tcp", "[::1]:4711", "[::1]:4711"},
		"IPv4 to a dual-stack listener": {"tcp", "[::]:4711", "127.0.0.1:4711"},
		"IPv4 to the wildcard":          {"tcp4", "0.0.0.0:4711", "127.0.0.1:4711"},
		"a unix socket with a path":     {"unix", filepath.Join(t.TempDir(), "s"), ""},
		"a unix socket with a name":     {"unix", "@peer-test", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			table, err := Open(ns)
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			if c.dial == "" {
				c.dial = c.listen
			}
			var l net.Listener
			var conn net.Conn
			if err := netns.Do(ns, func() (err error) {
				if l, err = net.Listen(c.network, c.listen); err == nil {
					conn, err = net.Dial(c.network, c.dial)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			defer conn.Close()
			if inode, err := table.Peer(conn); err != nil || inode != 0 {
				t.Errorf("before it is accepted: inode %d, %v", inode, err)
			}
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if inode, err := table.Peer(conn); err != nil || inode != connInode(t, accepted) {
				t.Errorf("accepted: inode %d, %v, want %d", inode, err, connInode(t, accepted))
			}
			accepted.Close()
			if inode, err := table.Peer(conn); err != nil || inode != 0 {
				t.Errorf("closed: inode %d, %v", inode, err)
			}
		})
	}
}

func connInode(t *testing.T, conn net.Conn) uint64 {
	t.Helper()
	f, err := conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return inodeOf(t, int(f.Fd()))
}
