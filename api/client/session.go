package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Session holds locks. TTL, Lease and LockDelay are durations as text, "0s" for none; Lease is how long it lives
// without a renewal. Of two sessions the later has the larger FencingToken.
type Session struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Node         string    `json:"node"`
	TTL          string    `json:"ttl"`
	Lease        string    `json:"lease"`
	Behavior     string    `json:"behavior"`
	LockDelay    string    `json:"lock_delay"`
	CreatedAt    time.Time `json:"created_at"`
	CreatedHLC   string    `json:"created_hlc"`
	FencingToken uint64    `json:"fencing_token"`
}

// SessionSpec describes a new session. Node "" is the agent's own, TTL 0 none, Behavior "" release, LockDelay nil 15 s.
type SessionSpec struct {
	Name      string
	Node      string
	TTL       time.Duration
	Behavior  string
	LockDelay *time.Duration
}

// SessionEnded is the answer to DestroySession.
type SessionEnded struct {
	ID       string `json:"id"`
	Revision uint64 `json:"revision"`
}

const sessionPath = "/parley/v1/session"

// CreateSession makes a session.
func (c *Client) CreateSession(ctx context.Context, spec SessionSpec) (Session, error) {
	body := map[string]string{}
	for name, text := range map[string]string{"name": spec.Name, "node": spec.Node, "behavior": spec.Behavior} {
		if text != "" {
			body[name] = text
		}
	}
	if spec.TTL != 0 {
		body["ttl"] = spec.TTL.String()
	}
	if spec.LockDelay != nil {
		body["lock_delay"] = spec.LockDelay.String()
	}
	var out Session
	err := c.post(ctx, sessionPath, body, &out)
	return out, err
}

// Sessions returns the sessions that are bound to a node, "" for all.
func (c *Client) Sessions(ctx context.Context, node string) ([]Session, error) {
	query := url.Values{}
	if node != "" {
		query.Set("node", node)
	}
	var out []Session
	err := c.call(ctx, http.MethodGet, sessionPath+"s", query, nil, &out)
	return out, err
}

// RenewSession counts the session's time anew. One that has ended is an *Error with the code not_found.
func (c *Client) RenewSession(ctx context.Context, id string) (Session, error) {
	var out Session
	err := c.call(ctx, http.MethodPut, sessionPath+"/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}

// DestroySession ends a session: its keys are released or deleted.
func (c *Client) DestroySession(ctx context.Context, id string) (SessionEnded, error) {
	var out SessionEnded
	err := c.call(ctx, http.MethodDelete, sessionPath+"/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}
