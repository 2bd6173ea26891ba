package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The tree holds what a sorted list holds, whatever is set and removed, and copies keep what they were copied from. Keys
// come at random, in order at the end of a table that is amid others, and go from its front.
func TestTreeIsASortedList(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		at := newTree()
		model := map[string]*record{}
		type copied struct {
			tree  tree
			model []*record
		}
		var copies []copied
		front, back := 0, 0
		for step := range 6000 {
			table, key := Table(1+rnd.IntN(3)), fmt.Sprint(rnd.IntN(1+step/2))
			if table == 3 {
				key = "longer than a head/" + key
			}
			remove := rnd.IntN(5) < 2 || step > 5000
			switch n := rnd.IntN(4); {
			case n == 0:
				table, key, back, remove = 2, fmt.Sprintf("~%06d", back), back+1, false
			case n == 1 && front < back && seed%2 == 0:
				table, key, front, remove = 2, fmt.Sprintf("~%06d", front), front+1, true
			}
			want := model[string(rune(table))+key]
			var got *record
			if remove {
				got = at.remove(table, key)
				delete(model, string(rune(table))+key)
			} else {
				if rnd.IntN(2) == 0 {
					if found, _ := at.find(table, key); found != want {
						t.Fatalf("seed %d, step %d: found %v, want %v", seed, step, found, want)
					}
					if other := model[string(rune(table))+"1"]; other != nil && rnd.IntN(4) == 0 {
						again := *other // what is set next need not be what was found
						at.set(&again)
						model[string(rune(table))+"1"] = &again
						want = model[string(rune(table))+key]
					}
				}
				r := &record{table: table, head: headOf(key), key: key}
				got = at.set(r)
				model[string(rune(table))+key] = r
			}
			if got != want {
				t.Fatalf("seed %d, step %d: %v instead of %v was there before", seed, step, got, want)
			}
			if step%250 == 0 {
				copies = append(copies, copied{at, sorted(model)})
				at = at.edit()
			}
		}
		copies = append(copies, copied{at, sorted(model)})
		for i, c := range copies {
			checkTree(t, &c.tree, c.model)
			if t.Failed() {
				t.Fatalf("seed %d, copy %d", seed, i)
			}
		}
	}
}

// The end of a table is not taken for that of another which has the same place among the ends that are remembered: of such
// tables one leaf may hold the end of one and the beginning of the next.
func TestTreeTellsEndsApart(t *testing.T) {
	tables := []Table{1, 1 + ends, 1 + 2*ends}
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		at := newTree()
		model := map[string]*record{}
		for range 400 {
			table, key := tables[rnd.IntN(len(tables))], fmt.Sprintf("%02d", rnd.IntN(40))
			if rnd.IntN(4) == 0 {
				at.remove(table, key)
				delete(model, string(rune(table))+key)
				continue
			}
			r := &record{table: table, head: headOf(key), key: key}
			at.set(r)
			model[string(rune(table))+key] = r
		}
		if checkTree(t, &at, sorted(model)); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Records that come in order leave full nodes behind, and the tree can be written to afterwards.
func TestTreeLoadsInOrder(t *testing.T) {
	at := newTree()
	var want []*record
	for i := range 20_000 {
		key := fmt.Sprintf("%06d", i)
		r := &record{table: 3, head: headOf(key), key: key}
		want = append(want, r)
		at.load(r)
	}
	checkTree(t, &at, want)
	nodes := 0
	var count func(n *node)
	count = func(n *node) {
		nodes++
		for i := 0; n.children != nil && i <= n.count; i++ {
			count(n.children[i])
		}
	}
	count(at.root)
	if most := 20_000/(maxItems-2) + 1; nodes > most {
		t.Errorf("%d nodes, %d would be enough", nodes, most)
	}
	for i, r := range want {
		if i%3 > 0 && at.remove(r.table, r.key) != r {
			t.Fatalf("%v was not there", r)
		}
	}
	kept := want[:0]
	for i, r := range want {
		if i%3 == 0 {
			kept = append(kept, r)
		}
	}
	checkTree(t, &at, kept)
}

// Records that follow each other go together, wherever they begin and end, and copies keep them.
func TestTreeDropsARun(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		at, model := newTree(), map[string]*record{}
		for range 3000 {
			table, key := Table(1+rnd.IntN(3)), fmt.Sprintf("%05d", rnd.IntN(4000))
			r := &record{table: table, head: headOf(key), key: key}
			at.set(r)
			model[string(rune(table))+key] = r
		}
		left := sorted(model)
		for round := 0; len(left) > 0; round++ {
			before, was := at, slices.Clone(left)
			at = at.edit()
			first := rnd.IntN(len(left))
			if round%3 == 0 { // from the front of a table
				first = slices.IndexFunc(left, func(r *record) bool { return r.table == left[first].table })
			}
			key := left[first].key
			if rnd.IntN(4) == 0 { // behind the one before
				key = key[:len(key)-1] + string(key[len(key)-1]-1) + "~"
			}
			room := make([]*record, 1+rnd.IntN(60))
			n := at.dropRun(left[first].table, key, room)
			if n == 0 || !slices.Equal(room[:n], left[first:first+n]) {
				t.Fatalf("seed %d, round %d: %d records went, not those from %s on", seed, round, n, key)
			}
			left = slices.Delete(left, first, first+n)
			if round%10 == 0 || len(left) < 100 {
				checkTree(t, &at, left)
				checkTree(t, &before, was)
			}
			if t.Failed() {
				t.Fatalf("seed %d, round %d", seed, round)
			}
		}
		if n := at.dropRun(1, "", make([]*record, 1)); n != 0 || at.root != nil {
			t.Errorf("%d records went of none", n)
		}
	}
}

