package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
)

// Options for New. ID, Clock, Log, Snapshots and Machine are required.
type Options struct {
	ID        uint64       // Raft id of this node, never used before by another
	Clock     *clock.Clock // owned by the node from New on
	Log       Log
	Recovered Recovered
	Snapshots Snapshots
	Machine   StateMachine
	// MachineStamp returns the newest stamp in the machine's state; nil = 0. It is called right
	// after Machine.Restore, so that this node never stamps below what a snapshot holds.
	MachineStamp func() clock.Stamp
	Peers        PeerOptions
	// ClaimKey is this member's own secret, and ClusterID tells its clusters apart: with both it signs what it holds,
	// so that it can believe others who remind it after a restart. Nil = it makes no claims and believes none.
	ClaimKey  []byte
	ClusterID [16]byte
	// OwnWordOnly ignores what a leader counts of ours without our word for it: see RepairNeed.Unproven.
	OwnWordOnly bool
	// Digest returns the digest of the machine's state, right after an entry was applied, or an error if the machine has
	// found that its memory is wrong. Nil = states are not compared.
	Digest func() ([32]byte, error)
	// CheckpointEvery is how often states are compared while something is written, 5 s.
	CheckpointEvery time.Duration
	// Probation says that the state was just rebuilt because it differed from the others': this member answers only after
	// a few comparisons found it equal.
	Probation bool
	// Fenced says that the state was rebuilt often enough and was wrong again each time: this member votes and replicates, and
	// answers nothing.
	Fenced bool
	// Guard keeps a command that crashes replicas from stopping the core. Nil = who crashes on an entry stops there for good.
	Guard *Guard
	// Held reports whether an operator does maintenance where a member runs: the lead goes elsewhere if it can. Called by
	// the loop; it must not block. Nil = nowhere.
	Held func(id uint64) bool
	// Abstain reports whether this member stands for no election, and takes no lead that is given to it: the process around it
	// ended badly too often. It votes and replicates. Called by the loop; it must not block. Nil = never.
	Abstain func() bool
	// Fetch returns one stored chunk of a snapshot from the node that sent its manifest.
	Fetch func(ctx context.Context, id uint64, hash [32]byte) ([]byte, error)

	// Tick is the unit of the timers, 50 ms. ElectionTicks (10) without a leader start an election;
	// the leader is heard every HeartbeatTicks (2). Fewer election ticks find a dead leader sooner
	// and mistake a pause for one more often.
	Tick           time.Duration
	ElectionTicks  int
	HeartbeatTicks int

	InboxSize          int // proposals and reads that may wait, each; beyond it ErrBusy. 4096
	MaxBatchCommands   int // commands in one entry, 2048
	MaxBatchBytes      int // encoded size of one entry, 1 MiB
	MaxInflightBatches int // entries proposed and not yet committed, 2

	SnapshotEntries uint64        // entries between snapshots, 100,000
	SnapshotBytes   int           // or payload bytes between snapshots under load, 128 MiB or as many as the state has
	TrailingEntries uint64        // entries kept behind a snapshot for followers slightly behind, 5,000
	MaxMessageBytes int           // of entries in one message to a peer, 1 MiB; one entry always fits
	MaxLogBytes     int           // payload bytes in memory beyond which writes are refused, 1 GiB
	SnapshotTimeout time.Duration // a receiver silent for this long is sent a snapshot anew, 10 s; one that is fetching ignores it
	HandOver        time.Duration // how long a leader that stops waits for its successor, 1 s

	// NoPairSync acknowledges a write of a lone voter without waiting for the disk of the learner
	// beside it: faster, and lost with the voter's disk.
	NoPairSync bool

	// NoLease has a leader ask a majority for each round of reads. By default it answers by a lease where it holds one.
	NoLease bool
	// Elapsed is the clock of leases: it never steps, and goes on while the process or the machine is stopped. CLOCK_BOOTTIME,
	// and on a system without it no leases.
	Elapsed func() time.Duration

	// Ended is a reading of Elapsed after which no life of this member before this one has heard anybody: one from after the
	// directory was locked, before what is in it was read. The promise that such a life may have made counts from then, and
	// not from when all was loaded. 0 = from the first reading of the node.
	Ended time.Duration

	// Rare makes things happen that are legal and seldom, at points in the code that have names (RarePoints), whenever it
	// returns true. For simulations. Nil = never.
	Rare func(point string) bool
	// Retryable reports errors of Log.Append that pass by themselves, such as a full disk: the write
	// is repeated with back-off and proposals are refused meanwhile. Nil = none.
	Retryable func(error) bool
	// Final reports errors of Snapshots after which what is on disk is unknown, such as a failed sync.
	// Errors of Log are final unless they are Retryable. Nil = none.
	Final func(error) bool
	// Later reports errors of Machine.Restore about a snapshot that a later version wrote: it is not damaged, and none takes its
	// place. Nil = none.
	Later func(error) bool
	// Fatal is called, once, when the log or the snapshots failed for good; it should end the
	// process, since what is on disk is unknown after a failed sync. Nil = Run returns the error.
	Fatal func(error)
	// Record keeps the core's inputs, so that what it did can be replayed. Zero = it does not.
	Record RecordOptions
	// Logger gets one line for each notable event; nil = none.
	Logger *zap.Logger
}

