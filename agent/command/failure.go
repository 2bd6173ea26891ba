package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/security"
)

// The exit codes of every command.
const (
	exitOK             = 0
	exitFailed         = 1
	exitExpectFalse    = 2
	exitNoAgent        = 3
	exitDenied         = 4
	exitOutcomeUnknown = 5
)

// failure is an error that knows its exit code and what the user can do.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usageError(hint, format string, args ...any) error {
	return &failure{code: exitFailed, err: fmt.Errorf(format, args...), hint: hint}
}

// exitWith ends the process with a child's exit code and prints nothing: the child already did.
type exitWith int

func (e exitWith) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report prints an error and its hint, and returns the exit code.
func (a *app) report(err error) int {
	var silent exitWith
	if errors.As(err, &silent) {
		return int(silent)
	}
	f := explain(err)
	if f == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(a.err, "parley: error: %s\n", f.err)
	if f.hint != "" {
		_, _ = fmt.Fprintf(a.err, "parley: hint: %s\n", f.hint)
	}
	return f.code
}

// explain gives every error its exit code and its hint.
func explain(err error) *failure {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	}
	if f := explainClient(err); f != nil {
		return f
	}
	if errors.Is(err, context.Canceled) {
		return &failure{code: exitFailed, err: errors.New("interrupted")}
	}
	return &failure{code: joinCode(err), err: err, hint: agent.Hint(err)}
}

// joinCode is what an agent exits with that the cluster did not let in: a token that does not count is a
// denial, like the same answer of the API; a name that is taken is not.
func joinCode(err error) int {
	var refused *security.JoinError
	if !errors.As(err, &refused) {
		return exitFailed
	}
	switch refused.Code {
	case security.JoinForeign, security.JoinRootMismatch, security.JoinUnknown, security.JoinExpired, security.JoinUsed, security.JoinRevoked,
		security.JoinNodeBound, security.JoinDenied, security.JoinUnattested:
		return exitDenied
	}
	return exitFailed
}
