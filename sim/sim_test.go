package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

var (
	flagSeeds  = flag.Int("seeds", 40, "how many seeds TestSeeds runs")
	flagSeed   = flag.Uint64("seed", 1, "the first seed")
	flagNodes  = flag.Int("nodes", 0, "3 or 5 members; 0: both by turns")
	flagThink  = flag.Duration("think", defaultThink, "a client's pause between operations, in the mean: with less of it a seed has more of them, and takes longer")
	flagPoison = flag.Bool("poison", false, "in two seeds of five commands crash replicas, under the apply guard")
	flagTrace  = flag.String("record", "", "file for what happens")
	flagWithin = flag.Duration("within", 0, "TestSeeds fails if the seeds take longer; 0: no limit")
	flagPart   = flag.Bool("part", false, "this process runs a block of the seeds of another one, and tells it what it has counted")
)

// everythingFrom is the number of seeds in which every kind of fault must have happened.
const everythingFrom = 100

// parallelFrom is the number of seeds from which several processes share the work, a block of seeds at a time: a process is
// started in a twentieth of a second, and who is done with a block takes the next, so that all are busy to the end.
const (
	parallelFrom = 100
	blockSeeds   = 10
)

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

// defaultThink leaves room for many seeds; those that are kept run with more load.
const defaultThink = 40 * time.Millisecond

// poisonous is what a run with poison has at least once.
func poisonous() []string {
	names := []string{
		"poison of a kind that is never left out", "command left out", "rebuilt behind a command", "promise not to apply",
		"apply journal lost", "crash found in the journal", "another program",
	}
	names = append(names, poisonScopes...)
	for _, way := range poisonWays {
		names = append(names, way.name)
	}
	return names
}

// TestPoison: under the apply guard a command that crashes replicas is left out by all or by none, whatever else goes wrong. It takes
// a hundred seeds, and up to three hundred for what happened in none of them: commands are left out in one of twenty.
func TestPoison(t *testing.T) {
	fired := map[string]int{}
	lacks := func() bool {
		return slices.ContainsFunc(poisonous(), func(name string) bool { return fired[name] == 0 })
	}
	for seed := uint64(1); seed <= 100 || seed <= 300 && lacks(); seed++ {
		if n := seed % 5; n != 0 && n != 3 {
			continue
		}
		for name, n := range runOne(t, Options{Seed: seed, Nodes: nodesOf(seed), Think: 75 * time.Millisecond, Poison: true}).Fired {
			fired[name] += n
		}
	}
	for _, name := range poisonous() {
		if fired[name] == 0 {
			t.Errorf("%q has not happened once", name)
		}
	}
}

