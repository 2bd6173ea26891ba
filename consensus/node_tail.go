package consensus

import (
	"context"

	"go.etcd.io/raft/v3/raftpb"
)

// AcceptTail is an operator's word that the end of this node's log, which is in doubt, is to be taken as it is. It
// reports whether there was a doubt. The node then votes and counts without having heard all others.
func (n *Node) AcceptTail(ctx context.Context) (accepted bool, err error) {
	answers := make(chan bool, 1)
	n.events.put(input{kind: inputAcceptTail, told: func(yes bool) { answers <- yes }})
	select {
	case accepted = <-answers:
		return accepted, nil
	case <-n.done:
		return false, n.stopError()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Entries returns entries of the log that end with the one of index last, at most maxBytes of them and none up to after,
// and the term of the entry before them. Fewer than asked for come from a log that was compacted, none when it does not
// reach there.
func (n *Node) Entries(ctx context.Context, after, last uint64, maxBytes int) (prevTerm uint64, entries []*raftpb.Entry, err error) {
	answers := make(chan func(), 1)
	n.events.put(input{kind: inputLook, look: func(c *core) {
		term, found := c.log.upTo(after, last, maxBytes)
		answers <- func() { prevTerm, entries = term, found }
	}})
	select {
	case take := <-answers:
		take()
		return prevTerm, entries, nil
	case <-n.done:
		return 0, nil, n.stopError()
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}
