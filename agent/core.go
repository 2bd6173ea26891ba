package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

// coreRunner runs a consensus node exactly while the replicated state says that this agent has a
// Raft id. It looks at levels, never at events: whatever was missed, the next look makes right.
type coreRunner struct {
	record  consensus.RecordOptions
	cfg     config.Core
	dir     *dataDir
	self    string     // our node's name
	ids     clusterIDs // owned by run
	views   *viewSwitch
	epochs  *epochs // nil: the cluster has one
	book    *book
	pool    *transport.Pool
	clock   *clock.Clock // owned by the running node's loop
	digests *digestRing
	room    *coreRoom
	log     *zap.Logger
	booted  *bootedCore // opened before run starts, so that a damaged log stops the agent early
	lost    error       // why the snapshots here cannot be started from; see refetch
	damage  *logDamage  // why the log has to be healed before a node runs; see heal
	turns   *chunkTurns
	host    *security.Host                      // nil: nothing is relayed
	abstain func() bool                         // stands for no election; nil: never
	fatal   func(error)                         // ends the process
	stuck   func(error)                         // ends the process, because of a command
	report  func(kind, subject, message string) // to the timeline

	viaTurns    *chunkTurns       // who is served chunks of others
	entryTurns  *chunkTurns       // who is served entries of the log
	goneTurn    chan struct{}     // one place: one member at a time may give its Raft id up
	unusable    unusableSnapshots // which the node is not started from
	ownWordOnly bool              // what a leader counts of ours was looked for, and nobody has it
	healNow     chan *damageFound // capacity 1: the running node's log has to be healed
	retiredFor  string            // why ours was, as far as we asked for it
	leftEpoch   string            // what to tell of an epoch that was left; see tellLeft
	beforeStep  func() error      // tests: a crash before a step of leaveEpoch
	healing     atomic.Bool
	repairs     atomic.Uint64 // logs repaired since the start
	replaced    atomic.Uint64 // Raft ids given up for a damaged log

	spoil    atomic.Pointer[func([][]byte) [][]byte] // tests; see replica
	fencing  *fencing                                // why this member answers nothing; see rebuild
	isFenced atomic.Pointer[fencing]                 // the same, for everyone
	beyond   uint64                                  // the snapshot has to be at or behind this entry, 0: any
	gate     uint64                                  // see consensus.Guard.Gate
	sources  []string                                // whose snapshots it may be rebuilt from, none: anyone's
	fencings atomic.Uint64                           // fences since the start
	rebuilds atomic.Uint64                           // of those, after which this member answered again
	stops    atomic.Uint64                           // commands that this member stopped at since the start

	stoppedAt atomic.Pointer[consensus.ApplyStop] // where it does not apply, nil while it does

	starting chan struct{} // closed once the node that this start has prepared runs, or will not; nil: there is none
	awaited  atomic.Int32  // connections of peers that wait for it

	current atomic.Pointer[coreNode]
	changed chan struct{} // cap 1: the node came, went, or its status changed
}

// coreNode is one life of a Raft id in this process.
type coreNode struct {
	raftID uint64
	epoch  state.Epoch // in which that id was given
	node   *consensus.Node
	store  *store
}

type bootedCore struct {
	*coreNode
	machine  *replica
	enlisted bool // the Raft id is new, and stands for one that was given up
}

// running returns the life of the present Raft id, nil outside the core. From the moment at which a newer epoch is proven
// there is none: what still runs until it has stopped answers nobody.
func (c *coreRunner) running() *coreNode {
	n := c.current.Load()
	if n == nil || c.epochs.passed(n.epoch) {
		return nil
	}
	return n
}

// node returns the running consensus node, nil outside the core.
func (c *coreRunner) node() *consensus.Node {
	if n := c.running(); n != nil {
		return n.node
	}
	return nil
}

// member returns the running node once its own log feeds the View, nil before and outside the core:
// a learner that has not caught up knows less of the core than its neighbours, and so does a node that
// sees its own removal and whose id is about to be retired.
func (c *coreRunner) member() *consensus.Node {
	if !c.views.ownLog() {
		return nil
	}
	n := c.node()
	if n == nil {
		return nil
	}
	if st := n.Status(); st.Role == consensus.RoleNone || neededRebuild(st.Stopped) != nil {
		return nil
	}
	return n
}

// leads reports whether this agent is a member that leads and serves.
func (c *coreRunner) leads() bool {
	if !c.views.ownLog() {
		return false
	}
	n := c.node()
	return n != nil && n.Leads()
}

