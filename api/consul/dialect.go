package consul

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security/policy"
)

const (
	defaultWait = 5 * time.Minute
	maxWait     = 10 * time.Minute
	jitterShare = 16 // up to wait/16 is added, so that watches which began together end apart
)

// Options of the dialect.
type Options struct {
	Datacenter string // the only one there is; "" is dc1
}

// dialect holds what the handlers share.
type dialect struct {
	datacenter string
	sightings  struct {
		sync.Once
		*roster
	}
}

// roster is made at the first request, when the agent's parts are there.
func (d *dialect) roster(x *api.Exchange) *roster {
	d.sightings.Do(func() { d.sightings.roster = newRoster(x.Service().Local()) })
	return d.sightings.roster
}

// Routes returns the endpoints of the dialect for api.Service.Mount.
func Routes(o Options) []api.Route {
	d := &dialect{datacenter: o.Datacenter}
	if d.datacenter == "" {
		d.datacenter = "dc1"
	}
	routes := []api.Route{
		{Method: http.MethodGet, Path: "/v1/kv/*", Action: policy.KVRead, Serve: d.kvGet},
		{Method: http.MethodPut, Path: "/v1/kv/*", Action: policy.KVWrite, Serve: d.kvPut},
		{Method: http.MethodDelete, Path: "/v1/kv/*", Action: policy.KVWrite, Serve: d.kvDelete},
		{Method: http.MethodPut, Path: "/v1/txn", Action: policy.Txn, Serve: d.txn},
		{Method: http.MethodGet, Path: "/v1/status/leader", Action: policy.CoreRead, Own: true, Serve: d.statusLeader},
		{Method: http.MethodGet, Path: "/v1/status/peers", Action: policy.CoreRead, Own: true, Serve: d.statusPeers},
	}
	routes = slices.Concat(routes, d.sessionRoutes(), d.discoveryRoutes(), d.registerRoutes())
	for i := range routes {
		routes[i].Fail, routes[i].Lax, routes[i].Repeats = fail, true, []string{"node-meta", "tag"}
	}
	return routes
}

// refusal is an error that is the dialect's own: a status and a text.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func badRequest(text string) error { return &refusal{http.StatusBadRequest, text} }

// refuse writes a refusal; other errors go on to fail.
func refuse(x *api.Exchange, err error) error {
	r, ok := err.(*refusal) //nolint:errorlint // made and returned unwrapped in this package only
	if !ok {
		return err
	}
	return x.Write(r.status, "text/plain; charset=utf-8", []byte(r.text))
}

// fail writes an error of ours in the dialect: plain text, and 500 where clients expect to find out that they should
// try again. An unknown outcome keeps its own status, because a client that blindly repeats a write on 500 must not
// do that here.
func fail(x *api.Exchange, e *api.Error) {
	status, text := e.Status(), e.Message
	switch e.Code {
	case api.CodeNoLeader, api.CodeNotLeader, api.CodeUnavailable:
		status, text = http.StatusInternalServerError, "No cluster leader"
		x.W.Header().Set(headerKnownLeader, "false")
	case api.CodeDenied, api.CodeForbiddenOrigin:
		text = "Permission denied: " + e.Message
	case api.CodeTimeout:
		status = http.StatusInternalServerError
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	_ = x.Write(status, "text/plain; charset=utf-8", []byte(text))
}

// The headers of every read. Clients drop the rest of the answer's metadata without the last two.
const (
	headerIndex       = "X-Consul-Index"
	headerLastContact = "X-Consul-Lastcontact"
	headerKnownLeader = "X-Consul-Knownleader"
)

// readHeaders is set before any body. The index is never 0: clients take that for "no index" and poll in a loop.
func readHeaders(x *api.Exchange, index uint64) {
	local := x.Service().Local()
	_, self, _ := local.Leader()
	known := local.Core().Leader != nil
	var contact time.Duration
	if !self && local.LastContact != nil {
		contact = local.LastContact()
	}
	h := x.W.Header()
	h[headerIndex] = []string{strconv.FormatUint(max(index, 1), 10)}
	h[headerLastContact] = []string{strconv.FormatInt(contact.Milliseconds(), 10)}
	h[headerKnownLeader] = []string{strconv.FormatBool(known)}
}

// readOptions are the parameters that all reads of the dialect share.
type readOptions struct {
	consistency api.Consistency
	index       uint64
	wait        time.Duration // with jitter; 0 for a read that does not block
}

func (d *dialect) readOptions(x *api.Exchange) (readOptions, error) {
	o := readOptions{consistency: api.Linearizable}
	if err := d.checkDatacenter(x); err != nil {
		return o, err
	}
	query := x.Query()
	if query.Has("stale") {
		if query.Has("consistent") {
			return o, badRequest("Cannot use stale and consistent together: choose one")
		}
		o.consistency = api.Stale
	}
	if text := query.Get("index"); text != "" {
		index, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return o, badRequest("Invalid index: a whole number is needed")
		}
		o.index = index
	}
	wait := defaultWait
	if text := query.Get("wait"); text != "" {
		parsed, err := time.ParseDuration(text)
		if err != nil || parsed < 0 {
			return o, badRequest("Invalid wait time: use a number and a unit, such as 10s")
		}
		wait = parsed
	}
	if o.index > 0 {
		o.wait = jitter(wait)
	}
	return o, nil
}

// jitter adds up to a sixteenth to a wait of at most ten minutes. A wait of 0 means the default.
func jitter(wait time.Duration) time.Duration {
	if wait == 0 {
		wait = defaultWait
	}
	wait = min(wait, maxWait)
	return wait + rand.N(wait/jitterShare+1) //nolint:gosec // spreads load, keeps no secret
}

// checkDatacenter refuses a request for another datacenter: there is one.
func (d *dialect) checkDatacenter(x *api.Exchange) error {
	if dc := x.Query().Get("dc"); dc != "" && dc != d.datacenter {
		return &refusal{http.StatusInternalServerError, "No path to datacenter"}
	}
	return nil
}

// writeJSON indents when the client asked for ?pretty.
func writeJSON(x *api.Exchange, v any) error {
	if !x.Query().Has("pretty") {
		return x.JSON(http.StatusOK, v)
	}
	body, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	return x.Write(http.StatusOK, "application/json", body)
}
