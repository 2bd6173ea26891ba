package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

var (
	flagSeeds  = flag.Int("seeds", 40, "how many seeds TestSeeds runs")
	flagSeed   = flag.Uint64("seed", 1, "the first seed")
	flagNodes  = flag.Int("nodes", 0, "3 or 5 members; 0: both by turns")
	flagTrace  = flag.String("record", "", "file for what happens")
	flagStride = flag.Uint64("stride", 1, "distance between seeds: TestSeeds runs several processes beside each other")
)

// everythingFrom is the number of seeds in which every kind of fault must have happened.
const everythingFrom = 100

// parallelFrom is the number of seeds from which several processes share the work.
const parallelFrom = 100

// tally sums up runs.
type tally struct {
	Seeds      int
	Operations int
	CPU        time.Duration // that the processes used
	Fired      map[string]int
}

func (t *tally) add(o tally) {
	t.Seeds += o.Seeds
	t.Operations += o.Operations
	t.CPU += o.CPU
	for what, n := range o.Fired {
		t.Fired[what] += n
	}
}

// nodesOf is how many members a seed's core has unless the flag says otherwise.
func nodesOf(seed uint64) int {
	if *flagNodes != 0 {
		return *flagNodes
	}
	return 3 + 2*int(seed%2)
}

// replay is the one command that runs a seed again, with the commit that it says something about.
func replay(o Options) string {
	more := ""
	if m := plantFlag(); m != "" {
		more += " -tags mutants -mutant " + m
	}
	return fmt.Sprintf("%s %s: go test ./sim -run '^TestSeeds$' -seeds 1 -seed %d -nodes %d%s", replayMark, commit(), o.Seed, o.Nodes, more)
}

const replayMark = "replay at commit"

