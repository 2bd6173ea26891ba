package consensus

import (
	"errors"
	"fmt"
)

var (
	// ErrLost is returned, wrapped, by New when log and snapshots together hold less than this id once
	// had. It must not vote again.
	ErrLost = errors.New("log and snapshots are incomplete")
	// ErrNoSnapshot is in the chain of an ErrLost of which a whole log is left: a newer snapshot that the log
	// continues makes it good, whoever it is from.
	ErrNoSnapshot = errors.New("no snapshot to begin with")
	// ErrBusy is returned by Propose, ReadIndex and ChangeCore when a queue of this node is full.
	// Nothing happened; back off and try again.
	ErrBusy = errors.New("consensus: too many requests are waiting on this node, retry after a pause")

	// ErrGivenUp is returned, wrapped beside the cause, by Propose, ReadIndex and ChangeCore when the caller's time was over,
	// or the node stopped, before the loop had begun with the request. Nothing happened.
	ErrGivenUp = errors.New("given up before it was proposed")

	// ErrStopped is returned by every method once the node has stopped or stopped applying, unless
	// the outcome is unknown. Errors that wrap it say why.
	ErrStopped = errors.New("consensus: this node has stopped")

	// ErrProbation is returned, wrapped, by a member whose state was rebuilt and is not trusted yet. Ask another.
	ErrProbation = errors.New("consensus: this member does not answer yet")

	// ErrUndecided is in the chain of an *UnavailableError while no state of the core members has a majority.
	ErrUndecided = errors.New("the core members hold different states and none of these has a majority, so nobody can say which is right")

	// ErrTooLarge is returned by Propose for a command over the batch limit. Nothing happened.
	ErrTooLarge = errors.New("consensus: the command is larger than a batch may be, split it")

	// ErrQuarantine is returned, wrapped with the reason, by Quarantine for a command that cannot be left out.
	ErrQuarantine = errors.New("consensus: the command is not left out")

	errInvestigating = errors.New("the core decides whether a command is to be left out that its members crash on: see 'parley apply status'")

	// ErrChangePending is returned by ChangeCore while an earlier change of the core is not applied
	// yet, or right after an election. Nothing happened; try again later.
	ErrChangePending = errors.New("consensus: another change of the core is in progress, retry when it is applied")

	// ErrChangeInvalid is returned (wrapped, with the reason) by ChangeCore for a change that the
	// present core cannot make. Nothing happened.
	ErrChangeInvalid = errors.New("consensus: the change of the core is not possible")

	// ErrTransfer is returned (wrapped, with the reason) by TransferLeader when leadership did not
	// move to the node asked for.
	ErrTransfer = errors.New("consensus: leadership was not transferred")
)

// UnusableSnapshotError is returned by New, and by Run, when the machine cannot be restored from a snapshot that came whole from the
// disk: what is in it is wrong. Whoever opens the snapshots once more without it may start from the one before, and from a peer's.
type UnusableSnapshotError struct {
	Index    uint64
	Manifest []byte
	Cause    error
}

func (e *UnusableSnapshotError) Error() string {
	return fmt.Sprintf("consensus: restore snapshot at %d: %v", e.Index, e.Cause)
}

func (e *UnusableSnapshotError) Unwrap() error { return e.Cause }

// NotLeaderError is returned by what only the leader can do. The request was not executed and never
// will be: it is safe to send it again. Leader is the leader's Raft id, 0 when none is known.
type NotLeaderError struct{ Leader uint64 }

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return "consensus: no leader is known, retry after the election"
	}
	return fmt.Sprintf("consensus: this node does not lead, ask the leader %x", e.Leader)
}

// OutcomeUnknownError is returned when a proposal was handed to the log and its fate could not be
// learned: it may be applied now, later, or never. Retry only what is idempotent.
type OutcomeUnknownError struct{ Cause error }

func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("consensus: the outcome is unknown, the write may or may not have happened: %v", e.Cause)
}

func (e *OutcomeUnknownError) Unwrap() error { return e.Cause }

// UnavailableError is returned by Propose while this leader cannot take writes (full disk, a clock
// behind the cluster's, a log over its limit). Nothing was proposed; retry after the cause is gone.
type UnavailableError struct{ Cause error }

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("consensus: writes are refused for now, nothing was proposed: %v", e.Cause)
}

func (e *UnavailableError) Unwrap() error { return e.Cause }

// Causes of unknown outcomes and refusals that are not errors of somebody else.
var (
	errLeadershipLost = errors.New("leadership was lost before the write was seen to commit")
	errOvertaken      = errors.New("a snapshot from the new leader replaced the log")
	errLogFull        = errors.New("the log in memory is at its limit because no snapshot could be written")
)
