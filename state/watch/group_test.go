package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/state"
)

// What is woken is taken once, whoever was slow, and says whether it was more than one change; what is closed costs
// nothing any more.
func TestGroup(t *testing.T) {
	c := newCore(t, DefaultTiming)
	g := c.hub.Group()
	subscribe := func(sel Selector, tag uint64) *Subscription {
		s, err := g.Subscribe(sel, tag)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	subs := []*Subscription{
		subscribe(Selector{Key: "a"}, 1), subscribe(Selector{Key: "a"}, 2), subscribe(Selector{Key: "b"}, 3),
		subscribe(Selector{Prefix: true}, 4), subscribe(Selector{Key: "ab/", Prefix: true}, 5),
	}
	var space []Woken
	take := func() (out []string) {
		space = g.Take(space)
		for _, w := range space {
			out = append(out, fmt.Sprint(w.Sub.Tag(), w.More))
		}
		slices.Sort(out)
		return out
	}
	for _, step := range []struct {
		puts []string
		want string
	}{
		{nil, "[]"}, {[]string{"x"}, "[4 false]"}, {[]string{"a"}, "[1 false 2 false 4 false]"},
		{[]string{"b", "a", "a"}, "[1 true 2 true 3 false 4 true]"}, {[]string{"ab/c"}, "[4 false 5 false]"}, {[]string{"ab"}, "[4 false]"},
	} {
		for _, key := range step.puts {
			c.apply(put(key, "v"))
			c.hub.Turn()
		}
		if got := fmt.Sprint(take()); got != step.want {
			t.Errorf("puts of %q woke %s, want %s", step.puts, got, step.want)
		}
	}
	c.apply(put("b", "1"), put("b", "2"))
	c.hub.Turn()
	if got := fmt.Sprint(take()); got != "[3 true 4 true]" {
		t.Errorf("two changes in one entry woke %s", got)
	}
	g.Wake(subs[0])
	if got := fmt.Sprint(take()); got != "[1 false]" {
		t.Errorf("woken by hand: %s", got)
	}
	for _, s := range subs {
		s.Close()
		s.Close()
	}
	c.apply(put("a", "v"), put("ab/", "v"))
	c.hub.Turn()
	if got := take(); len(got) > 0 || c.hub.mu.index.count != 0 || len(c.hub.mu.index.keys) != 0 {
		t.Errorf("closed ones woke: %s, %d are there", got, c.hub.mu.index.count)
	}
	if kids := c.hub.mu.index.prefixes[state.TableKV].root.kids; len(kids) != 0 {
		t.Errorf("the tree keeps %d nodes of prefixes that nobody watches", len(kids))
	}
}

// The tree finds exactly the prefixes that a comparison with each of them finds, while they come and go, and is no larger
// than it has to be.
func TestPrefixTree(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		word := func() string {
			var b strings.Builder
			for range r.IntN(6) {
				b.WriteByte("ab\x00\xff"[r.IntN(4)])
			}
			return b.String()
		}
		tree, there := &prefixTree{}, map[string]*Subscription{}
		for range 200 {
			if key := word(); there[key] == nil {
				there[key] = &Subscription{sel: Selector{Key: key}}
				tree.grow(key).subs = there[key]
			} else {
				delete(there, key)
				tree.grow(key).subs = nil
				tree.prune(key)
			}
			key := word()
			var got, want []string
			tree.along(key, func(s *Subscription) { got = append(got, s.sel.Key) })
			for n := range len(key) + 1 {
				if there[key[:n]] != nil {
					want = append(want, key[:n])
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: prefixes of %q are %q, want %q", seed, key, got, want)
			}
			all, nodes := 0, 0
			tree.each(func(*Subscription) { all++ })
			tree.root.count(&nodes)
			if all != len(there) || nodes > 2*len(there)+1 {
				t.Fatalf("seed %d: %d prefixes and %d nodes for %d", seed, all, nodes, len(there))
			}
		}
	}
}

func (n *prefixNode) count(nodes *int) {
	*nodes++
	for _, kid := range n.kids {
		kid.count(nodes)
	}
}
