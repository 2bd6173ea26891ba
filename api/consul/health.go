package consul

import (
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

// The check that every node has: whether gossip holds it alive.
const (
	serfCheckID   = "serfHealth"
	serfCheckName = "Serf Health Status"
)

// check is one health check as clients know it.
type check struct {
	Node        string
	CheckID     string
	Name        string
	Status      string // passing, warning or critical
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  struct{}
	CreateIndex uint64
	ModifyIndex uint64
}

// healthNode answers the checks of one node: none for a node that is not in the catalog.
func (d *dialect) healthNode(x *api.Exchange) error {
	name := x.Rest
	if name == "" {
		return refuse(x, badRequest("Missing node name"))
	}
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: oneNode(name),
		index: func() uint64 {
			r.look()
			return r.base + hub.View().RowRevision(state.TableNode, name) + r.of(name).changes
		},
		show: func(index uint64) any {
			row, ok := hub.View().Node(name)
			if !ok || row.Left {
				return []check{}
			}
			return []check{serfHealth(row, r.of(name), index)}
		},
	})
}

func serfHealth(row state.Node, seen sighting, index uint64) check {
	c := check{
		Node: row.Name, CheckID: serfCheckID, Name: serfCheckName, ServiceTags: []string{},
		Status: "critical", Output: "Agent not live or unreachable",
		CreateIndex: row.BindingEpoch, ModifyIndex: index,
	}
	if alive(seen.member) {
		c.Status, c.Output = "passing", "Agent alive and reachable"
	}
	return c
}
