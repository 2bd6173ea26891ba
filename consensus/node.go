package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/clock"
)

// Log is the durable log. Only the node's log writer calls it.
type Log interface {
	// Append adds entries, replacing from the first one's index on, and saves hs if it is not nil.
	// With sync it returns when all of that, and all earlier appends, are durable.
	Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error
	// Chain returns the hash over all entries up to index.
	Chain(index uint64) ([32]byte, bool)
	// Compact says that a durable snapshot covers the entries up to index.
	Compact(index uint64) error
	// Settled ends what Recovered.InDoubt says, durably.
	Settled() error
	// Reset empties the log; it goes on behind (index, term, chain).
	Reset(index, term uint64, chain [32]byte, hs *raftpb.HardState) error
}

// Snapshots keeps snapshots on disk. Save and Install are called by one goroutine each, at the
// same time at most; Open by a third.
type Snapshots interface {
	// Save writes a snapshot and returns the manifest that peers need to fetch it.
	Save(ref SnapshotRef, write func(io.Writer) error) (manifest []byte, err error)
	// Parse reads a manifest that came from a peer.
	Parse(manifest []byte) (SnapshotRef, error)
	// Open reads the snapshot of a manifest, verified.
	Open(manifest []byte) (io.ReadCloser, error)
	// Install fetches what is missing of a peer's snapshot and makes it durable and the newest.
	Install(ctx context.Context, manifest []byte, fetch func(ctx context.Context, hash [32]byte) ([]byte, error)) error
}

// StateMachine is what the log is for. Only the node's applier calls it (and New, before that).
type StateMachine interface {
	// Apply applies the commands of one entry and returns one result each. Entries without commands
	// are passed too, with stamp 0, so that the machine's index follows. An error means that nothing
	// of the entry was applied; applying stops there for good.
	Apply(index, term uint64, at clock.Stamp, commands [][]byte) (results [][]byte, err error)
	// Capture returns a function that writes the state as of now, later and concurrently. Cheap.
	Capture() (write func(io.Writer) error)
	// Restore replaces the state, all or nothing.
	Restore(r io.Reader, index, term uint64) error
}

// Node is one replica. Create it with New, then Run it; every method may be called from anywhere.
type Node struct {
	opts  Options
	log   *zap.Logger
	core  *core // owned by the loop
	peers *peers

	proposals chan *request        // InboxSize; full = ErrBusy
	reads     chan *request        // InboxSize; full = ErrBusy
	control   chan *request        // controlSize; changes of the core and transfers; full = ErrBusy
	inbound   chan inbound         // inboundSize; full = the peer's connection waits
	events    *queue[input]        // what the other goroutines have to tell the loop
	told      []input              // the loop's: those that it took last
	logTasks  *queue[logTask]      // loop -> log writer
	applies   *queue[*applyTask]   // loop -> applier
	resumes   *queue[resumption]   // loop -> applier
	saves     *queue[*saveTask]    // log writer -> snapshot writer
	installs  *queue[*installTask] // loop -> snapshot fetcher

	status  atomic.Pointer[Status]
	applier applier

	clockQuiet uint64 // tick until which a refusal of the clock is not logged again; the loop's
	commit     atomic.Uint64
	waits      *appliedWaits
	full       atomic.Pointer[error] // the log cannot be written for now: why
	refusing   atomic.Pointer[error] // the owner wants no writes for now: why
	stopping   atomic.Bool
	failure    atomic.Pointer[error] // why the node stopped by itself
	changed    chan struct{}         // level, capacity 1
	started    atomic.Bool
	done       chan struct{} // closed when Run has returned
	refused    refusals
	stored     *raftpb.HardState // the log writer's: the last one written, and the last one synced
	synced     *raftpb.HardState
	pause      func(ctx context.Context, d time.Duration) bool // false: give up
	closings   closings
	paces      *paceKeeper
	leases     *leaseReads
	recorder   *recorder // the loop's; nil: nothing is recorded
}

