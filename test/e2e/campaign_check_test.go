//go:build linux

package e2e

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// ackedWrites are the writes of a key's history that were answered with a revision, in the order of their revisions.
func ackedWrites(ops []porcupine.Operation) (acked []porcupine.Operation) {
	for _, op := range ops {
		if out := op.Output.(kvSeen); op.Input.(kvOp).kind != "get" && out.revision > 0 {
			acked = append(acked, op)
		}
	}
	slices.SortFunc(acked, func(a, b porcupine.Operation) int {
		return cmp.Compare(a.Output.(kvSeen).revision, b.Output.(kvSeen).revision)
	})
	return acked
}

// lastReads are the last gets of a key through each agent.
func lastReads(ops []porcupine.Operation) map[string]porcupine.Operation {
	last := make(map[string]porcupine.Operation)
	for _, op := range ops {
		via := op.Metadata.(string)
		if op.Input.(kvOp).kind == "get" && op.Call >= last[via].Call {
			last[via] = op
		}
	}
	return last
}

// lostWrites complains about agents whose last get of a key, after all writes, is not what the last acknowledged write
// made, nor what a later write of unknown outcome may have made. It needs no search for an order, and so stands beside
// porcupine.
func lostWrites(ops []porcupine.Operation, agents []string) (complaints []string) {
	acked, last := ackedWrites(ops), lastReads(ops)
	var newest porcupine.Operation
	want := kvSeen{}
	if len(acked) > 0 {
		newest = acked[len(acked)-1]
		want = kvSeen{value: newest.Input.(kvOp).value, revision: newest.Output.(kvSeen).revision}
	}
	unknown := make(map[string]bool) // by value; a delete has none
	for _, op := range ops {
		if op.Output.(kvSeen).unknown {
			unknown[op.Input.(kvOp).value] = true
		}
	}
	for _, via := range agents {
		read, ok := last[via]
		if !ok {
			complaints = append(complaints, "it was not read through "+via)
			continue
		}
		got := read.Output.(kvSeen)
		asWritten := got == want || got.value == "" && want.value == ""
		later := unknown[got.value] && (got.value == "" || got.revision > want.revision)
		if !asWritten && !later {
			complaints = append(complaints, fmt.Sprintf("the last acknowledged write is lost: %s reads %q at %d, %q at %d was acknowledged",
				via, got.value, got.revision, want.value, want.revision))
		}
	}
	return complaints
}

// planted is a mistake in a copy of a history, made of what was seen; ok is false where it has nothing to work on.
type planted func(ops []porcupine.Operation) (wrong []porcupine.Operation, ok bool)

// staleRead lets the first get that can be answer with a value that another acknowledged write had replaced before.
func staleRead(ops []porcupine.Operation) ([]porcupine.Operation, bool) {
	acked := ackedWrites(ops)
	for i, op := range ops {
		got := op.Output.(kvSeen)
		if op.Input.(kvOp).kind != "get" || got.revision == 0 {
			continue
		}
		for j := 1; j < len(acked); j++ {
			before, after := acked[j-1], acked[j]
			old := before.Input.(kvOp).value
			if after.Return >= op.Call || after.Output.(kvSeen).revision > got.revision || old == "" {
				continue
			}
			wrong := slices.Clone(ops)
			wrong[i].Output = kvSeen{value: old, revision: before.Output.(kvSeen).revision}
			return wrong, true
		}
	}
	return nil, false
}

// lostWrite lets all gets at the end miss the last acknowledged write, as if it had never been.
func lostWrite(ops []porcupine.Operation) ([]porcupine.Operation, bool) {
	acked := ackedWrites(ops)
	unknown := func(op porcupine.Operation) bool { return op.Output.(kvSeen).unknown }
	if len(acked) < 2 || slices.ContainsFunc(ops, unknown) { // one of unknown outcome could explain it
		return nil, false
	}
	newest, before := acked[len(acked)-1], acked[len(acked)-2]
	made := kvSeen{value: newest.Input.(kvOp).value, revision: newest.Output.(kvSeen).revision}
	old := kvSeen{value: before.Input.(kvOp).value}
	if old.value != "" {
		old.revision = before.Output.(kvSeen).revision
	}
	if made.value == "" {
		return nil, false
	}
	wrong, changed := slices.Clone(ops), 0
	for i, op := range wrong {
		if op.Input.(kvOp).kind == "get" && op.Output.(kvSeen) == made && op.Call > newest.Return {
			wrong[i].Output, changed = old, changed+1
		}
	}
	return wrong, changed > 0
}

// lostUpdate lets two compare-and-sets of one revision win: one that was told that it lost is told that it won.
func lostUpdate(ops []porcupine.Operation) ([]porcupine.Operation, bool) {
	acked := ackedWrites(ops)
	if len(acked) == 0 {
		return nil, false
	}
	top := acked[len(acked)-1].Output.(kvSeen).revision
	for i, op := range ops {
		in := op.Input.(kvOp)
		if in.kind == "cas" && op.Output.(kvSeen).conflict && in.expect > 0 && in.expect < top {
			wrong := slices.Clone(ops)
			wrong[i].Output = kvSeen{revision: top + 1}
			return wrong, true
		}
	}
	return nil, false
}

