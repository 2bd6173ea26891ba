package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// The codes of all errors that leave this package. They are contract: clients branch on them.
const (
	CodeInvalid         = "invalid"          // the request makes no sense as sent
	CodeNotFound        = "not_found"        // the named thing does not exist
	CodeNoEndpoint      = "no_endpoint"      // no such path
	CodeMethod          = "method"           // the path exists, not with this method
	CodeConflict        = "conflict"         // a compare-and-set lost
	CodeExists          = "exists"           // the name is taken
	CodeExpired         = "expired"          // a join token is past its time
	CodeUsed            = "used"             // a join token has no uses left
	CodeRevoked         = "revoked"          // a join token was revoked
	CodeDenied          = "denied"           // the caller's role does not allow it
	CodeGuarded         = "guarded"          // it would cost the core its quorum
	CodeForbiddenOrigin = "forbidden_origin" // a web page or a foreign Host header
	CodeTooLarge        = "too_large"        // body, key, value or answer over its limit
	CodeLimit           = "limit"            // a bound of the replicated state is reached
	CodeBusy            = "busy"             // the agent or the leader has no room now
	CodeTooMany         = "too_many"         // this caller has too many requests or watches open
	CodeNoLeader        = "no_leader"        // the core has no leader
	CodeNotLeader       = "not_leader"       // the asked agent does not lead; surely not proposed
	CodeUnavailable     = "unavailable"      // the request never reached the other agent
	CodeTimeout         = "timeout"          // a read did not finish in time
	CodeDeadline        = "deadline"         // the caller's time was over before a write was proposed: nothing was done
	CodeOutcomeUnknown  = "outcome_unknown"  // a write may or may not have happened
	CodeNoSpace         = "no_space"         // the leader's disk is full
	CodeReadOnly        = "read_only"        // no state of the core members has a majority: writes are refused
	CodeCanceled        = "canceled"         // the caller went away
	CodeUnsupported     = "unsupported"      // known, and not offered by this version
	CodeInternal        = "internal"         // a bug, or damage

	CodeQuarantined      = "quarantined"       // core members crashed on the command: it was not done
	CodeRequestReused    = "request_reused"    // the request id belongs to another command
	CodeRequestForgotten = "request_forgotten" // the request may have been done, and its answer is not known any more
)

// statusClientGone is written when the caller disconnected; nobody reads it (nginx made the number known).
const statusClientGone = 499

// The exit codes of the command line (2 belongs to a false --expect, which no agent decides).
const (
	exitFailed  = 1 // usage, not found, conflict
	exitNoAgent = 3 // no agent, no leader, no room: later it may work
	exitDenied  = 4
	exitUnknown = 5
)

// class is what a code means outside: its HTTP status, the exit code of a command that ends with it, whether the
// same request may simply be sent again, and what to do next when the place of failure knew nothing better.
type class struct {
	status int
	exit   int
	retry  bool
	hint   string
}

