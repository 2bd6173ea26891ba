package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// confChange is the change of the core that somebody waits for.
type confChange struct {
	req         *request
	index, term uint64 // 0 until it is in the log
	deadline    uint64 // tick at which it is given up after leadership was lost, 0 = not lost
}

// changeCore proposes a change of the core. Raft replaces a change that it does not like by an
// empty entry and says nothing, and panics when an impossible one is applied; so it is tried on a
// copy first, and looked for in the log afterwards.
func (c *core) changeCore(r *request) {
	switch {
	case c.halted != nil:
		c.fail(r, c.halted)
		return
	case c.unfit() != nil:
		c.fail(r, c.unfit())
		return
	case !c.leads():
		c.fail(r, c.notLeader())
		return
	case c.change != nil || c.transfer != nil:
		c.fail(r, ErrChangePending)
		return
	}
	if err := c.tryChange(r.change); err != nil {
		c.fail(r, err)
		return
	}
	if !c.cfg.asks.take(r) {
		return
	}
	c.change = &confChange{req: r}
	err := c.rn.ProposeConfChange(r.change)
	c.drain()
	if err != nil || c.change.index == 0 {
		c.change = nil
		c.fail(r, ErrChangePending)
	}
}

// tryChange applies the change to a copy of the configuration.
func (c *core) tryChange(cc *raftpb.ConfChangeV2) error {
	if len(c.conf.GetVotersOutgoing()) > 0 && !cc.LeaveJoint() {
		return ErrChangePending
	}
	if err := checkConfChange(cc); err != nil {
		return fmt.Errorf("%w: %w", ErrChangeInvalid, err)
	}
	changer, err := c.changer()
	if err != nil {
		return err
	}
	switch auto, joint := cc.EnterJoint(); {
	case cc.LeaveJoint():
		_, _, err = changer.LeaveJoint()
	case joint:
		_, _, err = changer.EnterJoint(auto, cc.GetChanges()...)
	default:
		_, _, err = changer.Simple(cc.GetChanges()...)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChangeInvalid, err)
	}
	return nil
}

// changer rebuilds the present configuration outside raft.
func (c *core) changer() (confchange.Changer, error) {
	trk := tracker.MakeProgressTracker(maxInflightMsgs, maxInflightBytes)
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: trk, LastIndex: c.log.last()}, c.conf)
	if err != nil {
		return confchange.Changer{}, fmt.Errorf("configuration %v: %w", c.conf, err)
	}
	trk.Config, trk.Progress = cfg, progress
	return confchange.Changer{Tracker: trk, LastIndex: c.log.last()}, nil
}

// checkConfChange refuses a change that raft would panic on.
func checkConfChange(cc *raftpb.ConfChangeV2) error {
	if t := cc.GetTransition(); t < raftpb.ConfChangeTransitionAuto || t > raftpb.ConfChangeTransitionJointExplicit {
		return fmt.Errorf("unknown transition %d", t)
	}
	for _, s := range cc.GetChanges() {
		if s.GetNodeId() == 0 || s.GetNodeId() >= ^uint64(1) {
			return fmt.Errorf("raft id %d is reserved", s.GetNodeId())
		}
		switch s.GetType() {
		case raftpb.ConfChangeAddNode, raftpb.ConfChangeRemoveNode, raftpb.ConfChangeAddLearnerNode:
		default:
			return fmt.Errorf("change of type %d is not used", s.GetType())
		}
	}
	return nil
}

// decodeConfChange reads the change in an entry; ok is false for other entries.
func decodeConfChange(e *raftpb.Entry) (cc *raftpb.ConfChangeV2, ok bool, err error) {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		v1 := &raftpb.ConfChange{}
		err = proto.Unmarshal(e.GetData(), v1)
		cc = v1.AsV2()
	case raftpb.EntryConfChangeV2:
		cc = &raftpb.ConfChangeV2{}
		err = proto.Unmarshal(e.GetData(), cc)
	default:
		return nil, false, nil
	}
	if err == nil {
		err = checkConfChange(cc)
	}
	return cc, true, err
}

// applyConfChange makes an applied change effective. What peers send was checked before it entered
// the log, so an error here is damage: better to stop than to guess who votes.
func (c *core) applyConfChange(e *raftpb.Entry) {
	cc, ok, err := decodeConfChange(e)
	if !ok {
		return
	}
	if err != nil {
		panic(fmt.Sprintf("change of the core at %d: %v", e.GetIndex(), err))
	}
	if e.GetIndex() > c.log.confIndex { // else it took effect ahead, see changesAhead
		c.conf = c.rn.ApplyConfChange(cc)
		c.voidLease()
		c.log.confIndex = e.GetIndex()
		c.out.changed = true
	}
	c.changeApplied(e)
}

func (c *core) changeApplied(e *raftpb.Entry) {
	if c.change == nil || c.change.index > e.GetIndex() {
		return
	}
	if c.change.index == e.GetIndex() && c.change.term == e.GetTerm() {
		c.answer(c.change.req, outcome{done: Proposed{Index: e.GetIndex(), Term: e.GetTerm()}})
	} else {
		c.fail(c.change.req, c.notLeader())
	}
	c.change = nil
}

// tickChange gives up on a change whose leadership is long gone.
func (c *core) tickChange() {
	if c.change != nil && c.change.deadline > 0 && c.ticks >= c.change.deadline {
		c.fail(c.change.req, &OutcomeUnknownError{Cause: errLeadershipLost})
		c.change = nil
	}
}