// undoneDelete lets a get find what a delete had removed, at the revision that it had.
func undoneDelete(ops []porcupine.Operation) ([]porcupine.Operation, bool) {
	acked := ackedWrites(ops)
	for j := 1; j < len(acked); j++ {
		before, gone := acked[j-1], acked[j]
		if gone.Input.(kvOp).kind != "delete" || before.Input.(kvOp).value == "" {
			continue
		}
		for i, op := range ops {
			if op.Input.(kvOp).kind == "get" && op.Output.(kvSeen).value == "" && op.Call > gone.Return {
				wrong := slices.Clone(ops)
				wrong[i].Output = kvSeen{value: before.Input.(kvOp).value, revision: before.Output.(kvSeen).revision}
				return wrong, true
			}
		}
	}
	return nil, false
}

var allPlanted = map[string]planted{
	"stale read": staleRead, "lost write": lostWrite, "lost update": lostUpdate, "undone delete": undoneDelete,
}

// controlKeys is in how many histories each mistake is planted.
const controlKeys = 25

// controls plant mistakes in what was really seen, each in many keys' histories, and want every one found.
func (c *campaign) controls() {
	c.t.Helper()
	for name, plant := range allPlanted {
		tried := 0
		for _, key := range slices.Sorted(maps.Keys(c.h.ops)) {
			wrong, ok := plant(c.h.ops[key])
			if !ok {
				continue
			}
			tried++
			if result := porcupine.CheckOperationsTimeout(registerModel, wrong, checkTimeout); result != porcupine.Illegal {
				c.t.Errorf("control: a %s is planted in %s, and the checker says %s", name, key, result)
			}
			if name == "lost write" && len(lostWrites(wrong, c.n.all())) == 0 {
				c.t.Errorf("control: a %s is planted in %s, and the look at the end finds nothing", name, key)
			}
			if tried == controlKeys {
				break
			}
		}
		c.t.Logf("control: a %s planted in %d histories", name, tried)
		if tried == 0 {
			c.t.Errorf("control: no history has room for a %s", name)
		}
	}
	c.controlOthers()
}

// controlOthers plants what is found without a search: a second leader, and a write that was refused and seen.
func (c *campaign) controlOthers() {
	c.t.Helper()
	seen := c.leaders.list()
	if err := oneLeaderATerm(append(seen, sighting{by: "a1", leader: "nobody", term: seen[0].term})); err == nil {
		c.t.Error("control: a second leader is planted in a term, and nobody complains")
	}
	for _, ops := range c.h.ops {
		for _, op := range ops {
			value := op.Output.(kvSeen).value
			if value == "" {
				continue
			}
			c.h.refused[value] = "planted"
			complaints := c.h.complaints()
			delete(c.h.refused, value)
			if len(complaints) == 0 {
				c.t.Error("control: a write that was refused is seen, and nobody complains")
			}
			return
		}
	}
}

// dump writes the histories for who looks for the cause.
func (h *history) dump(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Flush reports what could not be written
	w := bufio.NewWriter(file)
	h.mu.Lock()
	defer h.mu.Unlock() // the run has failed: who still writes may wait
	for _, key := range slices.Sorted(maps.Keys(h.ops)) {
		for _, op := range h.ops[key] {
			fmt.Fprintf(w, "%s %d %d %s client %d: %s\n", key, op.Call, op.Return, op.Metadata, op.ClientId,
				describe(op.Input.(kvOp), op.Output.(kvSeen)))
		}
	}
	return w.Flush()
}

// TestLostWrites: the look at the end takes what the last acknowledged write made, or a later one of unknown outcome, and
// nothing else.
func TestLostWrites(t *testing.T) {
	at := func(kind, value string, seen kvSeen) porcupine.Operation {
		return porcupine.Operation{Input: kvOp{kind: kind, value: value}, Output: seen, Metadata: "a1"}
	}
	get := func(value string, revision uint64) porcupine.Operation {
		return at("get", "", kvSeen{value: value, revision: revision})
	}
	putA, putB := at("put", "a", kvSeen{revision: 5}), at("put", "b", kvSeen{revision: 7})
	removed, lost := at("delete", "", kvSeen{revision: 9}), at("put", "c", kvSeen{unknown: true})
	lostDelete := at("delete", "", kvSeen{unknown: true})
	for _, tt := range []struct {
		name string
		ops  []porcupine.Operation
		want int
	}{
		{"nothing was written", []porcupine.Operation{get("", 0)}, 0},
		{"the last write", []porcupine.Operation{putB, putA, get("b", 7)}, 0},
		{"the write before", []porcupine.Operation{putA, putB, get("a", 5)}, 1},
		{"the right value at a wrong revision", []porcupine.Operation{putA, get("a", 6)}, 1},
		{"nothing is there", []porcupine.Operation{putA, get("", 0)}, 1},
		{"deleted", []porcupine.Operation{putA, removed, get("", 0)}, 0},
		{"a delete is undone", []porcupine.Operation{putA, removed, get("a", 5)}, 1},
		{"an unknown put came last", []porcupine.Operation{putA, lost, get("c", 8)}, 0},
		{"an unknown put came before", []porcupine.Operation{putB, lost, get("c", 6)}, 1},
		{"an unknown delete came last", []porcupine.Operation{putA, lostDelete, get("", 0)}, 0},
		{"what nobody wrote", []porcupine.Operation{putA, lost, get("d", 8)}, 1},
		{"it was not read", []porcupine.Operation{putA}, 1},
	} {
		if got := lostWrites(tt.ops, []string{"a1"}); len(got) != tt.want {
			t.Errorf("%s: got %q, want %d complaints", tt.name, got, tt.want)
		}
	}
}
