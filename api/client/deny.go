package client

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Deny says that an identity, one certificate or a host counts no more.
type Deny struct {
	Kind    string    `json:"kind"`    // id, serial or host
	Subject string    `json:"subject"` // a SPIFFE ID, the serial number in hex, or the name of a node
	Until   time.Time `json:"until,omitzero"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

// Denies returns what is denied now; hosts that were evicted come last.
func (c *Client) Denies(ctx context.Context) ([]Deny, error) {
	var out []Deny
	err := c.call(ctx, http.MethodGet, "/parley/v1/denies", nil, nil, &out)
	return out, err
}

// SetDeny denies a SPIFFE ID, a path in the trust domain, or a certificate by its serial number in hex. With lasts 0 an identity is denied
// for good, and a certificate for as long as one can last. The same call may be made again.
func (c *Client) SetDeny(ctx context.Context, what string, lasts time.Duration, reason string) (Deny, error) {
	var out Deny
	err := c.post(ctx, "/parley/v1/deny", map[string]any{"what": what, "for_s": uint64(lasts / time.Second), "reason": reason}, &out) //nolint:gosec // nobody gives a negative one
	return out, err
}

// CheckDeny says what SetDeny would deny, or why it would be refused, and changes nothing.
func (c *Client) CheckDeny(ctx context.Context, what string, lasts time.Duration, reason string) (Deny, error) {
	var out Deny
	err := c.post(ctx, "/parley/v1/deny", map[string]any{"what": what, "for_s": uint64(lasts / time.Second), "reason": reason, "dry_run": true}, &out) //nolint:gosec // nobody gives a negative one
	return out, err
}

// RemoveDeny lets what SetDeny took count again. A SPIFFE ID that is not of this cluster's trust domain is not found.
func (c *Client) RemoveDeny(ctx context.Context, what string) error {
	path := "serial/" + url.PathEscape(what)
	if rest, ok := strings.CutPrefix(what, "spiffe://"); ok {
		all, err := c.Denies(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(d Deny) bool { return d.Subject == what }) {
			return &Error{Code: "not_found", Message: what + " is not denied here", Hint: "list what is: parley deny list", Status: http.StatusNotFound}
		}
		_, rest, _ = strings.Cut(rest, "/")
		what = "/" + rest
	}
	if strings.HasPrefix(what, "/") {
		path = "id" + (&url.URL{Path: what}).EscapedPath()
	}
	return c.call(ctx, http.MethodDelete, "/parley/v1/deny/"+path, nil, nil, nil)
}
