package state

import (
	"bytes"
	"cmp"
)

func (c CatalogRegister) apply(a *applying) Result {
	start := a.mark()
	res := a.register(c)
	a.done(start, res.Code != CodeOK)
	return res
}

func (a *applying) register(c CatalogRegister) Result {
	if res := a.registerNode(c); res.Code != CodeOK {
		return res
	}
	if c.Service != nil {
		if _, res := a.setService(*c.Service, nil); res.Code != CodeOK {
			return res
		}
	}
	for _, one := range c.Checks {
		if _, res := a.setCheck(one, nil); res.Code != CodeOK {
			return res
		}
	}
	return Result{}
}

// registerNode leaves an agent's node alone: what it is, its agent says, and its name is an identity.
func (a *applying) registerNode(c CatalogRegister) Result {
	agent, hasAgent := a.s.node(c.Name)
	_, exists := a.s.catalogNode(c.Name)
	switch {
	case c.Node == nil || c.Keep && exists:
		return a.mustBeNode(c.Name)
	case !hasAgent:
		_, res := a.setCatalogNode(*c.Node, nil)
		return res
	case c.Node.ID != "" && c.Node.ID != SessionID(agent.UID).String():
		return refuse(CodeConflict, "the node %q has an agent, and another id than %s", c.Name, c.Node.ID)
	case c.Service == nil && len(c.Checks) == 0:
		return refuseAgent(c.Name)
	}
	return a.mustBeNode(c.Name)
}

func refuseAgent(node string) Result {
	return refuse(CodeConflict, "the node %q has an agent, which alone says what it is: "+
		"register services and checks on it, or another node", node)
}

// mustBeNode refuses a node that the catalog does not have: services and checks would hang on nothing.
func (a *applying) mustBeNode(name string) Result {
	agent, ok := a.s.node(name)
	switch {
	case ok && agent.Left:
		return refuse(CodeConflict, "the node %q has left: start its agent, or use another node", name)
	case ok:
		return Result{}
	}
	if _, ok := a.s.catalogNode(name); !ok {
		return refuse(CodeNotFound, "there is no node %q: register it, with its address", name)
	}
	return Result{}
}

// compareCatalog is compare for the rows of the catalog.
func compareCatalog(what, name string, have uint64, want *uint64) Result {
	switch {
	case want == nil || *want == have:
		return Result{}
	case have == 0:
		return refuse(CodeConflict, "there is no %s %q: it cannot be at revision %d", what, name, *want)
	case *want == 0:
		return refuse(CodeConflict, "the %s %q exists, at revision %d", what, name, have)
	}
	return refuse(CodeConflict, "the %s %q is at revision %d, not %d", what, name, have, *want)
}

// setCatalogNode writes a node without an agent. One that had an id keeps it when none is given. What
// is the same already is not written, so that who registers again and again wakes nobody.
func (a *applying) setCatalogNode(n CatalogNode, want *uint64) (CatalogNode, Result) {
	if _, hasAgent := a.s.node(n.Name); hasAgent {
		return n, refuseAgent(n.Name)
	}
	old, exists := a.s.catalogNode(n.Name)
	if res := compareCatalog("node", n.Name, old.ModRevision, want); res.Code != CodeOK {
		return n, res
	}
	if !exists && a.s.tables[TableCatalogNode].rows >= MaxCatalogNodes {
		return n, refuse(CodeLimit, "there are %d nodes without an agent: deregister some", MaxCatalogNodes)
	}
	n.ID = cmp.Or(n.ID, old.ID)
	n.Owner, n.CreateRevision = old.Owner, cmp.Or(old.CreateRevision, a.revision())
	if exists && bytes.Equal(encodeCatalogNode(n), encodeCatalogNode(old)) {
		return old, Result{}
	}
	n.Owner, n.ModRevision = a.caller, a.revision()
	a.set(TableCatalogNode, n.Name, encodeCatalogNode(n))
	a.touch(nodeTrace(n.Name), 0, 0)
	a.touchServices(n.Name)
	return n, Result{}
}

func (a *applying) setService(s CatalogService, want *uint64) (CatalogService, Result) {
	old, exists := a.s.service(s.Node, s.ID)
	if res := compareCatalog("service", s.ID, old.ModRevision, want); res.Code != CodeOK {
		return s, res
	}
	if res := a.mustBeNode(s.Node); res.Code != CodeOK {
		return s, res
	}
	switch {
	case exists:
	case a.s.tables[TableService].rows >= MaxServices:
		return s, refuse(CodeLimit, "there are %d instances of services: deregister some", MaxServices)
	case a.s.trace(nodeTrace(s.Node)).services >= MaxNodeServices:
		return s, refuse(CodeLimit, "node %q has %d services: deregister some, or use another node", s.Node, MaxNodeServices)
	}
	s.Owner, s.CreateRevision = old.Owner, cmp.Or(old.CreateRevision, a.revision())
	if exists && bytes.Equal(encodeCatalogService(s), encodeCatalogService(old)) {
		return old, Result{}
	}
	s.Owner, s.ModRevision = a.caller, a.revision()
	a.set(TableService, catalogKey(s.Node, s.ID), encodeCatalogService(s))
	switch {
	case !exists:
		a.nameService(s)
		a.touch(nodeTrace(s.Node), 1, 0)
	case old.Name != s.Name:
		a.unnameService(old)
		a.nameService(s)
		a.touch(nodeTrace(s.Node), 0, 0)
	default:
		a.touch(serviceTrace(s.Name), 0, 0)
		a.touch(nodeTrace(s.Node), 0, 0)
	}
	return s, Result{}
}

