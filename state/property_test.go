package state

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// Two machines that apply the same entries give the same bytes, also when one of them was restored
// from a snapshot on the way; a follower of the public class agrees with them about that class.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, two := testGenesis(), testGenesis()
		f := NewFollower(ClassPublic)
		load(t, f, one.View())
		entries := rapid.SliceOfN(genEntry, 1, 25).Draw(rt, "entries")
		restoreAt := rapid.IntRange(0, len(entries)-1).Draw(rt, "restore at")
		for i, commands := range entries {
			if i == restoreAt {
				two = NewMachine()
				if err := two.Restore(bytes.NewReader(snapshotOf(t, one.View(), AllClasses))); err != nil {
					rt.Fatalf("restore: %v", err)
				}
			}
			prev := one.View().Revision()
			got1, touched := apply(t, one, stampAt(i*1000), commands...)
			got2, _ := apply(t, two, stampAt(i*1000), commands...)
			if !reflect.DeepEqual(got1, got2) {
				rt.Fatalf("entry %d: results differ:\n%v\n%v", i, got1, got2)
			}
			checkSame(rt, one.View(), two.View())
			follow(rt, f, one.View(), prev, touched)
		}
	})
}

func checkSame(t *rapid.T, a, b *View) {
	if a.Position() != b.Position() || a.Digest() != b.Digest() {
		t.Fatalf("replicas differ at %+v and %+v", a.Position(), b.Position())
	}
	if *a.Buckets() != *b.Buckets() {
		t.Fatal("a bucket differs though the digest does not")
	}
}

func load(t testing.TB, f *Follower, v *View) {
	t.Helper()
	f.LoadBegin()
	if err := f.LoadChunk(snapshotOf(t, v, f.Classes())); err != nil {
		t.Fatal(err)
	}
	if _, err := f.LoadEnd(v.Position(), v.DigestOf(f.Classes())); err != nil {
		t.Fatal(err)
	}
}

// follow brings the follower to v by an encoded delta, and compares.
func follow(t *rapid.T, f *Follower, v *View, prev uint64, touched Touched) {
	d := Delta{
		Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: prev,
	}
	for _, c := range touched.Changes {
		if f.Classes().Has(c.Class) {
			d.Changes = append(d.Changes, c)
		}
	}
	b, err := EncodeDelta(d)
	if err != nil {
		t.Fatalf("encode delta: %v", err)
	}
	if d, err = DecodeDelta(b); err != nil {
		t.Fatalf("decode delta: %v", err)
	}
	if _, err := f.Apply(d); err != nil {
		t.Fatalf("follower: %v", err)
	}
	if f.View().ClassDigest(ClassPublic) != v.ClassDigest(ClassPublic) {
		t.Fatalf("follower's public class differs at revision %d", v.Revision())
	}
	if f.View().Rows(TableKV)+f.View().Rows(TableToken)+f.View().Rows(TableSeal) != 0 {
		t.Fatal("the follower holds rows that it must not have")
	}
}

// The control of TestReplicasAgree: a machine that misses one changing command is found out.
func TestReplicasAgreeControl(t *testing.T) {
	one, two := testGenesis(), testGenesis()
	do(t, one, Put{Key: "a", Value: []byte("1")}, CodeOK)
	apply(t, two, stampAt(1))
	if one.View().Index() != two.View().Index() || one.View().Digest() == two.View().Digest() {
		t.Fatal("the digest does not notice a missing command")
	}
}

// Incremental digests equal those computed from nothing.
func TestDigestIsIncremental(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		for i, commands := range rapid.SliceOfN(genEntry, 1, 20).Draw(rt, "entries") {
			apply(t, m, stampAt(i*1000), commands...)
		}
		v := m.View()
		fresh := newStore(AllClasses)
		v.s.tree.scan(func(r *record) bool {
			fresh.set(r.table, r.key, r.revision, r.row)
			return true
		})
		if fresh.sums != v.s.sums {
			rt.Fatal("class sums drifted")
		}
	})
}

// What a reader is told never goes back, and what wakes is never more than what is told.
func TestRevisionsNeverGoBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		told := map[string]uint64{}
		for i, commands := range rapid.SliceOfN(genEntry, 1, 25).Draw(rt, "entries") {
			_, touched := apply(t, m, stampAt(i*1000), commands...)
			v := m.View()
			for _, key := range []string{"", "a", "a/", "a/1", "b/", "b/2/x", "zz"} {
				for what, n := range map[string][2]uint64{
					"key":    {v.KeyRevision(key), v.RowRevision(TableKV, key)},
					"prefix": {v.PrefixRevision(key), v.PrefixChanged(key)},
				} {
					if n[0] < told[what+key] || n[1] > n[0] {
						rt.Fatalf("%s %q: told %d after %d, changed %d", what, key, n[0], told[what+key], n[1])
					}
					told[what+key] = n[0]
				}
			}
			for _, c := range touched.Changes {
				if c.Table == TableKV && v.RowRevision(TableKV, c.Key) < c.Revision {
					rt.Fatalf("key %q changed at %d, its revision is less", c.Key, c.Revision)
				}
			}
		}
	})
}

// A View stays as it was, whatever is applied afterwards.
func TestViewsDoNotChange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		var views []*View
		var were []string
		for i, commands := range rapid.SliceOfN(genEntry, 1, 15).Draw(rt, "entries") {
			apply(t, m, stampAt(i*1000), commands...)
			views = append(views, m.View())
			were = append(were, dump(t, m.View()))
		}
		for i, v := range views {
			if got := dump(t, v); got != were[i] {
				rt.Fatalf("view %d changed", i)
			}
		}
	})
}

func dump(t testing.TB, v *View) string {
	var buckets bytes.Buffer
	for i, b := range v.Buckets() {
		if b != [32]byte{} {
			fmt.Fprintf(&buckets, "%d:%x ", i, b)
		}
	}
	return fmt.Sprintf("%x %x %s", snapshotOf(t, v, AllClasses), v.Digest(), buckets.String())
}

// Command bytes survive a round trip, and there is one encoding of each command.
func TestCommandRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := Envelope{
			Caller:  rapid.StringN(0, 20, MaxCallerBytes).Draw(rt, "caller"),
			Via:     rapid.StringN(0, 10, MaxNameBytes).Draw(rt, "via"),
			Request: [16]byte{rapid.Byte().Draw(rt, "request")},
			Command: genCommand.Draw(rt, "command"),
		}
		b, err := Encode(e, Version)
		if err != nil {
			rt.Fatalf("encode: %v", err)
		}
		got, err := Decode(b)
		if err != nil {
			rt.Fatalf("decode: %v", err)
		}
		again, err := Encode(got, Version)
		if err != nil || !bytes.Equal(again, b) {
			rt.Fatalf("encoded again: %v\n%x\n%x", err, again, b)
		}
		if got.Caller != e.Caller || got.Via != e.Via || got.Request != e.Request {
			rt.Fatalf("envelope: got %+v, want %+v", got, e)
		}
	})
}
