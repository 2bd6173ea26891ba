//go:build mutants

package state

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

// A peer of an old epoch is refused, and the longest log does not win, unless a mistake is planted.
func TestEpochMutants(t *testing.T) {
	killed(t, mutant.AcceptOldEpoch, func() bool {
		return Epoch{Counter: 2, ID: [16]byte{2}}.Judge(Epoch{Counter: 1, ID: [16]byte{1}}) == EpochOlder
	})
	killed(t, mutant.RecoverLongestWins, func() bool {
		return !Survivor{LastTerm: 3, LastIndex: 10}.Before(Survivor{LastTerm: 2, LastIndex: 99})
	})
}
