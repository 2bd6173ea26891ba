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

var (
	flagMutant = flag.String("mutant", "", "the mistake that TestSeeds runs with, or those of TestMutants, by commas")
	flagBudget = flag.Duration("budget", 0, "CPU time after which TestMutants begins no other mistake, and says which it left out; 0: no limit")
	flagTurn   = flag.Uint64("turn", 0, "which mistake TestMutants begins with, so that within a budget all have their turn")
)

func plantFlag() string {
	mutant.Plant(mutant.Name(*flagMutant))
	return *flagMutant
}

// mutantSeeds and mutantTime are how many seeds, and how much of a processor, may be needed to find a mistake.
const (
	mutantSeeds = 400
	mutantTime  = 120 * time.Second
)

// elsewhere are the mistakes that a directed test of another package finds, under the same build tag.
var elsewhere = map[mutant.Name]string{
	mutant.DedupLost: "state", mutant.DedupWrongResult: "state", mutant.SnapshotWithoutDedup: "state", mutant.FencingNotMonotone: "state",
	mutant.DigestSkipsRow: "state", mutant.TornTailCounts: "consensus", mutant.PeerClaimWithoutMAC: "consensus", mutant.ReuseWipedID: "consensus",
	mutant.RelayUnauthenticated: "consensus",
	mutant.RecoverLongestWins:   "state", mutant.AcceptOldEpoch: "state", mutant.RareMisorder: "consensus", mutant.WatchDropsEvent: "state/watch",
}

// guards are mistakes of the apply guard: only runs with it can find them.
var guards = map[mutant.Name]bool{mutant.QuarantineAfterApplied: true, mutant.QuarantineDenial: true}

// unbuilt are names of mistakes in what the program does not do yet. They must not be taken for found.
var unbuilt []mutant.Name

// TestMutants: every planted mistake is found.
func TestMutants(t *testing.T) {
	defer mutant.Plant("")
	turn := int(*flagTurn % uint64(len(mutant.All))) //nolint:gosec // small
	began := cpuTime()
	for _, name := range slices.Concat(mutant.All[turn:], mutant.All[:turn]) {
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
		if *flagBudget > 0 && cpuTime()-began > *flagBudget {
			t.Logf("left out: %s", name)
			continue
		}
		t.Run(string(name), func(t *testing.T) {
			mutant.Plant(name)
			started := cpuTime()
			for seed := range uint64(mutantSeeds) {
				o := Options{Seed: 1 + seed, Nodes: 3 + 2*int((1+seed)%2), Poison: guards[name]}
				if r := Run(o); r.Err != nil {
					t.Logf("found by seed %d in %.1f CPU seconds: %v", o.Seed, (cpuTime() - started).Seconds(), strings.SplitN(r.Err.Error(), "\n", 2)[0])
					return
				}
				if cpuTime()-started > mutantTime {
					break
				}
			}
			t.Errorf("not found in %v of CPU time", mutantTime)
		})
	}
}
