package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"

	"github.com/parley-mesh/parley/state"
)

// RequestID names a request, so that the same request can be sent again without being done twice: 8 bytes of a log
// index that its maker had seen, and 8 random ones. Its text is 32 hex digits.
type RequestID [16]byte

// String returns the text.
func (id RequestID) String() string { return hex.EncodeToString(id[:]) }

// ParseRequestID reads the text.
func ParseRequestID(text string) (id RequestID, err *Error) {
	if b, fault := hex.DecodeString(text); fault == nil && len(b) == len(id) && RequestID(b) != (RequestID{}) {
		return RequestID(b), nil
	}
	return RequestID{}, Errorf(CodeInvalid, "the request id %.60q is not 32 hex digits", text).
		WithHint("16 digits of the index of a Parley-Receipt, and 16 random ones")
}

// newRequestID makes an id at an index that is applied.
func newRequestID(applied uint64) RequestID {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the process instead
	return state.NewRequestID(applied, random)
}

// maxRenewed bounds how often a new id is made for a request, each of them at a later index.
const maxRenewed = 3

// order is a command being carried out.
type order struct {
	service  *Service
	caller   Caller
	envelope state.Envelope
	own      bool   // the request id was made here, for an attempt before
	unsure   *Error // why it is not known what became of it, the first time
}

// carryOut sends the command until the state has answered. An id that is made here may be found too old: this agent
// was behind the log by more than what the state remembers. Sent once and refused, it was not done, and goes out again
// under an id of the index at which it was refused.
func (o *order) carryOut(ctx context.Context) (done Applied, err error) {
	own := o.own || o.envelope.Request == [16]byte{} && countsOnce(o.envelope.Command)
	applied := o.service.local.Hub.View().Index()
	for range maxRenewed {
		if own && o.unsure == nil { // what may be done already is asked for by its own id
			o.envelope.Request = newRequestID(applied)
		}
		done, err = o.send(ctx)
		if err != nil || done.Result.Code != state.CodeForgotten || !own {
			break
		}
		if o.unsure != nil {
			return Applied{}, o.unknown(o.unsure)
		}
		applied = done.Index
	}
	return done, err
}

// countsOnce reports whether the state should remember the request: not what changes nothing, and not what has an id
// in itself.
func countsOnce(cmd state.Command) bool {
	switch cmd.(type) {
	case state.Probe, state.EventAppend, state.WriteCanary, // one canary more does no harm
		state.NodeGenerations: // the same once more changes nothing
		return false
	}
	return true
}

// send proposes the command on the leader, here or there, until somebody says what became of it.
func (o *order) send(ctx context.Context) (Applied, error) {
	var done Applied
	err := o.service.withLeader(ctx, func(leader string, self bool) (failed *Error) {
		if self {
			done, failed = o.service.propose(ctx, o.envelope)
		} else {
			done, failed = o.service.forwardExecute(ctx, leader, o.caller, o.envelope)
		}
		return o.judge(ctx, failed)
	})
	if err != nil {
		return Applied{}, o.verdict(err)
	}
	return done, nil
}

// goOn is carryOut for an order that was sent once by somebody else, which failed, or was refused for its id if failed is nil.
func (o *order) goOn(ctx context.Context, failed *Error) (Applied, error) {
	if failed != nil {
		if last := o.judge(ctx, failed); !surelyNotProposed(last) {
			return Applied{}, o.verdict(last)
		}
	}
	return o.carryOut(ctx)
}

// verdict is what the caller is told when the command is not sent again.
func (o *order) verdict(err error) error {
	if o.unsure != nil {
		return o.unknown(o.unsure)
	}
	if known := AsError(err); known.Code == CodeOutcomeUnknown {
		return o.unknown(known)
	}
	return err
}

// judge turns a failure after which the command may be sent again into one that says so. Once it is unsure whether it
// was done, a refusal to propose it again says nothing about the first time.
//
//  1. a1 forwards a write to a2, which appends it and dies. Outcome unknown.
//  2. a3 leads; the entry may or may not be in its log.
//  3. a1 sends the write to a3 under the same id. Either it is done now, or a3's state knows it and says how it went.
func (o *order) judge(ctx context.Context, failed *Error) *Error {
	switch {
	case failed == nil, surelyNotProposed(failed):
		return failed
	case failed.Code == CodeOutcomeUnknown && o.unsure == nil:
		o.unsure = failed
	case o.unsure == nil:
		return failed
	}
	if ctx.Err() != nil || o.envelope.Request == [16]byte{} {
		return failed
	}
	return Errorf(CodeUnavailable, "%s", failed.Message)
}

// unknown tells the caller how to ask again.
func (o *order) unknown(why *Error) *Error {
	e := *why
	e.Code = CodeOutcomeUnknown
	if o.envelope.Request != [16]byte{} {
		e.RequestID = RequestID(o.envelope.Request).String()
	}
	return &e
}

// takeRequestID reads the id that the caller sent, if it did. An endpoint that does several things, or keeps no
// answers, must not let its caller believe that it may be asked twice.
func (x *Exchange) takeRequestID(route *Route) error {
	sent := x.R.Header.Values(headerRequestID)
	if len(sent) == 0 || x.R.Method == http.MethodGet || x.R.Method == http.MethodHead {
		return nil
	}
	id, err := ParseRequestID(sent[0])
	switch {
	case err != nil:
		return err
	case !route.Once:
		return Errorf(CodeUnsupported, "this endpoint takes no %s", headerRequestID).WithHint("leave the header out")
	}
	x.once = id
	x.setRequestID(id.String())
	return nil
}

func (x *Exchange) setRequestID(id string) {
	x.RequestID = id
	x.W.Header()[headerRequestID] = []string{id}
}
