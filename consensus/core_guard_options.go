package consensus

import "github.com/parley-mesh/parley/clock"

// Guard is what a node needs to outlive a command that crashes it. All functions are required.
type Guard struct {
	// Apply is StateMachine.Apply, without the commands at the places in skip, which are ascending. step is called before
	// each command is decoded and before it is run. When it panics the state is as before.
	Apply func(index, term uint64, at clock.Stamp, commands [][]byte, skip []int, step func(place int)) ([][]byte, error)
	// Before returns the digest of the state as it is.
	Before func() [32]byte
	// Quarantinable reports whether a command is of a kind that may be left out at all. Pure.
	Quarantinable func(command []byte) bool
	// LeftOut reports whether the state knows that a command was left out.
	LeftOut func(index uint64, place int) bool
	// Refuse returns why a command is not to be proposed, nil as a rule. From any goroutine.
	Refuse func(command []byte) error
	// Hold notes durably, as far as the process is concerned, a promise to the leader of a term not to apply an entry or a
	// later one; index 0 ends it.
	Hold func(index, term uint64)
	// Blame notes why the command under way is given up.
	Blame func(cause int)
	// End ends the process, which cannot go on: the command under way does not end, or takes all memory.
	End func(cause int)

	// What the journal of an earlier life knew. Everything up to Applied was applied. Known says that nothing behind it was:
	// otherwise a promise may be lost as well, and nothing behind Applied is applied before the leader was heard.
	Known          bool
	Applied        uint64
	Held, HeldTerm uint64 // a promise that stands
	Crash          *GuardCrash
	// Gate is an entry that is not applied again before the leader's commit index was read for quarantines, 0 = none.
	Gate uint64
}

// GuardCrash is the command that was under way when an earlier process ended.
type GuardCrash struct {
	Index, Term uint64
	Place       int
	Times       int // in a row
	Cause       int // of the last time
}

// again reports whether the command may be tried once more: a process that was killed once has not crashed on it.
func (g *GuardCrash) again() bool {
	return g.Cause == StopPanic || g.Cause == StopUnknown && g.Times < 2
}
