package warden

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/install"
)

// place is the warden's hold on its run directory, where its clients find it. Whoever clears /run takes the socket away and
// not the warden; so the warden watches the directory, and makes it anew when it was removed or moved.
//
// It is told by the kernel through dnotify (fcntl(2), F_NOTIFY). That is older than inotify and as good here, and has no
// limit per user: of inotify instances root has 128 by default, for all of its services together.
type place struct {
	w     *Warden
	moved chan struct{} // for run: the place has been made anew

	// The rest is the watching goroutine's alone, until it has ended.
	clients *net.UnixListener
	lock    *os.File
	watched []*os.File // the run directory first, then those above it
}

const (
	// placeSettles is how long the directory is left alone after a change: who removes it is not done with one file.
	placeSettles = 100 * time.Millisecond
	// placeRetry and its double, and so on to placeRetryMax, are the pauses between tries to make the place anew.
	placeRetry    = time.Second
	placeRetryMax = 30 * time.Second
)

// hold takes the directory that install made and that the warden was started with, and its lock.
func (w *Warden) hold(clients *net.UnixListener) *place {
	p := &place{w: w, moved: make(chan struct{}, 1), clients: clients, lock: os.NewFile(install.LockFD, "lock")}
	p.watch()
	return p
}

// keep serves clients and keeps the place until ctx ends. serving outlives it by the clients that it still serves.
func (p *place) keep(ctx context.Context, serving *sync.WaitGroup) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGIO)
	defer signal.Stop(changed)
	defer func() { p.clients.Close() }()
	serve := func(l *net.UnixListener) {
		serving.Go(func() { control.Serve(p.w.alive, l, p.w.handle) })
	}
	serve(p.clients)
	timer := stoppedTimer()
	settling := false
	for retry := placeRetry; ; {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			// Each memo that replaces another one is a change too: they must not put the look off for as long as they come.
			if !settling {
				timer.Reset(placeSettles)
				settling = true
			}
			continue
		case <-timer.C:
		}
		settling = false
		if p.ours() {
			continue
		}
		if err := p.reclaim(); err != nil {
			p.w.log.Error("the run directory was removed or moved, and cannot be made anew", "dir", p.w.dir, "err", err, "next_try_in", retry)
			timer.Reset(retry)
			retry = min(2*retry, placeRetryMax)
			continue
		}
		retry = placeRetry
		p.w.log.Warn("the run directory was removed or moved; it has been made anew", "dir", p.w.dir)
		serve(p.clients)
		select {
		case p.moved <- struct{}{}:
		default:
		}
		timer.Reset(placeSettles) // it may have happened again before the watch began
	}
}

// ours tells whether everything that clients and a successor need is where they look for it.
func (p *place) ours() bool {
	for _, name := range []string{control.SocketName, install.RecordName} {
		if _, err := os.Lstat(filepath.Join(p.w.dir, name)); err != nil {
			return false
		}
	}
	return p.locked()
}

// locked tells whether the lock that we hold is the one in the run directory's place.
func (p *place) locked() bool {
	var mine, there unix.Stat_t
	return unix.Fstat(int(p.lock.Fd()), &mine) == nil && unix.Lstat(filepath.Join(p.w.dir, install.LockName), &there) == nil &&
		mine.Dev == there.Dev && mine.Ino == there.Ino
}

// reclaim makes the directory, its lock, the record and the socket anew. Connections that there are go on.
func (p *place) reclaim() error {
	p.w.writing.Lock()
	defer p.w.writing.Unlock()
	lock := p.lock
	if !p.locked() {
		var err error
		if lock, err = p.w.rec.Reclaim(); err != nil {
			return err
		}
	} else if err := p.w.rec.Write(); err != nil {
		return err
	}
	clients, err := control.Listen(p.w.dir)
	if err != nil {
		if lock != p.lock {
			lock.Close()
		}
		return err
	}
	p.clients.Close()
	if lock != p.lock {
		p.lock.Close()
	}
	p.clients, p.lock = clients, lock
	p.watch()
	return nil
}

// Of fcntl(2), F_NOTIFY. A rename out of the directory counts as a deletion.
const (
	dnDelete    = 0x8
	dnMultishot = 0x80000000
)

// watch asks for a SIGIO when something goes from the run directory, or when one of the directories above it goes. It
// replaces the watch that there was.
func (p *place) watch() {
	for _, f := range p.watched {
		f.Close()
	}
	p.watched = nil
	dir := p.w.dir
	for range 4 { // ID, NAMESPACE, RUN_DIR, and what RUN_DIR is in
		f, err := os.Open(dir)
		if err == nil {
			p.watched = append(p.watched, f)
			_, err = unix.FcntlInt(f.Fd(), unix.F_NOTIFY, dnDelete|dnMultishot)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.w.log.Warn("cannot watch for the removal of the run directory", "dir", dir, "err", err)
		}
		dir = filepath.Dir(dir)
	}
}
