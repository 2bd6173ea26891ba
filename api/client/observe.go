package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// TimelineEvent is one entry of the timeline. The order of a list is the cluster's, the same on every agent; Time is for
// people, ReportedAt what the reporter's own clock said. A Pending one is the agent's own and not in the log yet.
type TimelineEvent struct {
	HLC        string    `json:"hlc"`
	Time       time.Time `json:"time"`
	Node       string    `json:"node"`
	Kind       string    `json:"kind"`
	Subject    string    `json:"subject"`
	Message    string    `json:"message"`
	Pending    bool      `json:"pending"`
	ReportedAt time.Time `json:"reported_at"`
}

// EventOptions of Events: only those of the last Since, only so many of the newest, only one Kind. Zero values leave
// nothing out.
type EventOptions struct {
	Since time.Duration
	Limit int
	Kind  string
}

// EventAdded is the answer to AddEvent.
type EventAdded struct {
	HLC  string    `json:"hlc"`
	Time time.Time `json:"time"`
	Node string    `json:"node"`
}

// Events lists the timeline, oldest first, as the agent has it.
func (c *Client) Events(ctx context.Context, o EventOptions) ([]TimelineEvent, error) {
	query := url.Values{}
	if o.Since != 0 { // the agent refuses negative ones
		query.Set("since", o.Since.String())
	}
	if o.Limit != 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Kind != "" {
		query.Set("kind", o.Kind)
	}
	var out []TimelineEvent
	err := c.call(ctx, http.MethodGet, "/parley/v1/events", query, nil, &out)
	return out, err
}

// AddEvent writes a note into the timeline.
func (c *Client) AddEvent(ctx context.Context, message string) (EventAdded, error) {
	var out EventAdded
	err := c.post(ctx, "/parley/v1/events", map[string]any{"message": message}, &out)
	return out, err
}

// DigestComparison is what the core members hold at one index; Groups is 1 when they agree.
type DigestComparison struct {
	Groups      int            `json:"groups"`
	Index       uint64         `json:"index"`
	Members     []MemberDigest `json:"members"`
	Minority    []string       `json:"minority"`
	Unreachable []string       `json:"unreachable"`
	Behind      []string       `json:"behind"`
	Absent      []string       `json:"absent"` // allowed in the core and not in it, while it is too small

	Differences []RowDifference `json:"differences,omitempty"` // a few of the rows, for operators
}

// RowDifference is a row in which a member of the minority differs.
type RowDifference struct {
	Member string `json:"member"`
	Table  string `json:"table"`
	Key    string `json:"key"`
}

// MemberDigest is one core member's digest, in hex.
type MemberDigest struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// CompareDigests has the core members compared.
func (c *Client) CompareDigests(ctx context.Context) (DigestComparison, error) {
	var out DigestComparison
	err := c.call(ctx, http.MethodGet, "/parley/v1/digest/compare", nil, nil, &out)
	return out, err
}

// DigestDiff is the rows in which core members differ from one of them, the reference.
type DigestDiff struct {
	Reference   string    `json:"reference"`
	Index       uint64    `json:"index"`
	Members     []string  `json:"members"`
	Differences []RowDiff `json:"differences"`
	More        bool      `json:"more"`       // there are more than are named
	Unanswered  []string  `json:"unanswered"` // who did not tell its rows
}

// RowDiff is one such row; Kind is differs, missing (at the member) or extra (at the member alone).
type RowDiff struct {
	Member            string `json:"member"`
	Table             string `json:"table"`
	Key               string `json:"key"`
	Kind              string `json:"kind"`
	Revision          uint64 `json:"revision"`
	ReferenceRevision uint64 `json:"reference_revision"`
	Hash              string `json:"hash,omitempty"`
	ReferenceHash     string `json:"reference_hash,omitempty"`
}

// DiffDigests has the rows found in which node differs from reference; "" leaves the choice to the agent.
func (c *Client) DiffDigests(ctx context.Context, node, reference string) (DigestDiff, error) {
	query := url.Values{}
	for name, value := range map[string]string{"node": node, "reference": reference} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var out DigestDiff
	err := c.call(ctx, http.MethodGet, "/parley/v1/digest/diff", query, nil, &out)
	return out, err
}

// AcceptDigest says, while no state of the core has a majority, that a member's is right, and returns the checkpoint of which
// it is. All others that differ are rebuilt.
func (c *Client) AcceptDigest(ctx context.Context, node string) (index uint64, err error) {
	var out struct {
		Index uint64 `json:"index"`
	}
	err = c.post(ctx, "/parley/v1/digest/accept", map[string]any{"node": node}, &out)
	return out.Index, err
}

// InvariantReport is what an agent's core member watches while it works; Count is 0, or something is wrong.
type InvariantReport struct {
	Count      uint64      `json:"count"`
	Invariants []Invariant `json:"invariants"`
}

// Invariant is one of them; Detail is what was seen last of what did not hold.
type Invariant struct {
	ID         string `json:"id"`
	What       string `json:"what"`
	Holds      bool   `json:"holds"`
	Violations uint64 `json:"violations"`
	Detail     string `json:"detail"`
}

// Invariants lists what the agent watches.
func (c *Client) Invariants(ctx context.Context) (InvariantReport, error) {
	var out InvariantReport
	err := c.call(ctx, http.MethodGet, "/parley/v1/invariants", nil, nil, &out)
	return out, err
}

// Link is how one agent reaches another. UDP is ok, fallback, down or unknown, TCP ok, down or unknown.
// Via is by whom the traffic of the core is relayed, "" when it goes straight.
type Link struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	UDP  string  `json:"udp"`
	TCP  string  `json:"tcp"`
	RTT  float64 `json:"rtt_ms"`
	Via  string  `json:"via,omitempty"`
}

// LinkMatrix is every link between live agents, with counts of what is not well.
type LinkMatrix struct {
	Agents      []string `json:"agents"`
	Links       []Link   `json:"links"`
	Unreachable int      `json:"unreachable"`
	UDPFallback int      `json:"udp_fallback"`
	Asymmetric  int      `json:"asymmetric"`
	Unknown     int      `json:"unknown"`
	Relayed     int      `json:"relayed"`
}

// NetMatrix asks all agents how they reach each other.
func (c *Client) NetMatrix(ctx context.Context) (LinkMatrix, error) {
	var out LinkMatrix
	err := c.call(ctx, http.MethodGet, "/parley/v1/net/matrix", nil, nil, &out)
	return out, err
}

// NodeStatus is one agent as the asked one sees it.
type NodeStatus struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Incarnation uint64 `json:"incarnation"`
	Starts10m   int    `json:"starts_10m"`
	// CrashStarts10m are those of them that came after an end that was not clean.
	CrashStarts10m int `json:"crash_starts_10m"`

	SafeMode  int    `json:"safe_mode"`
	Core      string `json:"core"`
	Address   string `json:"address"`
	Zone      string `json:"zone"`
	Version   string `json:"version"`
	Reachable bool   `json:"reachable"`
}

// Node describes one agent.
func (c *Client) Node(ctx context.Context, name string) (NodeStatus, error) {
	var out NodeStatus
	err := c.call(ctx, http.MethodGet, "/parley/v1/node/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}
