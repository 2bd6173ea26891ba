package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// ApplyReport says where each core member is, what is being decided about commands that crash them, and what was left out.
type ApplyReport struct {
	Members     []MemberApply `json:"members"`
	Unreachable []string      `json:"unreachable"`
	Cases       []ApplyCase   `json:"cases"`
	Quarantined []LeftOut     `json:"quarantined"`
}

// MemberApply is one core member. StoppedAt is nil while it applies; Withheld is 0 unless it waits for others.
type MemberApply struct {
	Name      string     `json:"name"`
	Commit    uint64     `json:"commit"`
	Applied   uint64     `json:"applied"`
	Lag       uint64     `json:"lag"`
	Withheld  uint64     `json:"withheld"`
	StoppedAt *StoppedAt `json:"stopped_at"`
}

// StoppedAt is the command that a core member crashes on.
type StoppedAt struct {
	Index     uint64 `json:"index"`
	Command   int    `json:"command"`
	Cause     string `json:"cause"`
	Signature string `json:"signature"`
}

// ApplyCase is a command at which core members stopped, and what the voters say of it.
type ApplyCase struct {
	Index   uint64            `json:"index"`
	Command int               `json:"command"`
	Stopped []string          `json:"stopped"`
	Answers map[string]string `json:"answers"`
	Verdict string            `json:"verdict"`
}

// LeftOut is a command that no member has run, because they crash on it.
type LeftOut struct {
	Index   uint64    `json:"index"`
	Command int       `json:"command"`
	Kind    string    `json:"kind"`
	Hash    string    `json:"hash"`
	At      time.Time `json:"at"`
}

// ApplyStatus asks all core members where they are.
func (c *Client) ApplyStatus(ctx context.Context) (ApplyReport, error) {
	var out ApplyReport
	err := c.call(ctx, http.MethodGet, "/parley/v1/apply", nil, nil, &out)
	return out, err
}

// Quarantine has a command left out at which a majority of the voters stopped, although one of them may have applied it. The
// asked agent has to lead.
func (c *Client) Quarantine(ctx context.Context, index uint64, command int) error {
	query := url.Values{}
	uintParam(query, "index", index)
	uintParam(query, "place", uint64(command)) //nolint:gosec // not negative
	return c.call(ctx, http.MethodPost, "/parley/v1/apply/quarantine", query, nil, nil)
}
