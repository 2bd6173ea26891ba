package state

import (
	"bytes"
	"errors"
	"testing"
)

// leafOf is a leaf of the tree with a few rows of the table, and where the first of them is.
func leafOf(t *testing.T, s *store, table Table) (n *node, at int) {
	t.Helper()
	var look func(n *node) *node
	look = func(n *node) *node {
		if n.children == nil {
			for at = 0; at+2 < n.count; at++ {
				if n.items[at].table == table && n.items[at+2].table == table {
					return n
				}
			}
			return nil
		}
		for _, c := range n.children[:n.count+1] {
			if found := look(c); found != nil {
				return found
			}
		}
		return nil
	}
	if n = look(s.tree.root); n == nil {
		t.Fatalf("no leaf has three rows of table %s", table)
	}
	return n, at
}

// A state whose rows are out of order, or do not add up to what it says of itself, is not written: who reads it would refuse it.
// As evidence it is, which is the control.
func TestWrongStateIsNotWritten(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(s *store)
		taken bool // by who reads it
	}{
		"nothing": {func(*store) {}, true},
		"two rows have changed places": {func(s *store) {
			n, at := leafOf(t, s, TableKV)
			n.items[at], n.items[at+1] = n.items[at+1], n.items[at]
		}, true},
		"a row is there twice": {func(s *store) {
			n, at := leafOf(t, s, TableKV)
			twice := n.items[at]
			s.account(n.items[at+1], -1)
			s.account(twice, +1)
			n.items[at+1] = twice
		}, false},
		"a row is lost":           {func(s *store) { n, at := leafOf(t, s, TableKV); n.take(at) }, false},
		"a count is wrong":        {func(s *store) { s.tables[TableKV].rows++ }, false},
		"a sum is wrong":          {func(s *store) { s.sums[ClassKV-1][2] ^= 1; s.settled = 0 }, false},
		"a made digest is wrong":  {func(s *store) { s.settle(); s.digests[ClassKV-1][3] ^= 1 }, false},
		"a revision is too large": {func(s *store) { s.at.Revision = 1; s.settle() }, false},
	} {
		m := testGenesis()
		fill256(t, m, 500)
		digest := m.View().Digest()
		tt.spoil(m.s)
		m.view = nil
		var out bytes.Buffer
		switch err := m.View().WriteSnapshot(&out); {
		case name == "nothing":
			if err != nil {
				t.Errorf("control: %v", err)
			}
		case !errors.Is(err, ErrMemory):
			t.Errorf("%s: written, with %v", name, err)
		}
		out.Reset()
		if err := m.View().WriteAsIs(&out); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again := NewMachine()
		switch err := again.Restore(bytes.NewReader(out.Bytes())); {
		case tt.taken && err != nil:
			t.Errorf("%s: it is not read: %v", name, err)
		case !tt.taken && err == nil:
			t.Errorf("control: %s, and it is read", name)
		case tt.taken && again.View().Digest() != digest:
			t.Errorf("%s: another state was read", name)
		case tt.taken:
			if err := again.View().WriteSnapshot(&out); err != nil {
				t.Errorf("%s: what was read cannot be written: %v", name, err)
			}
		case errors.Is(err, ErrLater):
			t.Errorf("%s is taken for something of a later version: %v", name, err)
		}
	}
}
