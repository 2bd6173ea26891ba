package state

import (
	"bytes"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// editNode writes the node's row as edit leaves it, unless it is unchanged.
func (a *applying) editNode(name string, edit func(*Node)) Result {
	n, ok := a.s.node(name)
	if !ok {
		return refuse(CodeNotFound, "there is no node %q", name)
	}
	before := EncodeNode(n)
	edit(&n)
	if !bytes.Equal(before, EncodeNode(n)) {
		a.setNode(n)
	}
	return Result{}
}

func (c NodeSetRole) apply(a *applying) Result {
	return a.editNode(c.Node, func(n *Node) { n.Role = c.Role })
}

func (c NodeSetLeft) apply(a *applying) Result {
	if n, ok := a.s.node(c.Node); ok && !c.Left {
		if res := a.deniedKey(n.HostKey); res.Code != CodeOK {
			return res
		}
	}
	res := a.editNode(c.Node, func(n *Node) { n.Left = c.Left })
	if res.Code == CodeOK && c.Left {
		a.clearCatalog(c.Node) // nobody would take its services and checks away
		a.dropSeal(c.Node)     // it opens no root any more
		a.dropJWTKeys(c.Node)  // and nobody believes its tokens
		a.editNode(c.Node, func(n *Node) { n.HeldUntil = 0 })
	}
	return res
}

func (c CoreHold) apply(a *applying) Result {
	if n, ok := a.s.node(c.Node); ok && n.Left && c.Millis > 0 {
		return refuse(CodeInvalid, "the node %q has left", c.Node)
	}
	until := clock.Stamp(0)
	if c.Millis > 0 {
		until = max(a.at, a.at+clock.Stamp(c.Millis<<16)) // in the units of a stamp; the last one there is does not wrap
	}
	return a.editNode(c.Node, func(n *Node) { n.HeldUntil = until })
}

func (c CoreGrant) apply(a *applying) Result {
	return a.editNode(c.Node, func(n *Node) { n.CoreGrant = c.Allow })
}

func (c CoreAssign) apply(a *applying) Result {
	n, ok := a.s.node(c.Node)
	switch {
	case !ok:
		return refuse(CodeNotFound, "there is no node %q", c.Node)
	case !n.CoreGrant:
		return refuse(CodeDenied, "the node %q is not allowed in the core: run parley core allow %s", c.Node, c.Node)
	}
	members := a.s.core(false)
	for _, m := range members {
		if m.Node == c.Node {
			return number(m.RaftID)
		}
	}
	if len(members) >= MaxCoreMembers {
		return refuse(CodeLimit, "%d Raft ids are in use: retire some first", MaxCoreMembers)
	}
	cluster := a.s.cluster()
	m := CoreMember{RaftID: max(cluster.NextRaftID, 1), Node: c.Node}
	cluster.NextRaftID = m.RaftID + 1
	a.setCluster(cluster)
	a.setCore(m)
	return number(m.RaftID)
}

func (c CoreRetire) apply(a *applying) Result {
	m, ok := a.s.coreByID(c.RaftID)
	if !ok {
		return refuse(CodeNotFound, "there is no Raft id %x", c.RaftID)
	}
	if !m.Retired {
		a.retire(m)
	}
	return Result{}
}

// retire marks the id, and forgets the oldest retired ones beyond the limit. The counter in the
// cluster's row, not the list, keeps ids from being reused.
func (a *applying) retire(m CoreMember) {
	m.Retired = true
	a.setCore(m)
	retired := a.s.core(true)
	for len(retired) > MaxRetired {
		a.set(TableCore, coreKey(retired[0].RaftID), nil)
		retired = retired[1:]
	}
}

func (c CoreSeal) apply(a *applying) Result {
	n, ok := a.s.node(c.Node)
	switch {
	case !ok:
		return refuse(CodeNotFound, "there is no node %q", c.Node)
	case !n.CoreGrant:
		return refuse(CodeDenied, "the node %q is not allowed in the core: run parley core allow %s", c.Node, c.Node)
	}
	row := encodeSeal(Seal(c))
	if old, ok := a.s.get(TableSeal, c.Node); !ok || !bytes.Equal(old.row, row) {
		a.set(TableSeal, c.Node, row)
	}
	return Result{}
}

// editCluster writes the cluster's row as edit leaves it, unless it is unchanged.
func (a *applying) editCluster(edit func(*Cluster)) Result {
	before := a.s.cluster()
	after := before
	edit(&after)
	if after != before {
		a.setCluster(after)
	}
	return Result{}
}

func (c SetCoreSize) apply(a *applying) Result {
	return a.editCluster(func(row *Cluster) { row.CoreSize = c.Size })
}

func (c SetClusterVersion) apply(a *applying) Result {
	if have := a.s.cluster().Version; c.Version < have {
		return refuse(CodeInvalid, "the cluster is at version %d and never goes back to %d", have, c.Version)
	}
	return a.editCluster(func(row *Cluster) { row.Version = c.Version })
}

func (c SetBundle) apply(a *applying) Result {
	row := encodeBundle(c.Bundle)
	if old, ok := a.s.get(TableBundle, ""); ok {
		have := must(decodeBundle(old.row)).Sequence
		if bytes.Equal(old.row, row) {
			return Result{}
		}
		if c.Bundle.Sequence <= have {
			return refuse(CodeConflict, "the bundle is at sequence %d already: read it again", have)
		}
	}
	a.set(TableBundle, "", row)
	return Result{}
}

// stronger returns the role that allows more.
func stronger(a, b policy.Role) policy.Role {
	if policy.Min(a, b) == a {
		return b
	}
	return a
}
