package consensus

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

// Limits of the Raft library, from measurements: the uncommitted limit is what a leader without followers may pile up. A
// member knows of no change of the core that it has not reported as applied, and neither votes by it nor stands for
// election before: after a restart, at the end of the first task. So tasks are short.
const (
	maxCommittedSize    = 1 << 20
	maxUncommittedSize  = 64 << 20
	maxInflightMsgs     = 512
	maxInflightBytes    = 32 << 20
	lostLeaderTimeouts  = 2 // election timeouts a proposal waits for its fate after leadership was lost
	saveRetryTimeouts   = 4 // election timeouts between attempts to write a snapshot
	maxTermJump         = 1 << 32
	maxManifestBytes    = 1 << 20
	maxMessageEntries   = 1 << 16
	transferContext     = "CampaignTransfer" // raft's mark on votes asked for by a leadership transfer
	readRoundContextLen = 8
)

// coreConfig is what the core needs to know; Options documents and defaults the fields.
type coreConfig struct {
	id              uint64
	asks            asks
	tick            time.Duration
	noLease         bool
	electionTicks   int
	heartbeatTicks  int
	batchCommands   int
	batchBytes      int
	inflightBatches int
	snapshotEntries uint64
	longReplay      uint64 // entries
	snapshotBytes   int
	trailingEntries uint64
	maxLogBytes     int
	maxMessage      uint64
	noDigests       bool
	rare            func(point string) bool
	checkpointTicks int
	probation       bool
	fenced          bool
	cluster         [16]byte
	chain           func(index uint64) (chain [32]byte, ok bool) // of the log on disk; nil: no tails either
	pairSync        bool
	relay           bool
	inDoubt         string
	ended           time.Duration // see Options.Ended
	ownWordOnly     bool
	guard           *Guard               // nil: who crashes on an entry stops there for good
	held            func(id uint64) bool // nil: nobody is
	abstain         func() bool          // nil: never
	snapshotTimeout int                  // ticks
	stamp           clock.Stamp
	logger          raft.Logger
}

// core is the replica as a step function: every method is an event, and the effects that the
// events asked for pile up until take. It is owned by one goroutine.
//
// After every event raft's Ready is drained at once. So between two events nothing is hidden in
// raft: memLog ends where raft's log ends, and the entries that show up while an event is handled
// are the ones that this event caused. Proposals learn their index that way.
//
// A voter that hears its leader promises to make nobody else one for a while. A restarted voter has
// forgotten whom it heard, so it keeps the promise that it may have made: see lease.
//
// Before it takes part again it asks the others what it has promised: see tails.
type core struct {
	cfg coreConfig
	rn  *raft.RawNode
	log *memLog
	out effects

	ticks     uint64
	beat      uint64 // as leader: tick at which raft's heartbeats were sent last
	role      raft.StateType
	leader    uint64
	term      uint64
	commit    uint64
	applying  uint64 // last index handed out to be applied
	applied   uint64 // last index reported applied
	conf      *raftpb.ConfState
	termStart uint64 // as leader: index of this term's first entry, 0 until seen
	issued    uint64 // as leader: highest read position sent out in a heartbeat of this term
	maxStamp  clock.Stamp
	written   *raftpb.HardState  // last one handed out to be written
	restarted bool               // this id has run before
	unsynced  bool               // entries, term or vote were handed out since the last sync
	halted    error              // applying stopped for good; the log goes on
	heard     map[uint64]uint64  // tick of the last message from each peer
	moved     map[uint64]advance // as leader: of each member's log

	shownLeader uint64 // knownLeader at the last tick

	props    proposals
	pair     pair
	reads    readRounds
	lease    lease
	hint     hint
	afresh   afresh
	tails    tails
	claiming claiming
	acks     acks
	claims   map[uint64]claim // of others, to be given back
	durable  uint64           // last index on the disk
	change   *confChange
	transfer *transfer
	vain     uint64 // who did not take the lead over when it was given to it last
	snaps    snapshots
	relay    relay
	planted  planted
	digests  digests
	guard    guard
	monitor  monitor
	ledSince uint64 // tick at which we began to lead
}

