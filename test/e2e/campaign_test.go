//go:build linux

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

var (
	flagKills = flag.Int("kills", 20, "how often TestCampaign kills an agent, or all at once")
	flagCore  = flag.Int("core", 3, "members of the core in TestCampaign: 3 or 5")
)

const (
	campaignBack   = 40 * time.Second // for answers through every agent to come back after a fault
	campaignWhole  = 60 * time.Second // for all to be alive and the core to have its members
	campaignDiskMB = 512              // of the two agents that have a disk of their own
	syncFailsSoon  = 15 * time.Second // from EIO being injected to the end of the process

	campaignOpsPerKill = 250 // at least, on the average
)

// campaignTraffic keeps each key's history short, so that judging it stays cheap however long the run is.
var campaignTraffic = kvTraffic{
	keys: 12, opsPerKey: 200, deletes: true,
	mayRefuse: []string{api.CodeNoSpace, client.CodeInterrupted},
}

// TestCampaign: five agents on a network of their own, clients that get, put, compare-and-set and delete through all of
// them, and faults in an order that the seed decides: kill -9 of one agent or of all at once, a leader that is stopped and
// goes on, a network that drops one direction, a full disk, a sync that fails. Whatever happens, the histories that the
// clients saw are linearizable, no acknowledged write is lost, all replicas are equal and no term has two leaders. What the
// checks are worth is shown on the same histories: what is planted in them is found.
//
//	make campaign KILLS=200 CORE=5 [SEED=7] [MUTANT=cas-ignored]
func TestCampaign(t *testing.T) {
	mayMount(t)
	mayTrace(t)
	c := startCampaign(t)
	deck := c.deck(*flagKills)
	t.Logf("seed %d, core of %d, %d faults", c.h.seed, *flagCore, len(deck))
	for i, name := range deck {
		if c.strike(i+1, len(deck), name); t.Failed() {
			return
		}
	}
	c.settle()
	t.Logf("faults done: %s", c.tally())
	c.h.end()
	c.h.readAll(c.clients)
	c.h.explain(t)
	c.judge()
	if !t.Failed() {
		c.controls()
	}
}

// campaign is one run.
type campaign struct {
	t       *testing.T
	l       *lab.Lab
	n       *network
	clients map[string]*client.Client
	h       *history
	leaders *leaderWatch
	rng     *rand.Rand
	small   []*lab.Agent // those with a disk of their own
	counts  map[string]int
	judged  int // keys that were judged during the run
	checked int // operations on them
}

// faults are all kinds, and what each does.
var campaignFaults = map[string]func(*campaign) string{
	"kill one":     (*campaign).killOne,
	"kill all":     (*campaign).killAll,
	"stop leader":  (*campaign).stopLeader,
	"one-way cut":  (*campaign).cutOneWay,
	"full disk":    (*campaign).fillDisk,
	"failing sync": (*campaign).failSync,
}

func startCampaign(t *testing.T) *campaign {
	t.Helper()
	if *flagCore != 3 && *flagCore != 5 || *flagKills < 1 {
		t.Fatalf("-core %d -kills %d: a core has 3 or 5 members, and there is at least one kill", *flagCore, *flagKills)
	}
	dir, err := os.MkdirTemp("", "parley-campaign-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the agents had, and the clients saw, is kept in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{
		Dir: dir, Keep: true, Core: true, ReplaceAfter: 10 * time.Minute, Place: n.place,
		Settings: map[string]string{"core.segment_mib": "16", "safe_mode.window": killedOften},
	})
	c := &campaign{t: t, l: l, n: n, clients: clientsOf(t, l), counts: make(map[string]int)}
	if err := c.clients["a1"].SetCoreSize(t.Context(), *flagCore); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*lab.Agent{l.Agents[1], l.Agents[2]} {
		toTmpfs(t, l, a, campaignDiskMB)
		t.Cleanup(func() { keepDisk(t, l, a) })
		c.small = append(c.small, a)
		c.whole()
	}
	c.leaders = watchLeaders(t, c.clients)
	c.h = startTraffic(t, c.clients, campaignTraffic)
	t.Cleanup(c.keepHistories)
	c.rng = rand.New(rand.NewPCG(c.h.seed, 1<<32)) //nolint:gosec // nothing secret
	c.h.progress(t, 100)
	return c
}

