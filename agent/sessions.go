package agent

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	// keepEvery is the longest pause between two looks of the session keeper: a lead that was won, a node
	// that went silent and a host that slept are noticed within it.
	keepEvery = 250 * time.Millisecond
	// keepAtOnce is how many ends of sessions are on their way to the log together.
	keepAtOnce = 64
	// keepTimeout bounds the wait for them.
	keepTimeout = 5 * time.Second
)

// sessionKeeper is the part of the leader that ends sessions. All that it decides is in sessionBook;
// renewals come in by any goroutine.
type sessionKeeper struct {
	self    string
	grace   time.Duration
	hub     *watch.Hub
	leads   func() (term uint64, ok bool)
	members func() []membership.Member
	propose func(ctx context.Context, command []byte) (api.Proposed, error)
	inRaft  func() []string // nodes that the leader hears from by Raft
	now     func() time.Duration
	beat    func(time.Duration) time.Duration // until a moment at which this process wakes anyway, about so long from now
	log     *zap.Logger

	mu struct {
		sync.Mutex
		book   sessionBook
		heard  map[string]time.Duration // by node, while leading; at most one for each agent that there is
		synced uint64                   // the revision of the sessions in book, 0 for none. No call is made under mu
	}
}

func (a *Agent) newSessionKeeper() *sessionKeeper {
	return &sessionKeeper{
		self: a.ids.Node, grace: a.cfg.Session.NodeGrace, hub: a.hub, leads: a.core.leadTerm, members: a.memberList,
		propose: a.propose, inRaft: a.core.heardFrom, now: clock.Boottime, beat: nextBeat, log: a.log.Named("sessions"),
	}
}

