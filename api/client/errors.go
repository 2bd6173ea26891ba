package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Codes that this package gives by itself. All others come from the agent; its errors document lists them.
const (
	CodeNoAgent        = "no_agent"        // nothing answers at the address; nothing was done
	CodeUnreadable     = "unreadable"      // something answers, and it is no agent
	CodeInterrupted    = "interrupted"     // a read, or a write of which nothing was sent, was ended by its context
	CodeRefused        = "refused"         // the agent does not accept the client's certificate; nothing was done
	CodeOutcomeUnknown = "outcome_unknown" // a write was sent and no answer came; RequestID repeats it, if it has one
)

// Exit codes for what never reached an agent, and for answers without one.
const (
	exitFailed  = 1
	exitNoAgent = 3
	exitDenied  = 4
	exitUnknown = 5
)

// Error is why a call failed.
type Error struct {
	Code      string
	Message   string
	Hint      string // what to do next
	Leader    string // the leader's node, where the agent named it
	RequestID string // finds the request in the agent's log
	Status    int    // HTTP status, 0 when there was no answer
	Retryable bool   // the same call may be made again without harm

	// RetryAfter is how long the agent asks to wait before the call is made again, 0 if it says nothing of it.
	RetryAfter time.Duration

	exit  int
	cause error
}

// Error is the message alone: codes are for programs.
func (e *Error) Error() string { return e.Message }

// ExitCode is what a command that ends with this error exits with: 1 failed, 3 no agent or no leader, 4 denied, 5
// outcome unknown.
func (e *Error) ExitCode() int { return e.exit }

// Unwrap gives the local cause, such as context.Canceled.
func (e *Error) Unwrap() error { return e.cause }

// errorBody is the agent's JSON.
type errorBody struct {
	Error struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		Hint      string `json:"hint"`
		Leader    string `json:"leader"`
		RequestID string `json:"request_id"`
		ExitCode  int    `json:"exit_code"`
		Retryable bool   `json:"retryable"`
	} `json:"error"`
}

func (b errorBody) as(status int) *Error {
	e := b.Error
	return &Error{
		Code: e.Code, Message: e.Message, Hint: e.Hint, Leader: e.Leader, RequestID: e.RequestID,
		Status: status, Retryable: e.Retryable, exit: e.ExitCode,
	}
}

// answered makes an Error of a response that is not 200.
func answered(status int, body []byte) *Error {
	var parsed errorBody
	if json.Unmarshal(body, &parsed) == nil && parsed.Error.Code != "" && parsed.Error.ExitCode != 0 {
		return parsed.as(status)
	}
	exit := exitFailed
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		exit = exitDenied
	}
	return &Error{
		Code: CodeUnreadable, Status: status, exit: exit,
		Message: fmt.Sprintf("the answer is %d %s and no agent's", status, http.StatusText(status)),
		Hint:    "check --addr: another program may listen there",
	}
}

// unanswered makes an Error of a call without an answer. A write is sure to have done nothing only if no byte of it left,
// or if the agent did not let us in.
func (c *Client) unanswered(write bool, err error) *Error {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return &Error{
			Code: CodeNoAgent, Message: fmt.Sprintf("no agent answers at %s: %v", c.addr, dial.Err), exit: exitNoAgent, Retryable: true, cause: err,
			Hint: "start it with parley agent, or say where it is with --addr or --data-dir",
		}
	}
	if refusedCertificate(err) {
		return &Error{
			Code: CodeRefused, Message: fmt.Sprintf("%s does not accept our certificate: %v", c.addr, cause(err)), exit: exitDenied, cause: err,
			Hint: "show the certificate of an agent of the same cluster, which has not expired: --data-dir names the agent",
		}
	}
	var unsent *unsentError
	if errors.As(err, &unsent) {
		if err = unsent.err; unsent.distrust {
			return &Error{
				Code: CodeNoAgent, Message: fmt.Sprintf("no TLS connection to %s: %v", c.addr, cause(err)), exit: exitNoAgent, Retryable: true, cause: err,
				Hint: "nothing was sent; check --addr, and that --data-dir is that of an agent of the same cluster",
			}
		}
		write = false
	}
	if write {
		return &Error{
			Code: CodeOutcomeUnknown, Message: fmt.Sprintf("no answer to the write from %s: %v", c.addr, cause(err)), exit: exitUnknown, cause: err,
			Hint: "it may or may not have happened: read before you repeat it",
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{
			Code: CodeInterrupted, Message: fmt.Sprintf("no answer from %s in time", c.addr), exit: exitNoAgent, Retryable: true, cause: err,
			Hint: "try again; parley core shows whether there is a leader",
		}
	}
	hint := "try again; if it goes on, look at the agent's log"
	if errors.Is(err, io.EOF) && strings.HasPrefix(c.addr, "http://") {
		hint = "this looks like a mesh port, which speaks no HTTP: an agent's API is on port 8500, unless configured; if the address is right, try again"
	}
	return &Error{
		Code: CodeNoAgent, Message: fmt.Sprintf("the connection to %s broke: %v", c.addr, cause(err)), exit: exitNoAgent, Retryable: true, cause: err,
		Hint: hint,
	}
}

// cause drops the method and URL that net/http puts before every error.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
