package consul

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// maxRegisterBody is that of a command, which a registration becomes.
const maxRegisterBody = 1 << 20

func (d *dialect) registerRoutes() []api.Route {
	return []api.Route{
		{Method: http.MethodPut, Path: "/v1/catalog/register", Action: policy.CatalogWrite, Serve: d.catalogRegister},
		{Method: http.MethodPut, Path: "/v1/catalog/deregister", Action: policy.CatalogWrite, Serve: d.catalogDeregister},
	}
}

// registration is a node with one service and its checks. Check is an older way to give one.
type registration struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	NodeMeta        map[string]string
	Service         *serviceBody
	Check           *checkBody
	Checks          []*checkBody
	SkipNodeUpdate  bool
	unoffered
}

type deregistration struct {
	Node       string
	Address    string // of older clients, without a meaning
	Datacenter string
	ServiceID  string
	CheckID    string
	unoffered
}

// catalogRegister answers true. The node may be one without an agent; of an agent's node its own description is left
// as its agent has it.
func (d *dialect) catalogRegister(x *api.Exchange) error {
	var body registration
	err := d.decodeStrict(x, &body)
	if err == nil {
		err = d.checkNamed(body.Datacenter, body.unoffered)
	}
	if err != nil {
		return refuse(x, err)
	}
	cmd, err := body.command()
	if err != nil {
		return refuse(x, err)
	}
	return d.write(x, cmd)
}

func (d *dialect) catalogDeregister(x *api.Exchange) error {
	var body deregistration
	err := d.decodeStrict(x, &body)
	if err == nil {
		err = d.checkNamed(body.Datacenter, body.unoffered)
	}
	if err != nil {
		return refuse(x, err)
	}
	if body.Node == "" {
		return refuse(x, badRequest("Missing node name"))
	}
	cmd := state.CatalogDeregister{Node: body.Node, Service: body.ServiceID, Check: body.CheckID}
	if body.ServiceID != "" {
		cmd.Check = "" // a service goes with all its checks
	}
	return d.write(x, cmd)
}

func (d *dialect) write(x *api.Exchange, cmd state.Command) error {
	done, err := x.Service().Execute(x.Context(), x.Caller, cmd)
	if err != nil {
		return err
	}
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return writeJSON(x, true)
}

// decodeStrict refuses fields that this version does not know: a part of a registration that is lost in silence would be
// missed much later.
func (d *dialect) decodeStrict(x *api.Exchange, into any) error {
	if err := d.checkDatacenter(x); err != nil {
		return err
	}
	raw, err := x.Body("registration", maxRegisterBody)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return badRequest("Request decode failed: " + err.Error())
	}
	return nil
}

// checkNamed refuses another datacenter, and what is not offered.
func (d *dialect) checkNamed(datacenter string, more unoffered) error {
	if datacenter != "" && datacenter != d.datacenter {
		return &refusal{http.StatusInternalServerError, "No path to datacenter"}
	}
	return more.check()
}

func (b registration) command() (state.CatalogRegister, error) {
	cmd := state.CatalogRegister{Name: b.Node, Keep: b.SkipNodeUpdate}
	if b.Node == "" {
		return cmd, badRequest("Must provide node: give Node")
	}
	if b.Address == "" && !b.SkipNodeUpdate {
		return cmd, badRequest("Must provide address if SkipNodeUpdate is not set")
	}
	if b.Address != "" {
		n := nodeBody{ID: b.ID, Node: b.Node, Address: b.Address, TaggedAddresses: b.TaggedAddresses, Meta: b.NodeMeta}.state()
		cmd.Node = &n
	}
	if b.Service != nil {
		s, err := b.Service.state(b.Node)
		if err != nil {
			return cmd, err
		}
		cmd.Service = &s
	}
	checks := b.Checks
	if b.Check != nil {
		checks = append(checks, b.Check)
	}
	for _, one := range checks {
		if one == nil {
			continue
		}
		c, err := one.state(b.Node)
		if err != nil {
			return cmd, err
		}
		cmd.Checks = append(cmd.Checks, c)
	}
	return cmd, nil
}