// newCore builds a core from the recovered log. It performs no event; start does.
func newCore(cfg coreConfig, log *memLog) (*core, error) {
	c := &core{
		cfg: cfg, log: log, conf: raftpb.EnsureConfState(log.snap.ConfState), maxStamp: cfg.stamp,
		heard: make(map[uint64]uint64), moved: make(map[uint64]advance), claims: make(map[uint64]claim),
	}
	rc := cfg.raft(log)
	if err := checkRaftConfig(rc); err != nil {
		return nil, err
	}
	rn, err := raft.NewRawNode(rc)
	if err != nil {
		return nil, fmt.Errorf("start raft node %x: %w", cfg.id, err)
	}
	c.rn = rn
	c.term, c.commit = log.hard.GetTerm(), max(log.hard.GetCommit(), log.snap.Index)
	c.applying, c.applied, c.monitor.handed = log.snap.Index, log.snap.Index, log.snap.Index
	c.snaps.last = log.snap.Index
	if c.commit-c.log.snap.Index >= cfg.longReplay {
		c.snaps.replay = c.commit
	}
	if cfg.probation {
		c.digests.probation, c.digests.before = probationMarks, log.last()
	}
	c.restarted = log.hard.GetTerm() > 1 || len(log.entries) > 0 // the genesis of a cluster is of term 1
	c.written = log.hard
	c.observe(log.entries)
	if keep := cfg.trailingEntries; log.snap.Index > keep {
		log.compact(log.snap.Index - keep) // the disk has more, for an older snapshot; memory need not
	}
	c.beginTails(cfg.inDoubt)
	c.beginGuard()
	c.beginRelay()
	return c, nil
}

// raft is the configuration of the library.
func (cfg *coreConfig) raft(log *memLog) *raft.Config {
	return &raft.Config{
		ID: cfg.id, ElectionTick: cfg.electionTicks, HeartbeatTick: cfg.heartbeatTicks,
		Storage: log, Applied: log.snap.Index, AsyncStorageWrites: true,
		MaxSizePerMsg: cfg.maxMessage, MaxCommittedSizePerReady: maxCommittedSize,
		MaxUncommittedEntriesSize: maxUncommittedSize, MaxInflightMsgs: maxInflightMsgs,
		MaxInflightBytes: maxInflightBytes, CheckQuorum: !mutant.On(mutant.NoCheckQuorum), PreVote: !mutant.On(mutant.NoPreVote),
		DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: cfg.logger,
	}
}

// checkRaftConfig refuses what raft would answer with a panic.
func checkRaftConfig(rc *raft.Config) error {
	if rc.ID == raft.None || raft.IsLocalMsgTarget(rc.ID) {
		return fmt.Errorf("raft id %d is reserved", rc.ID)
	}
	if rc.HeartbeatTick < 1 || rc.ElectionTick <= rc.HeartbeatTick {
		return fmt.Errorf("election timeout of %d ticks must be longer than the heartbeat's %d",
			rc.ElectionTick, rc.HeartbeatTick)
	}
	if rc.Applied > 0 {
		_, cs, _ := rc.Storage.InitialState()
		if err := checkConfState(cs); err != nil {
			return fmt.Errorf("snapshot at %d: %w", rc.Applied, err)
		}
	}
	return nil
}

// start performs what is due before the first event: the only voter need not wait for a timeout.
func (c *core) start() {
	c.tickTails()
	c.campaignAlone()
	c.drain()
}

// tick advances raft's timers and ours by one tick.
func (c *core) tick() {
	c.ticks++
	before := len(c.out.messages)
	if c.mayTick() {
		c.rn.Tick()
	}
	c.drain()
	c.noteBeat(before)
	c.campaignAlone()
	c.tickHint()
	c.tickAfresh()
	c.plantedCommit()
	c.writeCommit()
	c.watchProgress()
	c.tickProposals()
	c.tickReads()
	c.tickTransfer()
	c.tickDigests()
	c.tickSnapshots()
	c.tickTails()
	c.tickRelay()
	if c.guardDue() {
		c.tickGuard()
	}
	c.drain()
	c.tickLeader()
}

