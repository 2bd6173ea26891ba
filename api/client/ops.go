package client

import (
	"context"
	"net/http"
	"time"
)

// SLO is one objective. What has no data is nil. Burn is by window: 5m, 30m, 1h, 2h, 6h, 1d, 3d.
type SLO struct {
	Name            string              `json:"name"`
	Target          float64             `json:"target"`
	Window          string              `json:"window"`
	SLI             *float64            `json:"sli"`
	BudgetRemaining *float64            `json:"budget_remaining_ratio"`
	Burn            map[string]*float64 `json:"burn"`
	Firing          []string            `json:"firing"`
	Good            uint64              `json:"good"`
	Bad             uint64              `json:"bad"`
	TimeScale       float64             `json:"time_scale,omitempty"`
}

// Alert is one alert and where it stands: ok, pending, firing or no_data. Value is nil without data.
type Alert struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	Severity  string    `json:"severity"`
	Value     *float64  `json:"value"`
	Threshold float64   `json:"threshold"`
	Since     time.Time `json:"since"`
	Summary   string    `json:"summary"`
	Runbook   string    `json:"runbook"`
}

// Explanation is what is wrong, the first thing to look at first.
type Explanation struct {
	Healthy bool    `json:"healthy"`
	Causes  []Cause `json:"causes"`
}

// Cause is one thing that is wrong. Alert and Runbook are empty where there is none.
type Cause struct {
	Rank     int      `json:"rank"`
	Cause    string   `json:"cause"`
	Subject  string   `json:"subject"`
	Severity string   `json:"severity"`
	Evidence []string `json:"evidence"`
	Alert    string   `json:"alert"`
	Runbook  string   `json:"runbook"`
	Command  string   `json:"command"`
}

// SLOs lists the objectives as this agent measures them.
func (c *Client) SLOs(ctx context.Context) ([]SLO, error) {
	var out []SLO
	err := c.call(ctx, http.MethodGet, "/parley/v1/slo", nil, nil, &out)
	return out, err
}

// Alerts lists every alert of this agent.
func (c *Client) Alerts(ctx context.Context) ([]Alert, error) {
	var out []Alert
	err := c.call(ctx, http.MethodGet, "/parley/v1/alerts", nil, nil, &out)
	return out, err
}

// Explain says what is wrong as this agent sees it.
func (c *Client) Explain(ctx context.Context) (Explanation, error) {
	var out Explanation
	err := c.call(ctx, http.MethodGet, "/parley/v1/health/explain", nil, nil, &out)
	return out, err
}
