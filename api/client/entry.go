package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// IdentityReport are the certificates that an agent and the programs of its host use. OutageIn is how many seconds all of
// them stay valid if nothing is renewed.
type IdentityReport struct {
	OutageIn     int64              `json:"outage_in_s"`
	First        *CertificateInUse  `json:"first"`
	Certificates []CertificateInUse `json:"certificates"`
}

// CertificateInUse is one link of a chain: leaf, issuer or root; Of is agent, workload or core.
type CertificateInUse struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Link      string    `json:"link"`
	Of        string    `json:"of"`
	Hint      string    `json:"hint,omitempty"`
	Serial    string    `json:"serial"`
	NotAfter  time.Time `json:"not_after"`
	Remaining float64   `json:"remaining_ratio"`
}

// IdentityExplanation says what was found of a process, which entries hold for it, and how the nearest others differ.
type IdentityExplanation struct {
	PID       int         `json:"pid"`
	Selectors []string    `json:"selectors"`
	Entries   []EntryInfo `json:"entries"`
	Nearest   []NearEntry `json:"nearest"`
}

// NearEntry is an entry that does not hold, and why.
type NearEntry struct {
	EntryInfo
	Differences []string `json:"differences"`
}

// EntryInfo says which programs get which identity.
type EntryInfo struct {
	Name          string    `json:"name"`
	SPIFFEID      string    `json:"spiffe_id"`
	Selectors     []string  `json:"selectors"`
	Nodes         []string  `json:"nodes"`
	Service       string    `json:"service"`
	FederatesWith []string  `json:"federates_with"`
	TTLSeconds    uint64    `json:"ttl_s"`
	JWTTTLSeconds uint64    `json:"jwt_ttl_s"`
	Hint          string    `json:"hint"`
	Owner         string    `json:"owner"`
	CreatedAt     time.Time `json:"created_at"`
	ChangedAt     time.Time `json:"changed_at"`
	ChangedBy     string    `json:"changed_by"`
	Generation    uint64    `json:"generation"`
}

// EntrySpec is an entry to write. Without SPIFFEID it is /svc/NAME; one that begins with a slash is a path of the cluster's
// trust domain. TTLs are in seconds, 0 for the default.
type EntrySpec struct {
	Name          string   `json:"name"`
	SPIFFEID      string   `json:"spiffe_id,omitempty"`
	Selectors     []string `json:"selectors"`
	Nodes         []string `json:"nodes,omitempty"`
	Service       string   `json:"service,omitempty"`
	FederatesWith []string `json:"federates_with,omitempty"`
	TTLSeconds    uint64   `json:"ttl_s,omitempty"`
	JWTTTLSeconds uint64   `json:"jwt_ttl_s,omitempty"`
	Hint          string   `json:"hint,omitempty"`
	Owner         string   `json:"owner,omitempty"`
	Replace       bool     `json:"replace,omitempty"`
}

// Identity returns the certificates in use on the agent's host.
func (c *Client) Identity(ctx context.Context) (IdentityReport, error) {
	var out IdentityReport
	err := c.call(ctx, http.MethodGet, "/parley/v1/identity", nil, nil, &out)
	return out, err
}

// ExplainIdentity says what identities a process of the agent's host gets, and why not others.
func (c *Client) ExplainIdentity(ctx context.Context, pid int) (IdentityExplanation, error) {
	var out IdentityExplanation
	err := c.call(ctx, http.MethodGet, "/parley/v1/identity/explain/"+strconv.Itoa(pid), nil, nil, &out)
	return out, err
}

// Entries returns the registration entries by name.
func (c *Client) Entries(ctx context.Context) ([]EntryInfo, error) {
	var out []EntryInfo
	err := c.call(ctx, http.MethodGet, "/parley/v1/identity/entries", nil, nil, &out)
	return out, err
}

// Entry returns one of them.
func (c *Client) Entry(ctx context.Context, name string) (EntryInfo, error) {
	var out EntryInfo
	err := c.call(ctx, http.MethodGet, "/parley/v1/identity/entry/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}

// SetEntry writes an entry: a new one, or with Replace one that there is. The same call may be made again.
func (c *Client) SetEntry(ctx context.Context, spec EntrySpec) (EntryInfo, error) {
	var out EntryInfo
	err := c.post(ctx, "/parley/v1/identity/entry", spec, &out)
	return out, err
}

// RemoveEntry removes an entry: nothing is issued by it any more, and what was issued counts until it ends.
func (c *Client) RemoveEntry(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/parley/v1/identity/entry/"+url.PathEscape(name), nil, nil, nil)
}
