package consul

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// coreService is the service that every datacenter of this dialect has: the voters of the core, at their mesh ports.
const coreService = "consul"

// instance is one instance of a service with its node.
type instance struct {
	node    node
	service service
}

// readService answers about the instances of one service. Its index moves with that service alone: with what was
// registered, by the revision of its name, and with what gossip says of the agents that it runs on.
func (d *dialect) readService(x *api.Exchange, show func(*roster, *state.View, []instance) any) error {
	name := x.Rest
	if name == "" {
		return refuse(x, badRequest("Missing service name"))
	}
	r, hub := d.roster(x), x.Service().Local().Hub
	rows := []watch.Selector{{Table: state.TableCatalogIndex, Key: state.ServiceKey(name)}}
	if name == coreService {
		rows = append(rows, watch.Selector{Table: state.TableNode, Prefix: true})
	}
	return d.read(x, discovery{
		rows: rows,
		index: func() uint64 {
			r.look()
			view := hub.View()
			return r.base + view.ServiceRevision(name) + r.turns(name, d.print(r, view, name))
		},
		show: func(uint64) any {
			view := hub.View()
			all := d.instances(r, view, name)
			return show(r, view, slices.DeleteFunc(all, func(one instance) bool {
				return !hasTags(one.service.Tags, x.Query()["tag"]) || !hasMeta(one.node.Meta, x.Query()["node-meta"])
			}))
		},
	})
}

// instances are those of a service, by node and id.
func (d *dialect) instances(r *roster, view *state.View, name string) []instance {
	var all []instance
	if name == coreService {
		for _, row := range view.Nodes() {
			if s, ok := coreInstance(r, row); ok {
				all = append(all, instance{d.node(r, view, row), s})
			}
		}
	}
	for _, s := range view.Instances(name) {
		if n, ok := d.nodeNamed(r, view, s.Node); ok {
			all = append(all, instance{n, serviceOf(s)})
		}
	}
	return all
}

// coreInstance is what a voter offers of the core's service.
func coreInstance(r *roster, row state.Node) (service, bool) {
	seen := r.of(row.Name)
	if row.Left || !inCore(seen.member) {
		return service{}, false
	}
	s := service{
		ID: coreService, Service: coreService, Tags: []string{}, Meta: map[string]string{}, Weights: weights{1, 1},
		CreateIndex: row.BindingEpoch, ModifyIndex: row.BindingEpoch,
	}
	if addr, err := netip.ParseAddrPort(seen.member.Address); err == nil {
		s.Port = int(addr.Port())
	}
	return s, true
}

// print is a hash of what gossip adds to the answer about a service. Of a node without an agent that is always the same.
// Every reader that waits makes one at every change of gossip, so it decodes nothing.
func (d *dialect) print(r *roster, view *state.View, name string) uint64 {
	sum := fnv.New64a()
	add := func(node string) {
		seen := r.of(node)
		line := append([]byte(node), 0, 0)
		if alive(seen.member) {
			line[len(line)-1] = 1
		}
		line = binary.AppendUvarint(append(line, seen.member.Address...), uint64(len(line)))
		_, _ = sum.Write(line) // a hash takes everything
	}
	if name == coreService {
		for _, row := range view.Nodes() {
			if _, ok := coreInstance(r, row); ok {
				add(row.Name)
			}
		}
	}
	for _, node := range view.InstanceNodes(name) {
		add(node)
	}
	return sum.Sum64()
}

func hasTags(tags, wanted []string) bool {
	for _, tag := range wanted {
		if tag != "" && !slices.Contains(tags, tag) {
			return false
		}
	}
	return true
}

// catalogService answers the instances of a service without their health.
func (d *dialect) catalogService(x *api.Exchange) error {
	return d.readService(x, func(_ *roster, _ *state.View, all []instance) any {
		out := []flatService{}
		for _, one := range all {
			out = append(out, flat(one.node, one.service))
		}
		return out
	})
}

// catalogNode answers a node with what is on it by id, null for one that is not in the catalog.
func (d *dialect) catalogNode(x *api.Exchange) error {
	return d.readNode(x, func(n node, services []service) any {
		byID := make(map[string]service, len(services))
		for _, s := range services {
			byID[s.ID] = s
		}
		return struct {
			Node     node
			Services map[string]service
		}{n, byID}
	})
}

// catalogNodeServices answers the same as a list.
func (d *dialect) catalogNodeServices(x *api.Exchange) error {
	return d.readNode(x, func(n node, services []service) any {
		return struct {
			Node     node
			Services []service
		}{n, services}
	})
}

func (d *dialect) readNode(x *api.Exchange, show func(node, []service) any) error {
	name := x.Rest
	if name == "" {
		return refuse(x, badRequest("Missing node name"))
	}
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: rowsOf(name), index: d.indexOf(r, hub, name),
		show: func(uint64) any {
			view := hub.View()
			n, ok := d.nodeNamed(r, view, name)
			if !ok {
				return nil
			}
			services := []service{}
			if row, ok := view.Node(name); ok {
				if s, ok := coreInstance(r, row); ok {
					services = append(services, s)
				}
			}
			for _, s := range view.ServicesOf(name) {
				services = append(services, serviceOf(s))
			}
			return show(n, services)
		},
	})
}