// Defaults of Options.
const (
	clockQuietTicks        = 200 // ticks between two logged refusals of the clock, 10 s at the default
	defaultTick            = 50 * time.Millisecond
	defaultElectionTicks   = 10
	defaultHeartbeatTicks  = 2
	defaultInbox           = 4096
	defaultBatchCommands   = 2048
	defaultBatchBytes      = 1 << 20
	defaultInflightBatches = 2
	defaultSnapshotEntries = 100_000
	defaultSnapshotBytes   = 128 << 20
	longReplay             = 10_000 // entries that no second start shall have to apply again
	defaultTrailing        = 5_000
	defaultMaxLogBytes     = 1 << 30
	defaultMessageBytes    = 1 << 20 // larger ones delay heartbeats, smaller ones cost round trips
	defaultSnapshotTimeout = 10 * time.Second
	defaultHandOver        = time.Second
	defaultCheckpointEvery = 5 * time.Second
)

// withDefaults fills in what is zero and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	if o.Clock == nil || o.Log == nil || o.Snapshots == nil || o.Machine == nil {
		return o, errors.New("consensus: Clock, Log, Snapshots and Machine are required")
	}
	orDefault(&o.Tick, defaultTick)
	orDefault(&o.ElectionTicks, defaultElectionTicks)
	orDefault(&o.HeartbeatTicks, defaultHeartbeatTicks)
	orDefault(&o.InboxSize, defaultInbox)
	orDefault(&o.MaxBatchCommands, defaultBatchCommands)
	orDefault(&o.MaxBatchBytes, defaultBatchBytes)
	orDefault(&o.MaxInflightBatches, defaultInflightBatches)
	orDefault(&o.SnapshotEntries, defaultSnapshotEntries)
	orDefault(&o.SnapshotBytes, defaultSnapshotBytes)
	orDefault(&o.TrailingEntries, defaultTrailing)
	orDefault(&o.MaxLogBytes, defaultMaxLogBytes)
	orDefault(&o.MaxMessageBytes, defaultMessageBytes)
	orDefault(&o.SnapshotTimeout, defaultSnapshotTimeout)
	orDefault(&o.HandOver, defaultHandOver)
	orDefault(&o.CheckpointEvery, defaultCheckpointEvery)
	if o.MaxBatchCommands > maxBatchCommands || o.MaxBatchBytes > maxBatchBytes || o.MaxBatchBytes <= batchSize(1, 0) {
		return o, fmt.Errorf("consensus: batches of %d commands or %d bytes are outside of the limits %d and %d",
			o.MaxBatchCommands, o.MaxBatchBytes, maxBatchCommands, maxBatchBytes)
	}
	if o.Retryable == nil {
		o.Retryable = func(error) bool { return false }
	}
	if o.Final == nil {
		o.Final = func(error) bool { return false }
	}
	if o.Later == nil {
		o.Later = func(error) bool { return false }
	}
	if o.MachineStamp == nil {
		o.MachineStamp = func() clock.Stamp { return 0 }
	}
	if o.Elapsed == nil {
		o.Elapsed, o.NoLease = clock.Boottime, o.NoLease || !clockCountsSuspends
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o, nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o Options) core(stamp clock.Stamp) coreConfig {
	return coreConfig{
		id: o.ID, asks: asksOf(o.Clock, o.ClaimKey), tick: o.Tick, noLease: o.NoLease, electionTicks: o.ElectionTicks, heartbeatTicks: o.HeartbeatTicks,
		batchCommands: o.MaxBatchCommands, batchBytes: o.MaxBatchBytes, inflightBatches: o.MaxInflightBatches,
		snapshotEntries: o.SnapshotEntries, snapshotBytes: o.SnapshotBytes, trailingEntries: o.TrailingEntries,
		longReplay:  longReplay,
		maxLogBytes: o.MaxLogBytes, maxMessage: uint64(o.MaxMessageBytes), rare: o.Rare, pairSync: !o.NoPairSync,
		noDigests: o.Digest == nil, checkpointTicks: max(1, int(o.CheckpointEvery/o.Tick)), probation: o.Probation, fenced: o.Fenced,
		snapshotTimeout: max(1, int(o.SnapshotTimeout/o.Tick)),
		relay:           o.Peers.Seal != nil && o.Peers.Verify != nil,
		inDoubt:         o.Recovered.InDoubt, cluster: o.ClusterID, chain: o.Log.Chain, ownWordOnly: o.OwnWordOnly, guard: o.Guard, held: o.Held, abstain: o.Abstain,
		ended: o.Ended,
		stamp: stamp, logger: raftLogger{log: o.Logger.Named("raft").Sugar()},
	}
}
