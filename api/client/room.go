package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// An agent that has no room for a request (429) did nothing, and says in Retry-After when to come again.
const (
	maxRoomTries  = 3               // that a call is made again because there was no room
	maxRetryAfter = 5 * time.Second // longest that we wait at a time, whatever we are told
)

// waitAsTold takes the time to wait out of the headers of a refusal for want of room.
func (e *Error) waitAsTold(h http.Header) *Error {
	if e.Status != http.StatusTooManyRequests {
		return e
	}
	if seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16); err == nil {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter) //nolint:gosec // 16 bits
	}
	return e
}

// roomHeader stands for the headers of an answer over RPC, which carries none: a refusal for want of room is to be waited
// for there too.
func roomHeader(status int) http.Header {
	if status != http.StatusTooManyRequests {
		return nil
	}
	return http.Header{"Retry-After": {"1"}}
}

// whenThereIsRoom makes a call, and again while the agent had no room for it, up to maxRoomTries times. It waits between
// half of what it is told and all of it, so that those who were refused together do not come back together.
func whenThereIsRoom(ctx context.Context, call func() error) error {
	for range maxRoomTries {
		err := call()
		var failed *Error
		if !errors.As(err, &failed) || failed.RetryAfter == 0 {
			return err
		}
		wait := failed.RetryAfter/2 + rand.N(failed.RetryAfter/2+1) //nolint:gosec // spreads load, guards nothing
		if !pause(ctx, wait) {
			return err // that there was no room says more than that ctx ended
		}
	}
	return call()
}
