package sim

import (
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
)

// Options of a run. The zero value of a field is its default.
type Options struct {
	Seed   uint64
	Nodes  int           // 3 or 5; 3
	Spares int           // hosts beyond Nodes; 0 or 1, by the seed
	For    time.Duration // of virtual time with faults; 5 s
	Think  time.Duration // a client's pause between operations, in the mean; 25 ms
	Calm   bool          // no faults
	Poison bool          // in two seeds of five: commands that crash replicas, under the apply guard

	NoRelay bool // members talk straight or not at all
	Trace   func(line string)

	// RecordBytes is the size of each replica's recorder, 0 for none. Recording is given what it has when the replica ends, and
	// at the end of the run. It replays after the run, by consensus.Replay: before, raft's timeouts are the run's.
	RecordBytes int
	Recording   func(host string, recording []byte)
}

// Result of a run.
type Result struct {
	Seed       uint64
	Nodes      int
	Operations int            // that clients were answered
	Virtual    time.Duration  // simulated time
	Fired      map[string]int // how often each fault happened
	Trace      string         // SHA-256 of everything that happened
	Err        error          // the first violation
}

const (
	healTime      = 30 * time.Second // within which the core must be whole again
	minOperations = 2200             // of a run: the load goes on until then
)

// Run simulates one seed.
func Run(o Options) Result {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	o.Spares = int(o.Seed/2) % 2
	if o.For == 0 {
		o.For = 5 * time.Second
	}
	if o.Think == 0 {
		o.Think = 25 * time.Millisecond
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(o.Seed >> (8 * i))
	}
	key[8] = byte(o.Nodes)
	old := crand.Reader
	key[31] = 1
	crand.Reader = rand.NewChaCha8(key)
	defer func() { crand.Reader = old }()
	key[31] = 2
	result := Result{Seed: o.Seed, Nodes: o.Nodes}
	c, err := newCluster(o, rand.New(rand.NewChaCha8(key)))
	if err != nil {
		result.Err = err
		return result
	}
	c.run(o)
	for _, h := range c.hosts {
		h.record("end")
	}
	result.Operations, result.Virtual, result.Fired, result.Err = c.clients.ended, c.now, c.fired, c.err
	result.Trace = hex.EncodeToString(c.sum.Sum(nil))
	return result
}

func (c *cluster) run(o Options) {
	c.clients.start()
	c.watchers.start()
	c.control()
	c.watchLeads()
	if !o.Calm {
		c.trouble(o.For)
		if c.poisons != nil {
			c.poisons.trouble(o.For)
		}
	}
	c.until(o.For, func() bool { return false })
	c.trace("heal")
	c.calm()
	c.after(healTime/3, c.operate)
	if c.poisons != nil {
		c.poisons.patience = c.now + healTime*2/3
		c.after(healTime/3, c.poisons.operate)
	}
	c.until(c.now+healTime, c.whole)
	if c.err == nil && !c.whole() {
		c.fail("not whole %v after the faults ended: %s", healTime, c.describe())
	}
	c.until(c.now+healTime, func() bool { return c.clients.ended >= minOperations })
	c.until(c.now+noticed, func() bool { return !c.taint() })
	for _, h := range c.hosts {
		if h.tainted && h.up {
			c.fail("the state of %s is wrong, and nobody has noticed in %v: %s", h.name, noticed, c.describe())
		}
	}
	c.until(c.now+healTime, c.whole)
	c.clients.stopped, c.frozen = true, true
	c.until(c.now+patience+time.Second, func() bool { return c.clients.waits() == 0 })
	c.finish()
}

// until lets things happen until end, a violation, or done.
func (c *cluster) until(end time.Duration, done func() bool) {
	for n := 0; c.err == nil && c.step(end); n++ {
		if n%200 == 0 && done() {
			return
		}
	}
}

// whole reports whether the core is healed: a leader that confirmed its lead, everybody a voter, heard and close.
func (c *cluster) whole() bool {
	l := c.leader()
	if l == nil {
		return false
	}
	s := l.rep.Status()
	if !s.Confirmed || len(s.Outgoing) > 0 || len(s.Voters) != c.size {
		return false
	}
	for _, h := range c.hosts {
		if h.id == 0 {
			continue
		}
		if !h.up {
			return false
		}
		if !contains(s.Voters, h.id) {
			continue
		}
		if h != l && !s.Progress[h.id].Healthy() || h.rep.Applied()+100 < l.rep.Commit() || c.poisons != nil && h.stopped() {
			return false
		}
	}
	return true
}

func (c *cluster) describe() string {
	text := ""
	for _, h := range c.hosts {
		text += h.name
		if h.up {
			s := h.rep.Status()
			text += fmt.Sprintf(" %d %s, term %d, applied %d of %d, voters %d", h.id, s.Role, s.Term, s.Applied, s.Commit, slices.Concat(s.Voters, s.Outgoing))
			if h.paused {
				text += ", paused"
			}
			if s.Suspended != "" {
				text += ", suspended: " + s.Suspended
			}
			if s.Stopped != nil {
				text += " stopped: " + s.Stopped.Error()
			}
		} else {
			text += " down"
		}
		text += "; "
	}
	return text
}

// finish makes a last write reach everybody, compares all states, and checks what the clients saw.
func (c *cluster) finish() {
	if c.err != nil {
		return
	}
	last := uint64(0)
	command, err := state.Encode(state.Envelope{Caller: "sim", Command: state.Put{Key: "the end", Value: []byte("1")}}, state.Version)
	if err != nil {
		c.fail("encode: %v", err)
		return
	}
	var try func()
	try = func() {
		l := c.leader()
		if l == nil {
			c.after(100*time.Millisecond, try)
			return
		}
		answered := false
		c.after(2*time.Second, func() {
			if !answered { // its process ended, and whoever asked hears no more of it
				try()
			}
		})
		l.do(func() error {
			return l.rep.Propose(command, func(p consensus.Proposed, err error) {
				answered = true
				var unknown *consensus.OutcomeUnknownError
				switch {
				case err == nil:
					last = p.Index
				case errors.As(err, &unknown) || last == 0:
					c.after(100*time.Millisecond, try)
				}
			})
		})
	}
	try()
	c.until(c.now+healTime, func() bool {
		if last == 0 {
			return false
		}
		for _, h := range c.voters() {
			if !h.up || h.rep.Applied() < last {
				return false
			}
		}
		return true
	})
	if c.err != nil {
		return
	}
	for _, h := range c.voters() {
		if last == 0 || !h.up || h.rep.Applied() < last {
			c.fail("the last write (index %d) did not reach %s: %s", last, h.name, c.describe())
			return
		}
	}
	v := c.voters()[0].machine.View()
	c.watchers.settle(v.Revision())
	if err := c.clients.judge(v); err != nil {
		c.fail("%v", err)
	}
}

// voters lists the hosts that vote, by what the leader says.
func (c *cluster) voters() []*host {
	l := c.leader()
	if l == nil {
		return c.hosts[:c.size]
	}
	var list []*host
	for _, id := range l.rep.Status().Voters {
		if h := c.byID(id); h != nil {
			list = append(list, h)
		}
	}
	return list
}
