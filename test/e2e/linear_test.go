package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
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

const (
	linearRoamers  = 3 // clients that ask any agent, besides one client for each agent
	unknownsPerKey = 5 // then the key is replaced: each doubles the orders that the checker may have to try
	linearPause    = 8 * time.Millisecond
	linearPatience = 2 * time.Second // with one operation
	checkTimeout   = 20 * time.Second
	linearAtLeast  = 2000 // operations
)

// TestLinearizable: whatever agent they ask, clients see one register for each key, with compare-and-set,
// while agents in every role, and then all, are killed and come back, and while the leader is stopped
// long enough to be replaced and does not know it when it goes on.
func TestLinearizable(t *testing.T) {
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"safe_mode.window": killedOften}})
	clients := clientsOf(t, l)
	h := startTraffic(t, clients, linearTraffic)

	for _, role := range []string{"leader", "voter", "none", "leader"} {
		victim := agentInRole(t, clients, role)
		t.Logf("kill -9 %s (%s)", victim, role)
		kill(t, l, victim)
		h.progress(t, 200)
		restart(t, l, victim)
		whole(t, clients)
	}
	pauseLeader(t, l, clients, h)
	for range 2 {
		t.Log("kill -9 all five")
		for _, a := range l.Agents {
			kill(t, l, a.Name)
		}
		for _, a := range l.Agents {
			restart(t, l, a.Name)
		}
		whole(t, clients)
		h.progress(t, 200)
	}
	h.progress(t, max(0, linearAtLeast-h.completed()))
	h.end()
	h.readAll(clients)

	h.explain(t)
	for key, result := range h.check() {
		if result != porcupine.Ok {
			t.Errorf("%s: %s; %s", key, result, h.visualize(t, key))
		}
	}
	for _, complaint := range h.complaints() {
		t.Error(complaint)
	}
}

// TestLinearizableControl: the check of TestLinearizable finds out when gets are not linearizable: the
// same traffic with reads of the nearest copy, which the agents never promised to be fresh.
func TestLinearizableControl(t *testing.T) {
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	stale := linearTraffic
	stale.stale = true
	h := startTraffic(t, clients, stale)

	// A voter that was stopped answers before it has caught up, if not each time. The clients notice by
	// themselves: revisions only grow.
	for end := time.Now().Add(20 * time.Second); ; {
		victim := agentInRole(t, clients, "voter")
		sendSignal(t, l, victim, syscall.SIGSTOP)
		h.progress(t, 100)
		sendSignal(t, l, victim, syscall.SIGCONT)
		h.progress(t, 200)
		if h.staleReads() > 0 && h.completed() >= linearAtLeast {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no get was stale in %d operations: the control has nothing to find", h.completed())
		}
	}
	h.end()

	h.explain(t)
	results := h.check()
	found := 0
	for _, result := range results {
		if result == porcupine.Illegal {
			found++
		}
	}
	t.Logf("%d of %d keys are found not linearizable", found, len(results))
	if found == 0 {
		t.Errorf("%d stale gets and the checker finds nothing: %v", h.staleReads(), results)
	}
}

// pauseLeader stops the leader until another leads, and lets it go on: it must not answer a get from
// what it had.
func pauseLeader(t *testing.T, l *lab.Lab, clients map[string]*client.Client, h *history) {
	t.Helper()
	leader := agentInRole(t, clients, "leader")
	t.Logf("stop %s, the leader, for a while", leader)
	sendSignal(t, l, leader, syscall.SIGSTOP)
	others := maps.Clone(clients)
	delete(others, leader)
	eventually(t, 20*time.Second, "another leader", func(ctx context.Context) error {
		for _, c := range others {
			if name, err := leaderOf(ctx, c); err == nil && name != leader {
				return nil
			}
		}
		return errors.New("nobody knows one")
	})
	h.progress(t, 200)
	sendSignal(t, l, leader, syscall.SIGCONT)
	whole(t, clients)
}

func sendSignal(t testing.TB, l *lab.Lab, name string, sig syscall.Signal) {
	t.Helper()
	if err := l.Kill(name, sig); err != nil {
		t.Fatalf("signal %s: %v", name, err)
	}
}

// kvTraffic is what the clients of a lab do.
type kvTraffic struct {
	keys      int // in use at a time
	opsPerKey int // then a key is replaced; 0 only when too much about it is unknown
	deletes   bool
	stale     bool     // gets read the nearest copy
	mayRefuse []string // codes besides didNothing that a write may end with, and did nothing
}

// linearTraffic is gets, puts and compare-and-sets of a few keys.
var linearTraffic = kvTraffic{keys: 6}

