package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/parley-mesh/parley/mutant"
)

// EpochBytes is the size of an encoded Epoch.
const EpochBytes = 8 + 16

// String is for people and files: the counter, a space, the id in hex.
func (e Epoch) String() string { return fmt.Sprintf("%d %s", e.Counter, hex.EncodeToString(e.ID[:])) }

// ParseEpoch reads what String wrote.
func ParseEpoch(text string) (e Epoch, err error) {
	var id []byte
	if _, err := fmt.Sscanf(text, "%d %x", &e.Counter, &id); err != nil || len(id) != len(e.ID) {
		return Epoch{}, fmt.Errorf("%q is not an epoch: a number and 32 hex digits", text)
	}
	copy(e.ID[:], id)
	return e, nil
}

// Append encodes the epoch in EpochBytes.
func (e Epoch) Append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, e.Counter), e.ID[:]...)
}

// CutEpoch takes an encoded epoch from the front of b.
func CutEpoch(b []byte) (e Epoch, rest []byte, ok bool) {
	if len(b) < EpochBytes {
		return e, b, false
	}
	e.Counter = binary.BigEndian.Uint64(b)
	copy(e.ID[:], b[8:])
	return e, b[EpochBytes:], true
}

// EpochVerdict is what one agent thinks of another by their epochs.
type EpochVerdict string

// The verdicts. Only EpochSame lets the other take part in what the core does.
const (
	EpochSame  EpochVerdict = "same"
	EpochOlder EpochVerdict = "older" // the other has missed a recovery
	EpochNewer EpochVerdict = "newer" // this agent may have missed one; the other has to prove it
	EpochSplit EpochVerdict = "split" // two recoveries went on from the same epoch: a person has to decide
)

// Judge compares the newest epoch that this agent knows with that of another. An agent that knows none yet, counter 0,
// is behind.
func (e Epoch) Judge(other Epoch) EpochVerdict {
	switch {
	case other.Counter < e.Counter:
		if mutant.On(mutant.AcceptOldEpoch) {
			return EpochSame
		}
		return EpochOlder
	case other.Counter > e.Counter:
		return EpochNewer
	case !bytes.Equal(other.ID[:], e.ID[:]):
		return EpochSplit
	}
	return EpochSame
}

// Survivor is where the log of a member ends whose disk is left.
type Survivor struct {
	Node                string
	LastTerm, LastIndex uint64
}

// Before reports whether o's log may hold acknowledged writes that s's does not: the order in which Raft elects. A log
// that is longer and ends in an earlier term holds what nobody acknowledged.
func (s Survivor) Before(o Survivor) bool {
	if mutant.On(mutant.RecoverLongestWins) {
		return s.LastIndex < o.LastIndex
	}
	if s.LastTerm != o.LastTerm {
		return s.LastTerm < o.LastTerm
	}
	return s.LastIndex < o.LastIndex
}
