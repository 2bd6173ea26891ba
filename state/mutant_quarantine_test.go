//go:build mutants

package state

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

func TestMutantQuarantineDenial(t *testing.T) {
	// The revocation of a token could be left out, and whoever stole it goes on.
	revoke, err := Encode(Envelope{Command: TokenRevoke{ID: "0123456789abcdef"}}, Version)
	if err != nil {
		t.Fatal(err)
	}
	if Quarantinable(revoke) {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.QuarantineDenial)
	defer mutant.Plant("")
	if !Quarantinable(revoke) {
		t.Error("quarantine-denial is not found")
	}
}
