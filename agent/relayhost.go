package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/transport"
)

// relayed is a core member's answer to an agent that relays a request of a host which is no member, or none any more: what the
// host gets, or why it gets nothing.
type relayed[Response, Refusal any] struct {
	Response Response
	Error    *Refusal
}

// refusal is the pointer to a Refusal, which is an error.
type refusal[Refusal any] interface {
	*Refusal
	error
}

// answers reports whether this agent answers hosts itself: a core member with an issuer does.
func (i *issuer) answers() bool { return i.authority.Load() != nil && i.agent.views.ownLog() }

// hereOrRelayed answers a host's request on a core member, and passes it one hop on elsewhere. Such requests prove
// themselves, so a relay can neither change nor use them.
func hereOrRelayed[Request, Response, Refusal any, P refusal[Refusal]](ctx context.Context, i *issuer, method string, req Request,
	here func(context.Context, Request) (Response, error)) (nothing Response, err error) {

	if i.answers() {
		return here(ctx, req)
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nothing, err
	}
	failure := errors.New("no core member is known")
	for _, node := range i.agent.book.coreSources() {
		raw, err := i.agent.pool.Call(ctx, node, method, body)
		var answer relayed[Response, Refusal]
		if err == nil {
			err = json.Unmarshal(raw, &answer)
		}
		switch {
		case err != nil:
			failure = fmt.Errorf("ask %s: %w", node, err)
		case answer.Error != nil:
			return nothing, P(answer.Error)
		default:
			return answer.Response, nil
		}
	}
	return nothing, failure
}

// answerRelayed answers a host for the agent that relays its request. It never relays itself.
func answerRelayed[Request, Response, Refusal any, P refusal[Refusal]](ctx context.Context, i *issuer, req Request,
	here func(context.Context, Request) (Response, error)) ([]byte, error) {

	if !i.answers() {
		return nil, errNotIssuing
	}
	resp, err := here(ctx, req)
	answer := relayed[Response, Refusal]{Response: resp}
	if err != nil {
		var refused P
		if !errors.As(err, &refused) {
			return nil, toWire(err)
		}
		answer.Error = refused
	}
	return json.Marshal(answer)
}

// malformed is what a relay is told of a request that it should not have passed on.
func malformed(err error) error { return &transport.Error{Code: api.CodeInvalid, Message: err.Error()} }
