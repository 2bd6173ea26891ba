package sim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// errEnded is what ends a process that nothing could have saved from the command.
var errEnded = errors.New("the process ends at a command")

// guard opens the host's apply journal and joins it to the replica, as the agent does. The journal survives the end of a
// process, and a loss of power does with it what it likes. Nil in a run without guards.
func (h *host) guard(last uint64) (*consensus.Guard, error) {
	if h.c.poisons == nil {
		return nil, nil
	}
	journal, found, err := storage.OpenJournal(storage.JournalOptions{
		FS: h.disk, Dir: dataDir, ClusterID: clusterID, RaftID: h.id, Last: last,
		Boot: fmt.Sprintf("%s, boot %d", h.name, h.boots), Program: fmt.Sprintf("program %d", h.c.poisons.program),
	})
	if err != nil {
		return nil, err
	}
	h.journal = journal
	g := &consensus.Guard{
		Apply: (&applier{h}).applyGuarded, Before: func() [32]byte { return h.machine.View().Digest() },
		Quarantinable: state.Quarantinable, LeftOut: h.machine.Quarantined, Refuse: h.refuse, Hold: h.hold, Blame: journal.Blame,
		End:   func(int) {}, // nobody looks at the clock here: see poison.ends
		Known: found.Known, Applied: found.Applied, Held: found.Held, HeldTerm: found.HeldBy, Gate: h.gate,
	}
	if !found.Known && h.life > 1 {
		h.c.note("apply journal lost")
	}
	if crash := found.Crash; crash != nil {
		h.c.note("crash found in the journal")
		h.c.trace("%s: an earlier process ended at command %d of entry %d, %d times", h.name, crash.Place, crash.Index, crash.Times)
		g.Crash = &consensus.GuardCrash{Index: crash.Index, Term: crash.Term, Place: crash.Place, Times: crash.Times, Cause: crash.Cause}
	}
	return g, nil
}

// lastOf is the last entry of the log, or of the snapshot behind it.
func lastOf(r consensus.Recovered) uint64 {
	last := uint64(0)
	if r.Snapshot != nil {
		last = r.Snapshot.Index
	}
	if n := len(r.Entries); n > 0 {
		last = max(last, r.Entries[n-1].GetIndex())
	}
	return last
}

func (h *host) hold(index, term uint64) {
	h.c.note("promise not to apply")
	h.journal.Hold(index, term)
}

func (h *host) refuse(command []byte) error {
	v := h.machine.View()
	if q, refused := v.RefusedAs(command, v.Stamp()); refused {
		h.c.note("quarantined command refused")
		return fmt.Errorf("it was quarantined at index %d", q.Index)
	}
	return nil
}

// applyGuarded is Guard.Apply: a word to the journal before each step, and a crash where the command is poison for the host.
func (a *applier) applyGuarded(index, term uint64, at clock.Stamp, commands [][]byte, skip []int, step func(int)) ([][]byte, error) {
	h := a.h
	h.journal.Begin(index, term)
	place, p := h.c.poisons.first(h, commands, skip)
	if p != nil {
		h.c.poisons.crashed = h.c.now
	}
	if p != nil && p.way.ends {
		h.journal.Step(place)
		h.journal.Blame(p.way.cause)
		h.ended = true
		h.c.trace("%s ends at command %d of entry %d", h.name, place, index)
		return nil, errEnded
	}
	results, err := a.run(index, term, at, commands, state.Guard{Quarantined: skip, Step: func(next int) {
		h.journal.Step(next)
		step(next)
		if p != nil && next == place {
			h.c.trace("%s panics at command %d of entry %d", h.name, place, index)
			panic("poison")
		}
	}})
	if err == nil {
		h.journal.Applied(index)
	}
	return results, err
}

// rebuildBehind makes a host begin again that has stopped at a command which others have applied, or has applied one before
// it heard that it was left out. Its own snapshot will do if it is far enough, or old enough.
func (c *cluster) rebuildBehind(h *host, need *consensus.RebuildNeed) {
	switch {
	case need.Beyond > 0 && !c.poisons.ranAt(need.Beyond):
		c.fail("%s is fenced for entry %d, which nobody has applied: %s", h.name, need.Beyond, need.Reason)
	case need.Gate > 0 && !h.tainted:
		c.fail("%s is fenced though it has applied nothing that was left out: %s", h.name, need.Reason)
	}
	meta, _, ok := h.snaps.Latest()
	right := ok && meta.Index >= need.Beyond
	if need.Beyond == 0 {
		right = ok && meta.Index <= need.Agreed
	}
	h.crash(storage.KeepUnsynced)
	h.beyond, h.gate = need.Beyond, need.Gate
	h.tainted, h.caught, h.probation = false, false, true
	if right {
		c.boot(h)
		return
	}
	h.dropSnapshots()
	c.heal(h, consensus.ErrNoSnapshot, nil, 0)
}

// stopped reports whether the guard keeps the host from applying what is committed.
func (h *host) stopped() bool {
	s := h.rep.Status()
	return s.StoppedAt != nil || s.Withheld > 0 && s.Applied < s.Commit
}

// isVoter reports whether the host votes, by its own configuration.
func (h *host) isVoter() bool {
	s := h.rep.Status()
	return slices.Contains(s.Voters, h.id) || slices.Contains(s.Outgoing, h.id)
}
