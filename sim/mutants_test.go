//go:build mutants

package sim

import (
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/mutant"
)

var flagMutant = flag.String("mutant", "", "the mistake that TestSeeds runs with")

func plantFlag() string {
	mutant.Plant(mutant.Name(*flagMutant))
	return *flagMutant
}

// mutantSeeds is how many seeds may be needed to find a mistake.
const mutantSeeds = 400

// elsewhere are the mistakes that a directed test of another package finds, under the same build tag.
var elsewhere = map[mutant.Name]string{
	mutant.DedupLost: "state", mutant.DedupWrongResult: "state", mutant.SnapshotWithoutDedup: "state", mutant.FencingNotMonotone: "state",
	mutant.DigestSkipsRow: "state", mutant.TornTailCounts: "consensus", mutant.PeerClaimWithoutMAC: "consensus", mutant.ReuseWipedID: "consensus",
	mutant.RelayUnauthenticated: "consensus", mutant.QuarantineDenial: "state", mutant.QuarantineAfterApplied: "consensus",
	mutant.RecoverLongestWins: "state", mutant.AcceptOldEpoch: "state", mutant.WatchDropsEvent: "state/watch",
}

// unbuilt are names of mistakes in what the program does not do yet. They must not be taken for found.
var unbuilt []mutant.Name

// TestMutants: every planted mistake is found.
func TestMutants(t *testing.T) {
	defer mutant.Plant("")
	for _, name := range mutant.All {
		if *flagMutant != "" && !slices.Contains(strings.Split(*flagMutant, ","), string(name)) {
			continue
		}
		if slices.Contains(unbuilt, name) {
			t.Logf("%s: not built, not found", name)
			continue
		}
		if elsewhere[name] != "" && *flagMutant == "" {
			continue
		}
		t.Run(string(name), func(t *testing.T) {
			mutant.Plant(name)
			started := time.Now()
			for seed := range uint64(mutantSeeds) {
				o := Options{Seed: 1 + seed, Nodes: 3 + 2*int((1+seed)%2)}
				if r := Run(o); r.Err != nil {
					t.Logf("found by seed %d (the %d.) in %v: %v", o.Seed, seed+1, time.Since(started).Round(10*time.Millisecond), r.Err)
					return
				}
				if time.Since(started) > 120*time.Second {
					break
				}
			}
			t.Errorf("not found in %v", time.Since(started))
		})
	}
}
