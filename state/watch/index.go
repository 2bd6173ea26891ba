package watch

import "github.com/parley-mesh/parley/state"

// A spot is a key or a prefix of one table.
type spot struct {
	table state.Table
	key   string
}

type subscribers map[*Subscription]struct{}

// index finds the subscriptions that a change touches without looking at the others: by key, by
// class, and by prefix with one map look-up for each length that some prefix has.
type index struct {
	keys     map[spot]subscribers
	prefixes map[spot]subscribers
	lengths  map[int]int // how many spots in prefixes have a key of that length
	classes  [state.ClassReplica + 1]subscribers
	count    int
	round    uint64 // numbers the calls of touched, so that each finds a subscription once
}

func newIndex() *index {
	x := &index{
		keys:     map[spot]subscribers{},
		prefixes: map[spot]subscribers{},
		lengths:  map[int]int{},
	}
	for i := range x.classes {
		x.classes[i] = subscribers{}
	}
	return x
}

func (x *index) add(s *Subscription) {
	x.count++
	if s.classes != 0 {
		for c := range x.classes {
			if s.classes.Has(state.Class(c)) {
				x.classes[c][s] = struct{}{}
			}
		}
		return
	}
	m, at := x.home(s)
	if m[at] == nil {
		m[at] = subscribers{}
		if s.sel.Prefix {
			x.lengths[len(at.key)]++
		}
	}
	m[at][s] = struct{}{}
}

func (x *index) remove(s *Subscription) {
	x.count--
	if s.classes != 0 {
		for c := range x.classes {
			delete(x.classes[c], s)
		}
		return
	}
	m, at := x.home(s)
	delete(m[at], s)
	if len(m[at]) > 0 {
		return
	}
	delete(m, at)
	if !s.sel.Prefix {
		return
	}
	if x.lengths[len(at.key)]--; x.lengths[len(at.key)] == 0 {
		delete(x.lengths, len(at.key))
	}
}

func (x *index) home(s *Subscription) (map[spot]subscribers, spot) {
	at := spot{table: s.sel.table(), key: s.sel.Key}
	if s.sel.Prefix {
		return x.prefixes, at
	}
	return x.keys, at
}

// touched returns the subscriptions that the entries touch, each once, in no particular order.
func (x *index) touched(entries []entry) []*Subscription {
	x.round++
	var out []*Subscription
	for _, e := range entries {
		for _, c := range e.changes {
			out = x.collect(out, x.classes[c.Class])
			out = x.collect(out, x.keys[spot{c.Table, c.Key}])
			for n := range x.lengths {
				if n <= len(c.Key) {
					out = x.collect(out, x.prefixes[spot{c.Table, c.Key[:n]}])
				}
			}
		}
	}
	return out
}

// everyone returns all subscriptions.
func (x *index) everyone() []*Subscription {
	x.round++
	out := make([]*Subscription, 0, x.count)
	for _, set := range x.classes {
		out = x.collect(out, set)
	}
	for _, set := range x.keys {
		out = x.collect(out, set)
	}
	for _, set := range x.prefixes {
		out = x.collect(out, set)
	}
	return out
}

func (x *index) collect(out []*Subscription, set subscribers) []*Subscription {
	for s := range set {
		if s.round != x.round {
			s.round = x.round
			out = append(out, s)
		}
	}
	return out
}