// Capacities that no option sets.
const (
	controlSize = 64
	inboundSize = 256
)

// inbound is what one frame from a peer held.
type inbound struct {
	messages []*raftpb.Message
	reports  []peerReport
	notes    []note
	passes   []envelope // to be passed on
	relayed  []relayed  // that were passed on to us
	refused  []refusal  // of those
}

// New builds a node from what was recovered and restores the machine from the snapshot. It starts
// nothing. The log is reset if it ends before the snapshot.
func New(options Options) (*Node, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	mem, reset, err := recoverLog(o.Recovered)
	if err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	if reset {
		if err := o.Log.Reset(mem.snap.Index, mem.snap.Term, mem.snap.Chain, mem.hard); err != nil {
			return nil, fmt.Errorf("consensus: restart the log behind the snapshot at %d: %w", mem.snap.Index, err)
		}
	}
	stamp, err := restoreMachine(o, mem.snap)
	if err != nil {
		return nil, err
	}
	c, err := newCore(o.core(stamp), mem)
	if err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	o.Recovered.Entries = nil // the core has those that it needs
	n := &Node{
		opts: o, log: o.Logger, core: c,
		proposals: make(chan *request, o.InboxSize), reads: make(chan *request, o.InboxSize),
		control: make(chan *request, controlSize), inbound: make(chan inbound, inboundSize),
		events: newQueue[input](), logTasks: newQueue[logTask](), applies: newQueue[*applyTask](), resumes: newQueue[resumption](),
		saves: newQueue[*saveTask](), installs: newQueue[*installTask](),
		pause: sleep, waits: newAppliedWaits(mem.snap.Index), changed: make(chan struct{}, 1), done: make(chan struct{}),
		paces: newPaceKeeper(o.Tick, o.ElectionTicks), leases: newLeaseReads(o),
	}
	n.applier.alarm = time.NewTimer(watchEvery)
	n.applier.alarm.Stop()
	if g := o.Guard; g != nil && g.Crash != nil && !g.Crash.again() {
		n.applier.marker = g.Crash
	}
	n.peers = newPeers(o.Peers, o.Logger, n.lost)
	n.peers.self, n.peers.life = o.ID, c.relay.life
	n.peers.refused = func(id uint64) { n.events.put(input{kind: inputRefused, id: id}) }
	n.recorder = newRecorder(o.Record, c)
	n.publish()
	return n, nil
}

// Run works until ctx ends or the node fails. A leader first hands over, for at most
// Options.HandOver. It returns nil after ctx ended, else the reason; it may be called once.
func (n *Node) Run(ctx context.Context) error {
	if !n.started.CompareAndSwap(false, true) {
		return errors.New("consensus: Run was called before")
	}
	defer close(n.done)
	// The other goroutines outlive ctx: the hand-over needs them.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g, gctx := errgroup.WithContext(inner)
	g.Go(func() error {
		defer cancel()
		return n.loop(ctx, gctx)
	})
	for _, run := range []func(context.Context) error{n.runLog, n.runApply, n.runWatch, n.runSave, n.runInstall, n.peers.run} {
		g.Go(func() error { return run(gctx) })
	}
	err := g.Wait()
	if err != nil {
		n.failure.Store(&err)
		n.log.Error("consensus stopped", zap.Error(err))
	}
	n.waits.end(n.stopError())
	notify(n.changed)
	return err
}

// fatal ends the process by Options.Fatal: what is on disk is unknown now.
func (n *Node) fatal(err error) error {
	if n.opts.Fatal != nil {
		n.opts.Fatal(err)
	}
	return err
}

// stopError says why the node has stopped.
func (n *Node) stopError() error {
	if e := n.failure.Load(); e != nil {
		return fmt.Errorf("%w: %w", ErrStopped, *e)
	}
	return ErrStopped
}
