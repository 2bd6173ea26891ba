//go:build mutants

package consensus

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

func TestMutantTornTailCounts(t *testing.T) {
	// A last frame that is not whole is cut and forgotten: the voter elects somebody without what it acknowledged.
	if _, elected := votesInDoubt(t, "torn"); elected {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.TornTailCounts)
	defer mutant.Plant("")
	if _, elected := votesInDoubt(t, "torn"); !elected {
		t.Error("torn-tail-counts is not found")
	}
}

func TestMutantPeerClaimWithoutMAC(t *testing.T) {
	// Whoever says that we acknowledged more is believed: one lying peer stops all others.
	if forgedClaimStops(t) {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.PeerClaimWithoutMAC)
	defer mutant.Plant("")
	if !forgedClaimStops(t) {
		t.Error("peer-claim-without-mac is not found")
	}
}

func TestMutantReuseWipedID(t *testing.T) {
	// A member that lost its log starts anew under its old id: it votes as if it had never acknowledged anything.
	if wipedIDVotes(t) {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(mutant.ReuseWipedID)
	defer mutant.Plant("")
	if !wipedIDVotes(t) {
		t.Error("reuse-wiped-id is not found")
	}
}