// keepDisk copies what a failed run left on a disk in memory.
func keepDisk(t *testing.T, l *lab.Lab, a *lab.Agent) {
	if !t.Failed() {
		return
	}
	kill(t, l, a.Name)
	_ = os.Remove(ballast(a)) // the full disk of a run that failed then
	if out, err := exec.Command("cp", "-a", a.DataDir, a.DataDir+".kept").CombinedOutput(); err != nil {
		t.Logf("copy the disk of %s: %v: %s", a.Name, err, out)
	}
}

// keepHistories writes down what the clients of a failed run saw.
func (c *campaign) keepHistories() {
	if !c.t.Failed() {
		return
	}
	path := filepath.Join(c.l.Dir, "history.txt")
	if err := c.h.dump(path); err != nil {
		c.t.Error(err)
	}
}

// mayTrace skips where a process cannot be traced.
func mayTrace(t *testing.T) {
	t.Helper()
	need(t, found("strace"), "strace (apt-get install strace)")
	out, err := exec.Command("strace", "-o", os.DevNull, "-e", "inject=fdatasync:error=EIO", "true").CombinedOutput()
	need(t, err == nil, fmt.Sprintf("the right to trace processes (strace: %v: %s)", err, out))
}

// deck is the order of the faults: every fifth kill is one of all, and for every ten kills there is one fault of each
// other kind, at least two.
func (c *campaign) deck(kills int) []string {
	var deck []string
	for i := range kills {
		deck = append(deck, map[bool]string{true: "kill all", false: "kill one"}[i%5 == 4])
	}
	for range max(2, kills/10) {
		deck = append(deck, "stop leader", "one-way cut", "full disk", "failing sync")
	}
	c.rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// strike does one fault, waits until answers are back through every agent, and judges the keys that are out of use since.
// Only sometimes it waits until all is whole: the next fault finds the last one's traces.
func (c *campaign) strike(number, of int, name string) {
	c.t.Helper()
	began := time.Now()
	what := campaignFaults[name](c)
	c.counts[name]++
	c.answers(c.n.all(), 20)
	if c.rng.IntN(3) == 0 {
		c.whole()
	}
	hold(c.between(0, time.Second)) // the load alone, so that the next fault may come at any moment of it
	for key, result := range c.h.judgeRetired() {
		c.judged++
		c.checked += len(c.h.of(key))
		if result != porcupine.Ok {
			c.t.Errorf("%s: %s; %s", key, result, c.h.visualize(c.t, key))
		}
	}
	c.t.Logf("%d of %d, %s: %s; back after %s in all; %d operations answered, %d on %d keys judged",
		number, of, name, what, time.Since(began).Round(time.Millisecond), c.h.completed(), c.checked, c.judged)
}

func (c *campaign) tally() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, c.counts[name]))
	}
	return strings.Join(parts, ", ")
}

// between is a random time.
func (c *campaign) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.rng.Int64N(int64(to-from)))
}

func (c *campaign) killOne() string {
	c.t.Helper()
	victim := c.l.Agents[c.rng.IntN(len(c.l.Agents))].Name
	down := c.rng.IntN(2) == 0 // long enough to be missed
	kill(c.t, c.l, victim)
	if down {
		c.answers(c.n.without(victim), 10)
	}
	c.restart(victim)
	return victim
}

func (c *campaign) killAll() string {
	c.t.Helper()
	c.together(c.n.all(), func(name string) error { return c.l.Kill(name, syscall.SIGKILL) })
	c.restart(c.n.all()...)
	return "all five"
}