// open prepares the node of an agent that was a core member when it stopped.
func (c *coreRunner) open() error {
	if c.ids.RaftID == 0 {
		return nil
	}
	if c.epochs.passed(c.ids.raftEpoch()) { // learned before this start
		return c.leaveEpoch()
	}
	has, err := c.dir.hasLog()
	if err != nil {
		return err
	}
	c.room.has(true)
	c.loadFencing()
	if has {
		if c.booted, err = c.build(c.ids.RaftID); err == nil {
			c.starting = make(chan struct{})
		}
	} else {
		err = fmt.Errorf("%s is the directory of Raft id %x: %w", c.dir.path, c.ids.RaftID, errLogGone)
	}
	if damage := damagedLog(err); c.mayHeal(damage) {
		c.damage, err = damage, nil
	} else if c.mayRefetch(err) {
		c.lost, err = err, nil
	}
	if errors.Is(err, errLogGone) {
		return withHint(err, "starting without it could undo acknowledged writes, and there is no other core member to heal from: "+
			"restore the directory from a backup")
	}
	return err
}

// build opens the store of a Raft id and makes its node; nothing runs yet. A snapshot that cannot be restored is treated as one
// whose files are damaged.
func (c *coreRunner) build(raftID uint64) (*bootedCore, error) {
	for {
		n, err := c.buildOnce(raftID)
		if !c.foundUnusable(err) {
			return n, err
		}
	}
}

func (c *coreRunner) buildOnce(raftID uint64) (*bootedCore, error) {
	ended := clock.Boottime() // the directory is locked, and no node of ours runs
	st, err := openLoaded(c.dir, c.ids.ClusterID, raftID, c.cfg.SegmentMiB, c.unusable, c.log.Named("storage"))
	if err != nil {
		return nil, err
	}
	key, err := c.dir.claimKey()
	if err != nil { // without one it works, and others cannot remind it of what it has promised
		c.log.Warn("no key to sign what this member holds", zap.Error(err))
	}
	machine := &replica{machine: state.NewMachine(), views: c.views, digests: c.digests, spoil: &c.spoil, loaded: st.loaded}
	st.loaded = nil
	c.plantMemoryFault(machine)
	machine.fenced.Store(c.fencing != nil)
	guard, err := c.guard(st, machine, raftID)
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	n, err := consensus.New(consensus.Options{
		Guard: guard, Held: c.isHeld, Abstain: c.abstain,
		ID: raftID, Clock: c.clock, Log: st.log, Recovered: st.recoveredState(),
		Snapshots: snapshotStore{st.snapshots}, Machine: machine,
		Digest: machine.digest, CheckpointEvery: c.cfg.CheckpointEvery, Probation: c.fencing != nil, Fenced: c.fencing.hopeless(),
		ClaimKey: key, ClusterID: mustID(c.ids.ClusterID), OwnWordOnly: c.ownWordOnly,
		MachineStamp: func() clock.Stamp { return machine.machine.View().Stamp() },
		Peers:        c.peerOptions(),
		Fetch:        c.fetchChunk, Tick: c.cfg.Tick, ElectionTicks: c.cfg.ElectionTicks, NoPairSync: !c.cfg.PairSync, NoLease: !c.cfg.LeaseReads, Ended: ended,
		Retryable: func(err error) bool { return errors.Is(err, storage.ErrNoSpace) },
		Final:     isFatal,
		Later:     func(err error) bool { return errors.Is(err, state.ErrLater) },
		Fatal:     c.fatal,
		Logger:    c.log.Named("consensus"),
		Record:    c.record,
	})
	if err != nil {
		_ = st.close()
		return nil, errors.Join(err, st.snapshots.Damage()) // a snapshot that was passed over may leave a gap
	}
	machine.wrong = n.Fence
	st.forgetEntries()
	return &bootedCore{coreNode: &coreNode{raftID: raftID, epoch: c.ids.raftEpoch(), node: n, store: st}, machine: machine}, nil
}

// run starts and stops nodes until ctx ends.
func (c *coreRunner) run(ctx context.Context) error {
	sub, err := c.views.hub.Subscribe(watch.Selector{Table: state.TableCore, Prefix: true})
	if err != nil {
		return err
	}
	defer sub.Close()
	for ctx.Err() == nil {
		c.tellLeft()
		if err := c.step(ctx, sub); err != nil {
			return err
		}
	}
	return nil
}

