//go:build mutants

package consensus

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

func TestMutantRelayUnauthenticated(t *testing.T) {
	// What a hub brings is believed without its origin's MAC: a leader commits what nobody else has.
	if acked, _ := forgedAck(t); acked {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.RelayUnauthenticated)
	defer mutant.Plant("")
	if acked, diverged := forgedAck(t); !acked || !diverged {
		t.Errorf("relay-unauthenticated is not found: acknowledged %v, diverged %v", acked, diverged)
	}
}
