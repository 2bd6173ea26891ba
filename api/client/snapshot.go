package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// SaveSnapshot streams a backup file of the whole state to w. It contains every write that was acknowledged before the
// call, or, if stale, what the asked agent has, with or without a leader. The asked agent has to be in the core. Whether
// the file is whole shows its own trailer: an error may come after some of it was written.
func (c *Client) SaveSnapshot(ctx context.Context, stale bool, w io.Writer) error {
	query := url.Values{}
	if stale {
		query.Set("stale", "1")
	}
	return c.stream(ctx, "a backup", "/parley/v1/snapshot", query, w)
}

// stream writes an answer that is as long as it is.
func (c *Client) stream(ctx context.Context, what, path string, query url.Values, w io.Writer) error {
	if c.rpc != nil {
		return &Error{
			Code: codeUnsupported, exit: exitFailed, Message: what + " is not streamed over rpc",
			Hint: "use the admin socket or https",
		}
	}
	response, err := c.send(ctx, "", http.MethodGet, path, query, nil)
	if err != nil {
		return c.unanswered(false, err)
	}
	defer func() { _ = response.Body.Close() }() // only read
	if response.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
		if err != nil {
			return c.unanswered(false, err)
		}
		return answered(response.StatusCode, body)
	}
	written := &passedOn{w: w}
	if _, err := io.Copy(written, response.Body); written.err != nil {
		return fmt.Errorf("write %s: %w", what, written.err)
	} else if err != nil {
		return c.unanswered(false, err)
	}
	return nil
}

// passedOn tells an error of the writer from one of the reader.
type passedOn struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (p *passedOn) Write(b []byte) (n int, err error) {
	n, p.err = p.w.Write(b)
	return n, p.err
}