// campaignAlone makes the only voter stand at once. Raft refuses while a committed change of the
// core is unapplied, hence the repetition at each tick.
func (c *core) campaignAlone() {
	if c.role == raft.StateFollower && c.leader == raft.None && c.alone() && !c.promises() {
		_ = c.rn.Campaign() // a refusal shows as no change of role
	}
}

// step hands a peer's message to raft. The caller has run checkMessage; what depends on our own
// state is checked here. A snapshot is stepped only after it was fetched (see installed).
func (c *core) step(m *raftpb.Message) error {
	if err := c.admit(m); err != nil {
		return err
	}
	if !c.mayVote(m) || !c.mayHear(m) {
		return nil
	}
	c.heard[m.GetFrom()] = c.ticks
	c.watchMessage(m)
	c.plantedVote(m)
	c.acks.stepping, c.acks.spare = m.GetType(), spareAck(m)
	defer func() { c.acks.stepping, c.acks.spare = 0, 0 }()
	if m.GetType() == raftpb.MsgSnap && m.GetSnapshot().GetMetadata().GetIndex() > c.commit {
		c.offerSnapshot(m)
		return nil
	}
	if m.GetType() == raftpb.MsgApp {
		c.observe(m.GetEntries())
	}
	_ = c.rn.Step(m) // errors are "unknown peer" and "dropped": raft's way to ignore
	c.drain()
	c.hearLeader(m)
	return nil
}

// appended delivers the responses of finished log writes to raft, in the order of the writes.
func (c *core) appended(responses []*raftpb.Message) {
	for _, m := range responses {
		_ = c.rn.Step(m)
		c.stored(m)
		c.drain()
	}
	c.plantedAck()
}

// appliedTask reports that everything in t is applied (or skipped by a halt, which never reports).
// Changes of the core enter raft here: after the machine saw them, before raft hears "applied".
// stamp is the machine's newest stamp when t restored a snapshot.
func (c *core) appliedTask(t *applyTask, stamp clock.Stamp) {
	c.seen(stamp)
	for _, e := range t.entries {
		c.applyConfChange(e)
	}
	c.applied = max(c.applied, t.index)
	if t.capture {
		c.captured(t)
	}
	for _, m := range t.responses {
		_ = c.rn.Step(m)
	}
	c.drain()
	c.adopt()
}

// halt stops this replica's service but not its log: it keeps voting and replicating, so that the
// others keep their quorum, and passes leadership on.
func (c *core) halt(err error) {
	if c.digests.fenced == nil { // else that it has to be rebuilt says more
		c.halted = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	c.failProposals(c.halted)
	c.failReads(c.halted)
	c.out.changed = true
	c.handOver()
	c.drain()
}

// unreachable reports that messages to a peer were lost.
func (c *core) unreachable(id uint64) {
	c.rn.ReportUnreachable(id)
	c.drain()
}

// flush proposes what was submitted and starts a read round if one is due. The shell calls it once
// for each turn of its loop, so that everything that arrived together travels together.
func (c *core) flush() {
	c.flushProposals()
	c.flushReads()
}

// observe lifts the clock over the stamps of entries, so that what we stamp when we lead later is
// greater. Entries that are never committed count too: that costs nothing.
func (c *core) observe(entries []*raftpb.Entry) {
	newest := clock.Stamp(0)
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal {
			continue
		}
		if s, ok := batchStamp(e.GetData()); ok && s > newest {
			newest = s
		}
	}
	c.seen(newest)
}

// seen lifts the clock over one stamp. A stamp too far ahead leaves the clock as it is, so that one wrong
// clock does not drag all others along; maxStamp remembers it, and stamps count up from there. The clock saves no mark for
// it: after a restart the log says it again.
func (c *core) seen(s clock.Stamp) {
	if s <= c.maxStamp {
		return
	}
	c.maxStamp = s
	if err := c.cfg.asks.follow(s); err != nil {
		c.out.clockErr = err
	}
}

func (c *core) leads() bool { return c.role == raft.StateLeader }

// notLeader returns the error that sends a caller to the leader.
func (c *core) notLeader() error {
	if c.leads() {
		return &NotLeaderError{}
	}
	return &NotLeaderError{Leader: c.knownLeader()}
}
