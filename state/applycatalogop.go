package state

import (
	"errors"
	"slices"
)

// The ops of a transaction that read or change the catalog. They are those of CatalogRegister and
// CatalogDeregister one by one, with a compare.
const (
	OpNodeGet        OpKind = "node_get"       // fails for a missing node; Node names it
	OpNodeSet        OpKind = "node_set"       // a node without an agent
	OpNodeDelete     OpKind = "node_delete"    // a missing one is a failure only with Compare
	OpServiceGet     OpKind = "service_get"    // Service names node and id
	OpServiceSet     OpKind = "service_set"    //
	OpServiceDelete  OpKind = "service_delete" //
	OpCheckGet       OpKind = "check_get"      // Check names node and id
	OpCheckSet       OpKind = "check_set"      //
	OpCheckDelete    OpKind = "check_delete"   //
	OpSessionDestroy OpKind = "session_destroy"
)

var (
	nodeOps    = []OpKind{OpNodeGet, OpNodeSet, OpNodeDelete}
	serviceOps = []OpKind{OpServiceGet, OpServiceSet, OpServiceDelete}
	checkOps   = []OpKind{OpCheckGet, OpCheckSet, OpCheckDelete}
	catalogOps = slices.Concat(nodeOps, serviceOps, checkOps)
)

// ChangesCatalog reports whether the op writes to the catalog.
func (op Op) ChangesCatalog() bool {
	return slices.Contains(catalogOps, op.Kind) && !slices.Contains(readKinds, op.Kind)
}

// checkCatalog is check for the ops of this file.
func (op Op) checkCatalog() error {
	switch {
	case slices.Contains(nodeOps, op.Kind) && op.Node != nil:
		if op.Kind == OpNodeSet {
			return op.Node.check()
		}
		return CheckNodeName(op.Node.Name)
	case slices.Contains(serviceOps, op.Kind) && op.Service != nil:
		if op.Kind == OpServiceSet {
			return op.Service.check()
		}
		return checkMember(op.Service.Node, "service id", op.Service.ID, MaxServiceNameBytes)
	case slices.Contains(checkOps, op.Kind) && op.Check != nil:
		if op.Kind == OpCheckSet {
			return op.Check.check()
		}
		return checkMember(op.Check.Node, "check id", op.Check.ID, MaxCheckNameBytes)
	}
	return errors.New("an op of the catalog names what it is about: a node, a service or a check")
}

func checkMember(node, what, id string, limit int) error {
	if err := CheckNodeName(node); err != nil {
		return err
	}
	return checkName(what, id, limit)
}

// applyCatalog does one op of the catalog. A set answers with the row.
func (op Op) applyCatalog(a *applying) (OpResult, Result) {
	switch op.Kind {
	case OpNodeGet, OpNodeSet, OpNodeDelete:
		return op.applyNode(a)
	case OpServiceGet, OpServiceSet, OpServiceDelete:
		return op.applyService(a)
	}
	return op.applyCheck(a)
}

func (op Op) applyNode(a *applying) (OpResult, Result) {
	name := op.Node.Name
	agent, hasAgent := a.s.node(name)
	have, exists := a.s.catalogNode(name)
	if hasAgent && !agent.Left {
		exists = true
		have = CatalogNode{Name: name, ID: SessionID(agent.UID).String(), Address: agent.Address, Agent: true}
	}
	switch {
	case op.Kind == OpNodeGet && !exists:
		return OpResult{}, refuse(CodeNotFound, "the node %q doesn't exist", name)
	case op.Kind == OpNodeGet:
		return OpResult{Node: &have}, Result{}
	case hasAgent:
		return OpResult{}, refuseAgent(name)
	case op.Kind == OpNodeSet:
		n, res := a.setCatalogNode(*op.Node, op.Compare)
		if res.Code != CodeOK {
			return OpResult{}, res
		}
		return OpResult{Node: &n}, Result{}
	}
	res := compareCatalog("node", name, have.ModRevision, op.Compare)
	return a.deleted(res, exists, func() { a.deleteCatalogNode(name) })
}

func (op Op) applyService(a *applying) (OpResult, Result) {
	node, id := op.Service.Node, op.Service.ID
	have, exists := a.s.service(node, id)
	switch {
	case op.Kind == OpServiceGet && !exists:
		return OpResult{}, refuse(CodeNotFound, "the service %q doesn't exist on node %q", id, node)
	case op.Kind == OpServiceGet:
		return OpResult{Service: &have}, Result{}
	case op.Kind == OpServiceSet:
		s, res := a.setService(*op.Service, op.Compare)
		if res.Code != CodeOK {
			return OpResult{}, res
		}
		return OpResult{Service: &s}, Result{}
	}
	res := compareCatalog("service", id, have.ModRevision, op.Compare)
	return a.deleted(res, exists, func() { a.deleteService(node, id) })
}

func (op Op) applyCheck(a *applying) (OpResult, Result) {
	node, id := op.Check.Node, op.Check.ID
	have, exists := a.s.check(node, id)
	switch {
	case op.Kind == OpCheckGet && !exists:
		return OpResult{}, refuse(CodeNotFound, "the check %q doesn't exist on node %q", id, node)
	case op.Kind == OpCheckGet:
		return OpResult{Check: &have}, Result{}
	case op.Kind == OpCheckSet:
		c, res := a.setCheck(*op.Check, op.Compare)
		if res.Code != CodeOK {
			return OpResult{}, res
		}
		return OpResult{Check: &c}, Result{}
	}
	res := compareCatalog("check", id, have.ModRevision, op.Compare)
	return a.deleted(res, exists, func() { a.deleteCheck(node, id) })
}

// deleted deletes what is there, unless the compare did not hold.
func (a *applying) deleted(compared Result, exists bool, remove func()) (OpResult, Result) {
	if compared.Code != CodeOK || !exists {
		return OpResult{}, compared
	}
	remove()
	return OpResult{Deleted: 1}, Result{}
}

// destroySession is SessionDestroy within a transaction.
func (op Op) destroySession(a *applying) (OpResult, Result) {
	id, err := ParseSessionID(op.Session)
	s, exists := a.s.session(id)
	if err != nil || !exists {
		return OpResult{}, refuse(CodeNotFound, "invalid session %q", op.Session)
	}
	a.endSession(s)
	return OpResult{Deleted: 1}, Result{}
}