// table is the only place where errors become statuses and exit codes.
var table = map[string]class{
	CodeInvalid:         {http.StatusBadRequest, exitFailed, false, "correct the request; docs/commands.md lists what each endpoint takes"},
	CodeNotFound:        {http.StatusNotFound, exitFailed, false, "check the name; the matching list command shows what exists"},
	CodeNoEndpoint:      {http.StatusNotFound, exitFailed, false, "check the path; native endpoints are under /parley/v1/, the compatible ones under /v1/"},
	CodeMethod:          {http.StatusMethodNotAllowed, exitFailed, false, "use one of the methods in the Allow header"},
	CodeConflict:        {http.StatusConflict, exitFailed, false, "read the current revision and decide again"},
	CodeExists:          {http.StatusConflict, exitFailed, false, "choose another name, or replace the old one on purpose: parley token create --replace NODE"},
	CodeExpired:         {http.StatusForbidden, exitDenied, false, "ask an operator for a new token: parley token create"},
	CodeUsed:            {http.StatusForbidden, exitDenied, false, "ask an operator for a new token: parley token create --uses N"},
	CodeRevoked:         {http.StatusForbidden, exitDenied, false, "ask an operator for a new token: parley token create"},
	CodeDenied:          {http.StatusForbidden, exitDenied, false, "use the admin socket of an agent with the role, or have an operator run: parley agent role NODE ROLE"},
	CodeGuarded:         {http.StatusConflict, exitDenied, false, "bring the dead voters back first; parley core shows who they are"},
	CodeForbiddenOrigin: {http.StatusForbidden, exitDenied, false, "call the agent by a loopback address, its own name or its socket, and not from a web page"},
	CodeTooLarge:        {http.StatusRequestEntityTooLarge, exitFailed, false, "send or ask for less: keys 1 KiB, values 512 KiB, bodies 1 MiB; split the request or narrow the prefix"},
	CodeLimit:           {http.StatusUnprocessableEntity, exitFailed, false, "remove what is no longer needed, or split the request"},
	CodeBusy:            {http.StatusTooManyRequests, exitNoAgent, true, "wait a moment and send the request again, with fewer at once"},
	CodeTooMany:         {http.StatusTooManyRequests, exitNoAgent, true, "close watches or requests that this caller still has open, then try again"},
	CodeNoLeader:        {http.StatusServiceUnavailable, exitNoAgent, true, "run parley core: a majority of its voters must be up and reach each other"},
	CodeNotLeader:       {http.StatusServiceUnavailable, exitNoAgent, true, "send the request again; any agent finds the leader"},
	CodeUnavailable:     {http.StatusServiceUnavailable, exitNoAgent, true, "send the request again or through another agent; parley members shows who is alive"},
	CodeTimeout:         {http.StatusGatewayTimeout, exitNoAgent, true, "send the request again; parley core shows whether the leader keeps up"},
	CodeDeadline:        {http.StatusGatewayTimeout, exitNoAgent, true, "nothing was written: send it again with more time, or when the core is less busy"},
	CodeOutcomeUnknown:  {http.StatusGatewayTimeout, exitUnknown, false, "the write may or may not have happened: send it again with the same request id, or read the key, then decide"},
	CodeNoSpace:         {http.StatusInsufficientStorage, exitFailed, true, "free space on the leader's data directory; reads go on, and writes resume by themselves"},
	CodeReadOnly:        {http.StatusServiceUnavailable, exitNoAgent, true, "nothing was written, reads go on; see who differs: parley digest compare; then: parley runbook run data-corruption"},
	CodeCanceled:        {statusClientGone, exitFailed, true, "the caller went away before the answer"},
	CodeUnsupported:     {http.StatusNotImplemented, exitFailed, false, "docs/compatibility.md lists what this version offers"},
	CodeInternal:        {http.StatusInternalServerError, exitFailed, false, "look up the request id in the agent's log and report it with the lines around it"},

	CodeQuarantined:      {http.StatusUnprocessableEntity, exitFailed, false, "do not send it again; parley apply status lists what was left out, and the logs of the core say where it crashed: report that"},
	CodeRequestReused:    {http.StatusUnprocessableEntity, exitFailed, false, "make a new request id for each request; only a retry has the same"},
	CodeRequestForgotten: {http.StatusGone, exitUnknown, false, "read the key, then decide; answers are kept for 15 minutes, and the last 65,536 of them"},
}

// Error is any failure that a caller sees. Code is one of the Code constants, Hint says what to do next and Leader
// names the leader's node where that helps. An Error must not be changed once it was returned.
type Error struct {
	Code, Message, Hint, Leader, RequestID string
}

// Errorf builds an Error with the code's standard hint. An unknown code is a bug and panics.
func Errorf(code, format string, args ...any) *Error {
	entry, ok := table[code]
	if !ok {
		panic("api: no such error code: " + code)
	}
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: entry.hint}
}

// WithHint returns a copy that says better what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	changed := *e
	changed.Hint = fmt.Sprintf(format, args...)
	return &changed
}

// WithLeader returns a copy that names the leader.
func (e *Error) WithLeader(node string) *Error {
	changed := *e
	changed.Leader = node
	return &changed
}

// Error is the message with its code.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Status is the HTTP status of the error.
func (e *Error) Status() int { return e.class().status }

// ExitCode is what a command that ends with this error exits with.
func (e *Error) ExitCode() int { return e.class().exit }

// Retryable reports whether the same request may be sent again without harm.
func (e *Error) Retryable() bool { return e.class().retry }

// class falls back to internal for a code that a newer agent sent us.
func (e *Error) class() class {
	if entry, ok := table[e.Code]; ok {
		return entry
	}
	return table[CodeInternal]
}

// AsError turns any error of a read into an Error: one of ours keeps its code, the end of a context becomes canceled
// or timeout, everything else is internal. The result always has a hint; nil stays nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var known *Error // on the heap: after the common case
	switch {
	case errors.As(err, &known):
		if known.Hint == "" {
			return known.WithHint("%s", known.class().hint)
		}
		return known
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(CodeTimeout, "the request did not finish in time")
	case errors.Is(err, context.Canceled):
		return Errorf(CodeCanceled, "the caller went away")
	}
	return Errorf(CodeInternal, "%v", err)
}

// asWriteError is AsError for a request that may have been proposed. What is not an answer leaves the outcome open:
// every context that ended, and internal, which another agent says when its handler died.
func asWriteError(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		switch known.Code {
		case CodeTimeout, CodeCanceled, CodeInternal:
		default:
			return AsError(known)
		}
	}
	return Errorf(CodeOutcomeUnknown, "no answer to the write: %v", err)
}

// asReadError is AsError for a read that another agent was asked for: a read has no outcome to be unsure of.
func asReadError(err error) *Error {
	known := AsError(err)
	if known.Code == CodeOutcomeUnknown {
		return Errorf(CodeUnavailable, "%s", known.Message)
	}
	return known
}

// surelyNotProposed reports whether a request that ended so did nothing, and may be sent to a leader again.
func surelyNotProposed(err *Error) bool {
	return err.Code == CodeNotLeader || err.Code == CodeUnavailable || err.Code == CodeNoLeader
}
