package consul

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/parley-mesh/parley/state"
)

type weights struct {
	Passing int
	Warning int
}

type taggedAddress struct {
	Address string
	Port    int
}

// service is one instance as this dialect shows it beside its node. Proxy and Connect say nothing: clients expect them.
type service struct {
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string                   `json:",omitempty"`
	TaggedAddresses   map[string]taggedAddress `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	Proxy             struct{}
	Connect           struct{}
	CreateIndex       uint64
	ModifyIndex       uint64
}

func serviceOf(s state.CatalogService) service {
	out := service{
		ID: s.ID, Service: s.Name, Tags: append([]string{}, s.Tags...), Meta: mapOf(s.Meta), Port: s.Port, Address: s.Address,
		SocketPath: s.SocketPath, Weights: weights{s.PassingWeight, s.WarningWeight}, EnableTagOverride: s.EnableTagOverride,
		CreateIndex: s.CreateRevision, ModifyIndex: s.ModRevision,
	}
	for _, t := range s.TaggedAddresses {
		if out.TaggedAddresses == nil {
			out.TaggedAddresses = make(map[string]taggedAddress)
		}
		out.TaggedAddresses[t.Name] = taggedAddress{t.Address, t.Port}
	}
	return out
}

// flatService is an instance with its node in one object.
type flatService struct {
	ID                       string
	Node                     string
	Address                  string
	Datacenter               string
	TaggedAddresses          map[string]string
	NodeMeta                 map[string]string
	ServiceID                string
	ServiceName              string
	ServiceTags              []string
	ServiceAddress           string
	ServiceSocketPath        string `json:",omitempty"`
	ServiceTaggedAddresses   map[string]taggedAddress
	ServiceWeights           weights
	ServiceMeta              map[string]string
	ServicePort              int
	ServiceEnableTagOverride bool
	ServiceProxy             struct{}
	ServiceConnect           struct{}
	CreateIndex              uint64
	ModifyIndex              uint64
}

func flat(n node, s service) flatService {
	return flatService{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, NodeMeta: n.Meta,
		ServiceID: s.ID, ServiceName: s.Service, ServiceTags: s.Tags, ServiceAddress: s.Address, ServiceSocketPath: s.SocketPath,
		ServiceTaggedAddresses: s.TaggedAddresses, ServiceWeights: s.Weights, ServiceMeta: s.Meta, ServicePort: s.Port,
		ServiceEnableTagOverride: s.EnableTagOverride, CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
}

func checkOf(c state.CatalogCheck) check {
	out := check{
		Node: c.Node, CheckID: c.ID, Name: c.Name, Status: string(c.Status), Notes: c.Notes, Output: c.Output,
		ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: append([]string{}, c.ServiceTags...), Type: c.Type,
		Definition: emptyObject, CreateIndex: c.CreateRevision, ModifyIndex: c.ModRevision,
	}
	if json.Valid(c.Definition) { // else somebody else wrote it
		out.Definition = c.Definition
	}
	return out
}

// externalNode is a node without an agent.
func (d *dialect) externalNode(n state.CatalogNode) node {
	return node{
		ID: n.ID, Node: n.Name, Address: n.Address, Datacenter: d.datacenter, TaggedAddresses: mapOf(n.TaggedAddresses), Meta: mapOf(n.Meta),
		CreateIndex: n.CreateRevision, ModifyIndex: n.ModRevision,
	}
}

// nodeNamed is a node of either kind that is in the catalog: agents that left are not.
func (d *dialect) nodeNamed(r *roster, view *state.View, name string) (node, bool) {
	if row, ok := view.Node(name); ok {
		return d.node(r, view, row), !row.Left
	}
	n, ok := view.CatalogNode(name)
	return d.externalNode(n), ok
}

func mapOf(pairs []state.Pair) map[string]string {
	out := make(map[string]string, len(pairs))
	for _, p := range pairs {
		out[p.Key] = p.Value
	}
	return out
}

func pairsFrom(m map[string]string) []state.Pair {
	var out []state.Pair
	for _, key := range sortedKeys(m) {
		out = append(out, state.Pair{Key: key, Value: m[key]})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
