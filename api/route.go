package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/security/policy"
)

// Route is one endpoint. Everything that protects an endpoint (origin, identity, limits, role, receipt) is done before
// Serve is called, the same way for all.
type Route struct {
	Method string
	// Path is matched exactly, or, when it ends in *, up to there; Exchange.Rest has what follows, slashes included.
	Path   string
	Action policy.Action
	// Own marks what concerns this agent alone, for which the admin socket has full rights.
	Own bool
	// Takes names the parameters of the query, each of which may be there once. Others are refused.
	Takes []string
	// Lax lets through what Takes does not name: clients of a dialect, and probes, send what has no meaning here.
	Lax bool
	// Once marks what executes one command by Exchange.Execute, so that its caller may send a request id.
	Once bool
	// Repeats names the parameters that may be there more than once.
	Repeats []string
	Serve   func(*Exchange) error
	// Fail writes an error in the endpoint's dialect; nil writes the native error body.
	Fail func(*Exchange, *Error)
}

// router finds routes without touching the path: a key may contain "//" or "..", which http.ServeMux
// would redirect.
type router struct {
	exact    map[string][]*Route
	prefixes []string // longest first
	byPrefix map[string][]*Route
}

func newRouter(routes []Route) *router {
	r := &router{exact: map[string][]*Route{}, byPrefix: map[string][]*Route{}}
	for i := range routes {
		route := &routes[i]
		prefix, open := strings.CutSuffix(route.Path, "*")
		if !open {
			r.exact[route.Path] = append(r.exact[route.Path], route)
			continue
		}
		if r.byPrefix[prefix] == nil {
			r.prefixes = append(r.prefixes, prefix)
		}
		r.byPrefix[prefix] = append(r.byPrefix[prefix], route)
	}
	slices.SortFunc(r.prefixes, func(a, b string) int { return len(b) - len(a) })
	return r
}

// find returns the route and the rest of the path behind an open one. Without a route for the method it returns the
// methods that there are, none for an unknown path.
func (r *router) find(method, path string) (route *Route, rest string, allowed []string) {
	if found := r.exact[path]; found != nil {
		route, allowed = pick(found, method)
		return route, "", allowed
	}
	for _, prefix := range r.prefixes {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			route, allowed = pick(r.byPrefix[prefix], method)
			return route, rest, allowed
		}
	}
	return nil, "", nil
}

// pick lets HEAD use the GET route; net/http leaves the body out.
func pick(routes []*Route, method string) (*Route, []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allowed []string
	for _, route := range routes {
		if route.Method == method {
			return route, nil
		}
		allowed = append(allowed, route.Method)
	}
	return nil, allowed
}
