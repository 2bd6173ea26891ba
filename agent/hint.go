package agent

import (
	"errors"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/storage"
)

// hinted is an error that also says what to do next. Its text is that of the error alone.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return &hinted{error: err, hint: hint} }

// Hint returns what the outermost hinted error in err's chain advises, else what a part of the agent
// says about its own error, else "".
func Hint(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	var refused *security.JoinError
	if errors.As(err, &refused) {
		return refused.Hint
	}
	var other interface{ Hint() string }
	if errors.As(err, &other) {
		return other.Hint()
	}
	if errors.Is(err, storage.ErrNoSpace) {
		return "free space on the file system of the data directory, then start the agent again; nothing acknowledged is lost"
	}
	return ""
}
