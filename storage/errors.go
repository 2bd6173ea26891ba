package storage

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// ErrNoSpace is returned, wrapped, when the file system or a quota is full. Nothing was acknowledged;
// the same call can be made again once there is space. Whether that happens by itself, or what an operator has to do, only the
// caller knows, and says.
var ErrNoSpace = errors.New("no space left on the data directory's file system")

// ErrClosed is returned by a Log after Close.
var ErrClosed = errors.New("log is closed")

// ErrEntryTooLarge is returned, wrapped, by Append for an entry that fits into no frame.
var ErrEntryTooLarge = errors.New("entry is larger than a log frame can hold")

// ErrLocked is returned, wrapped, by LockDir while another process holds the directory.
var ErrLocked = errors.New("data directory is in use")

// ErrManifest is returned, wrapped, for bytes that are not an intact snapshot manifest.
var ErrManifest = errors.New("bad snapshot manifest")

// ErrChunk is returned, wrapped, for a snapshot chunk that is missing or not what its name says.
var ErrChunk = errors.New("bad snapshot chunk")

// ErrOldSnapshot is returned, wrapped, by Save and Install for an index below the newest snapshot's.
var ErrOldSnapshot = errors.New("snapshot is older than the one in place")

// errTooLong is returned by ReadFile beyond its limit.
var errTooLong = errors.New("file is longer than allowed")

// errNumbers is returned by Append, in a *FatalError, when the next frame would have a number that no reader takes.
var errNumbers = errors.New("no number is left for a frame: the log was forged; keep the data directory, and let this host rejoin with an empty one")

// FatalError reports a failed fsync, or a failed write to the log: what is on disk is unknown from
// here on. The caller ends the process.
type FatalError struct {
	Op   string // "sync", "write", ...
	Path string
	Err  error
}

func (e *FatalError) Error() string {
	return fmt.Sprintf("%s %s: %v; what is on disk is unknown, so the agent must end: check the disk (dmesg, SMART), then start it again", e.Op, e.Path, e.Err)
}

func (e *FatalError) Unwrap() error { return e.Err }

// DamageError reports bytes that were durable once and are not intact now. Opening changed nothing.
type DamageError struct {
	Path   string
	Offset int64  // in Path
	Seq    uint64 // of the first frame that is missing or bad; 0 if it is not about a frame
	Detail string
	Hint   string // what the operator does next

	Snapshot bool // it is about a snapshot: the log may be whole
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("damaged: %s at offset %d (frame %d): %s. %s", e.Path, e.Offset, e.Seq, e.Detail, e.Hint)
}

const (
	hintLog = "Nothing was changed and nothing may be cut by hand: acknowledged writes are missing. " +
		hintRejoin
	hintSnapshot = "Nothing was changed. " + hintRejoin

	hintRejoin = "Check the disk (dmesg, SMART). With other core members an agent heals this by itself: it fetches what is missing, " +
		"or comes back as a learner under a new raft id. If it cannot, give this host an empty data directory, keep the old one, and " +
		"let it rejoin with a token of 'parley token create --replace NODE --core', made on another one. If this was the only core " +
		"member, restore the directory from a backup."
)

// ForeignError reports files that belong to another cluster or another raft member.
type ForeignError struct {
	Path string
	Have string // what the files say
	Want string // what the caller said
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s belongs to %s, not to %s; point data_dir to this agent's own directory, nothing was changed", e.Path, e.Have, e.Want)
}

// readError makes damage of what the disk cannot read or has lost, and nothing more of other errors:
// a missing permission must not send anyone to remove a good log.
func readError(path string, err error, hint string) error {
	if errors.Is(err, syscall.EIO) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errTooLong) {
		return &DamageError{Path: path, Detail: err.Error(), Hint: hint}
	}
	return err
}

// isNoSpace reports whether err means that space, not the disk, is what failed.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// classify makes an I/O error of the log either retryable (no space, and nothing was synced) or fatal.
func classify(op, path string, err error) error {
	if isNoSpace(err) && op != "sync" {
		return fmt.Errorf("%s %s: %w (%w)", op, path, ErrNoSpace, err)
	}
	return &FatalError{Op: op, Path: path, Err: err}
}

// classifySoft is classify for files beside the log, where only a failed sync is fatal.
func classifySoft(op, path string, err error) error {
	if isNoSpace(err) || op == "sync" {
		return classify(op, path, err)
	}
	return fmt.Errorf("%s %s: %w", op, path, err)
}
