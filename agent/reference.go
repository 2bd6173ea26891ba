package agent

import (
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/consul"
	"github.com/parley-mesh/parley/security/policy"
)

// Endpoint is one route of the HTTP listeners, for documentation.
type Endpoint struct {
	Method, Path string
	Action       string
	Role         string   // the weakest that may
	Takes        []string // parameters of the query
}

// Endpoints lists all routes in the order in which they are declared, the dialect's last.
func Endpoints() []Endpoint {
	service := api.New(api.Options{})
	service.Mount(consul.Routes(consul.Options{})...)
	var list []Endpoint
	for _, route := range service.Routes() {
		list = append(list, Endpoint{Method: route.Method, Path: route.Path, Action: string(route.Action), Role: weakest(route.Action), Takes: route.Takes})
	}
	return list
}

// weakest is the first role that may do an action.
func weakest(action policy.Action) string {
	for _, role := range policy.Roles() {
		if policy.Allowed(role, action) {
			return string(role)
		}
	}
	return "nobody"
}

// ErrorCodes lists the codes of all errors that an agent answers with.
func ErrorCodes() []api.ErrorClass { return api.ErrorTable() }
