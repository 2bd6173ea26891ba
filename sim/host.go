package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
)

const (
	dataDir      = "/data"
	segmentBytes = 128 << 10
	tick         = 50 * time.Millisecond
)

// host is a machine: a disk that outlives crashes, a clock, and at most one replica.
type host struct {
	c    *cluster
	name string
	id   uint64 // its Raft id; 0 while it has none
	past uint64 // the highest that it gave up
	disk *storage.Mem

	skew       time.Duration // of its wall clock
	drift      float64       // of its wall clock, and of its ticks
	boottime   time.Duration // of its clock for elapsed time, at boottimeAt
	boottimeAt time.Duration
	mark       clock.Stamp // of the clock, durable
	lied       bool        // its disk said that it synced, and did not
	flipped    string      // the key whose value was flipped, if that is what is wrong
	flippedAt  uint64      // the revision of that value
	caught     bool        // it was wrong at a checkpoint
	tainted    bool        // its state is wrong, and nobody has noticed yet
	probation  bool        // its state was just rebuilt
	skewed     bool        // it will apply one command wrongly
	spoiled    uint64      // counts how often its state went wrong

	spoiledLife uint64 // when that was last
	sweep       state.Sweep
	unusable    map[[32]byte]string // its snapshots that cannot be restored
	rotten      bool                // somebody has put such a one there
	doomed      bool                // its files will be spoiled
	damaged     bool                // its files were spoiled, and not read since
	oneEntry    bool                // its next life sends one entry in a message
	slow        float64             // its disk takes so many times as long
	lies        bool                // about what it relays
	cut         storage.CrashMode   // what its disk keeps when it ends amid an operation

	boots   int              // counts losses of power
	ended   bool             // its process ends at this command
	beyond  uint64           // it begins again with a snapshot at or behind this entry
	gate    uint64           // see consensus.Guard.Gate
	journal *storage.Journal // nil in a run without guards

	unproven    bool // it looks for what a leader counts of it without its word for it
	ownWordOnly bool // nobody has that

	since   time.Duration // up or down
	end     time.Duration // of the life before, or what counts as it
	endedAt time.Duration // the same, by its clock for elapsed time; 0: there was none
	life    uint64        // counts starts: events of an earlier life do nothing
	up      bool
	paused  bool
	missed  []missed
	readers []func() // that wait for an index to be applied
	rep     *consensus.Replica
	machine *state.Machine
	hub     *watch.Hub
	waits   *waits
	log     *storage.Log
	snaps   *storage.Snapshots

	logBusy, applyBusy, saveBusy, fetchBusy, anchorBusy bool

	commit uint64 // highest seen in this life
	vote   vote
	deaf   deafness
	lead   leadMark
	led    time.Duration // since when it leads without having been able to ask a majority
}

func (h *host) wall() time.Time {
	return time.UnixMilli(1_700_000_000_000).Add(h.c.now + h.skew + time.Duration(h.drift*float64(h.c.now)))
}

// at makes f happen on this host, unless it crashes before. During a pause it waits for the thaw.
func (h *host) at(d time.Duration, f func()) {
	h.c.schedule(d, event{do: f, host: h, life: h.life})
}

// happen is for an event that was made in that life.
func (h *host) happen(life uint64, f func()) {
	switch {
	case h.life != life || !h.up:
	case h.paused:
		h.missed = append(h.missed, missed{life, f})
	default:
		f()
	}
}

// missed is an event that came during a pause.
type missed struct {
	life uint64
	do   func()
}

// found writes the first snapshot, which names the voters, on an empty disk.
func (h *host) found(voters []uint64, genesis *state.View) error {
	log, _, err := storage.OpenLog(h.logOptions())
	if err != nil {
		return err
	}
	snaps, err := storage.OpenSnapshots(h.snapshotOptions())
	if err != nil {
		return err
	}
	meta := storage.SnapshotMeta{Index: genesis.Index(), Term: genesis.Term(), ConfState: &raftpb.ConfState{Voters: voters}}
	if _, err := snaps.Save(meta, genesis.WriteSnapshot); err != nil {
		return err
	}
	hs := &raftpb.HardState{Term: new(genesis.Term()), Commit: new(genesis.Index())}
	if err := log.Reset(meta.Index, meta.Term, meta.Chain, hs); err != nil {
		return err
	}
	return log.Close()
}