// history is what the clients of a lab did and were told.
type history struct {
	kvTraffic
	began time.Time
	seed  uint64
	stop  context.CancelFunc
	wait  sync.WaitGroup

	mu sync.Mutex // no call is made under it
	// ops are all that happened or may have, by key; porcupine takes them.
	ops      map[string][]porcupine.Operation
	answered map[string]int // operations by agent
	ids      int            // of clients, as porcupine counts them
	slots    []keySlot      // the keys in use
	busy     map[string]int // operations under way by key
	retired  []string       // keys that were replaced, and not judged yet
	// refused are the writes of which the agent said that they did not happen: value to code.
	refused map[string]string
	counts  map[string]int
	acked   map[string]uint64 // the highest revision of a key that was acknowledged
	late    []string          // gets that found less than acked when they began
	odd     []string          // errors that no client should see
}

// keySlot counts what happened to the present key of many that follow each other.
type keySlot struct{ generation, ops, unknowns int }

// startTraffic begins the traffic through all agents. It ends with the test.
func startTraffic(t testing.TB, clients map[string]*client.Client, what kvTraffic) *history {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &history{
		kvTraffic: what, began: time.Now(), seed: trafficSeed(t), stop: cancel,
		ops: make(map[string][]porcupine.Operation), answered: make(map[string]int),
		slots: make([]keySlot, what.keys), busy: make(map[string]int),
		refused: make(map[string]string), counts: make(map[string]int), acked: make(map[string]uint64),
	}
	names := slices.Sorted(maps.Keys(clients))
	for i := range len(names) + linearRoamers {
		via := names
		if i < len(names) {
			via = names[i : i+1]
		}
		c := &linearClient{
			h: h, id: h.newID(), number: i, rng: rand.New(rand.NewPCG(h.seed, uint64(i))), //nolint:gosec // a small number
			via: via, clients: clients, told: make(map[string]uint64),
		}
		h.wait.Go(func() { c.run(ctx) })
	}
	t.Cleanup(func() {
		h.end()
		if t.Failed() {
			commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
			t.Logf("seed %d, commit %s; again: PARLEY_TEST_SEED=%d go test ./test/e2e -count=1 -run '^%s$'",
				h.seed, strings.TrimSpace(string(commit)), h.seed, t.Name())
		}
	})
	return h
}

// trafficSeed decides what the clients ask for. When, the machine decides.
func trafficSeed(t testing.TB) uint64 {
	text, ok := os.LookupEnv("PARLEY_TEST_SEED")
	if !ok {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("PARLEY_TEST_SEED: %v", err)
	}
	return seed
}

// linearClient does one operation after another.
type linearClient struct {
	h       *history
	id      int // porcupine's; a new one after an operation that may still happen
	number  int
	writes  int
	rng     *rand.Rand
	via     []string // the agents that it asks, any of them each time
	clients map[string]*client.Client
	told    map[string]uint64 // the last revision of a key that it was told
}

func (c *linearClient) run(ctx context.Context) {
	tick := time.NewTicker(linearPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		key := c.h.key(c.rng.IntN(len(c.h.slots)))
		switch choice := c.rng.IntN(10); {
		case c.h.deletes && c.rng.IntN(12) == 0:
			c.do(kvOp{kind: "delete", key: key})
		case choice < 4:
			c.do(kvOp{kind: "get", key: key})
		case choice < 6:
			c.do(kvOp{kind: "put", key: key, value: c.value()})
		case choice < 9: // read, change, write: wins, mostly
			c.do(kvOp{kind: "get", key: key})
			fallthrough
		default: // what it knows may be old: loses, mostly
			c.do(kvOp{kind: "cas", key: key, value: c.value(), expect: c.told[key]})
		}
	}
}

func (c *linearClient) value() string {
	c.writes++
	return fmt.Sprintf("c%d-%d", c.number, c.writes)
}

// do is one operation through one agent. It is never given up before its time: that would make it unknown.
func (c *linearClient) do(op kvOp) {
	ctx, cancel := context.WithTimeout(context.Background(), linearPatience)
	defer cancel()
	via := c.via[c.rng.IntN(len(c.via))]
	atLeast := c.h.begin(op.key)
	call := time.Since(c.h.began)
	seen, err := c.send(ctx, c.clients[via], op)
	record := porcupine.Operation{
		ClientId: c.id, Input: op, Call: int64(call), Return: int64(time.Since(c.h.began)), Metadata: via,
	}
	if err == nil && !seen.unknown && op.kind != "cas" || seen.revision > 0 {
		c.told[op.key] = seen.revision
	}
	if op.kind == "delete" {
		c.told[op.key] = 0
	}
	if seen.unknown {
		record.Return, c.id = never, c.h.newID()
	}
	record.Output = seen
	c.h.add(record, err, atLeast)
}

