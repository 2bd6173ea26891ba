package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// watchers follow the change stream, as agents outside the core do. What they see must be what happened, in order, no
// change left out and none told twice; after a snapshot, what happened after it.
type watchers struct {
	c    *cluster
	all  []*watcher
	told []keyChange // what happened, as replicas applied it first
}

// keyChange is one change of a key.
type keyChange struct {
	revision uint64
	key      string
	row      string // "" for deleted
}

const (
	watcherCount = 2
	watchPace    = 20 * time.Millisecond
)

var watchedClasses = []state.Class{state.ClassPublic, state.ClassKV}

// watcher is one follower and its connection.
type watcher struct {
	replica *watch.Replica
	seen    uint64 // the revision up to which changes were compared
	host    *host
	life    uint64
	spoiled uint64 // of the host, when the connection began
	feed    *watch.Feed
	conn    int           // counts connections: frames of an earlier one are lost
	lastAt  time.Duration // frames of a connection keep their order
	looks   int
}

func newWatchers(c *cluster) *watchers {
	w := &watchers{c: c}
	for range watcherCount {
		w.all = append(w.all, &watcher{replica: watch.NewReplica(watchedClasses...)})
	}
	return w
}

func (w *watchers) start() {
	for _, f := range w.all {
		w.c.after(w.c.upTo(watchPace), func() { w.turn(f) })
	}
}

// happened takes note of what an entry changed.
func (w *watchers) happened(touched state.Touched) {
	w.told = append(w.told, keyChanges(touched)...)
}

func keyChanges(touched state.Touched) (list []keyChange) {
	for _, c := range touched.Changes {
		if c.Table == state.TableKV {
			list = append(list, keyChange{c.Revision, c.Key, string(c.Row)})
		}
	}
	return list
}

// turn keeps a watcher connected, and lets who serves it look for what is new.
func (w *watchers) turn(f *watcher) {
	w.c.after(watchPace, func() { w.turn(f) })
	switch h := f.host; {
	case h == nil:
		w.connect(f)
	case !h.up || h.life != f.life || f.misled() || w.c.chance(200) || w.c.frozen && !w.c.votes(h):
		w.c.note("watcher reconnected")
		w.part(f)
	case !h.paused:
		f.looks++
		if err := f.feed.Look(f.looks%5 == 0); err != nil {
			w.part(f)
		}
	}
}

func (w *watchers) part(f *watcher) {
	if f.host != nil && f.misled() { // what it told may be wrong; production finds out by the digests
		f.replica, f.seen = watch.NewReplica(watchedClasses...), 0
	}
	if f.feed != nil {
		f.feed.Close()
	}
	f.conn++
	f.host, f.feed = nil, nil
}

func (w *watchers) connect(f *watcher) {
	h := w.c.anyHost()
	if w.c.frozen {
		h = w.c.leader() // who has left the core may never hear of the end
	}
	if h == nil || h.paused || h.tainted {
		return
	}
	if h.spoiled > 0 && h.spoiledLife == h.life { // what was overwritten since is in the history of its changes still
		f.replica, f.seen = watch.NewReplica(watchedClasses...), 0
	}
	f.conn++
	conn := f.conn
	send := func(frame []byte) error {
		f.lastAt = max(f.lastAt, w.c.now+w.c.upTo(3*time.Millisecond))
		frame = slices.Clone(frame)
		w.c.after(f.lastAt-w.c.now, func() {
			if f.conn == conn {
				w.receive(f, frame)
			}
		})
		return nil
	}
	f.host, f.life, f.spoiled = h, h.life, h.spoiled
	var err error
	if f.feed, err = h.hub.Feed(f.replica.Resume(), watchedClasses, send); err == nil {
		err = f.feed.Begin()
	}
	switch {
	case errors.Is(err, watch.ErrBehind):
		w.part(f) // another one knows more
	case err != nil:
		w.c.fail("change stream of %s: %v", h.name, err)
	}
}

// misled reports whether the host is wrong, or was since the connection began: what is overwritten by now may have been told.
func (f *watcher) misled() bool { return f.host.tainted || f.host.spoiled != f.spoiled }

