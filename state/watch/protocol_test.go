package watch

import (
	"bytes"
	"errors"
	"testing"

	"github.com/parley-mesh/parley/state"
	"pgregory.net/rapid"
)

// pack cuts between revisions only, keeps every change in order, keeps to the limit, and chains
// from prev to the position.
func TestPack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var changes []state.Change
		revision := uint64(10)
		for range rapid.IntRange(0, 20).Draw(rt, "changes") {
			revision += rapid.Uint64Range(0, 2).Draw(rt, "step")
			changes = append(changes, state.Change{
				Table: state.TableKV, Key: "k", Row: make([]byte, rapid.IntRange(1, 60).Draw(rt, "size")),
				Revision: max(revision, 11),
			})
		}
		to := state.Position{Index: 77, Term: 3, Revision: revision + 5}
		const limit = 700
		deltas, err := pack(10, to, changes, limit)
		if err != nil {
			if !errors.Is(err, state.ErrTooLarge) {
				rt.Fatal(err)
			}
			return
		}
		at, seen := uint64(10), 0
		for i, d := range deltas {
			if d.PrevRevision != at || (d.Index != 0) != (i == len(deltas)-1) {
				rt.Fatalf("delta %d does not continue: %+v", i, d)
			}
			at = d.Revision
			if b, err := state.EncodeDelta(d); err != nil || len(b) > limit {
				rt.Fatalf("delta %d: %d bytes, %v", i, len(b), err)
			}
			for _, c := range d.Changes {
				if c.Revision <= d.PrevRevision || c.Revision > d.Revision {
					rt.Fatalf("revision %d in a delta from %d to %d", c.Revision, d.PrevRevision, d.Revision)
				}
				if !bytes.Equal(c.Row, changes[seen].Row) {
					rt.Fatalf("change %d is another", seen)
				}
				seen++
			}
		}
		if seen != len(changes) || deltas[len(deltas)-1].Position() != to {
			rt.Fatalf("%d of %d changes, to %+v", seen, len(changes), deltas[len(deltas)-1].Position())
		}
	})
}

// A revision too large for a delta, by bytes or by count, goes by snapshot.
func TestPackTooLarge(t *testing.T) {
	row := make([]byte, state.MaxValueBytes)
	c := state.Change{Table: state.TableKV, Key: "k", Row: row, Revision: 2}
	if _, err := pack(1, state.Position{Revision: 2}, []state.Change{c, c}, state.MaxDeltaBytes); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("by bytes: got %v", err)
	}
	many := make([]state.Change, state.MaxDeltaChanges+1)
	if _, err := pack(1, state.Position{Revision: 2}, many, 1<<40); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("by count: got %v", err)
	}
	later := c
	later.Revision = 3
	if d, err := pack(1, state.Position{Revision: 3}, []state.Change{c, later}, state.MaxDeltaBytes); err != nil || len(d) != 2 {
		t.Errorf("control: two revisions: %d deltas, %v", len(d), err)
	}
}

// A stream meets such a revision with a snapshot.
func TestLargeRevisionGoesBySnapshot(t *testing.T) {
	c := newCore(t, DefaultTiming)
	var commands []state.Command
	for i := range 3 {
		commands = append(commands, put(string(rune('a'+i)), string(make([]byte, state.MaxValueBytes-1))))
	}
	for _, command := range commands {
		c.apply(command)
	}
	from := c.hub.ring.start(c.m.View().Revision())
	at := c.m.View().Position()
	row := make([]byte, state.MaxDeltaBytes)
	c.hub.ring.mu.all.entries = append(c.hub.ring.mu.all.entries, entry{
		at:      state.Position{Revision: at.Revision + 1},
		changes: []state.Change{{Class: state.ClassKV, Table: state.TableKV, Key: "k", Row: row, Revision: at.Revision + 1}},
	})
	var got [][]byte
	s := &stream{
		hub: c.hub, classes: state.NewClassSet(state.ClassKV), place: from, at: at,
		send: func(b []byte) error { got = append(got, bytes.Clone(b[:1])); return nil },
	}
	now := c.hub.ring.since(from)
	now.entries = c.hub.ring.mu.all.entries[len(c.hub.ring.mu.all.entries)-1:]
	if err := s.deltas(now, s.step(now)); err != nil {
		t.Fatal(err)
	}
	if FrameKind(got[0][0]) != FrameSnapshotBegin || FrameKind(got[len(got)-1][0]) != FrameSnapshotEnd {
		t.Fatalf("sent %s, want a snapshot", kinds(got))
	}
}

// Every frame survives a round trip, and oversized ones are refused on both sides.
func TestFrames(t *testing.T) {
	position := state.Position{Index: 1, Term: 2, Stamp: 3, Revision: 4}
	for _, f := range []Frame{
		{Kind: FrameSnapshotBegin},
		{Kind: FrameSnapshotChunk, Data: []byte("data")},
		{Kind: FrameSnapshotEnd, Position: position, Digest: [32]byte{1}},
		{Kind: FrameDelta, Delta: state.Delta{Index: 5, Revision: 4, PrevRevision: 3}},
		{Kind: FrameHeartbeat, Position: position, Digest: [32]byte{31: 1}},
	} {
		got, err := DecodeFrame(frame(t, f))
		if err != nil || got.Kind != f.Kind || got.Position != f.Position || got.Digest != f.Digest ||
			!bytes.Equal(got.Data, f.Data) || got.Delta.Position() != f.Delta.Position() {
			t.Errorf("got %+v, %v, want %+v", got, err, f)
		}
	}
	if _, err := EncodeFrame(Frame{Kind: FrameSnapshotChunk, Data: make([]byte, MaxFrameBytes)}); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("encode: got %v", err)
	}
	if _, err := DecodeFrame(make([]byte, MaxFrameBytes+1)); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("decode: got %v", err)
	}
}

// Any bytes are a frame or refused, and a replica survives them.
func FuzzFrame(f *testing.F) {
	v := newMachine().View()
	var b bytes.Buffer
	if err := v.WriteSnapshotOf(state.NewClassSet(public...), &b); err != nil {
		f.Fatal(err)
	}
	digest := v.DigestOf(state.NewClassSet(public...))
	snapshot := [][]byte{
		frame(f, Frame{Kind: FrameSnapshotBegin}),
		frame(f, Frame{Kind: FrameSnapshotChunk, Data: b.Bytes()}),
		frame(f, Frame{Kind: FrameSnapshotEnd, Position: v.Position(), Digest: digest}),
	}
	f.Add(snapshot[1])
	f.Add(frame(f, Frame{Kind: FrameHeartbeat, Position: v.Position(), Digest: digest}))
	f.Add(frame(f, Frame{Kind: FrameDelta, Delta: state.Delta{
		Index: 2, Revision: 2, PrevRevision: 1,
		Changes: []state.Change{{Table: state.TableNode, Key: "n", Row: state.EncodeNode(state.Node{Name: "n"}), Revision: 2}},
	}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		empty, full := NewReplica(public...), NewReplica(public...)
		for _, b := range snapshot {
			if _, err := full.Feed(b); err != nil {
				t.Fatal(err)
			}
		}
		half := NewReplica(public...)
		if _, err := half.Feed(snapshot[0]); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Replica{empty, full, half} {
			if _, err := r.Feed(data); err == nil {
				r.View().Nodes()
				r.View().Cluster()
			}
		}
		decoded, err := DecodeFrame(data)
		if err != nil {
			return
		}
		if again, err := EncodeFrame(decoded); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encoded again: %v\n%x\n%x", err, again, data)
		}
	})
}
