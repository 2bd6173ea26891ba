package agent

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/transport"
)

const (
	// proveEvery is how often each member of the core shows again that it can open the root. One that cannot is of no use
	// when the others are gone, and its disk or its key file is where to look.
	proveEvery = 24 * time.Hour
	// proveRetry is the pause after a member failed, or did not answer a question that was not its first.
	proveRetry = time.Minute

	// codeUnopened is the answer of a member that cannot open the root which is sealed for it.
	codeUnopened = "unopened"
)

// proofs is what the leader knows of who can open the root. It begins anew with each leader, who asks all at once. Owned
// by the controller's run, but for failing.
type proofs struct {
	of      map[uint64]proof // by Raft id
	failing atomic.Int64     // members whose last answer was no
}

type proof struct {
	proven, failed bool          // ever, and at last
	next           time.Duration // boottime from which on it is asked again
}

// due reports whether an id is to be asked now. A learner that has never shown it is asked at each look.
func (p *proofs) due(id uint64, now time.Duration) bool { return now >= p.of[id].next }

// ready reports whether an id may vote.
func (p *proofs) ready(id uint64) bool { return p.of[id].proven && !p.of[id].failed }

// note takes the outcome of a question, and reports whether it is the first failure of that id after it had succeeded.
// Silence is no failure: gossip and Raft judge it.
func (p *proofs) note(id uint64, err error, now time.Duration) (fell bool) {
	was := p.of[id]
	next := was
	switch {
	case err == nil:
		next = proof{proven: true, next: now + proveEvery}
	case answeredNo(err):
		next.failed, next.next = was.proven, now+proveRetry
	case was.proven:
		next.next = now + proveRetry
	}
	if !was.proven && err != nil {
		next.next = 0
	}
	p.of[id] = next
	p.count()
	return next.failed && !was.failed
}

// keep forgets the ids that are not in the core any more.
func (p *proofs) keep(current func(id uint64) bool) {
	for id := range p.of {
		if !current(id) {
			delete(p.of, id)
		}
	}
	p.count()
}

// reset forgets all: another agent leads.
func (p *proofs) reset() {
	clear(p.of)
	p.count()
}

func (p *proofs) count() {
	n := int64(0)
	for _, one := range p.of {
		if one.failed {
			n++
		}
	}
	p.failing.Store(n)
}

// errBadProof is a signature that the root's key did not make.
var errBadProof = errors.New("the challenge was not signed with the root")

// answeredNo reports whether a member has answered that it cannot, rather than not at all.
func answeredNo(err error) bool {
	var wire *transport.Error
	return errors.Is(err, errBadProof) || errors.As(err, &wire) && wire.Code == codeUnopened
}

// unopened is the metric parley_core_unopened_roots.
func (a *Agent) unopened() (float64, bool) {
	c := a.control
	if c == nil || c.last.Load() == nil {
		return 0, false // another agent leads
	}
	return float64(c.proofs.failing.Load()), true
}
