package state

import (
	"errors"
	"testing"
)

// A follower refuses what does not continue from where it is, what it was not promised and what is
// malformed, and stays as it was.
func TestFollowerRefuses(t *testing.T) {
	m := someState(t)
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	before := f.View()
	at := before.Position()
	next := Delta{Index: at.Index + 1, Revision: at.Revision + 1, PrevRevision: at.Revision}
	node := Change{Table: TableNode, Key: "n", Row: EncodeNode(Node{Name: "n"}), Revision: at.Revision + 1}
	edit := func(f func(*Delta, *Change)) Delta {
		d, c := next, node
		f(&d, &c)
		d.Changes = []Change{c}
		return d
	}
	for name, tc := range map[string]struct {
		d    Delta
		want error
	}{
		"gap":          {edit(func(d *Delta, _ *Change) { d.PrevRevision++; d.Revision++ }), ErrGap},
		"repeated":     {edit(func(d *Delta, _ *Change) { d.PrevRevision-- }), ErrGap},
		"backwards":    {edit(func(d *Delta, _ *Change) { d.Revision = at.Revision - 1 }), ErrGap},
		"index":        {edit(func(d *Delta, _ *Change) { d.Index = at.Index - 1 }), ErrGap},
		"token":        {edit(func(_ *Delta, c *Change) { c.Table = TableToken }), ErrClass},
		"key/value":    {edit(func(_ *Delta, c *Change) { c.Table = TableKV }), ErrClass},
		"wrong key":    {edit(func(_ *Delta, c *Change) { c.Key = "other" }), ErrMalformed},
		"bad row":      {edit(func(_ *Delta, c *Change) { c.Row = []byte{9} }), ErrMalformed},
		"old revision": {edit(func(_ *Delta, c *Change) { c.Revision-- }), ErrMalformed},
		"late change":  {edit(func(_ *Delta, c *Change) { c.Revision++ }), ErrMalformed},
	} {
		if _, err := f.Apply(tc.d); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if f.View() != before {
		t.Fatal("a refused delta changed the follower")
	}
	if _, err := f.Apply(edit(func(*Delta, *Change) {})); err != nil {
		t.Errorf("control: %v", err)
	}
}

// A follower of the key/value class refuses tombstones by name and impossible keys.
func TestFollowerRefusesTombstones(t *testing.T) {
	f := NewFollower(ClassKV)
	for _, c := range []Change{
		{Table: TableTombstone, Key: "k", Row: []byte{1}, Revision: 1},
		{Table: TableKV, Revision: 1},
	} {
		if _, err := f.Apply(Delta{Index: 1, Revision: 1, Changes: []Change{c}}); err == nil {
			t.Errorf("%s %q: accepted", c.Table, c.Key)
		}
	}
}

// Advance moves the index only if the rows add up, and never back.
func TestFollowerAdvance(t *testing.T) {
	m := someState(t)
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	public := NewClassSet(ClassPublic)
	at, digest := m.View().Position(), m.View().DigestOf(public)
	for _, tc := range []struct {
		index, revision uint64
		digest          [32]byte
		want            error
		then            uint64
	}{
		{at.Index + 5, at.Revision, digest, nil, at.Index + 5},
		{at.Index + 2, at.Revision, digest, nil, at.Index + 5},
		{at.Index + 9, at.Revision, [32]byte{1}, ErrDigest, at.Index + 5},
		{at.Index + 9, at.Revision + 1, digest, ErrGap, at.Index + 5},
	} {
		err := f.Advance(Position{Index: tc.index, Revision: tc.revision}, tc.digest)
		if !errors.Is(err, tc.want) || f.View().Index() != tc.then {
			t.Errorf("%+v: got %v at index %d", tc, err, f.View().Index())
		}
	}
}

// A snapshot that leads back, was cut off or never began is refused.
func TestFollowerLoad(t *testing.T) {
	old := testGenesis().View()
	m := someState(t)
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	f.LoadBegin()
	if err := f.LoadChunk(snapshotOf(t, old, f.Classes())); err != nil {
		t.Fatal(err)
	}
	if _, err := f.LoadEnd(old.Position(), old.DigestOf(f.Classes())); !errors.Is(err, ErrGap) {
		t.Errorf("older snapshot: got %v, want ErrGap", err)
	}
	if err := f.LoadChunk(nil); !errors.Is(err, ErrMalformed) || f.Loading() {
		t.Errorf("chunk without begin: got %v", err)
	}
	if _, err := f.LoadEnd(Position{}, [32]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("end without begin: got %v", err)
	}
	f.LoadBegin()
	if _, err := f.LoadEnd(Position{}, [32]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("empty snapshot: got %v", err)
	}
	if f.View().Revision() != m.View().Revision() {
		t.Error("the follower lost its state")
	}
}
