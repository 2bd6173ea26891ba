package consensus

import (
	"errors"
	"fmt"
	"slices"
)

// This file is the two ends of a relayed frame beside its origin: the hub, which lets a bounded amount pass, and the
// receiver, which takes each frame once.

// What a hub passes on for others, beside its own traffic. What is beyond waits, and what does not fit there is dropped:
// raft sends it again. Frames of entries have a lane of their own, so that votes and heartbeats do not wait behind them.
const (
	passSmall        = 16 << 10  // a frame up to this size is small
	passSmallPerTick = 64 << 10  // bytes: 1.25 MiB a second with the default tick
	passBulkPerTick  = 512 << 10 // bytes: 10 MiB a second with the default tick
	maxPassWaiting   = 8 << 20   // bytes in each lane
)

// passLane is a budget that each tick renews, and what waits for it.
type passLane struct {
	spent, perTick int
	waiting        []envelope
	bytes          int // in waiting
}

// take reports what may pass at once: e itself if nothing is before it and the budget is not spent. A frame larger than
// what is left passes, and the ticks after it pay for it.
func (l *passLane) take(e envelope) (passes, dropped bool) {
	if len(l.waiting) == 0 && l.spent < l.perTick {
		l.spent += len(e.raw)
		return true, false
	}
	if l.bytes+len(e.raw) > maxPassWaiting {
		return false, true
	}
	l.waiting, l.bytes = append(l.waiting, e), l.bytes+len(e.raw)
	return false, false
}

// tick renews the budget and returns what may pass now.
func (l *passLane) tick() (passing []envelope) {
	l.spent = max(0, l.spent-l.perTick)
	for len(l.waiting) > 0 && l.spent < l.perTick {
		e := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.bytes -= len(e.raw)
		l.spent += len(e.raw)
		passing = append(passing, e)
	}
	return passing
}

// RelayCounts count since the start.
type RelayCounts struct {
	Sent, SentBytes     uint64 // frames of our own that others were asked to pass on
	Received            uint64 // frames for us that others passed on
	Passed, PassedBytes uint64 // frames of others that we passed on
	Dropped             uint64 // frames of others over our limits
	Refused             uint64 // frames for us that are not what their origin made, or not for now
	Leads               uint64 // times that we gave the lead to one that reaches more members straight
}

var (
	errRelayOff  = errors.New("this member does not relay: core.relay is off")
	errRelaySelf = errors.New("a frame to be passed on to the member that it was sent to")
)

// pass takes a frame of a member for another. Who sent it was checked against its certificate.
func (c *core) pass(e envelope) error {
	r := &c.relay
	switch {
	case !r.on:
		return errRelayOff
	case e.final == c.cfg.id || e.final == e.origin:
		return errRelaySelf
	case !slices.Contains(c.relayPeers(), e.final):
		return fmt.Errorf("a frame to be passed on to %x, which is no member", e.final)
	}
	lane := &r.bulk
	if len(e.raw) <= passSmall {
		lane = &r.small
	}
	switch passes, dropped := lane.take(e); {
	case passes:
		c.passOn(e)
	case dropped:
		r.counts.Dropped++
	}
	return nil
}

func (c *core) tickPass() {
	r := &c.relay
	r.small.perTick, r.bulk.perTick = passSmallPerTick, passBulkPerTick
	for _, lane := range []*passLane{&r.small, &r.bulk} {
		for _, e := range lane.tick() {
			c.passOn(e)
		}
	}
}

func (c *core) passOn(e envelope) {
	c.relay.counts.Passed++
	c.relay.counts.PassedBytes += uint64(len(e.raw))
	c.out.passes = append(c.out.passes, e)
}

// seenFrames are the newest frames of one origin that were taken, so that none is taken twice: the last number, and a
// bit for each of the numbers before it.
type seenFrames struct {
	life, last uint64
	bits       [seenWindow / 64]uint64 // bit n%seenWindow for number n
}

// seenWindow is how far frames may overtake each other.
const seenWindow = 2048

// take reports whether frame number seq of that life is new, and notes it.
func (s *seenFrames) take(life, seq uint64) bool {
	if life < s.life || seq == 0 {
		return false
	}
	if life > s.life {
		*s = seenFrames{life: life}
	}
	if seq+seenWindow <= s.last {
		return false
	}
	if seq > s.last {
		for n, i := min(seq-s.last, seenWindow), uint64(0); i < n; i++ {
			s.clear(seq - i)
		}
		s.last = seq
	}
	word, bit := &s.bits[seq%seenWindow/64], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

func (s *seenFrames) clear(seq uint64) { s.bits[seq%seenWindow/64] &^= 1 << (seq % 64) }

// forgetSeen makes room by forgetting those that are no members any more. Their ids never come back.
func (c *core) forgetSeen() bool {
	others := c.relayPeers()
	for _, id := range sortedKeys(c.relay.seen) {
		if !slices.Contains(others, id) {
			delete(c.relay.seen, id)
		}
	}
	return len(c.relay.seen) < maxPeers
}

// admitRelayed says whether a frame for us that a hub brought is to be handled. Its MAC was checked where it was read.
func (c *core) admitRelayed(e envelope) error {
	r := &c.relay
	err := func() error {
		if !r.on {
			return errRelayOff
		}
		if e.finalLife != r.life {
			return fmt.Errorf("a relayed frame of %x for an earlier life of this member", e.origin)
		}
		s, known := r.seen[e.origin]
		if !known && len(r.seen) >= maxPeers && !c.forgetSeen() {
			return fmt.Errorf("relayed frames of more than %d members", maxPeers)
		}
		if !s.take(e.life, e.seq) {
			return fmt.Errorf("a relayed frame of %x that has been here before", e.origin)
		}
		r.seen[e.origin] = s
		return nil
	}()
	if err != nil {
		r.counts.Refused++
		return err
	}
	r.counts.Received++
	return nil
}
