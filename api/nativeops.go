package api

import (
	"net/http"

	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/slo"
	"github.com/parley-mesh/parley/security/policy"
)

// opsRoutes are the endpoints that say how this agent is doing. All of them answer from what it last found out, with
// or without a leader.
func (s *Service) opsRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/metrics", Action: policy.Metrics, Own: true, Lax: true, Serve: serveMetrics},
		{Method: http.MethodGet, Path: "/parley/v1/slo", Action: policy.SLORead, Own: true, Serve: serveSLO},
		{Method: http.MethodGet, Path: "/parley/v1/alerts", Action: policy.AlertRead, Own: true, Serve: serveAlerts},
		{Method: http.MethodGet, Path: "/parley/v1/health/explain", Action: policy.HealthRead, Own: true, Serve: serveExplain},
	}
}

func serveMetrics(x *Exchange) error {
	if x.service.local.Metrics == nil {
		return Errorf(CodeUnsupported, "this agent has no metrics")
	}
	x.ReceiptHere()
	x.W.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	x.begun = true
	x.service.local.Metrics.ServeHTTP(x.W, x.R)
	return nil
}

func serveSLO(x *Exchange) error {
	slos := x.service.snapshot().SLOs
	if slos == nil {
		slos = []slo.Status{}
	}
	return x.JSON(http.StatusOK, slos)
}

func serveAlerts(x *Exchange) error {
	alerts := x.service.snapshot().Alerts
	if alerts == nil {
		alerts = []ops.AlertStatus{}
	}
	return x.JSON(http.StatusOK, alerts)
}

func serveExplain(x *Exchange) error {
	return x.JSON(http.StatusOK, x.service.snapshot().Explain())
}

// snapshot is empty before the agent has looked at itself for the first time.
func (s *Service) snapshot() *ops.Snapshot {
	if s.local.Ops == nil {
		return &ops.Snapshot{}
	}
	return s.local.Ops()
}
