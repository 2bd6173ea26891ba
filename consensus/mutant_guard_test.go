//go:build mutants

package consensus

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

func TestMutantQuarantineAfterApplied(t *testing.T) {
	// A voter that has applied the command, and answered its client, agrees that it is left out.
	if _, undone := afterApplied(t); undone {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.QuarantineAfterApplied)
	defer mutant.Plant("")
	if _, undone := afterApplied(t); !undone {
		t.Error("quarantine-after-applied is not found")
	}
}
