package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodStream = "state.stream"

	// lkgFile is the last known good copy of the public state, so that an agent outside the core
	// starts and serves with the core gone.
	lkgFile = "public.snap"
	// lkgFirst is how soon the copy is looked after at first, lkgEvery how often once there is one.
	lkgFirst = 100 * time.Millisecond
	lkgEvery = 10 * time.Second

	// knownPause makes one write of changes that come together.
	knownPause = 250 * time.Millisecond

	streamRetryMin = 50 * time.Millisecond
	streamRetryMax = 2 * time.Second

	// outsideEvery is how often a core member looks whether it has left the core and has to follow again.
	outsideEvery = 250 * time.Millisecond
)

// publicOnly is the class that every agent may follow.
var publicOnly = []state.Class{state.ClassPublic}

// follower feeds the View of an agent outside the core from the change stream of any core member.
type follower struct {
	dir    *dataDir
	views  *viewSwitch
	epochs *epochs
	book   *book
	pool   *transport.Pool
	log    *zap.Logger
	met    func() <-chan struct{} // closed when gossip's members change next

	// Owned by run.
	replica *watch.Replica
	skipped bool   // a View was older than the one shown, so the next counts as all new
	failed  bool   // the last attempt brought nothing
	told    string // the leader, as an agent outside the core named it
}

// run follows until ctx ends. While the own log feeds the View it only keeps the copy on disk fresh.
func (f *follower) run(ctx context.Context) error {
	var copier sync.WaitGroup
	copier.Go(func() { f.keepCopy(ctx) })
	copier.Go(func() { f.keepKnown(ctx) })
	defer copier.Wait()
	wait := streamRetryMin
	for ctx.Err() == nil {
		if f.views.ownLog() {
			f.waitOutside(ctx)
			continue
		}
		began := time.Now()
		err := f.followOnce(ctx)
		if ctx.Err() != nil || f.views.ownLog() {
			continue
		}
		if time.Since(began) > streamRetryMax {
			wait = streamRetryMin
		}
		f.log.Debug("change stream interrupted, trying another core member", zap.Error(err))
		pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, streamRetryMax)
	}
	return nil
}

// followOnce follows one core member until that ends.
func (f *follower) followOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	node := f.source()
	if node == "" {
		return errors.New("no core member is known yet")
	}
	f.failed = true // until a frame comes
	if now := f.epochs.current(); f.replica.View().Cluster().Epoch != now {
		f.replica = watch.NewReplica(publicOnly...) // nothing of another epoch is continued
	}
	request := binary.BigEndian.AppendUint64(nil, f.replica.Resume().Revision)
	err := f.pool.Stream(ctx, node, methodStream, request, f.feed)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.Leader != f.book.self {
		f.told = refused.Leader
	}
	return fmt.Errorf("follow %s: %w", node, err)
}

// source picks whom to follow: a core member, at random. Those that this agent knows may all have left
// the core while it was away; so after a failure each second attempt asks any live agent, which follows
// the core itself and names the leader.
func (f *follower) source() string {
	if node := f.told; node != "" {
		f.told = ""
		return node
	}
	sources := f.book.coreSources()
	if live := f.book.live(); f.failed && len(live) > 0 && rand.N(2) == 0 {
		sources = live
	}
	if len(sources) == 0 {
		return ""
	}
	return sources[rand.IntN(len(sources))]
}

// feed takes one frame. A source that is behind what was shown before is followed, and shown once it
// has caught up.
func (f *follower) feed(frame []byte) error {
	if f.views.ownLog() {
		return errOwnLog
	}
	touched, err := f.replica.Feed(frame)
	if err != nil {
		return err
	}
	v := f.replica.View()
	if epoch := v.Cluster().Epoch; f.epochs.passed(epoch) && v.Index() > 0 {
		return fmt.Errorf("the change stream is of epoch %d, which has passed", epoch.Counter)
	}
	f.failed = false
	if olderThan(v, f.views.hub.View()) {
		f.skipped = true
		return nil
	}
	if f.skipped {
		touched, f.skipped = state.Touched{All: true}, false
	}
	f.views.fromStream(v, touched)
	return nil
}

// errOwnLog ends a stream that is no longer needed.
var errOwnLog = errors.New("the own log feeds the view now")

func (f *follower) waitOutside(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(nextBeat(outsideEvery)):
	}
}

// keepCopy writes the public state to disk: soon after the first View came, so that an agent that is killed
// right after it joined finds its cluster again, then at a slower pace.
func (f *follower) keepCopy(ctx context.Context) {
	ticker := time.NewTicker(lkgFirst)
	defer ticker.Stop()
	var saved [32]byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		v := f.views.hub.View()
		digest := v.ClassDigest(state.ClassPublic)
		if v.Index() == 0 || digest == saved {
			continue
		}
		if err := f.save(); err != nil {
			f.log.Warn("could not keep a copy of the public state", zap.Error(err))
			continue
		}
		saved = digest
		ticker.Reset(lkgEvery)
	}
}

// keepKnown writes the members to disk soon after they or their addresses change. A host that is restarted when
// the others have moved finds them only if it remembers where they went, and gossip alone has told it.
func (f *follower) keepKnown(ctx context.Context) {
	again := time.NewTicker(lkgEvery) // who is in the core may change as well, and a write may have failed
	defer again.Stop()
	saved := f.book.known
	save := func() {
		now := f.book.snapshotKnown()
		if slices.Equal(now, saved) {
			return
		}
		if err := f.dir.writeKnown(now); err != nil {
			f.log.Warn("could not keep the members' addresses", zap.Error(err))
			return
		}
		saved = now
	}
	for ctx.Err() == nil {
		changed := f.met()
		save()
		select {
		case <-changed:
			pause(ctx, knownPause)
		case <-again.C:
		case <-ctx.Done():
		}
	}
	save()
}

func (f *follower) save() error {
	v, classes := f.views.hub.View(), state.NewClassSet(publicOnly...)
	digest := v.DigestOf(classes)
	b := bytes.NewBuffer(append(digest[:], state.EncodePosition(v.Position())...))
	if err := v.WriteSnapshotOf(classes, b); err != nil {
		return err
	}
	return f.dir.writeView(lkgFile, b.Bytes())
}

// loadCopy returns the last known good View, or an empty one.
func loadCopy(dir *dataDir, log *zap.Logger) *state.View {
	f := state.NewFollower(publicOnly...)
	raw, err := os.ReadFile(dir.join(viewDir, lkgFile))
	if err != nil {
		return f.View() // there is none before the first one was written
	}
	if err := loadInto(f, raw); err != nil {
		log.Warn("the local copy of the public state is damaged and is not used", zap.Error(err))
	}
	return f.View()
}

// loadInto reads what save wrote: digest, position, snapshot.
func loadInto(f *state.Follower, raw []byte) error {
	var digest [32]byte
	if copy(digest[:], raw) < len(digest) {
		return io.ErrUnexpectedEOF
	}
	at, snapshot, err := state.DecodePosition(raw[len(digest):])
	if err != nil {
		return err
	}
	f.LoadBegin()
	if err := f.LoadChunk(snapshot); err != nil {
		return err
	}
	_, err = f.LoadEnd(at, digest)
	return err
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