// step runs the node that there is to run, or waits until there is one.
func (c *coreRunner) step(ctx context.Context, sub *watch.Subscription) error {
	defer c.started()
	n, err := c.prepared(ctx)
	if err != nil {
		return err
	}
	// Before its first vote: the cluster may have begun a new epoch without this member, from a backup or another
	// log, and a majority of the old one that starts together would go on as if nothing had been. Whoever is asked and
	// knows of it proves it.
	if n != nil && c.othersSayRetired(ctx, n.raftID) {
		return errors.Join(n.store.close(), c.discharge(ctx, n.raftID))
	}
	if c.overtaken() {
		if n != nil {
			err = n.store.close()
		}
		return errors.Join(err, c.leaveEpoch())
	}
	if n == nil {
		if c.damage != nil || c.lost != nil {
			return nil // there is more to heal, or ctx has ended
		}
		id, epoch := c.assignedID()
		if id == 0 {
			select {
			case <-sub.C():
			case <-ctx.Done():
			}
			return nil
		}
		if n, err = c.enlist(id, epoch); errors.Is(err, storage.ErrNoSpace) {
			c.room.failed(ctx, id, err)
			return nil
		} else if err != nil {
			return err
		}
	}
	return c.serve(ctx, n, sub)
}

// prepared returns the node of the Raft id that this directory has, healed if its log or snapshots were damaged; nil if
// there is none yet, or if the epoch passes meanwhile.
func (c *coreRunner) prepared(ctx context.Context) (n *bootedCore, err error) {
	ctx, cancel := c.epochs.within(ctx, c.ids.raftEpoch())
	defer cancel()
	n, c.booted = c.booted, nil
	if c.damage != nil {
		if n, err = c.heal(ctx); n == nil || err != nil {
			return nil, err
		}
	}
	if c.lost != nil {
		return c.refetch(ctx)
	}
	return n, nil
}

// assignedID is the Raft id that the replicated state gives to this agent, 0 if none, and the epoch of that state. An id that this
// directory has given up does not count: right after that the View may be older than the retirement,
// and under an old id an empty log would vote.
func (c *coreRunner) assignedID() (uint64, state.Epoch) {
	v := c.views.hub.View()
	epoch := v.Cluster().Epoch
	if c.epochs.passed(epoch) {
		return 0, epoch // it is that of the core that was
	}
	for _, m := range v.Core() {
		if m.Node == c.self && consensus.MayRun(m.RaftID, c.ids.PastRaftID) {
			return m.RaftID, epoch
		}
	}
	return 0, epoch
}

// enlist prepares this agent to run a new Raft id. The log is made before cluster.toml names the id:
// a crash between the two leaves an empty log, never an id whose log could have been lost.
func (c *coreRunner) enlist(raftID uint64, epoch state.Epoch) (*bootedCore, error) {
	if err := c.dir.dropLog(); err != nil {
		return nil, err
	}
	n, err := c.build(raftID)
	if err != nil {
		return nil, errors.Join(err, c.dir.dropLog()) // what was made of it would only take room
	}
	n.epoch = epoch
	n.enlisted = c.ids.PastRaftID != 0
	ids := c.ids
	ids.RaftID, ids.RaftEpoch = raftID, epoch.String()
	if err := c.dir.writeCluster(ids); err != nil {
		return nil, errors.Join(err, n.store.close(), c.dir.dropLog())
	}
	c.ids = ids
	c.room.has(true)
	return n, nil
}

// serve runs a node until ctx ends or its Raft id is retired.
func (c *coreRunner) serve(ctx context.Context, n *bootedCore, sub *watch.Subscription) error {
	nodeCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 2)
	go func() { done <- n.store.log.Run(nodeCtx) }()
	go func() { done <- n.node.Run(nodeCtx) }()
	c.current.Store(n.coreNode)
	c.started()
	c.signal()
	c.log.Info("taking part in the core", zap.Uint64("raft_id", n.raftID))
	c.replacePassedOver(n)

	retired, err := c.watchOver(nodeCtx, n, sub, done)
	c.current.Store(nil)
	cancel()
	stopErr := errors.Join(<-done, <-done)
	c.signal()
	stopErr = errors.Join(stopErr, n.store.close())
	if failed := errors.Join(err, stopErr); c.fatal != nil && isFatal(failed) {
		c.fatal(failed) // no clean stop after it: a failed sync of the log, the anchor or a spare segment
	}
	if errors.Is(err, errEpochPassed) {
		return c.leaveEpoch() // what its log still wanted to say does not count
	}
	if damage := damagedLog(err); c.mayHeal(damage) {
		c.damage = damage
		return nil
	}
	if need := neededRebuild(err); need != nil {
		return c.rebuild(n, need)
	}
	switch {
	case err != nil:
		return err
	case retired: // what its log still wanted to say does not count: it is deleted
		return c.discharge(ctx, n.raftID)
	default:
		return stopErr
	}
}

