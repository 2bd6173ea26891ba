package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	headerReceipt   = "Parley-Receipt"
	headerRequestID = "Parley-Request-Id"

	repeatFor   = 5 * time.Second // a write whose outcome is not known is sent again for so long
	repeatPause = 100 * time.Millisecond
)

// codeForgotten refuses a request id that is so old that its answer may have been forgotten.
const codeForgotten = "request_forgotten"

// verdicts are the codes by which the cluster says how a write ended, also when it is asked a second time. Every other
// failure of a second try says nothing about the first.
var verdicts = []string{"conflict", "not_found", "exists", "limit", "invalid", "request_reused"}

// note remembers the log index of a receipt.
func (c *Client) note(receipt string) {
	for part := range strings.SplitSeq(receipt, ";") {
		text, ok := strings.CutPrefix(part, "index=")
		if !ok {
			continue
		}
		index, err := strconv.ParseUint(text, 10, 64)
		for seen := c.seen.Load(); err == nil && index > seen && !c.seen.CompareAndSwap(seen, index); seen = c.seen.Load() {
		}
	}
}

// newRequestID makes an id of a log index that we have seen and a random number; "" if no agent told us an index.
func (c *Client) newRequestID(ctx context.Context) string {
	if c.seen.Load() == 0 {
		if err := c.Live(ctx); err != nil {
			return ""
		}
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the process instead
	return fmt.Sprintf("%016x", c.seen.Load()) + hex.EncodeToString(random[:])
}

// once sends a write under a request id, and sends it again while its outcome is not known: the cluster does it once,
// and answers what it answered then. An id that is given may have been sent before.
func (c *Client) once(ctx context.Context, given, method, path string, query url.Values, body []byte, out any) error {
	id := given
	if id == "" {
		id = c.newRequestID(ctx)
	}
	send := func() error { return c.callAs(ctx, id, method, path, query, body, out) }
	err := send()
	var failed *Error
	if errors.As(err, &failed) && failed.Code == codeForgotten && given == "" {
		id = c.newRequestID(ctx) // the receipt of the refusal named a later index
		err = send()
	}
	if !errors.As(err, &failed) || failed.Code != CodeOutcomeUnknown {
		return err
	}
	if id == "" {
		id = failed.RequestID
	}
	return c.repeat(ctx, id, failed, send)
}

// repeat sends a write whose outcome is unsure again, for repeatFor, until it is known.
func (c *Client) repeat(ctx context.Context, id string, unsure *Error, send func() error) error {
	ctx, cancel := context.WithTimeout(ctx, repeatFor)
	defer cancel()
	for id != "" && pause(ctx, repeatPause) {
		err := send()
		var failed *Error
		if !errors.As(err, &failed) || slices.Contains(verdicts, failed.Code) {
			return err
		}
	}
	if unsure.RequestID = id; id != "" {
		unsure.Hint = "ask again under the request id " + id + " (--request-id): it is done once; or read before you decide"
	}
	return unsure
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
