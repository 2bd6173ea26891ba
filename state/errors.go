package state

import (
	"errors"
	"fmt"
)

// UnknownCommandError is returned by Decode and Apply for a command of a kind or version that this
// binary does not know. The replica must stop applying (and may go on replicating): skipping the
// command would make it disagree with the others.
type UnknownCommandError struct{ Kind, Version uint64 }

func (e *UnknownCommandError) Error() string {
	return fmt.Sprintf("command of kind %d version %d is unknown to this binary: "+
		"run the version of the agent that the rest of the core runs", e.Kind, e.Version)
}

// TooNewError is returned by Encode for a command that the cluster's version does not have yet.
type TooNewError struct {
	Command    string
	Need, Have uint32
}

func (e *TooNewError) Error() string {
	return fmt.Sprintf("command %q needs cluster version %d, the cluster runs version %d: "+
		"finalize the upgrade first", e.Command, e.Need, e.Have)
}

var (
	// ErrMalformed is returned (wrapped) for bytes that are no valid encoding.
	ErrMalformed = errors.New("malformed")

	// ErrLater is in the chain of the error about a snapshot that a later version wrote. Nothing is wrong with it.
	ErrLater = errors.New("run the version that wrote it")

	// ErrGap is returned (wrapped) by a Follower for a delta that does not continue from its
	// revision. It keeps what it has; ask for the stream from there, or for a snapshot.
	ErrGap = errors.New("gap in the change stream")

	// ErrClass is returned (wrapped) by a Follower that was sent a row outside its classes.
	ErrClass = errors.New("row of a class that was not promised")

	// ErrDigest is returned (wrapped) when rows do not add up to the digest that came with them.
	ErrDigest = errors.New("digest mismatch")

	// ErrTooLarge is returned (wrapped) for an encoding beyond its limit.
	ErrTooLarge = errors.New("too large")
)
