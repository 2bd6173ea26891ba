package consensus

import (
	"errors"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// batch is one proposed entry and the callers that wait for it.
type batch struct {
	index, term uint64
	stamp       clock.Stamp
	requests    []*request
}

// proposals tracks commands from submission to the moment their entry is handed to the applier.
//
// Few batches in flight make large batches: while two are on their way everything that arrives
// waits for the third. One would leave the disks idle for a round trip.
type proposals struct {
	queue     []*request // submitted, not proposed; at most room
	bytes     int        // of commands in queue
	flight    []*batch   // proposed, not yet handed to the applier
	proposing *batch     // the one inside raft's Propose right now
	deadline  uint64     // tick at which batches of an earlier leadership are given up
}

// room returns how many more commands may be submitted before the next flush.
func (c *core) room() int {
	if c.props.bytes >= c.cfg.batchBytes {
		return 0
	}
	return max(0, c.cfg.batchCommands-len(c.props.queue))
}

// submit queues a command for the next batch, or answers at once if this node cannot take it.
func (c *core) submit(r *request) {
	switch {
	case c.halted != nil:
		c.fail(r, c.halted)
	case c.unfit() != nil:
		c.fail(r, c.unfit())
	case !c.leads():
		c.fail(r, c.notLeader())
	case c.digests.noQuorum:
		c.fail(r, &UnavailableError{Cause: ErrUndecided})
	case batchSize(1, len(r.command)) > c.cfg.batchBytes:
		c.fail(r, ErrTooLarge)
	case c.log.bytes > c.cfg.maxLogBytes:
		c.fail(r, &UnavailableError{Cause: errLogFull})
	default:
		c.props.queue = append(c.props.queue, r)
		c.props.bytes += len(r.command)
	}
}

// flushProposals proposes full batches while there is room in flight. During a transfer raft takes
// none: they wait, since it ends within one election timeout.
func (c *core) flushProposals() {
	if len(c.props.queue) > 0 && c.rarely(rareLateProposal) {
		return
	}
	for len(c.props.queue) > 0 && c.leads() && c.transfer == nil && c.termStart > 0 &&
		len(c.props.flight)+c.pair.batches < c.cfg.inflightBatches && c.props.enough(c.cfg.batchBytes) {
		most := c.cfg.batchCommands
		if c.rarely(rareSmallBatch) {
			most = 1
		}
		c.proposeBatch(c.nextProposals(most, c.cfg.batchBytes))
	}
}

// smallBatch is the part of the batch before it that one has at least which does not wait for that.
const smallBatch = 4

// enough reports whether what is queued is worth an entry of its own while another one is in flight. When a batch is
// answered, its callers come back one after the other: the first few would take the free place, and all the others wait
// for two rounds. Whoever does wait does so until the batch in flight is committed at most.
func (p *proposals) enough(batchBytes int) bool {
	if len(p.flight) == 0 {
		return true
	}
	last := p.flight[len(p.flight)-1]
	return smallBatch*len(p.queue) >= len(last.requests) || smallBatch*p.bytes >= batchBytes
}

// nextProposals takes the callers of one batch off the queue, leaving out those that have gone.
func (c *core) nextProposals(commands, bytes int) []*request {
	p := &c.props
	var taken []*request
	total, n := 0, 0
	for _, r := range p.queue {
		if len(taken) == commands || batchSize(len(taken)+1, total+len(r.command)) > bytes {
			break
		}
		n++
		p.bytes -= len(r.command)
		if c.cfg.asks.take(r) {
			taken = append(taken, r)
			total += len(r.command)
		}
	}
	p.queue = append(p.queue[:0:0], p.queue[n:]...)
	return taken
}

func (c *core) proposeBatch(requests []*request) {
	if len(requests) == 0 {
		return
	}
	stamp, err := c.stamp()
	if err != nil {
		c.failAll(requests, &UnavailableError{Cause: err})
		return
	}
	commands := make([][]byte, len(requests))
	for i, r := range requests {
		commands[i] = r.command
	}
	b := &batch{stamp: stamp, requests: requests}
	c.props.proposing = b
	err = c.rn.Propose(encodeBatch(stamp, commands))
	c.drain()
	c.props.proposing = nil
	switch {
	case errors.Is(err, raft.ErrProposalDropped) && c.leads():
		c.failAll(requests, ErrBusy) // the uncommitted limit
	case err != nil:
		c.failAll(requests, c.notLeader())
	case b.index == 0:
		panic("raft accepted a batch that did not reach the log")
	default:
		c.props.flight = append(c.props.flight, b)
	}
}

// stamp returns the next stamp, which is above all stamps in the log. Where an earlier leader's clock ran
// ahead, stamps only count up until this one has passed them: order stays true, and writes go on.
func (c *core) stamp() (clock.Stamp, error) {
	s, err := c.cfg.asks.now()
	if err != nil {
		return 0, err
	}
	if s <= c.maxStamp {
		if s = c.maxStamp + 1; s == 0 {
			return 0, clock.ErrExhausted
		}
	}
	c.maxStamp = s
	return s, nil
}

// committed is called for every entry handed to the applier, in order. It returns the batch that
// the entry is, if it is ours, and ends those that another leader's entries replaced: their index
// is taken, so they are certain never to be applied.
//
// The whole list is looked at: a leader that lost and regained the lead may have an old batch in
// flight above a new one, when its log was cut in between.
func (p *proposals) committed(c *core, e *raftpb.Entry) *batch {
	var mine *batch
	p.endIf(func(b *batch) bool {
		switch {
		case b.index > e.GetIndex():
			return false
		case b.index == e.GetIndex() && b.term == e.GetTerm():
			mine = b
		default:
			c.failAll(b.requests, c.notLeader())
		}
		return true
	})
	return mine
}

// endIf removes the batches in flight that ended reports true for.
func (p *proposals) endIf(ended func(*batch) bool) {
	kept := p.flight[:0]
	for _, b := range p.flight {
		if !ended(b) {
			kept = append(kept, b)
		}
	}
	clear(p.flight[len(kept):])
	p.flight = kept
}

// overtaken ends the batches that a restored snapshot covers: it does not tell whether they are in.
func (p *proposals) overtaken(c *core, index uint64) {
	p.endIf(func(b *batch) bool {
		if b.index <= index {
			c.failAll(b.requests, &OutcomeUnknownError{Cause: errOvertaken})
			return true
		}
		return false
	})
}

// tickProposals gives up the batches of a leadership that is long gone.
func (c *core) tickProposals() {
	if c.props.deadline == 0 || c.ticks < c.props.deadline {
		return
	}
	c.props.deadline = 0
	c.props.endIf(func(b *batch) bool {
		if c.leads() && b.term == c.term {
			return false
		}
		c.failAll(b.requests, &OutcomeUnknownError{Cause: errLeadershipLost})
		return true
	})
}

func (p *proposals) dropQueue(c *core, err error) {
	c.failAll(p.queue, err)
	p.queue, p.bytes = nil, 0
}

// failProposals ends all proposals: the queued with err, the others as unknown because of it.
func (c *core) failProposals(err error) {
	c.props.dropQueue(c, err)
	for _, b := range c.props.flight {
		c.failAll(b.requests, &OutcomeUnknownError{Cause: err})
	}
	c.props.flight = nil
}

func (c *core) failAll(requests []*request, err error) {
	for _, r := range requests {
		c.fail(r, err)
	}
}
