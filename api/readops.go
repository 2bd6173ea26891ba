package api

import (
	"context"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// OpsAnswer is what a transaction of reads found, and the View that it looked at.
type OpsAnswer struct {
	Answer      state.TxnAnswer
	Revision    uint64
	Index, Term uint64
	Stamp       clock.Stamp
	Node        string
}

// ReadOps answers a transaction that changes nothing from this agent's View, as fresh as consistency asks for, and
// without a write. It is false, and did nothing, when one of the ops writes or this agent holds no key/value: Execute
// it then.
func (s *Service) ReadOps(ctx context.Context, caller Caller, ops []state.Op, consistency Consistency) (OpsAnswer, bool, error) {
	if !state.OnlyRead(ops) || !s.local.HoldsKV() {
		return OpsAnswer{}, false, nil
	}
	if err := allow(caller, policy.Txn); err != nil {
		return OpsAnswer{}, false, err
	}
	if consistency != Stale {
		ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
		defer cancel()
		if err := s.catchUp(ctx); err != nil {
			return OpsAnswer{}, false, AsError(err)
		}
	}
	view := s.local.Hub.View()
	if !view.Holds(state.ClassKV) {
		return OpsAnswer{}, false, nil // this agent has just left the core, or not quite joined it
	}
	answer, _ := view.ReadOps(ops)
	return OpsAnswer{
		Answer: answer, Revision: view.Revision(),
		Index: view.Index(), Term: view.Term(), Stamp: view.Stamp(), Node: s.local.Node,
	}, true, nil
}