// unoffered are fields that clients send for what this version does not do. Empty ones are no harm.
type unoffered struct {
	Namespace string
	Partition string
	PeerName  string
	Locality  json.RawMessage
}

func (u unoffered) check() error {
	if cmp.Or(u.Namespace, "default") != "default" || cmp.Or(u.Partition, "default") != "default" || u.PeerName != "" || !isEmpty(u.Locality) {
		return badRequest("Namespace, Partition, PeerName and Locality are not offered: leave them out")
	}
	return nil
}

// isEmpty is for JSON that says nothing: absent, null, or without members.
func isEmpty(raw json.RawMessage) bool {
	switch string(bytes.TrimSpace(raw)) {
	case "", "null", "{}", "[]":
		return true
	}
	return false
}

// nodeBody, serviceBody and checkBody are what clients send. Indexes are those that a compare names.
type nodeBody struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
	unoffered
}

func (b nodeBody) state() state.CatalogNode {
	n := state.CatalogNode{
		Name: b.Node, ID: b.ID, Address: b.Address, TaggedAddresses: pairsFrom(b.TaggedAddresses), Meta: pairsFrom(b.Meta),
	}
	if id, err := state.ParseSessionID(b.ID); err == nil {
		n.ID = id.String() // in lower case
	}
	return n
}

type serviceBody struct {
	Kind              string
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string
	TaggedAddresses   map[string]taggedAddress
	Weights           *weights
	EnableTagOverride bool
	CreateIndex       uint64
	ModifyIndex       uint64
	ContentHash       string
	Datacenter        string
	Ports             json.RawMessage
	Proxy             json.RawMessage
	Connect           json.RawMessage
	AI                json.RawMessage
	unoffered
}

func (b serviceBody) state(node string) (state.CatalogService, error) {
	s := state.CatalogService{
		Node: node, ID: cmp.Or(b.ID, b.Service), Name: b.Service, Tags: b.Tags, Address: b.Address, Port: b.Port,
		SocketPath: b.SocketPath, Meta: pairsFrom(b.Meta), EnableTagOverride: b.EnableTagOverride,
		PassingWeight: 1, WarningWeight: 1,
	}
	if b.Service == "" {
		return s, badRequest("Must provide service name: give Service")
	}
	if b.Kind != "" || !isEmpty(b.Ports) || !isEmpty(b.Proxy) || !isEmpty(b.Connect) || !isEmpty(b.AI) {
		return s, badRequest(fmt.Sprintf("Kind, Ports, Proxy, Connect and AI of service %.80q are not offered by this version: leave them out", s.ID))
	}
	if b.Weights != nil && *b.Weights != (weights{}) {
		s.PassingWeight, s.WarningWeight = b.Weights.Passing, b.Weights.Warning
	}
	for _, name := range sortedKeys(b.TaggedAddresses) {
		at := b.TaggedAddresses[name]
		s.TaggedAddresses = append(s.TaggedAddresses, state.TaggedAddress{Name: name, Address: at.Address, Port: at.Port})
	}
	return s, b.check()
}

type checkBody struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string   // those of the service count
	ServiceTags []string //
	Type        string
	ExposedPort int
	Interval    string
	Timeout     string
	Definition  definition
	CreateIndex uint64
	ModifyIndex uint64
	unoffered
}

// state is a check on the node, which the body may leave out. Without a status it is critical: nobody has seen it pass.
func (b checkBody) state(node string) (state.CatalogCheck, error) {
	c := state.CatalogCheck{
		Node: node, ID: cmp.Or(b.CheckID, b.Name), Name: b.Name, Status: state.CheckStatus(cmp.Or(b.Status, string(state.CheckCritical))),
		Notes: b.Notes, Output: b.Output, ServiceID: b.ServiceID, Type: cmp.Or(b.Type, b.Definition.kind()), Definition: b.Definition.bytes(),
	}
	if b.Node != "" && b.Node != node {
		return c, badRequest(fmt.Sprintf("Check %.80q is on node %.80q, the registration is of node %.80q", c.ID, b.Node, node))
	}
	if c.ID == "" {
		return c, badRequest("A check has neither CheckID nor Name: give one")
	}
	return c, b.check()
}
