package state

import (
	"slices"

	"pgregory.net/rapid"
)

// The names of agents are among those of nodes.
var (
	genCatalogNode = rapid.SampledFrom([]string{"a1", "a2", "x1", "x2"})
	genServiceID   = rapid.SampledFrom([]string{"s1", "s2", "s3"})
	genCheckID     = rapid.SampledFrom([]string{AgentCheck, "c1", "c2", "c3"})
)

// genCatalogEntry is for tests of the catalog, which genEntry seldom gets far into.
var genCatalogEntry = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Command {
	switch {
	case rapid.Bool().Draw(t, "catalog"):
		return drawCatalogCommand(t)
	case rapid.Bool().Draw(t, "session"):
		return drawSessionCommand(t)
	}
	return genCommand.Draw(t, "other")
}), 1, 8)

func drawNode(t *rapid.T) CatalogNode {
	return CatalogNode{
		Name:    genCatalogNode.Draw(t, "node"),
		Address: rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2"}).Draw(t, "address"),
		Meta:    []Pair{{"k", rapid.SampledFrom([]string{"", "v"}).Draw(t, "meta")}},
	}
}

func drawService(t *rapid.T) CatalogService {
	return CatalogService{
		Node: genCatalogNode.Draw(t, "node"), ID: genServiceID.Draw(t, "id"),
		Name: rapid.SampledFrom([]string{"web", "db"}).Draw(t, "name"),
		Tags: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(t, "tags"),
		Port: rapid.IntRange(0, 2).Draw(t, "port"),
	}
}

func drawCheck(t *rapid.T) CatalogCheck {
	return CatalogCheck{
		Node: genCatalogNode.Draw(t, "node"), ID: genCheckID.Draw(t, "check"),
		Status:    rapid.SampledFrom(checkStatuses).Draw(t, "status"),
		ServiceID: rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(t, "service"),
	}
}

func drawCatalogCommand(t *rapid.T) Command {
	node, service, check := drawNode(t), drawService(t), drawCheck(t)
	if rapid.IntRange(0, 3).Draw(t, "deregister") == 0 {
		c := CatalogDeregister{Node: node.Name}
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			c.Service = service.ID
		case 1, 2:
			c.Check = check.ID
		}
		return c
	}
	service.Node, check.Node = node.Name, node.Name
	c := CatalogRegister{Name: node.Name, Node: &node, Keep: rapid.Bool().Draw(t, "keep")}
	if rapid.Bool().Draw(t, "with service") {
		c.Service = &service
	}
	if rapid.Bool().Draw(t, "with check") {
		c.Checks = []CatalogCheck{check}
	}
	return c
}

func drawCatalogOp(t *rapid.T, op Op) Op {
	op.Compare = genCAS.Draw(t, "cas")
	switch {
	case slices.Contains(nodeOps, op.Kind):
		n := drawNode(t)
		op.Node = &n
	case slices.Contains(serviceOps, op.Kind):
		s := drawService(t)
		op.Service = &s
	default:
		c := drawCheck(t)
		op.Check = &c
	}
	return op
}
