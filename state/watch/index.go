package watch

import "github.com/parley-mesh/parley/state"

// A spot is a key of one table.
type spot struct {
	table state.Table
	key   string
}

type subscribers map[*Subscription]struct{}

// index finds the subscriptions that a change touches without looking at the others: by key with one look-up, by prefix
// with one walk down a tree whose length is at most that of the key, by class. Subscriptions of one spot are a list
// through their own links, so that a spot costs its entry and nothing else.
type index struct {
	keys     map[spot]*Subscription
	prefixes map[state.Table]*prefixTree
	classes  [state.ClassReplica + 1]subscribers
	count    int
	round    uint64 // numbers the calls of touched, so that each finds a subscription once
}

func newIndex() *index {
	x := &index{keys: map[spot]*Subscription{}, prefixes: map[state.Table]*prefixTree{}}
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
	if s.sel.Prefix {
		tree := x.prefixes[s.sel.table()]
		if tree == nil {
			tree = &prefixTree{}
			x.prefixes[s.sel.table()] = tree
		}
		at := tree.grow(s.sel.Key)
		at.subs = s.link(at.subs)
		return
	}
	at := spot{table: s.sel.table(), key: s.sel.Key}
	x.keys[at] = s.link(x.keys[at])
}

func (x *index) remove(s *Subscription) {
	x.count--
	if s.classes != 0 {
		for c := range x.classes {
			delete(x.classes[c], s)
		}
		return
	}
	if s.sel.Prefix {
		tree := x.prefixes[s.sel.table()]
		at := tree.grow(s.sel.Key) // it is there
		if at.subs = s.unlink(at.subs); at.subs == nil {
			tree.prune(s.sel.Key)
		}
		return
	}
	at := spot{table: s.sel.table(), key: s.sel.Key}
	if head := s.unlink(x.keys[at]); head != nil {
		x.keys[at] = head
	} else {
		delete(x.keys, at)
	}
}

// link puts s before head, the first of a list or nil, and is the new head.
func (s *Subscription) link(head *Subscription) *Subscription {
	if s.next = head; head != nil {
		head.prev = s
	}
	return s
}

// unlink takes s out of the list that begins with head, and returns the list's head from then on.
func (s *Subscription) unlink(head *Subscription) *Subscription {
	if s.next != nil {
		s.next.prev = s.prev
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		head = s.next
	}
	s.next, s.prev = nil, nil
	return head
}

// touched returns the subscriptions that the entries touch, each once, in no particular order.
func (x *index) touched(entries []entry) []*Subscription {
	x.round++
	var out []*Subscription
	for _, e := range entries {
		for i := range e.changes {
			c := &e.changes[i]
			out = x.collectSet(out, x.classes[c.Class])
			out = x.collect(out, x.keys[spot{c.Table, c.Key}])
			if tree := x.prefixes[c.Table]; tree != nil {
				tree.along(c.Key, func(head *Subscription) { out = x.collect(out, head) })
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
		out = x.collectSet(out, set)
	}
	for _, head := range x.keys {
		out = x.collect(out, head)
	}
	for _, tree := range x.prefixes {
		tree.each(func(head *Subscription) { out = x.collect(out, head) })
	}
	return out
}

func (x *index) collectSet(out []*Subscription, set subscribers) []*Subscription {
	for s := range set {
		out = x.take(out, s)
	}
	return out
}

func (x *index) collect(out []*Subscription, head *Subscription) []*Subscription {
	for s := head; s != nil; s = s.next {
		out = x.take(out, s)
	}
	return out
}

func (x *index) take(out []*Subscription, s *Subscription) []*Subscription {
	if s.round == x.round {
		s.twice = true
		return out
	}
	s.round, s.twice = x.round, false
	return append(out, s)
}
