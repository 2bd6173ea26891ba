package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// OperatorInfo is the identity of a person or a program. KeySHA256 is the hash of the one key whose certificate counts.
type OperatorInfo struct {
	Name       string    `json:"name"`
	SPIFFEID   string    `json:"spiffe_id"`
	Role       string    `json:"role"`
	KeySHA256  string    `json:"key_sha256"`
	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by"`
	Generation uint64    `json:"generation"`
}

// AddOperator binds the name in a certificate request (see Identity.Request) to its key, with a role, and returns the
// first certificate. With replace the name may have had another key or role. The same call may be made again.
func (c *Client) AddOperator(ctx context.Context, csr []byte, role string, replace bool) (SVIDAnswer, error) {
	var out SVIDAnswer
	body := map[string]any{"csr": csr, "role": role, "replace": replace}
	err := c.post(ctx, "/parley/v1/operator", body, &out)
	return out, err
}

// RenewIdentity returns a new certificate for the key of a certificate request, while the cluster has it bound to the
// operator that the request names. The leader must answer: without one the code is no_leader.
func (c *Client) RenewIdentity(ctx context.Context, csr []byte) (SVIDAnswer, error) {
	var out SVIDAnswer
	err := c.post(ctx, "/parley/v1/identity/renew", map[string]any{"csr": csr}, &out)
	return out, err
}

// Operators lists the identities of people and programs.
func (c *Client) Operators(ctx context.Context) ([]OperatorInfo, error) {
	var out []OperatorInfo
	err := c.call(ctx, http.MethodGet, "/parley/v1/operators", nil, nil, &out)
	return out, err
}

// Operator returns one of them.
func (c *Client) Operator(ctx context.Context, name string) (OperatorInfo, error) {
	var out OperatorInfo
	err := c.call(ctx, http.MethodGet, "/parley/v1/operator/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}

// RemoveOperator takes an identity back: no agent accepts its certificate any more, and its open connections are closed.
func (c *Client) RemoveOperator(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/parley/v1/operator/"+url.PathEscape(name), nil, nil, nil)
}
