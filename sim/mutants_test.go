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

// TestMutants: every planted mistake is found.
func TestMutants(t *testing.T) {
	defer mutant.Plant("")
	for _, name := range mutant.All {
		if *flagMutant != "" && !slices.Contains(strings.Split(*flagMutant, ","), string(name)) {
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
				if time.Since(started) > 25*time.Second {
					break
				}
			}
			t.Errorf("not found in %v", time.Since(started))
		})
	}
}
