package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// maxStackBytes bounds a goroutine's stack: what recurses without end is to end before it has taken the host's memory.
const maxStackBytes = 64 << 20

// guard opens the apply journal of a Raft id, and joins it and the machine to what the node needs to outlive a command that
// crashes it. Nil where files cannot be mapped into memory.
func (c *coreRunner) guard(st *store, machine *replica, raftID uint64) (*consensus.Guard, error) {
	if unguarded() {
		return nil, nil
	}
	journal, found, err := storage.OpenJournal(storage.JournalOptions{
		FS: c.dir.fs, Dir: c.dir.path, ClusterID: mustID(c.ids.ClusterID), RaftID: raftID, Boot: bootID(), Program: programID(), Last: lastOf(st),
	})
	if errors.Is(err, errors.ErrUnsupported) {
		c.log.Warn("files cannot be mapped here: a command that crashes this member stops it for good")
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("open the apply journal: %w", err)
	}
	st.journal, machine.journal = journal, journal
	g := &consensus.Guard{
		Apply: machine.applyGuarded, Before: func() [32]byte { return machine.machine.View().Digest() },
		Quarantinable: state.Quarantinable, LeftOut: machine.machine.Quarantined, Refuse: machine.refuse,
		Hold: journal.Hold, Blame: journal.Blame, End: c.endForCommand,
		Known: found.Known, Applied: found.Applied, Held: found.Held, HeldTerm: found.HeldBy, Gate: c.gate,
	}
	if crash := found.Crash; crash != nil {
		g.Crash = &consensus.GuardCrash{Index: crash.Index, Term: crash.Term, Place: crash.Place, Times: crash.Times, Cause: crash.Cause}
		c.log.Warn("an earlier process ended while it applied a command", zap.Uint64("index", crash.Index), zap.Int("count", crash.Times))
	}
	return g, nil
}

// lastOf is the last entry of the log, or of the snapshot behind it.
func lastOf(st *store) uint64 {
	last := uint64(0)
	if meta, _, ok := st.snapshots.Latest(); ok {
		last = meta.Index
	}
	if n := len(st.recovered.Entries); n > 0 {
		last = max(last, st.recovered.Entries[n-1].GetIndex())
	}
	return last
}

// endForCommand ends the process, which cannot go on.
func (c *coreRunner) endForCommand(cause int) {
	what := map[int]string{consensus.StopStalled: "does not end", consensus.StopMemory: "takes too much memory"}[cause]
	c.stuck(fmt.Errorf("a command that is being applied %s; started again, this member asks the others about it", what))
}

// commandFailed ends the process: no goroutine can be stopped from outside. The journal says which command it was.
func (a *Agent) commandFailed(err error) {
	if a.opts.fatal != nil {
		a.opts.fatal(err)
		return
	}
	a.log.Fatal("the process ends because of a command", zap.Error(err))
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // every start is a boot of its own
	}
	return strings.ReplaceAll(strings.TrimSpace(string(id)), "-", "")
}

// programID tells one build of this program from another: by the size and the time of its file, which cost nothing to read. The
// same build that is installed anew may try once more what crashed it.
func programID() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d bytes of %d", info.Size(), info.ModTime().UnixNano())
}

// applyGuarded is Apply, without what is quarantined, and with a word to the journal before each step.
func (r *replica) applyGuarded(index, term uint64, at clock.Stamp, commands [][]byte, skip []int, step func(int)) ([][]byte, error) {
	if spoil := r.spoil.Load(); spoil != nil {
		commands = (*spoil)(commands)
	}
	r.journal.Begin(index, term)
	results, touched, err := r.machine.ApplyGuarded(index, term, at, commands, state.Guard{Quarantined: skip, Step: func(place int) {
		r.journal.Step(place)
		step(place)
	}})
	if err != nil {
		return nil, fmt.Errorf("apply entry %d of term %d: %w", index, term, err)
	}
	r.journal.Applied(index)
	r.show(r.machine.View(), touched)
	return results, nil
}

// refuse keeps a command out of the log that was quarantined a while ago.
func (r *replica) refuse(command []byte) error {
	v := r.newest.Load()
	if v == nil {
		return nil
	}
	q, refused := v.RefusedAs(command, v.Stamp())
	if !refused {
		return nil
	}
	return api.Errorf(api.CodeQuarantined, "the core crashed on the same command at index %d, and left it out: it is not tried again", q.Index)
}

// lookAtGuard tells the timeline when this member stops applying, goes on, and what was left out.
func (c *coreRunner) lookAtGuard(n *bootedCore) {
	st := n.node.Status()
	was := c.stoppedAt.Swap(st.StoppedAt)
	switch {
	case st.StoppedAt != nil && (was == nil || was.Index != st.StoppedAt.Index || was.Place != st.StoppedAt.Place):
		s := st.StoppedAt
		c.stops.Add(1)
		c.report(api.EventApplyStopped, c.self, fmt.Sprintf("it crashes on command %d of entry %d (%s), signature %x", s.Place, s.Index, s.Cause, s.Signature[:6]))
	case st.StoppedAt == nil && was != nil && neededRebuild(st.Stopped) == nil:
		c.report(api.EventApplyResumed, c.self, fmt.Sprintf("command %d of entry %d is left out on all members", was.Place, was.Index))
	}
}

// applyStopped is the metric parley_core_apply_stopped; there is no figure outside the core.
func (c *coreRunner) applyStopped() (float64, bool) {
	n := c.node()
	if n == nil {
		return 0, false
	}
	// Who waits for a leader, as after a loss of power, is told of by the alert no-leader.
	if st := n.Status(); st.StoppedAt != nil || st.Withheld > 0 && st.Applied < st.Commit && st.Leader != 0 {
		return 1, true
	}
	return 0, true
}

// applyStops is the metric parley_core_apply_stops.
func (c *coreRunner) applyStops() (float64, bool) { return float64(c.stops.Load()), c.node() != nil }