func (h *host) logOptions() storage.LogOptions {
	return storage.LogOptions{FS: h.disk, Dir: dataDir, ClusterID: clusterID, RaftID: h.id, SegmentBytes: segmentBytes, Rare: h.c.rarely}
}

func (h *host) snapshotOptions() storage.SnapshotOptions {
	return storage.SnapshotOptions{FS: h.disk, Dir: dataDir, ClusterID: clusterID, Unusable: h.unusable}
}

// start boots the replica from its disk, without the snapshots that cannot be restored. An error is what a process would refuse
// to start with.
func (h *host) start() error {
	for {
		err := h.open()
		var unusable *consensus.UnusableSnapshotError
		if !errors.As(err, &unusable) {
			return err
		}
		if !h.rotten {
			return fmt.Errorf("a snapshot was written that cannot be restored: %s", err) //nolint:errorlint // nothing mends that
		}
		h.c.note("snapshot passed over")
		h.c.trace("%s: %v", h.name, err)
		if h.unusable == nil {
			h.unusable = map[[32]byte]string{}
		}
		h.unusable[sha256.Sum256(unusable.Manifest)] = err.Error()
	}
}

func (h *host) open() error {
	h.life++
	if h.life/2%2 == 0 { // every other time nobody knows when the life before ended
		h.end, h.endedAt = h.c.now, 0
	}
	h.up, h.paused, h.missed, h.readers, h.commit, h.ended = false, false, nil, nil, 0, false
	h.logBusy, h.applyBusy, h.saveBusy, h.fetchBusy, h.anchorBusy = false, false, false, false, false
	snaps, err := storage.OpenSnapshots(h.snapshotOptions())
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	log, found, err := storage.OpenLog(h.logOptions())
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	clk, err := clock.New(clock.Options{Physical: h.wall, HighWater: h.mark,
		Persist: func(s clock.Stamp) error { h.mark = s; return nil }})
	if err != nil {
		return err
	}
	if found.InDoubt != "" {
		h.c.note("end of the log in doubt")
		h.c.trace("%s: %s", h.name, found.InDoubt)
	}
	recovered := consensus.Recovered{InDoubt: found.InDoubt, FirstIndex: found.FirstIndex, PrevTerm: found.PrevTerm, Entries: found.Entries, HardState: found.HardState}
	if meta, manifest, ok := snaps.Latest(); ok {
		recovered.Snapshot = snapshotRef(meta, manifest)
	}
	h.log, h.snaps, h.machine = log, snaps, state.NewMachine()
	h.hub = watch.NewHub(h.machine.View())
	if h.waits, err = newWaits(h.hub); err != nil {
		return err
	}
	guard, err := h.guard(lastOf(recovered))
	if err != nil {
		return fmt.Errorf("apply journal: %w", err)
	}
	messageBytes := h.c.messageBytes
	if h.oneEntry {
		messageBytes, h.oneEntry = 1, false
	}
	o := consensus.Options{
		ID: h.id, Clock: clk, Log: log, Recovered: recovered, Snapshots: snapshots{snaps}, Machine: &applier{h}, Guard: guard,
		MachineStamp: func() clock.Stamp { return h.machine.View().Stamp() },
		OwnWordOnly:  h.ownWordOnly, Digest: h.digest, CheckpointEvery: 500 * time.Millisecond, Probation: h.probation,
		Rare: h.c.rarely, Elapsed: h.elapsed, NoLease: h.c.noLease, Ended: h.endedAt,
		ClaimKey: []byte("claim key of " + h.name), ClusterID: clusterID,
		Peers: h.peerOptions(), Fetch: h.fetch, Tick: tick,
		SnapshotEntries: h.c.snapshotEntries, TrailingEntries: 30, MaxMessageBytes: messageBytes,
		Retryable: func(err error) bool { return errors.Is(err, storage.ErrNoSpace) },
		Record:    consensus.RecordOptions{Bytes: h.c.recordBytes, Build: "sim"},
	}
	if h.rep, err = consensus.NewReplica(o); err != nil {
		return errors.Join(err, snaps.Damage()) // a snapshot that is damaged may leave a gap
	}
	h.up, h.damaged, h.since = true, false, h.c.now
	h.do(h.rep.Start)
	h.tickSoon()
	return nil
}