// receive feeds a frame, and compares what it changed with what happened.
func (w *watchers) receive(f *watcher, frame []byte) {
	touched, err := f.replica.Feed(frame)
	if err != nil {
		if !f.misled() {
			w.c.fail("change stream of %s: %v", f.host.name, err)
		}
		w.part(f)
		return
	}
	now := f.replica.View().Revision()
	switch {
	case touched.All:
		w.c.note("watcher took a snapshot")
	case f.misled():
	default:
		if err := compareChanges(w.told, f.seen, now, keyChanges(touched)); err != nil {
			w.c.fail("a watcher at %s: %v", f.host.name, err)
		}
	}
	f.seen = now
}

// compareChanges wants what a watcher was told between two revisions to be what happened.
func compareChanges(happened []keyChange, after, until uint64, told []keyChange) error {
	if until < after {
		return fmt.Errorf("went back from revision %d to %d", after, until)
	}
	from, _ := slices.BinarySearchFunc(happened, after+1, func(c keyChange, r uint64) int { return int(c.revision) - int(r) })
	for i, got := range told {
		if from+i >= len(happened) || happened[from+i] != got {
			return fmt.Errorf("was told %q at revision %d after revision %d, which is not what happened then", got.key, got.revision, after)
		}
	}
	if next := from + len(told); next < len(happened) && happened[next].revision <= until {
		return fmt.Errorf("was not told of %q at revision %d, and is at %d", happened[next].key, happened[next].revision, until)
	}
	return nil
}

// settle wants every watcher to see everything.
func (w *watchers) settle(revision uint64) {
	settled := func() bool {
		return !slices.ContainsFunc(w.all, func(f *watcher) bool { return f.replica.View().Revision() != revision })
	}
	if w.c.until(w.c.now+healTime, settled); !settled() {
		w.c.fail("a watcher has not come to revision %d in %v", revision, healTime)
	}
}

// waits are subscriptions at a host's hub, as those of blocking reads. None may sleep through a change of what it waits for.
type waits struct {
	hub   *watch.Hub
	subs  []*watch.Subscription
	at    []uint64
	turns int
}

// askEvery is in how many turns the View itself is asked what has changed, which walks over prefixes. In all others what
// the entry touched has to do.
const askEvery = 16

var waitedFor = []watch.Selector{
	{Key: "k/", Prefix: true}, {Key: counterNames[0]}, {Key: "g/", Prefix: true}, {Table: state.TableSession, Prefix: true}, {All: true},
}

func newWaits(hub *watch.Hub) (*waits, error) {
	w := &waits{hub: hub, at: make([]uint64, len(waitedFor))}
	for i, selector := range waitedFor {
		sub, err := hub.Subscribe(selector)
		if err != nil {
			return nil, err
		}
		w.subs, w.at[i] = append(w.subs, sub), selector.Changed(hub.View())
	}
	return w, nil
}

// published lets the hub take its turn, and looks who has woken.
func (w *waits) published(v *state.View, touched state.Touched) error {
	w.hub.Publish(v, touched)
	w.hub.Turn()
	w.turns++
	for i, selector := range waitedFor {
		woken := false
		select {
		case <-w.subs[i].C():
			woken = true
		default:
		}
		changed := max(w.at[i], lastChange(selector, touched))
		if touched.All || w.turns%askEvery == 0 {
			changed = selector.Changed(v)
		}
		if !woken && changed != w.at[i] {
			return fmt.Errorf("who waits for %+v slept through revision %d", selector, changed)
		}
		w.at[i] = changed
	}
	return nil
}

// lastChange is the revision of the last change that a selector waits for, 0 without one.
func lastChange(s watch.Selector, touched state.Touched) (revision uint64) {
	table := s.Table
	if table == 0 {
		table = state.TableKV
	}
	for _, c := range touched.Changes {
		if s.All || c.Table == table && (c.Key == s.Key || s.Prefix && strings.HasPrefix(c.Key, s.Key)) {
			revision = max(revision, c.Revision)
		}
	}
	return revision
}