// watchOver waits until ctx ends, the node fails, or its id turns out to be retired.
func (c *coreRunner) watchOver(ctx context.Context, n *bootedCore, sub *watch.Subscription, done chan error) (retired bool, err error) {
	ask := newBeat(standingEvery)
	defer ask.stop()
	told := coreTold{enlisted: n.enlisted, violated: make(map[string]bool)}
	for {
		learned := c.epochs.learned()
		if c.epochs.passed(n.epoch) {
			c.fence(n)
			return false, errEpochPassed
		}
		c.tell(n.node.Status(), &told)
		c.lookAtProbation(n)
		c.lookAtGuard(n)
		select {
		case <-ctx.Done():
			return false, nil
		case err := <-done:
			done <- nil // serve waits for two
			if err == nil && ctx.Err() == nil {
				err = errors.New("a part of the core node stopped by itself")
			}
			return false, err
		case <-learned:
		case found := <-c.healNow:
			c.handOver(ctx)
			return false, found
		case <-n.node.Changed():
			c.signal()
		case <-sub.C():
			if c.isRetired(n.raftID) {
				return true, nil
			}
		case <-ask.C:
			ask.again()
			if c.isRetired(n.raftID) || inDoubt(n.node.Status()) && c.othersSayRetired(ctx, n.raftID) {
				return true, nil
			}
		}
	}
}

// discharge gives up a retired Raft id: the id never comes back, its log goes, and the View is fed by
// the change stream again. cluster.toml says so before the log is gone.
func (c *coreRunner) discharge(ctx context.Context, raftID uint64) error {
	if c.overtaken() { // who says that the id is retired has proven a new epoch meanwhile: the log may hold what that lost
		return c.leaveEpoch()
	}
	c.log.Info("no longer part of the core", zap.Uint64("raft_id", raftID))
	c.views.toStream()
	c.ids.RaftID, c.ids.RaftEpoch, c.ids.PastRaftID = 0, "", max(c.ids.PastRaftID, raftID)
	for err := c.dir.writeCluster(c.ids); err != nil; err = c.dir.writeCluster(c.ids) {
		if !errors.Is(err, storage.ErrNoSpace) {
			return err
		}
		c.log.Warn("no room to note that the Raft id is given up, trying again", zap.Uint64("raft_id", raftID), zap.Error(err))
		if pause(ctx, roomPauseMin); ctx.Err() != nil {
			return nil // at the next start it is given up again
		}
	}
	c.room.has(false)
	c.endFencing()
	return c.dir.dropLog()
}

const (
	// startPatience is for how long a peer's connection waits for a node that is about to run: for as long as others may take to
	// say whether its Raft id counts.
	startPatience = askTimeout
	// maxAwaited is how many do so at a time.
	maxAwaited = 16
)

// soonRunning is running, and waits for the node that this start has prepared. A peer that was closed instead loses what it had to say
// and pauses before it dials again, while all that were started together wait for each other.
func (c *coreRunner) soonRunning(ctx context.Context) *coreNode {
	if n := c.running(); n != nil || c.starting == nil {
		return n
	}
	defer c.awaited.Add(-1)
	if c.awaited.Add(1) > maxAwaited {
		return nil
	}
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	select {
	case <-c.starting:
	case <-patience.C:
	case <-ctx.Done():
	}
	return c.running()
}

// started lets go who waits for the node of this start. Only run calls it.
func (c *coreRunner) started() {
	if c.starting == nil {
		return
	}
	select {
	case <-c.starting:
	default:
		close(c.starting)
	}
}

// servePeer hands an inbound Raft connection to the node.
func (c *coreRunner) servePeer(ctx context.Context, conn net.Conn, peer transport.Peer) {
	n := c.soonRunning(ctx)
	if n == nil {
		_ = conn.Close()
		return
	}
	n.node.ServePeer(ctx, conn, peer.Node)
}

func (c *coreRunner) dialPeer(ctx context.Context, id uint64) (net.Conn, error) {
	node, ok := c.nodeOf(id)
	if !ok {
		return nil, fmt.Errorf("no node is known for Raft id %x", id)
	}
	return c.book.dial(ctx, node, transport.ALPNRaft)
}

// nodeOf names the node that owns a Raft id, by the replicated state.
func (c *coreRunner) nodeOf(id uint64) (string, bool) {
	m, ok := c.views.hub.View().CoreByID(id)
	return m.Node, ok && !m.Retired
}

// handOver moves leadership away before this agent stops listening.
func (c *coreRunner) handOver(ctx context.Context) {
	n := c.node()
	if n == nil {
		return
	}
	st := n.Status()
	if st.Leader != st.ID {
		return
	}
	best, ok := consensus.BestHeir(c.askHeirs(ctx, st, heirPatience))
	if !ok {
		return
	}
	if err := n.TransferLeader(ctx, best); err != nil {
		c.log.Warn("could not hand leadership over before stopping", zap.Error(err))
	}
}

func (c *coreRunner) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
