package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
)

const (
	// controlEvery is how often the leader looks again even when nothing signalled a change.
	controlEvery = 250 * time.Millisecond
	// controlTimeout bounds one step of the controller.
	controlTimeout = 10 * time.Second
)

// controller is the part of the leader that forms the core: it looks at what is, asks
// consensus.Plan for one step, and takes it. All that it decides is in that pure function.
type controller struct {
	cfg     controllerConfig
	self    string
	core    *coreRunner
	members func() []membership.Member
	service *api.Service
	issuer  *issuer
	call    func(ctx context.Context, node, method string, body []byte) ([]byte, error)
	log     *zap.Logger

	proofs proofs                   // which Raft ids have shown that they can open the root; owned by run
	silent map[uint64]time.Duration // since when (boottime) a Raft id has not answered; owned by run

	willing map[string]willingness // by node; owned by run
	report  func(kind, subject, message string)

	quiet  func() bool                         // in safe mode it takes no step
	leaves func() bool                         // this agent leaves the cluster
	last   atomic.Pointer[consensus.PlanInput] // what Plan saw last, nil unless this agent leads
}

type controllerConfig struct {
	replaceAfter time.Duration
	eligible     bool
}

func (c *controller) run(ctx context.Context) error {
	ticker := newBeat(controlEvery)
	defer ticker.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
		n := c.core.node()
		if n == nil {
			c.proofs.reset()
			c.last.Store(nil)
			continue
		}
		st := n.Status()
		if st.Leader != st.ID || c.quiet() {
			clear(c.silent)
			c.proofs.reset()
			c.last.Store(nil)
			continue
		}
		stepCtx, cancel := context.WithTimeout(ctx, controlTimeout)
		if err := c.step(stepCtx, n, st); err != nil && ctx.Err() == nil {
			c.log.Warn("a step towards a full core did not succeed, trying again", zap.Error(err))
		}
		cancel()
	}
}

func (c *controller) step(ctx context.Context, n *consensus.Node, st consensus.Status) error {
	v := c.core.views.hub.View()
	in := c.input(ctx, v, st)
	c.last.Store(&in)
	action := consensus.Plan(in)
	if action.Kind == consensus.ActionNone {
		return nil
	}
	c.log.Info("changing the core", zap.String("step", string(action.Kind)), zap.String("reason", action.Reason))
	if err := c.take(ctx, n, action); err != nil {
		return err
	}
	c.report(api.EventCore, c.subject(action), string(action.Kind)+": "+action.Reason)
	return nil
}

// take does one step.
func (c *controller) take(ctx context.Context, n *consensus.Node, action consensus.Action) error {
	switch action.Kind {
	case consensus.ActionAssignID:
		return c.enlist(ctx, action.Node)
	case consensus.ActionRetire:
		return c.execute(ctx, state.CoreRetire{RaftID: action.RaftID})
	case consensus.ActionTransfer:
		return n.TransferLeader(ctx, action.To)
	}
	return n.ChangeCore(ctx, action.ConfChange())
}

// subject names whom a step is about.
func (c *controller) subject(action consensus.Action) string {
	if action.Node != "" {
		return action.Node
	}
	var names []string
	for _, id := range slices.Concat(action.IDs, action.AddVoters, action.DropVoters, action.DropLearners, []uint64{action.RaftID, action.To}) {
		if m, ok := c.core.views.hub.View().CoreByID(id); ok && !slices.Contains(names, m.Node) {
			names = append(names, m.Node)
		}
	}
	return strings.Join(names, ",")
}

// enlist gives node a Raft id and the sealed root, by a View of after node has said that it is willing: it says so once the
// state has the key that the root is to be sealed to.
func (c *controller) enlist(ctx context.Context, node string) error {
	v := c.core.views.hub.View()
	if _, sealed := v.Seal(node); !sealed {
		wrapped, err := c.issuer.sealFor(v, node)
		if err != nil {
			return err
		}
		if err := c.execute(ctx, state.CoreSeal{Node: node, Sealed: wrapped}); err != nil {
			return err
		}
	}
	return c.execute(ctx, state.CoreAssign{Node: node})
}

func (c *controller) execute(ctx context.Context, cmd state.Command) error {
	_, err := c.service.Execute(ctx, api.Internal(c.self), cmd)
	return err
}

// input gathers what Plan looks at.
func (c *controller) input(ctx context.Context, v *state.View, st consensus.Status) consensus.PlanInput {
	now := clock.Boottime()
	gossip := make(map[string]membership.Member)
	for _, m := range c.members() {
		gossip[m.Name] = m
	}
	ids := make(map[string]uint64)
	for _, m := range v.Core() {
		ids[m.Node] = m.RaftID
	}
	in := consensus.PlanInput{
		Size: v.Cluster().CoreSize, Self: st.ID, Voters: st.Voters, Outgoing: st.Outgoing, Learners: st.Learners,
		Progress: st.Progress, Commit: st.Commit, ReplaceAfter: c.cfg.replaceAfter,
	}
	for _, row := range v.Nodes() {
		id := ids[row.Name]
		if !row.CoreGrant && id == 0 {
			continue
		}
		m, known := gossip[row.Name]
		p := consensus.PlanMember{
			Node: row.Name, Zone: row.Zone, Granted: row.CoreGrant && !row.Left, RaftID: id,
			Alive:   row.Name == c.self || known && m.State == membership.StateAlive,
			DeadFor: c.silentFor(id, st, now), Held: row.Held(v.Stamp()),
		}
		if p.Alive && known {
			p.AliveFor = clock.System().Sub(m.Since)
		} else if known {
			p.DeadFor = min(p.DeadFor, clock.System().Sub(m.Since))
		}
		in.Members = append(in.Members, p)
	}
	c.hear(ctx, in.Members, st)
	for i := range in.Members {
		p := &in.Members[i]
		p.Withdrawn = p.Alive && !c.isWilling(*p)
		p.Leaving = p.Alive && (c.willing[p.Node].leaves || p.Node == c.self && c.leaves())
		p.Ready = p.RaftID != 0 && (p.Node == c.self || c.proofs.ready(p.RaftID))
	}
	return in
}

// silentFor is how long the leader has not heard from a Raft id.
func (c *controller) silentFor(id uint64, st consensus.Status, now time.Duration) time.Duration {
	p, tracked := st.Progress[id]
	if !tracked || id == st.ID || p.Healthy() {
		delete(c.silent, id)
		return 0
	}
	if _, ok := c.silent[id]; !ok {
		c.silent[id] = now
	}
	return now - c.silent[id]
}