// pinnedThinks are the pauses with which the seeds that are kept have failed: what a seed does depends on it.
var pinnedThinks = []time.Duration{25 * time.Millisecond, 75 * time.Millisecond, defaultThink}

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
	if think := cmp.Or(o.Think, 25*time.Millisecond); think != defaultThink {
		more += " -think " + think.String()
	}
	if o.Poison {
		more += " -poison"
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
	if *flagSeeds >= parallelFrom && !*flagPart {
		all = shared(t)
	} else {
		all = alone(t)
	}
	if t.Failed() {
		return
	}
	if *flagPart {
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
		"connection refused", "clock set back", "taken over unheard", "read by lease", "read by round", "memory flipped", "command miscomputed", "rebuilt from the majority",
	}
	if *flagPoison {
		names = append(names, poisonous()...)
	}
	if seeds >= 10*everythingFrom { // what many seeds have seldom
		names = append(names, "led by way of a hub", "lie: acknowledgement forged", "lie: envelope changed", "lie: envelope brought twice", "lie: envelope lost",
			"id assigned")
		if *flagPoison {
			names = append(names, "left to an operator")
		}
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

// gcPercent: what is alive in a run is ten to thirty megabytes, and each collection looks at all of it. Collected less often
// it spreads over more memory than the caches hold, and each page has to be asked for. With large caches 700 takes a tenth less
// than 300 and 1400 no less than that; with small ones, and half as much garbage again, 1600 took a tenth more.
const gcPercent = 700

func alone(t *testing.T) tally {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	if flag.Lookup("test.memprofile").Value.String() == "" {
		runtime.MemProfileRate = 0 // nobody wants to know, and each half megabyte costs a stack trace
	}
	all := tally{Fired: map[string]int{}}
	began := cpuTime()
	for i := range uint64(*flagSeeds) { //nolint:gosec // not negative
		seed := *flagSeed + i
		r := runOne(t, Options{Seed: seed, Nodes: nodesOf(seed), Think: *flagThink, Poison: *flagPoison})
		if r.Operations < 2000 && r.Err == nil {
			t.Errorf("seed %d: only %d operations", seed, r.Operations)
		}
		all.add(tally{Seeds: 1, Operations: r.Operations, Fired: r.Fired})
		if t.Failed() {
			return all
		}
	}
	all.CPU = cpuTime() - began
	if *flagPart {
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
		t.Errorf("seed %d of %d nodes: %v\n%s\nWhen it is mended, keep the seed for ever: add %q and what was wrong to sim/testdata/seeds.\n%s",
			r.Seed, r.Nodes, r.Err, evidence(o, r), fmt.Sprintf("%d %d", r.Nodes, r.Seed), lastWord)
	}
	return r
}

// evidence says where what a failed run left is: beside the file that -record names, else in a new directory.
func evidence(o Options, r Result) string {
	dir, err := filepath.Dir(*flagTrace), error(nil)
	if *flagTrace == "" {
		dir, err = os.MkdirTemp("", "parley-sim-")
	}
	said := ""
	if err == nil {
		o.Nodes = r.Nodes
		said, err = keepEvidence(o, r.Err, dir)
	}
	if err != nil {
		return "what it did could not be kept: " + err.Error()
	}
	return said
}

// shared lets one process for each core run a block of the seeds after the other: raft's randomness is the process's.
func shared(t *testing.T) tally {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if *flagWithin > 0 {
		ctx, cancel = context.WithTimeout(ctx, *flagWithin)
		defer cancel()
	}
	blocks, parts := make(chan int), make(chan part)
	go func() {
		defer close(blocks)
		for first := 0; first < *flagSeeds; first += blockSeeds {
			select {
			case blocks <- first:
			case <-ctx.Done():
				return
			}
		}
	}()
	var workers sync.WaitGroup
	for range max(1, runtime.NumCPU()) {
		workers.Go(func() {
			for first := range blocks {
				parts <- runBlock(ctx, first)
			}
		})
	}
	go func() {
		workers.Wait()
		close(parts)
	}()
	all := tally{Fired: map[string]int{}}
	for p := range parts {
		switch {
		case p.err != nil && ctx.Err() == nil:
			t.Errorf("%v:\n%s", p.err, p.out)
			lastWord = p.lastWord()
			cancel() // one is enough
		case p.err == nil:
			all.add(p.tally)
		}
	}
	if all.Seeds != *flagSeeds && !t.Failed() {
		t.Errorf("%d of %d seeds were run", all.Seeds, *flagSeeds)
		lastWord = fmt.Sprintf("only %d of %d seeds in %v: this machine is slow or busy, or the simulator has become slower. Compare the CPU seconds "+
			"a seed that this prints with those of an earlier commit, on the same machine: go test -v ./sim -run '^TestSeeds$' -seeds 60", all.Seeds, *flagSeeds, *flagWithin)
	}
	return all
}

// part is what one process did.
type part struct {
	tally
	out []byte
	err error
}

// runBlock runs the seeds from the place first of all on.
func runBlock(ctx context.Context, first int) (p part) {
	args := []string{"-test.run", "^TestSeeds$", "-test.timeout", "0", "-seeds", strconv.Itoa(min(blockSeeds, *flagSeeds-first)),
		"-seed", strconv.FormatUint(*flagSeed+uint64(first), 10), "-nodes", strconv.Itoa(*flagNodes), "-think", flagThink.String(), "-poison=" + strconv.FormatBool(*flagPoison), "-part"} //nolint:gosec // not negative
	if m := plantFlag(); m != "" {
		args = append(args, "-mutant", m)
	}
	if p.out, p.err = exec.CommandContext(ctx, os.Args[0], args...).CombinedOutput(); p.err != nil { //nolint:gosec // this program
		return p
	}
	for line := range bytes.Lines(p.out) {
		if found, ok := bytes.CutPrefix(line, []byte("tally ")); ok {
			p.err = json.Unmarshal(found, &p.tally)
		}
	}
	return p
}

// lastWord is the line that says how to replay what failed, "" if there is none.
func (p part) lastWord() (line string) {
	for l := range bytes.Lines(p.out) {
		if bytes.HasPrefix(l, []byte(replayMark)) {
			line = strings.TrimSpace(string(l))
		}
	}
	return line
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
		for _, o.Think = range pinnedThinks {
			o.Poison = false
			runOne(t, o)
			if n := o.Seed % 5; n == 0 || n == 3 {
				o.Poison = true
				runOne(t, o)
			}
		}
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
