package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
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
		if index, err := strconv.ParseUint(text, 10, 64); err == nil {
			c.noteIndex(index)
		}
	}
}

// noteIndex remembers a log index.
func (c *Client) noteIndex(index uint64) {
	for seen := c.seen.Load(); index > seen && !c.seen.CompareAndSwap(seen, index); seen = c.seen.Load() {
	}
}

// requestID is a log index that its maker had seen and a random number; zero is none.
type requestID [16]byte

// text is what the agent reads, "" for none.
func (id requestID) text() string {
	if id == (requestID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

func parseRequestID(text string) (id requestID, err error) {
	if b, fault := hex.DecodeString(text); fault == nil && len(b) == len(id) && requestID(b) != (requestID{}) {
		return requestID(b), nil
	}
	return id, &Error{
		Code: "invalid", Message: fmt.Sprintf("the request id %.60q is not 32 hex digits", text), exit: exitFailed,
		Hint: "give the id that the write had which you repeat",
	}
}

// newRequestID makes an id; zero if no agent told us an index.
func (c *Client) newRequestID(ctx context.Context) (id requestID) {
	if c.seen.Load() == 0 {
		if err := c.Live(ctx); err != nil {
			return id
		}
	}
	binary.BigEndian.PutUint64(id[:], c.seen.Load())
	_, _ = rand.Read(id[8:]) // never fails: it ends the process instead
	return id
}

// onceCall is once for a request to an endpoint.
func (c *Client) onceCall(ctx context.Context, given, method, path string, query url.Values, body []byte, out any) error {
	return c.once(ctx, given, func(id requestID) error { return c.callAs(ctx, id.text(), method, path, query, body, out) })
}

// once sends a write under a request id, and sends it again while its outcome is not known: the cluster does it once,
// and answers what it answered then. An id that is given may have been sent before.
func (c *Client) once(ctx context.Context, given string, send func(requestID) error) (err error) {
	var id requestID
	if given == "" {
		id = c.newRequestID(ctx)
	} else if id, err = parseRequestID(given); err != nil {
		return err
	}
	err = send(id)
	var failed *Error
	if errors.As(err, &failed) && failed.Code == codeForgotten && given == "" {
		id = c.newRequestID(ctx) // the receipt of the refusal named a later index
		err = send(id)
	}
	if !errors.As(err, &failed) || failed.Code != CodeOutcomeUnknown {
		return err
	}
	if id == (requestID{}) {
		id, _ = parseRequestID(failed.RequestID) // by the one that the agent made; without any it could be done twice
	}
	return c.repeat(ctx, id.text(), failed, func() error { return send(id) })
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
