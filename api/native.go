package api

import (
	"net/http"
	"strings"

	"github.com/parley-mesh/parley/security/policy"
)

// nativeRoutes is the list of our own endpoints; each names the one right that it needs.
func (s *Service) nativeRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/livez", Action: policy.Livez, Own: true, Lax: true, Serve: serveLivez},
		{Method: http.MethodGet, Path: "/readyz", Action: policy.Ready, Own: true, Takes: []string{"verbose"}, Lax: true, Serve: serveReadyz},

		{Method: http.MethodGet, Path: "/parley/v1/members", Action: policy.Members, Own: true, Serve: serveMembers},
		{Method: http.MethodGet, Path: "/parley/v1/core", Action: policy.CoreRead, Own: true, Serve: serveCore},
		{Method: http.MethodGet, Path: "/parley/v1/invariants", Action: policy.CoreRead, Own: true, Serve: serveInvariants},
		{Method: http.MethodGet, Path: "/parley/v1/status", Action: policy.Status, Own: true, Serve: serveStatus},
		{Method: http.MethodGet, Path: "/parley/v1/health", Action: policy.HealthRead, Own: true, Serve: serveHealth},

		{Method: http.MethodGet, Path: "/parley/v1/kv", Action: policy.KVRead, Takes: kvGetTakes, Serve: serveKVGet},
		{Method: http.MethodGet, Path: "/parley/v1/kv/*", Action: policy.KVRead, Takes: kvGetTakes, Serve: serveKVGet},
		{Method: http.MethodPut, Path: "/parley/v1/kv/*", Action: policy.KVWrite, Takes: []string{"cas", "flags", "session", "release"}, Once: true, Serve: serveKVPut},
		{Method: http.MethodDelete, Path: "/parley/v1/kv/*", Action: policy.KVWrite, Takes: []string{"cas", "prefix"}, Once: true, Serve: serveKVDelete},
		{Method: http.MethodPost, Path: "/parley/v1/txn", Action: policy.Txn, Once: true, Serve: serveTxn},

		{Method: http.MethodPost, Path: "/parley/v1/token", Action: policy.TokenCreate, Serve: serveTokenCreate},
		{Method: http.MethodGet, Path: "/parley/v1/tokens", Action: policy.TokenList, Serve: serveTokenList},
		{Method: http.MethodDelete, Path: "/parley/v1/token/*", Action: policy.TokenRevoke, Serve: serveTokenRevoke},
		{Method: http.MethodPost, Path: "/parley/v1/core/allow", Action: policy.CoreWrite, Serve: serveCoreAllow},
		{Method: http.MethodPost, Path: "/parley/v1/core/size", Action: policy.CoreWrite, Serve: serveCoreSize},
		{Method: http.MethodPost, Path: "/parley/v1/core/hold", Action: policy.CoreWrite, Serve: serveCoreHold},
		{Method: http.MethodGet, Path: "/parley/v1/leave", Action: policy.Leave, Own: true, Serve: serveLeaveLook},
		{Method: http.MethodPost, Path: "/parley/v1/leave", Action: policy.Leave, Own: true, Serve: serveLeave},
		{Method: http.MethodPost, Path: "/parley/v1/agent/role", Action: policy.NodeRole, Serve: serveAgentRole},
		{Method: http.MethodPost, Path: "/parley/v1/agent/trust", Action: policy.NodeTrust, Serve: serveAgentTrust},
	}
}

// serveLivez says that the process answers, and nothing else: a supervisor that restarted agents because the core has
// no quorum would only make that worse.
func serveLivez(x *Exchange) error {
	return x.Write(http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}

// serveReadyz says whether this agent can take requests, and with ?verbose which capabilities work.
func serveReadyz(x *Exchange) error {
	status, verdict := http.StatusOK, "ready\n"
	if !x.service.local.Status().Ready {
		status, verdict = http.StatusServiceUnavailable, "not ready\n"
	}
	var text strings.Builder
	if x.Flag("verbose") {
		for _, c := range x.service.local.Health() {
			mark := "[+]"
			if !c.OK {
				mark = "[-]"
			}
			text.WriteString(strings.TrimSpace(mark+c.Name+" "+c.Detail) + "\n")
		}
	}
	text.WriteString(verdict)
	return x.Write(status, "text/plain; charset=utf-8", []byte(text.String()))
}

func serveMembers(x *Exchange) error {
	members := x.service.local.Members()
	if members == nil {
		members = []Member{}
	}
	return x.JSON(http.StatusOK, members)
}

func serveCore(x *Exchange) error { return x.JSON(http.StatusOK, x.service.local.Core()) }

func serveStatus(x *Exchange) error { return x.JSON(http.StatusOK, x.service.local.Status()) }

// healthBody is GET /parley/v1/health.
type healthBody struct {
	Ready        bool         `json:"ready"`
	Capabilities []Capability `json:"capabilities"`
}

func serveHealth(x *Exchange) error {
	body := healthBody{Ready: x.service.local.Status().Ready, Capabilities: x.service.local.Health()}
	if body.Capabilities == nil {
		body.Capabilities = []Capability{}
	}
	return x.JSON(http.StatusOK, body)
}