func sorted(model map[string]*record) (list []*record) {
	for _, r := range model {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *record) int {
		if a.table != b.table {
			return int(a.table) - int(b.table)
		}
		return strings.Compare(a.key, b.key)
	})
	return list
}

// checkTree wants exactly these records in the tree, by each way to ask for them, and the shape that is promised.
func checkTree(t *testing.T, at *tree, want []*record) {
	t.Helper()
	var got []*record
	at.scan(func(r *record) bool { got = append(got, r); return true })
	if !slices.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
		return
	}
	for i, r := range want {
		if found, ok := at.get(r.table, r.key); !ok || found != r {
			t.Errorf("record %d: got %v", i, found)
		}
		if i%97 > 0 {
			continue
		}
		n := 0
		at.ascend(r.table, r.key, func(r *record) bool { n++; return n < 50 && r == want[i+n-1] })
		if n != min(50, len(want)-i) {
			t.Errorf("from record %d on: %d came", i, n)
		}
		at.ascend(r.table, r.key+"\x00", func(next *record) bool {
			if next != want[i+1] {
				t.Errorf("behind record %d: got %v", i, next)
			}
			return false
		})
		if _, ok := at.get(r.table, r.key+"\x00"); ok {
			t.Errorf("there is a record behind %d that is not", i)
		}
	}
	depths := map[int]bool{}
	if at.root != nil {
		checkNode(t, at.root, 0, depths)
	}
	if len(depths) > 1 {
		t.Errorf("leaves in depths %v", depths)
	}
}

func checkNode(t *testing.T, n *node, depth int, depths map[int]bool) {
	t.Helper()
	if n.count < 1 || n.count > maxItems {
		t.Errorf("a node of %d items", n.count)
	}
	for i, r := range n.items {
		if (r != nil) != (i < n.count) {
			t.Errorf("item %d of a node of %d: %v", i, n.count, r)
		}
	}
	if n.children == nil {
		depths[depth] = true
		return
	}
	for i, c := range n.children {
		if (c != nil) != (i <= n.count) {
			t.Errorf("child %d of a node of %d items: %v", i, n.count, c)
		} else if c != nil {
			checkNode(t, c, depth+1, depths)
		}
	}
}

// Heads never say that a key comes before one that it comes after, and equal keys have equal heads.
func TestHeadsAreInTheOrderOfKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	draw := func() string {
		b := make([]byte, rnd.IntN(11))
		for i := range b {
			b[i] = "\x00\x01a\xff"[rnd.IntN(4)]
		}
		return string(b)
	}
	for range 100_000 {
		a, b := draw(), draw()
		if ha, hb := headOf(a), headOf(b); ha < hb && a >= b || ha > hb && a <= b {
			t.Fatalf("the heads of %q and %q are %x and %x", a, b, ha, hb)
		}
	}
}

// A search by the heads of a node ends where one by its records does, whatever the keys have in common.
func TestHeadsFindTheSamePlace(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	letters := func(most int) string {
		b := make([]byte, rnd.IntN(most+1))
		for i := range b {
			b[i] = "\x00ab\xff"[rnd.IntN(4)]
		}
		return string(b)
	}
	for range 3000 {
		prefix, tables := strings.Repeat("p", rnd.IntN(maxSkip+12)), 1+rnd.IntN(2)
		draw := func() (Table, string) { return Table(1 + rnd.IntN(tables)), prefix + letters(10) }
		model := map[string]*record{}
		for range 1 + rnd.IntN(maxItems) {
			table, key := draw()
			model[string(rune(table))+key] = &record{table: table, head: headOf(key), key: key}
		}
		n := &node{}
		n.count = copy(n.items[:], sorted(model))
		for range 40 {
			table, key := draw()
			switch r := n.items[rnd.IntN(n.count)]; rnd.IntN(4) {
			case 0:
				table, key = r.table, r.key
			case 1:
				table, key = Table(rnd.IntN(4)), key[:rnd.IntN(len(key)+1)]
			case 2:
				key = letters(40)
			}
			n.heads = nil
			want, there := n.search(table, headOf(key), key)
			n.heads = n.makeHeads()
			if got, found := n.search(table, headOf(key), key); got != want || found != there {
				t.Fatalf("%d %q among %d behind %q: place %d, %v, want %d, %v", table, key, n.count, prefix, got, found, want, there)
			}
		}
	}
}
