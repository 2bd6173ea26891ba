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

// A disk that does not give a snapshot back ends the process, which starts again and mends it. A snapshot that this
// program cannot use stops applying only: the next start would find the same.
func TestUnreadableSnapshotEndsTheNode(t *testing.T) {
	whole, broken := strings.NewReader("rows"), iotest.ErrReader(errors.New("input/output error"))
	for _, tt := range []struct {
		name  string
		snaps oneSnapshot
		fails error
		ends  bool
	}{
		{"a read fails", oneSnapshot{from: broken}, nil, true},
		{"it cannot be opened", oneSnapshot{from: whole, err: errors.New("permission denied")}, nil, true},
		{"it is of a later version", oneSnapshot{from: whole}, errors.New("unknown table"), false},
	} {
		o := Options{Snapshots: tt.snaps, Machine: readingMachine{err: tt.fails}, MachineStamp: func() clock.Stamp { return 0 }}
		switch _, err := restoreMachine(o, SnapshotRef{Index: 7}); {
		case err == nil:
			t.Errorf("%s: restored", tt.name)
		case unreadable(err) != tt.ends:
			t.Errorf("%s: ends the node: %v, want %v: %v", tt.name, !tt.ends, tt.ends, err)
		}
	}
}
