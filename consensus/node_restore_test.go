package consensus

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/parley-mesh/parley/clock"
)

// oneSnapshot hands out one reader.
type oneSnapshot struct {
	Snapshots
	from io.Reader
	err  error
}

func (s oneSnapshot) Open([]byte) (io.ReadCloser, error) { return io.NopCloser(s.from), s.err }

// readingMachine restores by reading all, and then fails with err.
type readingMachine struct {
	StateMachine
	err error
}

func (m readingMachine) Restore(r io.Reader, _, _ uint64) error {
	if _, err := io.ReadAll(r); err != nil {
		return err
	}
	return m.err
}

// A disk that does not give a snapshot back ends the process, which starts again and mends it, and so does a snapshot with wrong
// rows in it, which the next start does without. One of a later version stops applying only: the next start would find the same.
func TestUnreadableSnapshotEndsTheNode(t *testing.T) {
	whole, broken := strings.NewReader("rows"), iotest.ErrReader(errors.New("input/output error"))
	later := errors.New("unknown table")
	for _, tt := range []struct {
		name     string
		snaps    oneSnapshot
		fails    error
		ends     bool
		unusable bool
	}{
		{"a read fails", oneSnapshot{from: broken}, nil, true, false},
		{"it cannot be opened", oneSnapshot{from: whole, err: errors.New("permission denied")}, nil, true, false},
		{"its rows are wrong", oneSnapshot{from: whole}, errors.New("row twice"), true, true},
		{"it is of a later version", oneSnapshot{from: whole}, later, false, false},
	} {
		o := Options{Snapshots: tt.snaps, Machine: readingMachine{err: tt.fails}, MachineStamp: func() clock.Stamp { return 0 },
			Later: func(err error) bool { return errors.Is(err, later) }}
		_, err := restoreMachine(o, SnapshotRef{Index: 7, Manifest: []byte("seven")})
		switch {
		case err == nil:
			t.Errorf("%s: restored", tt.name)
		case unreadable(err) != tt.ends:
			t.Errorf("%s: ends the node: %v, want %v: %v", tt.name, !tt.ends, tt.ends, err)
		}
		var unusable *UnusableSnapshotError
		if got := errors.As(err, &unusable); got != tt.unusable || got && (unusable.Index != 7 || string(unusable.Manifest) != "seven") {
			t.Errorf("%s: unusable: %v, %v", tt.name, got, err)
		}
	}
}
