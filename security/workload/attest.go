package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// proveWithin is how long a process has to answer a challenge.
const proveWithin = 5 * time.Second

// checks are the parts of a proof. Tests turn some off, to see what they are there for.
type checks struct {
	noPidfd     bool          // whether the process lives is not looked at
	noSender    bool          // who sent the messages is not looked at
	noChallenge bool          // nothing has to be answered
	before      func()        // called before anything is read
	within      time.Duration // in place of proveWithin
}

// prove returns the selectors of the process that opened the connection, once it is certain that it is the one that asks:
//
//  1. A opens a connection, forks B, and runs the program P, which an entry is for. B has the connection still.
//  2. B asks. The kernel says that A connected, which runs P now.
//  3. B was given P's identity.
//
// So each message has to come from A, and what was found out about A counts only after A has answered a challenge by a
// message of its own, sent after P was seen; P knows nothing of the connection. Then A is looked at once more: it has to be
// what it was. And that A lives, after each of these steps, says that all of it was about A, not about one that has its
// number now.
func (c *conn) prove(ctx context.Context, k checks, look lookups) ([]Selector, error) {
	if k.before != nil {
		k.before()
	}
	if c.foreign.Load() && !k.noSender {
		return nil, denied(errForeign)
	}
	found, err := c.peer.selectors(ctx, look)
	if err != nil {
		return nil, denied(err)
	}
	if k.noChallenge {
		return found, nil
	}
	if err := c.challengeWithin(ctx, cmp.Or(k.within, proveWithin)); err != nil && (!k.noSender || !errors.Is(err, errForeign)) {
		return nil, denied(err)
	}
	again, err := c.peer.selectors(ctx, look)
	if err != nil {
		return nil, denied(err)
	}
	if !slices.Equal(found, again) {
		return nil, denied(errors.New("it became another program, user or unit meanwhile: ask again"))
	}
	if c.foreign.Load() && !k.noSender {
		return nil, denied(errForeign)
	}
	return found, nil
}

// denied is the answer to who could not be attested. What it says is about the caller itself.
func denied(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	case errors.Is(err, context.DeadlineExceeded):
		return status.Errorf(codes.Unavailable, "the process did not answer a PING within %s: ask again", proveWithin)
	case errors.Is(err, errChallenges):
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.PermissionDenied, fmt.Sprintf("the calling process could not be attested: %v", err))
}
