package consul

import (
	"encoding/json"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// The check that every node has: whether gossip holds it alive.
const (
	serfCheckID   = state.AgentCheck
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
	Definition  json.RawMessage
	CreateIndex uint64
	ModifyIndex uint64
}

// healthNode answers the checks of one node and of the services on it: none for a node that is not in the catalog.
func (d *dialect) healthNode(x *api.Exchange) error {
	name := x.Rest
	if name == "" {
		return refuse(x, badRequest("Missing node name"))
	}
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: rowsOf(name), index: d.indexOf(r, hub, name),
		show: func(uint64) any {
			view := hub.View()
			checks := d.nodeChecks(r, view, name)
			for _, c := range view.ChecksOf(name) {
				if c.ServiceID != "" {
					checks = append(checks, checkOf(c))
				}
			}
			return checks
		},
	})
}

// indexOf is the index of all that is shown about one node.
func (d *dialect) indexOf(r *roster, hub *watch.Hub, name string) func() uint64 {
	return func() uint64 {
		r.look()
		view, seen := hub.View(), r.of(name)
		return r.base + agentRevision(view, name) + view.CatalogRevision(name) + seen.changes + seen.moves
	}
}

// agentRevision is that of the row of an agent's node, 0 while there is none: such a row never goes.
func agentRevision(view *state.View, name string) uint64 {
	if _, ok := view.Node(name); !ok {
		return 0
	}
	return view.RowRevision(state.TableNode, name)
}

// nodeChecks are the checks of the node itself.
func (d *dialect) nodeChecks(r *roster, view *state.View, name string) []check {
	checks := []check{}
	if row, ok := view.Node(name); ok && !row.Left {
		checks = append(checks, serfHealth(r, view, row))
	}
	for _, c := range view.ChecksOf(name) {
		if c.ServiceID == "" {
			checks = append(checks, checkOf(c))
		}
	}
	return checks
}

// healthChecks answers the checks of a service's instances.
func (d *dialect) healthChecks(x *api.Exchange) error {
	return d.readService(x, func(r *roster, view *state.View, all []instance) any {
		checks := []check{}
		for _, one := range all {
			for _, c := range view.ChecksOf(one.node.Node) {
				if c.ServiceID == one.service.ID {
					checks = append(checks, checkOf(c))
				}
			}
		}
		return checks
	})
}

// entry is one instance with all that says whether it can be used.
type entry struct {
	Node    node
	Service service
	Checks  []check
}

// healthService answers the instances of a service with their checks, with ?passing those alone of which all checks pass.
func (d *dialect) healthService(x *api.Exchange) error {
	passing := x.Query().Has("passing") && x.Query().Get("passing") != "0" && x.Query().Get("passing") != "false"
	return d.readService(x, func(r *roster, view *state.View, all []instance) any {
		entries := []entry{}
		for _, one := range all {
			e := entry{Node: one.node, Service: one.service, Checks: d.nodeChecks(r, view, one.node.Node)}
			for _, c := range view.ChecksOf(one.node.Node) {
				if c.ServiceID != "" && c.ServiceID == one.service.ID {
					e.Checks = append(e.Checks, checkOf(c))
				}
			}
			if !passing || allPass(e.Checks) {
				entries = append(entries, e)
			}
		}
		return entries
	})
}

func allPass(checks []check) bool {
	for _, c := range checks {
		if c.Status != string(state.CheckPassing) {
			return false
		}
	}
	return true
}

// healthState answers all checks that have the state, or with "any" all.
func (d *dialect) healthState(x *api.Exchange) error {
	if x.Rest == "" {
		return refuse(x, badRequest("Missing check state"))
	}
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: []watch.Selector{{Table: state.TableCheck, Prefix: true}, {Table: state.TableNode, Prefix: true}},
		index: func() uint64 {
			r.look()
			view := hub.View()
			return r.base + view.TableRevision(state.TableCheck) + view.TableRevision(state.TableNode) + r.changes()
		},
		show: func(uint64) any {
			checks, view := []check{}, hub.View()
			shown := d.shownNodes(r, view, x.Query()["node-meta"])
			add := func(c check) {
				if (x.Rest == "any" || c.Status == x.Rest) && shown(c.Node) {
					checks = append(checks, c)
				}
			}
			for _, row := range view.Nodes() {
				if !row.Left {
					add(serfHealth(r, view, row))
				}
			}
			view.Checks(func(c state.CatalogCheck) bool {
				add(checkOf(c))
				return true
			})
			return checks
		},
	})
}

// shownNodes reports whether a node has the metadata that is wanted.
func (d *dialect) shownNodes(r *roster, view *state.View, wanted []string) func(name string) bool {
	return func(name string) bool {
		if len(wanted) == 0 {
			return true
		}
		n, ok := d.nodeNamed(r, view, name)
		return ok && hasMeta(n.Meta, wanted)
	}
}

func serfHealth(r *roster, view *state.View, row state.Node) check {
	seen := r.of(row.Name)
	c := check{
		Node: row.Name, CheckID: serfCheckID, Name: serfCheckName, ServiceTags: []string{}, Definition: emptyObject,
		Status: "critical", Output: "Agent not live or unreachable",
		CreateIndex: row.BindingEpoch, ModifyIndex: r.base + agentRevision(view, row.Name) + seen.changes,
	}
	if alive(seen.member) {
		c.Status, c.Output = "passing", "Agent alive and reachable"
	}
	return c
}
