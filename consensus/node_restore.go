package consensus

import (
	"errors"
	"fmt"
	"io"

	"github.com/parley-mesh/parley/clock"
)

// unreadableError says that the disk did not give a snapshot back. That is no command that cannot be applied: the process
// ends, and its next start looks after the disk.
type unreadableError struct{ error }

func (e *unreadableError) Unwrap() error { return e.error }

// unreadable reports whether a snapshot is what was wrong, and the next start may find a way around it.
func unreadable(err error) bool {
	return errors.As(err, new(*unreadableError)) || errors.As(err, new(*UnusableSnapshotError))
}

// watchedReader tells afterwards whether it was the disk that failed.
type watchedReader struct {
	io.Reader
	failed bool
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.failed = r.failed || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

// restoreMachine loads the snapshot into the machine and returns the newest stamp in it.
func restoreMachine(o Options, ref SnapshotRef) (clock.Stamp, error) {
	if ref.Index == 0 {
		return 0, nil
	}
	r, err := o.Snapshots.Open(ref.Manifest)
	if err != nil {
		return 0, &unreadableError{fmt.Errorf("consensus: open snapshot at %d: %w", ref.Index, err)}
	}
	from := &watchedReader{Reader: r}
	err = o.Machine.Restore(from, ref.Index, ref.Term)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	switch {
	case err == nil:
	case !from.failed && !o.Later(err):
		return 0, &UnusableSnapshotError{Index: ref.Index, Manifest: ref.Manifest, Cause: err}
	default:
		err = fmt.Errorf("consensus: restore snapshot at %d: %w", ref.Index, err)
		if from.failed {
			err = &unreadableError{err}
		}
		return 0, err
	}
	return o.MachineStamp(), nil
}
