package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// copyTime bounds the copying of all [[mount]] sources at a container's create.
const copyTime = 30 * time.Second

// configuration is what a container is created with.
type configuration struct {
	store   *generation.Store
	sources []generation.Source // that are declared
	now     generation.Inputs   // what is declared
	before  *generation.Generation
	seen    generation.Inputs // of before

	unlocked *generation.Unlocked // before is, and stays so for a while
}

// configure chooses the configuration: the generation that was current when a container of this name and profile ended, if
// there is one and what is declared has not changed since it was last looked at; else what is declared. It touches nothing.
func (i *installation) configure(ctx context.Context) (err error) {
	c := &i.configuration
	c.store = generation.Open(i.record.StateDir())
	if c.sources, err = generation.Sources(i.profile.Mounts); err != nil {
		return err
	}
	if c.now, err = generation.Look(ctx, i.profile.Text(), c.sources, i.host.UID); err != nil {
		return err
	}
	r, err := c.store.Record()
	if err != nil || r.Name != i.record.Profile {
		return nil // settle says what is done with it
	}
	g, err := c.store.Get(r.Current)
	if err != nil || !fits(g, i.profile) {
		return nil
	}
	c.before, c.seen = g, r.Seen
	if r.Trying != 0 {
		c.seen = c.interrupted(r)
	}
	if !c.now.Equal(c.seen) && r.Unlocked == nil {
		return nil
	}
	text, err := c.store.Profile(g)
	if err != nil && !c.store.Kept(r) {
		c.before = nil
		return nil // as above
	}
	if err != nil {
		return c.damaged(err)
	}
	if i.profile, err = profile.Parse(i.record.Profile, text); err != nil {
		return fmt.Errorf("generation %d: %w", g.Number, invalid(err))
	}
	return nil
}

// fits tells whether a generation can be what a container is created with whose profile is p.
func fits(g *generation.Generation, p *profile.Profile) bool {
	if len(g.Mounts) != len(p.Mounts) {
		return false
	}
	for n, m := range p.Mounts {
		if g.Mounts[n].Target != m.Target {
			return false
		}
	}
	return true
}

// interrupted gives what had been declared when the generation was made that was being tried when the host went down.
func (c *configuration) interrupted(r generation.Record) generation.Inputs {
	g, err := c.store.Get(r.Trying)
	if err != nil {
		return r.Seen
	}
	return g.From.Over(r.Seen)
}

// damaged is the error for a generation that is Kept and not as it was.
func (c *configuration) damaged(err error) error {
	return fmt.Errorf("%w; it was applied and cannot be made again: put it right, or remove %s to begin with what is declared", err, c.store.Dir())
}

// settle makes the configuration that configure has chosen the current generation, and gives its number.
func (i *installation) settle(ctx context.Context) (number int, err error) {
	c := &i.configuration
	if err := makeDirs(i.record.Config.StateDir, i.record.Namespace, i.record.ID); err != nil {
		return 0, err
	}
	r, err := c.store.Record()
	there := !errors.Is(err, generation.ErrNone)
	if there && c.before == nil {
		// Another profile's, or damaged: what is not durable can be after the host went down.
		if err := c.store.SetAside(); err != nil {
			return 0, err
		}
	}
	if c.before != nil && r.Trying != 0 {
		if err := c.store.Reject(receipt.Rejected{
			Generation: r.Trying, Code: code.NotRunning, Message: "the container ended before it was proven", Time: time.Now(),
		}, c.seen); err != nil {
			return 0, err
		}
	}
	if c.before != nil {
		if err := c.store.Verify(ctx, c.before.Number, i.host.UID); err != nil {
			if c.store.Kept(r) {
				return 0, c.damaged(err)
			}
			if err := c.store.SetAside(); err != nil {
				return 0, err
			}
			c.before = nil
		}
	}
	if c.before != nil && r.Unlocked != nil {
		return i.lockInTime(ctx, r.Unlocked)
	}
	if c.before != nil && c.now.Equal(c.seen) {
		return c.before.Number, nil
	}
	if !there {
		i.made = append(i.made, func() {
			os.RemoveAll(c.store.Dir())
			removeEmpty(i.record.StateDir())
		})
	}
	plan := generation.Plan{
		Name: i.record.Profile, Profile: i.profile.Text(), Sources: c.sources, UID: i.host.UID, GID: i.host.GID,
		Parent: c.before, Origin: generation.Install, RequestedBy: receipt.RequestedBy{Via: "hook"}, Durable: c.before != nil,
	}
	if c.before != nil {
		plan.Sources = c.now.Changed(c.seen, c.sources)
	}
	g, err := c.store.Stage(ctx, plan)
	if err != nil {
		return 0, err
	}
	return g.Number, c.store.Begin(g, c.now)
}

// lockInTime locks a configuration whose time was over while there was no container, before anything is shown to this one; and
// one whose working copy does not belong to this container's gateway. It gives the number of the current generation.
func (i *installation) lockInTime(ctx context.Context, u *generation.Unlocked) (int, error) {
	c := &i.configuration
	reason := "its time was over"
	if u.UID != i.host.UID || u.GID != i.host.GID {
		reason = "the gateway has another UID or GID on the host now"
	} else if u.Left(time.Now()) > 0 {
		c.unlocked = u
		return c.before.Number, nil
	}
	g, err := c.store.Lock(ctx, reason, receipt.RequestedBy{Via: "hook"})
	if errors.Is(err, generation.ErrStillUnlocked) {
		return 0, err
	}
	// What cannot be taken of what the gateway wrote is kept aside. It is no reason to do without a gateway.
	return g.Number, nil
}

// giveGenerations lets the gateway read the generations that there are. A container of this name before can have had another
// user namespace, and so the gateway another group here.
func (i *installation) giveGenerations() error {
	store := i.configuration.store
	numbers, err := store.Numbers()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		g, err := store.Get(n)
		if err != nil {
			continue // who goes back to it is told
		}
		text, err := store.Profile(g)
		if err != nil {
			continue
		}
		p, err := profile.Parse(i.record.Profile, text)
		if err != nil {
			continue
		}
		host, err := posture.Host(p, i.maps)
		if err != nil {
			continue
		}
		if err := store.Give(n, host.GID); err != nil {
			return err
		}
	}
	return nil
}

// MountSources opens what a container is shown of generation n for the [[mount]] entries of its profile p: its trees, or the
// working copies of those that are unlocked. The caller closes the files, also after an error.
func MountSources(store *generation.Store, n int, p *profile.Profile, u *generation.Unlocked) ([]mount.Source, error) {
	var sources []mount.Source
	for k, m := range p.Mounts {
		s := mount.Source{Path: m.Source, Target: m.Target}
		tree := store.Tree(n, k)
		if u != nil && slices.Contains(u.Mounts, k) {
			tree, s.Unlocked = store.Working(k), true
		}
		var err error
		if s.File, err = os.OpenFile(tree, unix.O_PATH|unix.O_NOFOLLOW, 0); err != nil {
			return sources, fmt.Errorf("cannot show generation %d: %w", n, err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}
