package agent

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodPace = "core.pace"

	yieldEvery = 250 * time.Millisecond
	// heirPatience is how long a leader that stops waits for the others to say whether they would serve.
	heirPatience = 300 * time.Millisecond
)

// yielder gives the lead away when this agent leads on a slow disk or with a late loop and another voter is much faster.
// It measures nothing and decides nothing: consensus does both.
type yielder struct {
	core   *coreRunner
	report func(kind, subject, message string)
	quiet  func() bool // in safe mode it begins nothing
	log    *zap.Logger

	yields atomic.Uint64 // since the start

	state consensus.Yielding // owned by run
}

func newYielder(a *Agent) *yielder {
	return &yielder{core: a.core, quiet: a.safe.quiet, report: a.tellTimeline, log: a.log.Named("core")}
}

// run looks until ctx ends. With core.yield=false it only waits.
func (y *yielder) run(ctx context.Context) error {
	ticker := newBeat(yieldEvery)
	defer ticker.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
		if n := y.core.node(); n != nil && y.core.cfg.Yield && !y.quiet() {
			y.look(ctx, n)
		}
	}
}

func (y *yielder) look(ctx context.Context, n *consensus.Node) {
	st := n.Status()
	if st.Leader != st.ID {
		y.state.Follows()
		return
	}
	self, bounds := n.Pace(), n.PaceBounds()
	if !y.state.Due(clock.Boottime(), self, bounds) {
		return
	}
	to, ok := consensus.Successor(self, bounds, y.core.askHeirs(ctx, st, askTimeout))
	if !ok {
		y.state.Vain(clock.Boottime())
		y.log.Debug("this leader is slow, and no other voter is much faster", zap.Stringer("reason", self))
		return
	}
	node, _ := y.core.nodeOf(to)
	y.log.Warn("this leader is slow, handing the lead to a faster voter", zap.String("peer", node), zap.Stringer("reason", self))
	err := n.TransferLeader(ctx, to)
	y.state.Yielded(clock.Boottime())
	if err != nil {
		y.log.Warn("the lead was not taken over", zap.String("peer", node), zap.Error(err))
		return
	}
	y.yields.Add(1)
	y.report(api.EventYielded, node, "this leader was too slow: "+self.String())
}

// askHeirs has the other voters say whether they would serve and how fast they are, all at once and in so much time.
func (c *coreRunner) askHeirs(ctx context.Context, st consensus.Status, within time.Duration) []consensus.Heir {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	heirs := c.heirs(st)
	var asking errgroup.Group
	for i := range heirs {
		h := &heirs[i]
		node, known := c.nodeOf(h.ID)
		if !h.Healthy || !known {
			continue
		}
		asking.Go(func() error { c.askHeir(ctx, node, h); return nil })
	}
	_ = asking.Wait() // the questions keep their errors
	return heirs
}

func (c *coreRunner) askHeir(ctx context.Context, node string, h *consensus.Heir) {
	raw, err := c.pool.Call(ctx, node, methodPace, nil)
	var answer paceAnswer
	if err != nil || json.Unmarshal(raw, &answer) != nil {
		return
	}
	h.Known, h.Pace = answer.MayLead, consensus.Pace{Fsync: answer.Fsync, Late: answer.Late}
}

// mayLead reports whether this member would serve if it led: it votes, applies, has space, and its state is trusted.
func (a *Agent) mayLead(st consensus.Status) bool {
	return st.Suspended == "" && st.Stopped == nil && st.Probation == 0 && a.core.mayServe() && !a.space.low.Load() && !a.safe.quiet()
}

// paceAnswer is what a voter tells a slow leader, in nanoseconds.
type paceAnswer struct {
	Fsync   time.Duration `json:"fsync_ns"`
	Late    time.Duration `json:"late_ns"`
	MayLead bool          `json:"may_lead"`

	SafeMode int `json:"safe_mode,omitempty"`
}

func (a *Agent) servePace(context.Context, transport.Peer, []byte) ([]byte, error) {
	n := a.core.member()
	if n == nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent is outside the core"}
	}
	p, st := n.Pace(), n.Status()
	return json.Marshal(paceAnswer{Fsync: p.Fsync, Late: p.Late, MayLead: a.mayLead(st), SafeMode: a.safe.level()})
}

// heirs are the other voters, as far as the leader knows them without asking.
func (c *coreRunner) heirs(st consensus.Status) (heirs []consensus.Heir) {
	for _, id := range st.Voters {
		if id != st.ID {
			p := st.Progress[id]
			heirs = append(heirs, consensus.Heir{ID: id, Healthy: p.Healthy(), Match: p.Match, Held: c.isHeld(id), Doubted: p.Doubted})
		}
	}
	return heirs
}

// isHeld says whether the owner of a Raft id is in maintenance.
func (c *coreRunner) isHeld(id uint64) bool {
	node, _ := c.nodeOf(id)
	v := c.views.hub.View()
	row, ok := v.Node(node)
	return ok && row.Held(v.Stamp())
}

// readings are what /metrics shows of the pace of a core member.
func (y *yielder) readings(r ops.Readings) {
	n := y.core.node()
	if n == nil {
		return
	}
	p := n.Pace()
	r[ops.CoreFsync], r[ops.CoreTickLate], r[ops.CoreYields] = p.Fsync.Seconds(), p.Late.Seconds(), float64(y.yields.Load())
	r[ops.CoreSlow] = p.Slowness(n.PaceBounds())
}