// send returns an error when the operation surely did nothing, or was a get that told nothing.
func (c *linearClient) send(ctx context.Context, to *client.Client, op kvOp) (kvSeen, error) {
	if op.kind == "get" {
		pair, err := to.Get(ctx, op.key, client.ReadOptions{Stale: c.h.stale})
		if codeOf(err) == api.CodeNotFound {
			return kvSeen{}, nil
		}
		return kvSeen{value: string(pair.Value), revision: pair.Revision}, err
	}
	written, err := write(ctx, to, op)
	switch code := codeOf(err); {
	case code == api.CodeOutcomeUnknown:
		return kvSeen{unknown: true}, nil
	case code == api.CodeConflict && op.kind == "cas", code == api.CodeNotFound && op.kind == "delete":
		return kvSeen{conflict: true}, nil
	}
	return kvSeen{revision: written.Revision}, err
}

func write(ctx context.Context, to *client.Client, op kvOp) (client.Written, error) {
	switch op.kind {
	case "delete":
		return to.Delete(ctx, op.key, client.DeleteOptions{})
	case "cas":
		return to.Put(ctx, op.key, []byte(op.value), client.PutOptions{CAS: &op.expect})
	}
	return to.Put(ctx, op.key, []byte(op.value), client.PutOptions{})
}

// codeOf is the code of a client's error, "" for none.
func codeOf(err error) string {
	var e *client.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "no code: " + err.Error()
}

// didNothing are the codes that a client may see while agents are down, and take for: it did not happen.
var didNothing = []string{
	client.CodeNoAgent, api.CodeNoLeader, api.CodeNotLeader, api.CodeUnavailable, api.CodeBusy,
}

// gotNothing are those that a get may end with besides.
var gotNothing = []string{client.CodeInterrupted, api.CodeTimeout}

// add takes an operation that ended, and what its client knew was acknowledged when it began.
func (h *history) add(op porcupine.Operation, err error, atLeast uint64) {
	in, out := op.Input.(kvOp), op.Output.(kvSeen)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[in.key]--; h.busy[in.key] == 0 {
		delete(h.busy, in.key)
	}
	if err != nil {
		h.addError(op, err)
		return
	}
	h.ops[in.key] = append(h.ops[in.key], op)
	h.count(in.key, out.unknown)
	if !out.unknown {
		h.answered[op.Metadata.(string)]++
	}
	switch {
	case out.unknown:
		h.counts[in.kind+": unknown"]++
	case out.conflict:
		h.counts[in.kind+": conflict"]++
	case in.kind != "get":
		h.counts[in.kind]++
		h.acked[in.key] = max(h.acked[in.key], out.revision)
	default:
		h.counts[in.kind]++
		deleted := h.deletes && out.value == "" // porcupine knows whether it was
		if out.revision < atLeast && !deleted {
			h.late = append(h.late, fmt.Sprintf("%s of %s through %s, after revision %d was acknowledged",
				describe(in, out), in.key, op.Metadata, atLeast))
		}
	}
}

// addError takes an operation that surely did nothing, or told nothing. It is called under mu.
func (h *history) addError(op porcupine.Operation, err error) {
	in, out, code := op.Input.(kvOp), op.Output.(kvSeen), codeOf(err)
	allowed := slices.Concat(didNothing, h.mayRefuse)
	if in.kind == "get" {
		allowed = slices.Concat(didNothing, gotNothing)
	}
	if !slices.Contains(allowed, code) {
		h.odd = append(h.odd, fmt.Sprintf("%s through %s: code %s: %v", describe(in, out), op.Metadata, code, err))
		return
	}
	h.counts[in.kind+": "+code]++
	if in.value != "" {
		h.refused[in.value] = code
	}
}

// begin notes that an operation on a key is under way, and returns the highest revision of it that was acknowledged.
func (h *history) begin(key string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy[key]++
	return h.acked[key]
}

// count replaces a key that had enough operations, or too many of unknown outcome. It is called under mu.
func (h *history) count(key string, unknown bool) {
	for i := range h.slots {
		s := &h.slots[i]
		if keyName(i, s.generation) != key {
			continue
		}
		if s.ops++; unknown {
			s.unknowns++
		}
		if s.unknowns >= unknownsPerKey || h.opsPerKey > 0 && s.ops >= h.opsPerKey {
			*s = keySlot{generation: s.generation + 1}
			h.retired = append(h.retired, key)
		}
	}
}

func keyName(slot, generation int) string { return fmt.Sprintf("linear/%d/%d", slot, generation) }

// key is the one in use in a slot.
func (h *history) key(slot int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return keyName(slot, h.slots[slot].generation)
}

