package consul

import (
	"net/http"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state/watch"
)

// headerEffective says how fresh an answer about the catalog or about health is.
const headerEffective = "X-Consul-Effective-Consistency"

func (d *dialect) discoveryRoutes() []api.Route {
	return []api.Route{
		{Method: http.MethodGet, Path: "/v1/agent/self", Action: policy.Status, Own: true, Serve: d.agentSelf},
		{Method: http.MethodGet, Path: "/v1/agent/members", Action: policy.Members, Own: true, Serve: d.agentMembers},
		{Method: http.MethodGet, Path: "/v1/agent/connect/ca/roots", Action: policy.BundleRead, Serve: d.connectRoots},
		{Method: http.MethodGet, Path: "/v1/connect/ca/roots", Action: policy.BundleRead, Serve: d.connectRoots},
		{Method: http.MethodGet, Path: "/v1/catalog/datacenters", Action: policy.CatalogRead, Serve: d.catalogDatacenters},
		{Method: http.MethodGet, Path: "/v1/catalog/nodes", Action: policy.CatalogRead, Serve: d.catalogNodes},
		{Method: http.MethodGet, Path: "/v1/catalog/services", Action: policy.CatalogRead, Serve: d.catalogServices},
		{Method: http.MethodGet, Path: "/v1/catalog/node/*", Action: policy.CatalogRead, Serve: d.catalogNode},
		{Method: http.MethodGet, Path: "/v1/catalog/node-services/*", Action: policy.CatalogRead, Serve: d.catalogNodeServices},
		{Method: http.MethodGet, Path: "/v1/catalog/service/*", Action: policy.CatalogRead, Serve: d.catalogService},
		{Method: http.MethodGet, Path: "/v1/health/node/*", Action: policy.HealthRead, Serve: d.healthNode},
		{Method: http.MethodGet, Path: "/v1/health/checks/*", Action: policy.HealthRead, Serve: d.healthChecks},
		{Method: http.MethodGet, Path: "/v1/health/service/*", Action: policy.HealthRead, Serve: d.healthService},
		{Method: http.MethodGet, Path: "/v1/health/state/*", Action: policy.HealthRead, Serve: d.healthState},
	}
}

// discovery is one read of what every agent holds: answered here, with or without a leader, unless ?consistent asks for
// more.
type discovery struct {
	rows  []watch.Selector // what it depends on in the replicated state
	index func() uint64    // of what it shows
	show  func(index uint64) any
}

// read waits as the request says and answers. The index is taken before the rows: a change in between makes the next
// blocking read return at once, instead of being missed.
func (d *dialect) read(x *api.Exchange, of discovery) error {
	o, err := d.readOptions(x)
	if err == nil {
		err = refuseFilter(x)
	}
	if err != nil {
		return refuse(x, err)
	}
	service := x.Service()
	if o.consistency == api.Linearizable && x.Query().Has("consistent") {
		if err := service.CatchUp(x.Context()); err != nil {
			readHeaders(x, of.index())
			return err
		}
	}
	if o.wait > 0 {
		err := service.Block(x.Context(), x.Caller, api.Blocking{
			Wait: o.wait, Select: of.rows, Also: service.Local().MembersChanged,
			Done: func() bool { return of.index() != o.index },
		})
		if err != nil {
			return err
		}
	}
	index := of.index()
	readHeaders(x, index)
	x.W.Header()[headerEffective] = []string{effective(x, o)}
	return writeJSON(x, of.show(index))
}

// effective names the consistency of the answer as clients know it: the leader's own data are "leader".
func effective(x *api.Exchange, o readOptions) string {
	if o.consistency == api.Stale {
		return "stale"
	}
	if x.Query().Has("consistent") {
		return "consistent"
	}
	if _, self, _ := x.Service().Local().Leader(); self {
		return "leader"
	}
	return "stale"
}

// refuseFilter refuses what is not there yet: an answer that ignored the filter would be taken for a filtered one.
func refuseFilter(x *api.Exchange) error {
	if x.Query().Get("filter") != "" {
		return badRequest("filter is not offered by this version: leave it out and choose from the answer")
	}
	return nil
}
