//go:build mutants

package sim

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

// TestMutantLyingHub: with a receiver that believes what has no MAC of its origin, the lies of a hub are found out.
func TestMutantLyingHub(t *testing.T) {
	mutant.Plant(mutant.RelayUnauthenticated)
	defer mutant.Plant("")
	const seeds = 20
	for seed := range uint64(seeds) {
		if _, err := lyingHub(t, seed); err != nil {
			t.Logf("found by seed %d: %v", seed, err)
			return
		}
	}
	t.Errorf("relay-unauthenticated is not found in %d runs", seeds)
}