// nameService lets the instance be found by its service's name.
func (a *applying) nameService(s CatalogService) {
	a.set(TableServiceName, catalogKey(s.Name, catalogKey(s.Node, s.ID)), newRow(0))
	a.touch(serviceTrace(s.Name), 1, 0)
}

func (a *applying) unnameService(s CatalogService) {
	a.set(TableServiceName, catalogKey(s.Name, catalogKey(s.Node, s.ID)), nil)
	a.touch(serviceTrace(s.Name), -1, 0)
}

// setCheck writes a check, and ends the sessions that rely on it when it is critical.
func (a *applying) setCheck(c CatalogCheck, want *uint64) (CatalogCheck, Result) {
	old, exists := a.s.check(c.Node, c.ID)
	if res := compareCatalog("check", c.ID, old.ModRevision, want); res.Code != CodeOK {
		return c, res
	}
	if res := a.mayCheck(c, exists); res.Code != CodeOK {
		return c, res
	}
	c.Owner, c.CreateRevision = old.Owner, cmp.Or(old.CreateRevision, a.revision())
	if exists && bytes.Equal(encodeCatalogCheck(c), encodeCatalogCheck(old)) {
		return old, Result{}
	}
	c.Owner, c.ModRevision = a.caller, a.revision()
	a.set(TableCheck, catalogKey(c.Node, c.ID), encodeCatalogCheck(c))
	if exists {
		a.touch(nodeTrace(c.Node), 0, 0)
	} else {
		a.touch(nodeTrace(c.Node), 0, 1)
	}
	if exists && old.ServiceID != c.ServiceID {
		a.touchChecked(old)
	}
	a.touchChecked(c)
	if c.Status == CheckCritical {
		a.endSessionsOf(c.Node, c.ID)
	}
	return a.s.withService(c), Result{}
}

func (a *applying) mayCheck(c CatalogCheck, exists bool) Result {
	if res := a.mustBeNode(c.Node); res.Code != CodeOK {
		return res
	}
	_, hasAgent := a.s.node(c.Node)
	_, hasService := a.s.service(c.Node, c.ServiceID)
	switch {
	case hasAgent && c.ID == AgentCheck:
		return refuse(CodeConflict, "the check %q of node %q says whether its agent is alive, and cannot be set: use another id",
			AgentCheck, c.Node)
	case c.ServiceID != "" && !hasService:
		return refuse(CodeNotFound, "there is no service %q on node %q to check: register it first", c.ServiceID, c.Node)
	case exists:
	case a.s.tables[TableCheck].rows >= MaxChecks:
		return refuse(CodeLimit, "there are %d checks: deregister some", MaxChecks)
	case a.s.trace(nodeTrace(c.Node)).checks >= MaxNodeChecks:
		return refuse(CodeLimit, "node %q has %d checks: deregister some, or use another node", c.Node, MaxNodeChecks)
	}
	return Result{}
}

// touchChecked touches the services that a check speaks of: its own, or all of the node.
func (a *applying) touchChecked(c CatalogCheck) {
	if c.ServiceID == "" {
		a.touchServices(c.Node)
	} else if s, ok := a.s.service(c.Node, c.ServiceID); ok {
		a.touch(serviceTrace(s.Name), 0, 0)
	}
}

func (c CatalogDeregister) apply(a *applying) Result {
	switch {
	case c.Check != "":
		a.deleteCheck(c.Node, c.Check)
	case c.Service != "":
		a.deleteService(c.Node, c.Service)
	default:
		if _, hasAgent := a.s.node(c.Node); hasAgent {
			return refuse(CodeConflict, "the node %q has an agent: let that leave, or deregister its services and checks", c.Node)
		}
		a.deleteCatalogNode(c.Node)
	}
	return Result{}
}

func (a *applying) deleteCheck(node, id string) {
	c, ok := a.s.check(node, id)
	if !ok {
		return
	}
	a.touchChecked(c)
	a.set(TableCheck, catalogKey(node, id), nil)
	a.touch(nodeTrace(node), 0, -1)
	a.endSessionsOf(node, id)
}

// deleteService deletes the service's checks with it.
func (a *applying) deleteService(node, id string) {
	s, ok := a.s.service(node, id)
	if !ok {
		return
	}
	for _, c := range a.s.checksOf(node) {
		if c.ServiceID == id {
			a.deleteCheck(node, c.ID)
		}
	}
	a.set(TableService, catalogKey(node, id), nil)
	a.unnameService(s)
	a.touch(nodeTrace(node), -1, 0)
}

// deleteCatalogNode deletes a node without an agent: all on it, and the sessions that are bound to it.
func (a *applying) deleteCatalogNode(node string) {
	if _, ok := a.s.catalogNode(node); !ok {
		return
	}
	a.clearCatalog(node)
	a.set(TableCatalogNode, node, nil)
	a.touch(nodeTrace(node), 0, 0)
	a.endSessionsOf(node, "")
}

// clearCatalog deletes the services and checks of a node.
func (a *applying) clearCatalog(node string) {
	for _, c := range a.s.checksOf(node) {
		a.deleteCheck(node, c.ID)
	}
	for _, s := range a.s.servicesOf(node) {
		a.deleteService(node, s.ID)
	}
}
