package sim

import (
	"flag"
	"runtime/debug"
	"testing"
	"time"
)

var (
	flagSeeds = flag.Int("seeds", 0, "how many seeds TestSeeds runs")
	flagSeed  = flag.Uint64("seed", 1, "the first seed")
	flagNodes = flag.Int("nodes", 0, "3 or 5 members; both by turns if 0")
	flagTrace = flag.Bool("v.trace", false, "print what happens")
)

func TestSeeds(t *testing.T) {
	plantFlag()
	n := *flagSeeds
	if n == 0 {
		n = 40
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	started, ops := time.Now(), 0
	fired := map[string]int{}
	for i := range n {
		o := Options{Seed: *flagSeed + uint64(i), Nodes: *flagNodes}
		if o.Nodes == 0 {
			o.Nodes = 3 + 2*int(o.Seed%2)
		}
		if *flagTrace {
			o.Trace = func(s string) { print(s) }
		}
		r := Run(o)
		ops += r.Operations
		for k, v := range r.Fired {
			fired[k] += v
		}
		if r.Err != nil {
			t.Fatalf("seed %d of %d nodes: %v\nreplay: go test ./sim -run '^TestSeeds$' -seeds 1 -seed %d -nodes %d", r.Seed, r.Nodes, r.Err, r.Seed, r.Nodes)
		}
	}
	took := time.Since(started)
	t.Logf("%d seeds, %d operations, %.0f a second, fired %v", n, ops, float64(ops)/took.Seconds(), fired)
}