func (c *campaign) stopLeader() string {
	c.t.Helper()
	leader, held := agentInRole(c.t, c.clients, "leader"), c.between(time.Second, 5*time.Second)
	sendSignal(c.t, c.l, leader, syscall.SIGSTOP)
	hold(held)
	sendSignal(c.t, c.l, leader, syscall.SIGCONT)
	return fmt.Sprintf("%s for %s", leader, held.Round(time.Millisecond))
}

func (c *campaign) cutOneWay() string {
	c.t.Helper()
	leader, follower := agentInRole(c.t, c.clients, "leader"), agentInRole(c.t, c.clients, "voter")
	from, to, who := []string{leader}, c.n.without(leader), c.n.without(leader)
	switch c.rng.IntN(4) {
	case 0:
		from, to = to, from
	case 1:
		to, who = []string{follower}, c.n.without(follower)
	case 2:
		from, to, who = []string{follower}, []string{leader}, c.n.without(follower)
	}
	held := c.between(2*time.Second, 6*time.Second)
	c.n.cut(from, to)
	hold(held)
	c.answers(who, 10)
	dropped := c.n.dropped(to[0])
	c.n.heal()
	if dropped == 0 {
		c.t.Errorf("from %q to %q: nothing was dropped, so nothing was tested", from, to)
	}
	return fmt.Sprintf("from %q to %q while %s led, for %s", from, to, leader, held.Round(time.Millisecond))
}

// fillDisk leaves one agent nothing to write on; the others can.
func (c *campaign) fillDisk() string {
	c.t.Helper()
	victim, held := c.small[c.rng.IntN(len(c.small))], c.between(time.Second, 4*time.Second)
	leader := agentInRole(c.t, c.clients, "leader")
	fill(c.t, victim)
	hold(held)
	c.answers(c.n.all(), 5)
	if !victim.Running() {
		c.t.Errorf("%s ended when its disk was full:\n%s", victim.Name, victim.LogTail(10))
	}
	unfill(c.t, victim)
	return fmt.Sprintf("that of %s while %s led, for %s", victim.Name, leader, held.Round(time.Millisecond))
}

// failSync has the next sync of a member of the core fail. The process has to end, and to say why: what is on the disk is
// not known any more.
func (c *campaign) failSync() string {
	c.t.Helper()
	role := []string{"leader", "voter"}[c.rng.IntN(2)]
	victim := named(c.t, c.l, agentInRole(c.t, c.clients, role))
	log, err := os.ReadFile(victim.LogFile)
	if err != nil {
		c.t.Fatal(err)
	}
	began := time.Now()
	tracer := exec.Command("strace", "-f", "-p", strconv.Itoa(victim.Pid()), "-o", victim.LogFile+".strace",
		"-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1")
	if err := tracer.Start(); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, syncFailsSoon, "the end of "+victim.Name+", whose sync failed", func(context.Context) error {
		if victim.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	_ = tracer.Process.Kill() // it ends with what it traces
	_ = tracer.Wait()
	took := time.Since(began)
	said, err := os.ReadFile(victim.LogFile)
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(said[len(log):])
	if code := victim.Cmd().ProcessState.ExitCode(); code != 1 || !strings.Contains(text, "storage failed, the process ends") ||
		!strings.Contains(text, "input/output error") {
		c.t.Errorf("%s, whose sync failed, ended with code %d and said:\n%s", victim.Name, code, victim.LogTail(10))
	}
	c.restart(victim.Name)
	return fmt.Sprintf("of %s, a %s, which ended after %s", victim.Name, role, took.Round(time.Millisecond))
}

// restart starts agents beside each other.
func (c *campaign) restart(names ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), campaignWhole)
	defer cancel()
	c.together(names, func(name string) error { return c.l.Restart(ctx, name) })
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// together does something to agents beside each other.
func (c *campaign) together(names []string, do func(name string) error) {
	c.t.Helper()
	var wait sync.WaitGroup
	for _, name := range names {
		wait.Go(func() {
			if err := do(name); err != nil {
				c.t.Errorf("%s: %v", name, err)
			}
		})
	}
	wait.Wait()
}

