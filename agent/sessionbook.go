package agent

import (
	"bytes"
	"slices"
	"time"

	"github.com/parley-mesh/parley/state"
)

// sessionBook is what a leader knows of the sessions beside the replicated state: since when each was
// not renewed. It decides which are over, and does nothing else; times are boottime and come in as
// values.
//
// None of it is replicated, so that a renewal costs no write. What makes that safe:
//
//   - A new leader counts every session from the moment at which it noticed its lead. A predecessor
//     confirms its own lead before it answers a renewal, so that the clients of all answered renewals
//     had asked before that moment. It can only be too patient.
//   - A session that was decided to be over is not renewed any more, so nobody is told that it lives
//     while its end is on the way to the log.
//   - The end names the term in which it was decided, and is void in another.
type sessionBook struct {
	leading bool
	term    uint64        // the highest seen
	since   time.Duration // when the lead was noticed
	leases  map[state.SessionID]*lease
}

type lease struct {
	session state.Session
	renewed time.Duration
	over    state.Reason // "" while it lives
}

// ending is a session that is over, and why.
type ending struct {
	id     state.SessionID
	reason state.Reason
}

// lead says that this agent leads in that term. A term that the book has not seen begins a new count.
func (b *sessionBook) lead(term uint64, now time.Duration) {
	if term < b.term || term == b.term && b.leading {
		return
	}
	*b = sessionBook{leading: true, term: term, since: now, leases: make(map[state.SessionID]*lease)}
}

// stop says that this agent does not lead.
func (b *sessionBook) stop() { b.leading, b.leases = false, nil }

// sync takes the sessions that there are: new ones count from now, the others go on.
func (b *sessionBook) sync(sessions []state.Session, now time.Duration) {
	leases := make(map[state.SessionID]*lease, len(sessions))
	for _, s := range sessions {
		if old, ok := b.leases[s.ID]; ok {
			leases[s.ID] = old
		} else {
			leases[s.ID] = &lease{session: s, renewed: now}
		}
	}
	b.leases = leases
}

// renew counts the session anew, unless it is over already.
func (b *sessionBook) renew(s state.Session, now time.Duration) bool {
	l, ok := b.leases[s.ID]
	if !ok {
		l = &lease{session: s}
		b.leases[s.ID] = l
	}
	if l.over != "" {
		return false
	}
	l.renewed = now
	return true
}

// nodeStanding is what is known of a node: when the core last heard from it, the zero value for
// never, and whether gossip holds it alive.
type nodeStanding struct {
	heard time.Duration
	alive bool
}

// due returns the sessions that are over, by id, and how long no other lease ends by itself. A session
// with a lease is over when that has passed since the last renewal. One without is over when its node
// has not been heard for grace and gossip does not hold it alive: neither gossip alone may end it, nor
// may a dead host keep it for ever.
func (b *sessionBook) due(now, grace time.Duration, standing func(node string) nodeStanding) (over []ending, next time.Duration) {
	next = grace
	for id, l := range b.leases {
		switch left := l.session.Lease - (now - l.renewed); {
		case l.over != "":
		case l.session.Lease == 0:
			if n := standing(l.session.Node); !n.alive && now-max(n.heard, b.since, l.renewed) >= grace {
				l.over = state.ReasonNode
			}
		case left <= 0:
			l.over = state.ReasonTTL
		default:
			next = min(next, left)
		}
		if l.over != "" {
			over = append(over, ending{id, l.over})
		}
	}
	slices.SortFunc(over, func(x, y ending) int { return bytes.Compare(x.id[:], y.id[:]) })
	return over, next
}
