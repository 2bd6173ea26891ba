package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Runbook is one runbook in a list. FailureMode is a number, or "slo:NAME".
type Runbook struct {
	ID          string          `json:"id"`
	Title       string          `json:"title"`
	FailureMode json.RawMessage `json:"failure_mode"`
	Alerts      []string        `json:"alerts"`
	Severity    string          `json:"severity"`
	LastDrill   *RunbookDrill   `json:"last_drill"` // nil: none is known
}

// RunbookDrill is the last exercise of a runbook.
type RunbookDrill struct {
	Result          string    `json:"result"`
	At              time.Time `json:"at"`
	DetectSeconds   float64   `json:"detect_s"`
	MitigateSeconds float64   `json:"mitigate_s"`
}

// Runbooks lists the runbooks that the agent carries. It needs no cluster.
func (c *Client) Runbooks(ctx context.Context) ([]Runbook, error) {
	var out []Runbook
	err := c.call(ctx, http.MethodGet, "/parley/v1/runbooks", nil, nil, &out)
	return out, err
}

// Runbook returns one of them whole: front matter, sections and steps, as the agent's JSON.
func (c *Client) Runbook(ctx context.Context, id string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, http.MethodGet, "/parley/v1/runbooks/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}