func (k *sessionKeeper) run(ctx context.Context) error {
	changed, err := k.hub.Subscribe(watch.Selector{Table: state.TableSession, Prefix: true})
	if err != nil {
		return err
	}
	defer changed.Close()
	for {
		wait := k.look(ctx)
		if wait == keepEvery { // nothing is due before
			wait = k.beat(wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed.C():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// look ends what is over and returns how long to wait for the next look.
func (k *sessionKeeper) look(ctx context.Context) time.Duration {
	term, ok := k.leads()
	if !ok {
		k.mu.Lock()
		k.mu.book.stop()
		k.mu.heard, k.mu.synced = nil, 0
		k.mu.Unlock()
		return keepEvery
	}
	over, next := k.judge(term, k.alive())
	if len(over) > 0 {
		k.end(ctx, term, over)
	}
	return min(next, keepEvery)
}

// alive are the nodes that gossip holds alive; one that it suspects is not dead yet.
func (k *sessionKeeper) alive() map[string]bool {
	alive := map[string]bool{k.self: true}
	for _, m := range k.members() {
		if m.State == membership.StateAlive || m.State == membership.StateSuspect {
			alive[m.Name] = true
		}
	}
	return alive
}

// judge brings the book up to date and asks it.
func (k *sessionKeeper) judge(term uint64, alive map[string]bool) ([]ending, time.Duration) {
	now, view, inRaft := k.now(), k.hub.View(), k.inRaft()
	revision := view.TableRevision(state.TableSession)
	var sessions []state.Session
	read := !k.hasSynced(term, revision)
	if read {
		sessions = view.Sessions()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lead(term, now)
	if read { // else a renewal may have opened a new term's book just now: the next look fills it
		k.mu.book.sync(sessions, now)
		k.mu.synced = revision
	}
	for _, node := range inRaft {
		k.mu.heard[node] = now
	}
	return k.mu.book.due(now, k.grace, func(node string) nodeStanding {
		// Of a node without an agent nobody hears anything: its checks end its sessions, or its deregistration.
		_, noAgent := view.CatalogNode(node)
		return nodeStanding{heard: k.mu.heard[node], alive: alive[node] || noAgent}
	})
}

// hasSynced reports whether the book holds the sessions of that revision.
func (k *sessionKeeper) hasSynced(term, revision uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.book.leading && k.mu.book.term == term && k.mu.synced == revision
}

// lead opens the book of a term. The caller holds mu.
func (k *sessionKeeper) lead(term uint64, now time.Duration) {
	before := k.mu.book.term
	if k.mu.book.lead(term, now); k.mu.book.term != before || k.mu.heard == nil {
		k.mu.heard, k.mu.synced = make(map[string]time.Duration), 0
	}
}

// renew is api.Local's RenewSession.
func (k *sessionKeeper) renew(s state.Session) error {
	term, ok := k.leads()
	if !ok {
		return api.Errorf(api.CodeNotLeader, "%s does not lead", k.self)
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lead(term, now)
	if !k.mu.book.renew(s, now) {
		return api.Errorf(api.CodeNotFound, "session %s has ended", s.ID).WithHint("create a new session")
	}
	return nil
}

// contact notes that an agent called. An agent that does not lead notes nothing.
func (k *sessionKeeper) contact(node string) {
	k.mu.Lock()
	leading := k.mu.heard != nil
	k.mu.Unlock()
	if !leading {
		return
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.mu.heard[node]; k.mu.heard != nil && (known || len(k.mu.heard) < state.MaxNodes) {
		k.mu.heard[node] = now
	}
}

// end proposes the ends, to this agent's own log only: another leader decides for itself. What fails
// is found again by the next look. Of many that end together the first get a line in the log each.
func (k *sessionKeeper) end(ctx context.Context, term uint64, over []ending) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	level := zap.InfoLevel
	var unsaid atomic.Int64
	for batch := range slices.Chunk(over, keepAtOnce) {
		var wg sync.WaitGroup
		for _, e := range batch {
			wg.Go(func() {
				if k.endOne(ctx, term, e, level) && level != zap.InfoLevel {
					unsaid.Add(1)
				}
			})
		}
		if wg.Wait(); ctx.Err() != nil {
			break
		}
		level = zap.DebugLevel
	}
	if n := unsaid.Load(); n > 0 {
		k.log.Info("ended more sessions", zap.Int64("count", n))
	}
}

// endOne reports whether it ended the session, and logs at that level that it did.
func (k *sessionKeeper) endOne(ctx context.Context, term uint64, e ending, level zapcore.Level) bool {
	envelope := state.Envelope{ // without a request id: its second end changes nothing
		Caller: "agent:" + k.self, Command: state.SessionDestroy{ID: e.id, Reason: e.reason, Term: term},
	}
	command, err := state.Encode(envelope, k.hub.View().Cluster().Version)
	var result state.Result
	if err == nil {
		var proposed api.Proposed
		if proposed, err = k.propose(ctx, command); err == nil {
			result, err = state.DecodeResult(proposed.Data)
		}
	}
	switch {
	case err != nil:
		k.log.Debug("a session could not be ended yet", zap.String("session", e.id.String()), zap.Error(err))
	case result.Code == state.CodeOK:
		k.log.Log(level, "ended a session", zap.String("session", e.id.String()), zap.String("reason", string(e.reason)))
		k.forget(e.id)
		return true
	case result.Code == state.CodeNotFound: // somebody destroyed it first
		k.forget(e.id)
	}
	return false
}

func (k *sessionKeeper) forget(id state.SessionID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.mu.book.leases, id)
}

// leadTerm is the term in which this agent leads.
func (c *coreRunner) leadTerm() (term uint64, ok bool) {
	n := c.node()
	if n == nil {
		return 0, false
	}
	st := n.Status()
	return st.Term, st.Leader == st.ID && st.ID != 0
}

// heardFrom lists the nodes that a leader hears from by Raft, itself included.
func (c *coreRunner) heardFrom() []string {
	nodes := []string{c.ids.Node}
	n := c.node()
	if n == nil {
		return nodes
	}
	for id, p := range n.Status().Progress {
		if name, ok := c.nodeOf(id); ok && p.Active {
			nodes = append(nodes, name)
		}
	}
	return nodes
}