func (h *host) tickSoon() {
	h.at(time.Duration(float64(tick)*(1+h.drift)), func() {
		h.do(h.rep.Tick)
		h.tickSoon()
	})
}

// do performs a step of the replica, then looks after what it left to do.
func (h *host) do(step func() error) {
	err := step()
	if err == nil && h.disk.Crashed() {
		err = storage.ErrCrashed // something took it for a thing that may fail: the process ends in that moment all the same
	}
	if err != nil {
		h.died(err)
		return
	}
	if need := h.rep.RepairNeeded(); need != nil {
		h.c.note("repair needed")
		h.c.trace("%s: %s", h.name, need.Reason)
		target := storage.Point{Index: need.Index, Chain: need.Chain}
		h.crash(storage.KeepUnsynced)
		h.damaged, h.unproven = true, need.Unproven
		h.c.heal(h, nil, &target, 0)
		return
	}
	if need := h.rep.RebuildNeeded(); need != nil {
		h.c.rebuild(h, need)
		return
	}
	h.c.observe(h)
	h.pump()
}

// died ends the process as production does when its disk or its core fails. A panic is a bug.
func (h *host) died(err error) {
	var panicked *consensus.PanicError
	if errors.As(err, &panicked) {
		h.c.fail("%s: %v\n%s", h.name, err, panicked.Stack)
	}
	h.c.trace("%s died: %v", h.name, err)
	mode := storage.KeepUnsynced
	if h.disk.Crashed() {
		mode = h.cut
	}
	h.crash(mode)
	h.c.after(500*time.Millisecond, func() { h.c.boot(h) })
}

// crash ends the replica; the disk keeps what mode says.
func (h *host) crash(mode storage.CrashMode) {
	if !h.up {
		return
	}
	h.c.note(crashNames[mode])
	if mode != storage.KeepUnsynced {
		h.boots++
	}
	h.beyond, h.gate, h.probation = 0, 0, h.probation && h.rep.Status().Probation > 0
	h.record(crashNames[mode])
	h.up, h.rep, h.since, h.ownWordOnly = false, nil, h.c.now, false
	h.end, h.endedAt = h.c.now, h.elapsed() // the earliest that Options.Ended may be
	h.life++
	h.disk = h.disk.Crash(mode, h.c.rnd.Uint64())
	h.c.clients.crashed(h)
}

// record gives away what the recorder of the replica has.
func (h *host) record(reason string) {
	if h.c.recording == nil || h.rep == nil {
		return
	}
	recording, err := h.rep.Recording(reason)
	if err != nil {
		h.c.fail("%s: %v", h.name, err)
		return
	}
	h.c.recording(h.name, recording)
}

// pump sends frames and starts the workers that have something to do.
func (h *host) pump() {
	for _, f := range h.rep.TakeFrames() {
		h.c.send(h, f)
	}
	if !h.logBusy && h.rep.LogWaits() {
		h.work(&h.logBusy, h.syncTime(), h.rep.LogWork)
	}
	if !h.applyBusy && h.rep.ApplyWaits() {
		h.work(&h.applyBusy, 100*time.Microsecond, h.apply)
	}
	if !h.saveBusy && h.rep.SaveWaits() {
		h.work(&h.saveBusy, 4*h.syncTime(), h.rep.SaveWork)
	}
	if !h.fetchBusy && h.rep.InstallWaits() {
		h.work(&h.fetchBusy, 5*time.Millisecond, func() error { return h.rep.InstallWork(context.Background()) })
	}
	if !h.anchorBusy {
		h.anchorBusy = true
		h.at(15*time.Millisecond, func() {
			h.anchorBusy = false
			if err := h.log.Background(context.Background()); err != nil && !errors.Is(err, storage.ErrNoSpace) || h.disk.Crashed() {
				h.died(errors.Join(err, errors.New("in the background")))
			}
		})
	}
}

