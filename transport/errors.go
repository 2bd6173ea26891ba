package transport

import (
	"context"
	"errors"
	"fmt"
)

// Codes that this package gives. Handlers add their own: a code is opaque to the transport.
const (
	// CodeUnavailable: the request was never written, or the peer said that it never started on
	// it. Trying again, here or elsewhere, is safe.
	CodeUnavailable = "unavailable"
	// CodeOutcomeUnknown: the request was written and no answer came. It may have been done.
	CodeOutcomeUnknown = "outcome_unknown"
	// CodeBusy: a limit on calls, bytes or nodes is reached; nothing was done.
	CodeBusy = "busy"
	// CodeTooLarge: a body is over the limit; nothing was done, except that a handler whose
	// answer is too large has already run.
	CodeTooLarge = "too_large"
	// CodeUnknownMethod: the peer has no such method, which is what an older version says.
	CodeUnknownMethod = "unknown_method"
	// CodeInternal: the handler panicked or returned an error without a code. The peer's log has it.
	CodeInternal = "internal"
)

// Error is an error that crosses the wire. Handlers return one to choose the code; any other error
// of theirs arrives as CodeInternal, or CodeOutcomeUnknown where a context ended.
type Error struct {
	Code    string
	Message string
	Hint    string // what to do next, for a person
	Leader  string // the node to ask instead, when the one asked does not lead

	cause error // local only: a context's error, or why the connection ended
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap gives the local cause: context.Canceled and context.DeadlineExceeded are found by
// errors.Is. It is nil for an error that a peer sent.
func (e *Error) Unwrap() error { return e.cause }

// Code returns the code of the *Error in err's chain, or "" when there is none.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func errUnavailable(cause error, format string, args ...any) *Error {
	return &Error{
		Code:    CodeUnavailable,
		Message: fmt.Sprintf(format, args...),
		Hint:    "nothing was sent: try again, or ask another agent",
		cause:   cause,
	}
}

func errOutcomeUnknown(cause error, format string, args ...any) *Error {
	return &Error{
		Code:    CodeOutcomeUnknown,
		Message: fmt.Sprintf(format, args...),
		Hint:    "it may have been done: read the result before trying again",
		cause:   cause,
	}
}

func errBusy(format string, args ...any) *Error {
	return &Error{Code: CodeBusy, Message: fmt.Sprintf(format, args...), Hint: "try again later, with fewer requests at once"}
}

func errTooLarge(what string, size, limit int) *Error {
	return &Error{
		Code:    CodeTooLarge,
		Message: fmt.Sprintf("%s of %d bytes is over the limit of %d", what, size, limit),
		Hint:    "split it into smaller ones",
	}
}

// wireError turns what a handler returned into what its caller is told.
func wireError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errOutcomeUnknown(err, "the call ended before its answer: %v", err)
	default:
		return &Error{Code: CodeInternal, Message: err.Error(), Hint: "see the log of the agent that answered"}
	}
}
