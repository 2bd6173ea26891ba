package consul

import (
	"cmp"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// rowsOf names the rows that an answer about one node depends on, allNodes those of all.
func rowsOf(node string) []watch.Selector {
	return []watch.Selector{{Table: state.TableNode, Key: node}, {Table: state.TableCatalogIndex, Key: state.NodeKey(node)}}
}

var allNodes = []watch.Selector{{Table: state.TableNode, Prefix: true}, {Table: state.TableCatalogNode, Prefix: true}}

// node is one node as the catalog shows it. CreateIndex of an agent's is how often the name was bound to a host key: all
// that its readers do with it is to see whether the node is a new one.
type node struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
}

// catalogDatacenters answers the one there is.
func (d *dialect) catalogDatacenters(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	readHeaders(x, 1)
	x.W.Header()[headerEffective] = []string{"leader"} // it cannot change
	return writeJSON(x, []string{d.datacenter})
}

// catalogNodes answers every agent that has joined and not left, dead ones too, and the nodes without an agent.
func (d *dialect) catalogNodes(x *api.Exchange) error {
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: allNodes,
		index: func() uint64 {
			r.look()
			view := hub.View()
			return r.base + view.TableRevision(state.TableNode) + view.TableRevision(state.TableCatalogNode) + r.moves()
		},
		show: func(uint64) any {
			nodes, wanted, view := []node{}, x.Query()["node-meta"], hub.View()
			for _, row := range view.Nodes() {
				if n := d.node(r, view, row); !row.Left && hasMeta(n.Meta, wanted) {
					nodes = append(nodes, n)
				}
			}
			for _, row := range view.CatalogNodes() {
				if n := d.externalNode(row); hasMeta(n.Meta, wanted) {
					nodes = append(nodes, n)
				}
			}
			slices.SortFunc(nodes, func(a, b node) int { return cmp.Compare(a.Node, b.Node) })
			return nodes
		},
	})
}

// catalogServices answers the names of all services with their tags, among them the one that every datacenter has: the
// core itself. It moves with instances, not with their health.
func (d *dialect) catalogServices(x *api.Exchange) error {
	r, hub := d.roster(x), x.Service().Local().Hub
	return d.read(x, discovery{
		rows: []watch.Selector{{Table: state.TableService, Prefix: true}, {Table: state.TableCatalogNode, Prefix: true}},
		index: func() uint64 {
			view := hub.View()
			return r.base + view.TableRevision(state.TableService) + view.TableRevision(state.TableCatalogNode)
		},
		show: func(uint64) any {
			view, wanted := hub.View(), x.Query()["node-meta"]
			tags := make(map[string][]string)
			if len(wanted) == 0 || d.anyNode(x, r) {
				tags[coreService] = []string{}
			}
			node, shown := "", true // instances come by node
			view.Services(func(s state.CatalogService) bool {
				if len(wanted) > 0 && s.Node != node {
					n, _ := d.nodeNamed(r, view, s.Node)
					node, shown = s.Node, hasMeta(n.Meta, wanted)
				}
				if shown {
					tags[s.Name] = addTags(tags[s.Name], s.Tags)
				}
				return true
			})
			return tags
		},
	})
}

// addTags keeps a sorted set. It is never nil.
func addTags(set, more []string) []string {
	if set == nil {
		set = []string{}
	}
	for _, tag := range more {
		if i, found := slices.BinarySearch(set, tag); !found {
			set = slices.Insert(set, i, tag)
		}
	}
	return set
}

// anyNode reports whether a node of the core has the metadata that the request asks for.
func (d *dialect) anyNode(x *api.Exchange, r *roster) bool {
	view := x.Service().Local().Hub.View()
	for _, member := range view.Core() {
		row, ok := view.Node(member.Node)
		if ok && hasMeta(d.node(r, view, row).Meta, x.Query()["node-meta"]) {
			return true
		}
	}
	return false
}

func (d *dialect) node(r *roster, view *state.View, row state.Node) node {
	seen := r.of(row.Name)
	address := host(seen.member.Address)
	if address == "" {
		address = host(row.Address) // as given at the join
	}
	n := node{
		ID: uuid(row.UID), Node: row.Name, Address: address, Datacenter: d.datacenter,
		TaggedAddresses: map[string]string{"lan": address, "wan": address},
		Meta:            map[string]string{"consul-network-segment": "", "consul-version": Version},
		CreateIndex:     row.BindingEpoch,
		ModifyIndex:     r.base + view.RowRevision(state.TableNode, row.Name) + seen.moves,
	}
	if ip, err := netip.ParseAddr(address); err == nil {
		family := "_ipv6"
		if ip.Is4() {
			family = "_ipv4"
		}
		n.TaggedAddresses["lan"+family], n.TaggedAddresses["wan"+family] = address, address
	}
	if row.Zone != "" {
		n.Meta["zone"] = row.Zone
	}
	return n
}

// hasMeta reports whether meta has every "key:value" that is wanted.
func hasMeta(meta map[string]string, wanted []string) bool {
	for _, w := range wanted {
		key, value, _ := strings.Cut(w, ":")
		if got, ok := meta[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// uuid writes a node's id as clients expect one.
func uuid(id [16]byte) string {
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// host is the address without its port, "" when there is none.
func host(address string) string {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return ""
	}
	return addr.Addr().String()
}