// commit is what is checked out, "unknown" without git.
func commit() string {
	head, err := exec.CommandContext(context.Background(), "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(head))
	if changed, err := exec.CommandContext(context.Background(), "git", "status", "--porcelain", "--untracked-files=no").Output(); err != nil || len(changed) > 0 {
		name += " (changed since)"
	}
	return name
}

// lastWord is how to replay the seed that failed last, "" if none did.
var lastWord string

// TestMain prints it at the very end.
func TestMain(m *testing.M) {
	code := m.Run()
	if lastWord != "" {
		fmt.Println(lastWord)
	}
	os.Exit(code)
}

// TestSeeds runs -seeds seeds from -seed on.
func TestSeeds(t *testing.T) {
	started := time.Now()
	var all tally
	if *flagSeeds >= parallelFrom && *flagStride == 1 {
		all = shared(t)
	} else {
		all = alone(t)
	}
	if t.Failed() {
		return
	}
	if *flagStride > 1 {
		return // whoever shares the work says it
	}
	took := time.Since(started)
	if all.Seeds >= everythingFrom {
		for _, name := range slices.Sorted(maps.Keys(all.Fired)) {
			t.Logf("%8d  %s", all.Fired[name], name)
		}
		for _, name := range everything(all.Seeds) {
			if all.Fired[name] == 0 {
				t.Errorf("%q has not happened once in %d seeds", name, all.Seeds)
			}
		}
	}
	t.Logf("%d seeds, %d operations checked, %.0f a second, in %v; %.0f a CPU second, %.2f CPU seconds a seed", all.Seeds, all.Operations,
		float64(all.Operations)/took.Seconds(), took.Round(time.Second), float64(all.Operations)/all.CPU.Seconds(), all.CPU.Seconds()/float64(all.Seeds))
}

// everything lists what must happen at least once in a run of many seeds.
func everything(seeds int) []string {
	names := []string{
		"damage: tail zeroed", "damage: last frame spoiled", "damage seen", "log repaired", "end of the log in doubt", "repair needed", "frame cut off", "frame dropped", "frame duplicated", "frame reordered", "plan: change",
		"outcome unknown", "ended amid an operation", "I/O error: write", "I/O error: sync", "I/O error: read", "rejoin under a new id", "snapshot restored",
		"memory flipped", "command miscomputed", "rebuilt from the majority",
	}
	if seeds >= 10*everythingFrom { // what many seeds have seldom
		names = append(names, "led by way of a hub", "lie: acknowledgement forged", "lie: envelope changed", "lie: envelope brought twice", "lie: envelope lost")
	}
	for _, f := range slices.Concat(faults, attacks, damages, memoryFaults) {
		names = append(names, f.name)
	}
	for _, kind := range damageKinds {
		names = append(names, kind.name)
	}
	names = append(names, crashNames...)
	for _, point := range slices.Concat(consensus.RarePoints(), storage.RarePoints()) {
		names = append(names, "rare: "+point)
	}
	return names
}

func alone(t *testing.T) tally {
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	all := tally{Fired: map[string]int{}}
	began := cpuTime()
	for i := range uint64(*flagSeeds) { //nolint:gosec // not negative
		seed := *flagSeed + i**flagStride
		r := runOne(t, Options{Seed: seed, Nodes: nodesOf(seed)})
		if r.Operations < 2000 && r.Err == nil {
			t.Errorf("seed %d: only %d operations", seed, r.Operations)
		}
		all.add(tally{Seeds: 1, Operations: r.Operations, Fired: r.Fired})
		if t.Failed() {
			return all
		}
	}
	all.CPU = cpuTime() - began
	if *flagStride > 1 {
		line, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("tally %s\n", line)
	}
	return all
}

func runOne(t *testing.T, o Options) Result {
	t.Helper()
	plantFlag()
	if *flagTrace != "" {
		f, err := os.Create(*flagTrace)
		if err != nil {
			t.Fatal(err)
		}
		w := bufio.NewWriter(f)
		defer func() {
			if err := w.Flush(); err != nil {
				t.Error(err)
			}
			_ = f.Close() // flushed
		}()
		o.Trace = func(line string) { _, _ = w.WriteString(line) } // Flush says it
	}
	r := Run(o)
	if r.Err != nil {
		lastWord = replay(o)
		t.Errorf("seed %d of %d nodes: %v\nWhen it is mended, keep the seed for ever: add %q and what was wrong to sim/testdata/seeds.\n%s",
			r.Seed, r.Nodes, r.Err, fmt.Sprintf("%d %d", r.Nodes, r.Seed), lastWord)
	}
	return r
}

// shared lets one process for each core run its part of the seeds: raft's randomness is the process's.
func shared(t *testing.T) tally {
	workers := uint64(max(1, runtime.NumCPU())) //nolint:gosec // a few
	type part struct {
		out []byte
		err error
	}
	parts := make(chan part, workers)
	for i := range workers {
		count := (uint64(*flagSeeds) + workers - 1 - i) / workers //nolint:gosec // not negative
		args := []string{"-test.run", "^TestSeeds$", "-test.timeout", "0", "-seeds", strconv.FormatUint(count, 10),
			"-seed", strconv.FormatUint(*flagSeed+i, 10), "-nodes", strconv.Itoa(*flagNodes), "-stride", strconv.FormatUint(workers, 10)}
		if m := plantFlag(); m != "" {
			args = append(args, "-mutant", m)
		}
		go func() {
			out, err := exec.CommandContext(t.Context(), os.Args[0], args...).CombinedOutput() //nolint:gosec // this program
			parts <- part{out, err}
		}()
	}
	all := tally{Fired: map[string]int{}}
	for range workers {
		p := <-parts
		if p.err != nil {
			t.Errorf("%v:\n%s", p.err, p.out)
			for line := range bytes.Lines(p.out) {
				if bytes.HasPrefix(line, []byte(replayMark)) {
					lastWord = strings.TrimSpace(string(line))
				}
			}
			continue
		}
		for line := range bytes.Lines(p.out) {
			if found, ok := bytes.CutPrefix(line, []byte("tally ")); ok {
				one := tally{}
				if err := json.Unmarshal(found, &one); err != nil {
					t.Error(err)
				}
				all.add(one)
			}
		}
	}
	if all.Seeds != *flagSeeds && !t.Failed() {
		t.Errorf("%d of %d seeds were run", all.Seeds, *flagSeeds)
	}
	return all
}

// TestPinnedSeeds: seeds that failed once go well.
func TestPinnedSeeds(t *testing.T) {
	data, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		var o Options
		if _, err := fmt.Sscan(line, &o.Nodes, &o.Seed); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		runOne(t, o)
	}
}

// TestSameTrace: a seed is the same in every process, to the byte.
func TestSameTrace(t *testing.T) {
	var traces [2][]byte
	for i := range traces {
		path := t.TempDir() + "/trace"
		out, err := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSeeds$", "-seeds", "1", "-seed", "21", "-record", path).CombinedOutput() //nolint:gosec // this program
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if traces[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if len(traces[0]) < 1000 || !bytes.Equal(traces[0], traces[1]) {
		t.Errorf("two runs of one seed differ, or say too little: %d and %d bytes", len(traces[0]), len(traces[1]))
	}
	other := Run(Options{Seed: 22, Nodes: 3})
	if again := Run(Options{Seed: 22, Nodes: 3}); other.Trace != again.Trace || other.Trace == Run(Options{Seed: 23, Nodes: 3}).Trace {
		t.Errorf("traces %s and %s of one seed", other.Trace, again.Trace)
	}
}