func (h *history) newID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids++
	return h.ids - 1
}

// completed is how many operations were answered.
func (h *history) completed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	sum := 0
	for _, n := range h.answered {
		sum += n
	}
	return sum
}

func (h *history) staleReads() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.late)
}

// progress waits until n more operations were answered.
func (h *history) progress(t testing.TB, n int) {
	t.Helper()
	want := h.completed() + n
	eventually(t, 20*time.Second, "operations go on", func(context.Context) error {
		if now := h.completed(); now < want {
			return fmt.Errorf("%d operations were answered, want %d", now, want)
		}
		return nil
	})
}

// end stops the clients; it may be called twice.
func (h *history) end() {
	h.stop()
	h.wait.Wait()
}

// readAll gets every key that was ever used through every agent, as part of the history.
func (h *history) readAll(clients map[string]*client.Client) {
	used := slices.Sorted(maps.Keys(h.ops))
	for name := range clients {
		c := &linearClient{
			h: h, id: h.newID(), rng: rand.New(rand.NewPCG(h.seed, 0)), //nolint:gosec // nothing secret
			via: []string{name}, clients: clients, told: make(map[string]uint64),
		}
		for _, key := range used {
			c.do(kvOp{kind: "get", key: key})
		}
	}
}

// explain logs what the history is made of.
func (h *history) explain(t testing.TB) {
	t.Helper()
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(h.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, h.counts[name]))
	}
	t.Logf("%d operations were answered in %s, on %d keys, through %d clients (by porcupine's count): %s",
		h.completed(), time.Since(h.began).Round(time.Millisecond), len(h.ops), h.ids, strings.Join(parts, ", "))
	if len(h.late) > 0 {
		t.Logf("%d gets were stale; the first: %s", len(h.late), h.late[0])
	}
}

// check judges each key.
func (h *history) check() map[string]porcupine.CheckResult {
	results := make(map[string]porcupine.CheckResult)
	for key, ops := range h.ops {
		results[key] = porcupine.CheckOperationsTimeout(registerModel, ops, checkTimeout)
	}
	return results
}

// complaints are what is wrong without any search for an order.
func (h *history) complaints() (all []string) {
	for _, read := range h.late {
		all = append(all, "a get was stale: "+read)
	}
	for _, ops := range h.ops {
		for _, op := range ops {
			if code, refused := h.refused[op.Output.(kvSeen).value]; refused {
				all = append(all, fmt.Sprintf("%s, whose write had failed for sure by its code %s",
					describe(op.Input.(kvOp), op.Output.(kvSeen)), code))
			}
		}
	}
	kinds := []string{"get", "put", "cas", "cas: conflict"}
	if h.deletes {
		kinds = append(kinds, "delete")
	}
	for _, kind := range kinds {
		if h.counts[kind] < 100 {
			all = append(all, fmt.Sprintf("%d times %s, want 100: the history says too little", h.counts[kind], kind))
		}
	}
	return append(all, h.odd...)
}

// visualize draws the history of a key into a file that outlives the test, and names it with the
// operation that fits nowhere.
func (h *history) visualize(t testing.TB, key string) string {
	t.Helper()
	ops := h.ops[key]
	_, info := porcupine.CheckOperationsVerbose(registerModel, ops, checkTimeout)
	file, err := os.CreateTemp("", "parley-linear-*.html")
	if err != nil {
		return err.Error()
	}
	defer file.Close() //nolint:errcheck // a drawing; Visualize reports what it could not write
	if err := porcupine.Visualize(registerModel, info, file); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s; open %s in a browser", misfit(ops, info), file.Name())
}

// misfit describes the first operation to return that is not in the longest order that explains the
// others. Clients do one thing at a time: the moment of the call tells a client's operations apart.
func misfit(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	type identity struct {
		id   int
		call int64
	}
	var longest []porcupine.Operation
	for _, part := range info.PartialLinearizationsOperations() {
		for _, order := range part {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	placed := make(map[identity]bool)
	for _, op := range longest {
		placed[identity{op.ClientId, op.Call}] = true
	}
	left := slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool {
		return placed[identity{op.ClientId, op.Call}]
	})
	if len(left) == 0 || len(longest) == 0 {
		return "no operation stands out"
	}
	first := slices.MinFunc(left, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	last := longest[len(longest)-1]
	return fmt.Sprintf("%d of %d operations have an order, up to %q; the first that has not is %q through %s, from %s to %s",
		len(longest), len(ops), describe(last.Input.(kvOp), last.Output.(kvSeen)),
		describe(first.Input.(kvOp), first.Output.(kvSeen)), first.Metadata,
		time.Duration(first.Call), time.Duration(first.Return))
}
