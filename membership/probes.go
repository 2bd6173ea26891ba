package membership

import (
	"slices"
	"sync"
)

const (
	// maxProbes bounds the pings that we remember; the oldest is forgotten, and its answer with
	// it. Members send about two a second each, so this is minutes.
	maxProbes = 4096
	// maxHelpers bounds the helpers of one ping (memberlist asks three).
	maxHelpers = 8
	// helperQuorum is how many of the helpers asked must have reached the target: one lying
	// helper must not keep a dead node alive. With a single helper its word has to do.
	helperQuorum = 2
)

// probe is a ping that we sent and who was asked to repeat it.
type probe struct {
	target  string
	helpers []string
	reached []string // helpers that said they reached it
}

// probes remembers which sequence number went to whom, so that only those asked can answer.
// Safe for concurrent use.
type probes struct {
	mu struct {
		sync.Mutex
		open  map[uint32]*probe
		order []uint32 // oldest first
	}
}

func newProbes() *probes {
	p := &probes{}
	p.mu.open = make(map[uint32]*probe)
	return p
}

// sent notes a ping to target; asked notes a request to a helper to ping target.
func (p *probes) sent(seq uint32, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entry(seq).target = target
}

func (p *probes) asked(seq uint32, helper string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entry(seq); len(e.helpers) < maxHelpers {
		e.helpers = appendOnce(e.helpers, helper)
	}
}

func (p *probes) entry(seq uint32) *probe {
	if e := p.mu.open[seq]; e != nil {
		return e
	}
	if len(p.mu.order) >= maxProbes {
		delete(p.mu.open, p.mu.order[0])
		p.mu.order = p.mu.order[1:]
	}
	e := &probe{}
	p.mu.open[seq] = e
	p.mu.order = append(p.mu.order, seq)
	return e
}

// answered decides whether an ack from a node counts.
func (p *probes) answered(seq uint32, from string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.mu.open[seq]
	switch {
	case e == nil:
		return false
	case e.target == from:
		return true
	case !slices.Contains(e.helpers, from):
		return false
	}
	e.reached = appendOnce(e.reached, from)
	return len(e.reached) >= min(helperQuorum, len(e.helpers))
}

// declined decides whether a nack from a node counts.
func (p *probes) declined(seq uint32, from string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.mu.open[seq]
	return e != nil && slices.Contains(e.helpers, from)
}

func appendOnce(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}
