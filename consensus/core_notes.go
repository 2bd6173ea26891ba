package consensus

import "fmt"

// A note is what one replica says to another beside Raft: short, idempotent, may be lost or come twice.
// What must not be lost goes through the log. Who speaks is checked by the shell, as for messages.
type note struct {
	peer uint64 // receiver of one that we tell, sender of one that we hear
	kind noteKind
	body []byte // at most maxNoteBytes; its format is the kind's own
}

// noteKind is on the wire. Numbers are never reused.
type noteKind byte

const maxNoteBytes = 64 << 10

// noteKinds says what to do with a note of each kind. A body that makes no sense is an error: it is logged
// and dropped, as a message that Raft refuses.
var noteKinds = map[noteKind]func(c *core, from uint64, body []byte) error{
	noteTailAsk: (*core).hearTailAsk, noteTail: (*core).hearTail, noteClaim: (*core).hearClaim,
	noteLines:   (*core).hearLines,
	noteStopped: (*core).hearStopped, noteAppliedAsk: (*core).hearAppliedAsk, noteApplied: (*core).hearApplied,
	noteOutrun: (*core).hearOutrun, noteRelease: (*core).hearRelease, noteHeld: (*core).hearHeld,
	noteCommitAsk: (*core).hearCommitAsk, noteCommit: (*core).hearCommit,
	noteBehindAsk: (*core).hearBehindAsk, noteBehind: (*core).hearBehind,
	noteCheckpoint: (*core).hearCheckpoint, noteProbation: (*core).hearProbation, noteWant: (*core).hearWant,
}

// tell queues a note for a peer.
func (c *core) tell(to uint64, kind noteKind, body []byte) {
	c.out.notes = append(c.out.notes, note{peer: to, kind: kind, body: body})
}

// hear handles a peer's note. A kind that we do not know is an error, and never more: what a newer peer may
// say depends on the cluster's version.
func (c *core) hear(n note) error {
	handle := noteKinds[n.kind]
	if handle == nil {
		return fmt.Errorf("note of kind %d is unknown to this binary", n.kind)
	}
	err := handle(c, n.peer, n.body)
	c.drain()
	return err
}
