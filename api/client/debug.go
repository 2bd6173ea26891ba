package client

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Recording is what led to something that must not happen in the core of an agent, on its disk.
type Recording struct {
	Name  string    `json:"name"`
	Bytes int64     `json:"bytes"`
	At    time.Time `json:"at"`
}

// Recordings lists those of the agent.
func (c *Client) Recordings(ctx context.Context) (list []Recording, err error) {
	err = c.call(ctx, http.MethodGet, "/parley/v1/debug/recordings", nil, nil, &list)
	return list, err
}

// ForgetRecordings deletes them.
func (c *Client) ForgetRecordings(ctx context.Context) (list []Recording, err error) {
	err = c.call(ctx, http.MethodDelete, "/parley/v1/debug/recordings", nil, nil, &list)
	return list, err
}

// SaveBundle writes a debug bundle of the agent, a gzipped tar. Over rpc there are none.
func (c *Client) SaveBundle(ctx context.Context, w io.Writer) error {
	return c.stream(ctx, "a debug bundle", "/parley/v1/debug/bundle", nil, w)
}
