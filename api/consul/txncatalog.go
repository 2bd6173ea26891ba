package consul

import (
	"cmp"
	"fmt"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

// The steps of a transaction besides those of keys. Their compare takes ModifyIndex for the revision.
type (
	txnNode struct {
		Verb string
		Node nodeBody
	}
	txnService struct {
		Verb    string
		Node    string
		Service serviceBody
	}
	txnCheck struct {
		Verb  string
		Check checkBody
	}
	txnSession struct {
		Verb    string
		Session struct{ ID string }
	}
)

// catalogVerbs is which of get, set and delete a verb is, and whether it compares.
var catalogVerbs = map[string]struct {
	is       int
	compares bool
}{"get": {is: 0}, "set": {is: 1}, "cas": {is: 1, compares: true}, "delete": {is: 2}, "delete-cas": {is: 2, compares: true}}

// get, set, delete.
var (
	nodeKinds    = [3]state.OpKind{state.OpNodeGet, state.OpNodeSet, state.OpNodeDelete}
	serviceKinds = [3]state.OpKind{state.OpServiceGet, state.OpServiceSet, state.OpServiceDelete}
	checkKinds   = [3]state.OpKind{state.OpCheckGet, state.OpCheckSet, state.OpCheckDelete}
)

func (op txnOp) catalogCommand(i int) (state.Op, error) {
	switch {
	case op.Node != nil:
		return op.Node.command(i)
	case op.Service != nil:
		return op.Service.command(i)
	case op.Check != nil:
		return op.Check.command(i)
	case op.Session != nil && op.Session.Verb == "delete":
		return state.Op{Kind: state.OpSessionDestroy, Session: op.Session.Session.ID}, nil
	case op.Session != nil:
		return state.Op{}, badRequest(fmt.Sprintf("operation %d has the unknown session verb %.40q", i, op.Session.Verb))
	}
	return state.Op{}, badRequest(fmt.Sprintf("operation %d is empty: give KV, Node, Service, Check or Session", i))
}

// verbOf starts a step.
func verbOf(i int, what, verb string, kinds [3]state.OpKind, revision *uint64) (state.Op, error) {
	v, known := catalogVerbs[verb]
	if !known {
		return state.Op{}, badRequest(fmt.Sprintf("operation %d has the unknown %s verb %.40q", i, what, verb))
	}
	step := state.Op{Kind: kinds[v.is]}
	if v.compares {
		step.Compare = revision
	}
	return step, nil
}

func (b *txnNode) command(i int) (state.Op, error) {
	step, err := verbOf(i, "node", b.Verb, nodeKinds, &b.Node.ModifyIndex)
	if err != nil {
		return step, err
	}
	if b.Node.Node == "" {
		return step, badRequest(fmt.Sprintf("operation %d is missing a node name", i))
	}
	n := state.CatalogNode{Name: b.Node.Node}
	if step.Kind == state.OpNodeSet {
		n = b.Node.state()
	}
	step.Node = &n
	return step, b.Node.check()
}

func (b *txnService) command(i int) (state.Op, error) {
	step, err := verbOf(i, "service", b.Verb, serviceKinds, &b.Service.ModifyIndex)
	if err != nil {
		return step, err
	}
	s := state.CatalogService{Node: b.Node, ID: cmp.Or(b.Service.ID, b.Service.Service)}
	if s.Node == "" || s.ID == "" {
		return step, badRequest(fmt.Sprintf("operation %d is missing a node name or a service id", i))
	}
	if step.Kind == state.OpServiceSet {
		s, err = b.Service.state(b.Node)
	}
	step.Service = &s
	return step, err
}

func (b *txnCheck) command(i int) (state.Op, error) {
	step, err := verbOf(i, "check", b.Verb, checkKinds, &b.Check.ModifyIndex)
	if err != nil {
		return step, err
	}
	c := state.CatalogCheck{Node: b.Check.Node, ID: cmp.Or(b.Check.CheckID, b.Check.Name)}
	if c.Node == "" || c.ID == "" {
		return step, badRequest(fmt.Sprintf("operation %d is missing a node name or a check id", i))
	}
	if step.Kind == state.OpCheckSet {
		c, err = b.Check.state(b.Check.Node)
	}
	step.Check = &c
	return step, err
}

// catalogResult is what a step of these answers: nothing for a delete. Of an agent's node the state knows the name;
// what it is like is shown as everywhere.
func (d *dialect) catalogResult(x *api.Exchange, r state.OpResult) []txnResult {
	switch {
	case r.Node != nil:
		n := d.externalNode(*r.Node)
		if r.Node.Agent {
			roster := d.roster(x)
			roster.look()
			if own, ok := d.nodeNamed(roster, x.Service().Local().Hub.View(), r.Node.Name); ok {
				n = own
			}
		}
		return []txnResult{{Node: &n}}
	case r.Service != nil:
		s := serviceOf(*r.Service)
		return []txnResult{{Service: &s}}
	case r.Check != nil:
		c := checkOf(*r.Check)
		if len(r.Check.ServiceTags) == 0 {
			c.ServiceTags = nil // as clients know it from here, unlike everywhere else
		}
		return []txnResult{{Check: &c}}
	}
	return nil
}