func (h *host) work(busy *bool, d time.Duration, step func() error) {
	*busy = true
	h.at(d, func() {
		*busy = false
		h.do(step)
	})
}

// apply lets those look again who wait for an index.
func (h *host) apply() error {
	err := h.rep.ApplyWork()
	if h.ended {
		err = errEnded
	}
	list := h.readers
	h.readers = nil
	for _, f := range list {
		f()
	}
	return err
}

// syncTime is how long the disk takes for a write and a sync: never as long as what has to be noticed after the faults.
func (h *host) syncTime() time.Duration {
	return min(time.Duration(h.slow*float64(2*time.Millisecond+h.c.upTo(10*time.Millisecond))), noticed/2)
}

// fetch is Options.Fetch.
func (h *host) fetch(_ context.Context, id uint64, name [32]byte) ([]byte, error) {
	return h.chunkOf(h.c.byID(id), id, name)
}

// applier is the host's state machine, watched by the checkers.
type applier struct{ h *host }

func (a *applier) Apply(index, term uint64, at clock.Stamp, commands [][]byte) ([][]byte, error) {
	return a.run(index, term, at, commands, state.Guard{})
}

func (a *applier) run(index, term uint64, at clock.Stamp, commands [][]byte, guard state.Guard) ([][]byte, error) {
	results, touched, err := a.h.machine.ApplyGuarded(index, term, at, a.h.miscompute(commands), guard)
	if err != nil {
		return nil, err
	}
	a.h.c.poisons.judge(a.h, index, commands, guard.Quarantined)
	a.h.c.applied(a.h, index, term, commands, results, touched)
	if err := a.h.waits.published(a.h.machine.View(), touched); err != nil {
		a.h.c.fail("%s: %v", a.h.name, err)
	}
	return results, nil
}

// Capture finds out a state that is not what it says of itself, and is right as far as anybody knows: a mistake of the program.
func (a *applier) Capture() func(io.Writer) error {
	h, v, wrong := a.h, a.h.machine.View(), a.h.tainted
	return func(w io.Writer) error {
		err := v.WriteSnapshot(w)
		if errors.Is(err, state.ErrMemory) && !wrong && !h.tainted {
			h.c.fail("%s: %v", h.name, err)
		}
		return err
	}
}

func (a *applier) Restore(r io.Reader, index, term uint64) error {
	if err := a.h.machine.Restore(r); err != nil {
		return err
	}
	if v := a.h.machine.View(); v.Index() != index || v.Term() != term {
		return fmt.Errorf("the snapshot of %d holds %d", index, v.Index())
	}
	if a.h.journal != nil {
		a.h.journal.Applied(index)
	}
	a.h.c.restored(a.h, index)
	if err := a.h.waits.published(a.h.machine.View(), state.Touched{All: true}); err != nil {
		a.h.c.fail("%s: %v", a.h.name, err)
	}
	return nil
}

// snapshots gives storage.Snapshots the shape that consensus asks for.
type snapshots struct{ *storage.Snapshots }

func snapshotRef(meta storage.SnapshotMeta, manifest []byte) *consensus.SnapshotRef {
	return &consensus.SnapshotRef{Index: meta.Index, Term: meta.Term, Chain: meta.Chain, ConfState: meta.ConfState, Manifest: manifest, Size: meta.Size}
}

func (s snapshots) Save(ref consensus.SnapshotRef, write func(io.Writer) error) ([]byte, error) {
	return s.Snapshots.Save(storage.SnapshotMeta{Index: ref.Index, Term: ref.Term, Chain: ref.Chain, ConfState: ref.ConfState}, write)
}

func (s snapshots) Parse(manifest []byte) (consensus.SnapshotRef, error) {
	meta, err := storage.ParseManifest(manifest)
	if err != nil {
		return consensus.SnapshotRef{}, err
	}
	return *snapshotRef(meta, manifest), nil
}

func (s snapshots) Install(ctx context.Context, manifest []byte, fetch func(context.Context, [32]byte) ([]byte, error)) error {
	return s.Snapshots.Install(ctx, manifest, fetch)
}