// answers waits until each of the agents has answered some more operations.
func (c *campaign) answers(through []string, n int) {
	c.t.Helper()
	before := c.h.answeredBy()
	eventually(c.t, campaignBack, fmt.Sprintf("answers through %q", through), func(context.Context) error {
		now := c.h.answeredBy()
		for _, name := range through {
			if now[name] < before[name]+n {
				return fmt.Errorf("%d answers through %s, want %d", now[name]-before[name], name, n)
			}
		}
		return nil
	})
}

// whole waits until every agent holds all alive, and the core has its members and a majority to spare.
func (c *campaign) whole() {
	c.t.Helper()
	healed(c.t, c.clients)
	eventually(c.t, campaignWhole, "a whole core", func(ctx context.Context) error {
		for name, cl := range c.clients {
			core, err := cl.Core(ctx)
			if err != nil {
				return err
			}
			if core.Leader == nil || len(core.Voters) != *flagCore || core.Margin < *flagCore/2 {
				return fmt.Errorf("%s sees leader %v, %d voters, margin %d", name, core.Leader, len(core.Voters), core.Margin)
			}
		}
		return nil
	})
}

// settle ends the run of faults.
func (c *campaign) settle() {
	c.t.Helper()
	c.whole()
	c.answers(c.n.all(), 20)
}

// answeredBy counts the operations that were answered, by agent.
func (h *history) answeredBy() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.answered)
}

// of is a copy of a key's history.
func (h *history) of(key string) []porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ops[key])
}

// judgeRetired judges the keys that are out of use and of which no operation is under way. What a client still does to
// one of them, and the reads at the end, are judged with all of its history at the end.
func (h *history) judgeRetired() map[string]porcupine.CheckResult {
	h.mu.Lock()
	quiet := make(map[string][]porcupine.Operation)
	h.retired = slices.DeleteFunc(h.retired, func(key string) bool {
		if h.busy[key] > 0 {
			return false
		}
		quiet[key] = slices.Clone(h.ops[key])
		return true
	})
	h.mu.Unlock()
	results := make(map[string]porcupine.CheckResult)
	for key, ops := range quiet {
		results[key] = porcupine.CheckOperationsTimeout(registerModel, ops, checkTimeout)
	}
	return results
}

// judge holds all that was seen against what is promised.
func (c *campaign) judge() {
	t := c.t
	t.Helper()
	eventually(t, 20*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, c.clients) })
	operations := 0
	for key, result := range c.h.check() {
		operations += len(c.h.ops[key])
		if result != porcupine.Ok {
			t.Errorf("%s: %s; %s", key, result, c.h.visualize(t, key))
		}
	}
	if want := campaignOpsPerKill * *flagKills; operations < want {
		t.Errorf("%d operations, want %d: the faults met too little", operations, want)
	}
	acked := 0
	for key, ops := range c.h.ops {
		acked += len(ackedWrites(ops))
		for _, complaint := range lostWrites(ops, c.n.all()) {
			t.Errorf("%s: %s", key, complaint)
		}
	}
	for _, complaint := range c.h.complaints() {
		t.Error(complaint)
	}
	seen := c.leaders.list()
	if err := oneLeaderATerm(seen); err != nil {
		t.Error(err)
	}
	terms := make(map[uint64]bool)
	for _, s := range seen {
		terms[s.term] = true
	}
	t.Logf("%d operations on %d keys judged, %d acknowledged writes looked for, %d terms with a leader seen",
		operations, len(c.h.ops), acked, len(terms))
}
