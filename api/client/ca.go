package client

import (
	"context"
	"net/http"
	"time"
)

// CAStatus is the roots of the trust bundle, and what the replacement of one waits for.
type CAStatus struct {
	Roots          []CARoot  `json:"roots"`
	BundleSequence uint64    `json:"bundle_sequence"`
	RotatesAt      time.Time `json:"rotates_at"` // when the root that signs is replaced by itself
	Wanted         bool      `json:"wanted"`
	Force          bool      `json:"force"`
	Compromised    bool      `json:"compromised"`
	Measured       bool      `json:"measured"` // what follows is of a leader; false without one
	Step           string    `json:"step"`     // none, prepare, activate, retire, or wait
	Reason         string    `json:"reason"`
	WaitingFor     []string  `json:"waiting_for"` // agents, by name
	// Of an authority that another one has signed; nil while the root that signs is the cluster's own.
	Authority     *CAAuthority `json:"authority,omitempty"`
	NextAuthority *CAAuthority `json:"next_authority,omitempty"`
	TokenKeys     []CATokenKey `json:"token_keys"`
}

// CATokenKey is the public half of a key with which a core member signs JWT-SVIDs.
type CATokenKey struct {
	ID          string    `json:"id"` // the kid
	Node        string    `json:"node"`
	PublishedAt time.Time `json:"published_at"`
	NotAfter    time.Time `json:"not_after"`
	WaitingFor  []string  `json:"waiting_for,omitempty"` // agents that do not hold it yet, while it waits to sign; by the leader's measurement
}

// CAAuthority is an authority of the cluster that one above it has signed.
type CAAuthority struct {
	Hash      string    `json:"hash"`
	Subject   string    `json:"subject"`
	SignedBy  string    `json:"signed_by"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"` // or of what is above it, whichever ends first
}

// CARequest is the certificate request (PEM) for an authority, and the node to which the signed chain has to be brought.
type CARequest struct {
	Node    string `json:"node"`
	Request string `json:"request"`
}

// CARoot is one root. Role is signing, next or old.
type CARoot struct {
	Hash      string    `json:"hash"`
	Subject   string    `json:"subject"`
	Role      string    `json:"role"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// CA asks where the roots are.
func (c *Client) CA(ctx context.Context) (CAStatus, error) {
	var out CAStatus
	err := c.call(ctx, http.MethodGet, "/parley/v1/ca", nil, nil, &out)
	return out, err
}

// RotateCA asks for another root: by the rules; with force without waiting for agents that do not hold it; compromised
// without waiting at all, and what the old one signed counts no more soon after. It returns before any of that has happened.
func (c *Client) RotateCA(ctx context.Context, force, compromised bool) error {
	return c.post(ctx, "/parley/v1/ca/rotate", map[string]any{"force": force, "compromised": compromised}, nil)
}

// RequestAuthority makes the request for an authority that one above it signs, or returns the one that waits. It is for a
// core member.
func (c *Client) RequestAuthority(ctx context.Context) (CARequest, error) {
	var out CARequest
	err := c.post(ctx, "/parley/v1/ca/request", map[string]any{}, &out)
	return out, err
}

// UseAuthority brings back what was signed: the chain (PEM), the cluster's authority first, the root last. It signs once
// all agents hold the root.
func (c *Client) UseAuthority(ctx context.Context, chain []byte) (CAAuthority, error) {
	var out CAAuthority
	err := c.post(ctx, "/parley/v1/ca/external", map[string]any{"chain": string(chain)}, &out)
	return out, err
}

// LeaveAuthority asks for a root of the cluster's own in place of an authority that another one has signed.
func (c *Client) LeaveAuthority(ctx context.Context) error {
	return c.post(ctx, "/parley/v1/ca/leave", map[string]any{}, nil)
}

// ResealByRecoveryKey gives the agent's host the root again, by the recovery key (PEM). It is for the admin socket alone.
func (c *Client) ResealByRecoveryKey(ctx context.Context, key []byte) error {
	return c.post(ctx, "/parley/v1/ca/reseal", map[string]any{"recovery_key": string(key)}, nil)
}

// CATokenKeyUsed is a key of tokens that signs from now on, and the agents whose programs refuse its tokens until they hold it.
type CATokenKeyUsed struct {
	Node    string   `json:"node"`
	ID      string   `json:"id"`
	Without []string `json:"without"`
}

// UseTokenKey has the next key of tokens of the agent, a core member, sign without those that it waits for.
func (c *Client) UseTokenKey(ctx context.Context) (CATokenKeyUsed, error) {
	var out CATokenKeyUsed
	err := c.post(ctx, "/parley/v1/ca/token-key", map[string]any{}, &out)
	return out, err
}
