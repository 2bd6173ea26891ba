package consensus

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A message has the bytes that the general codec gives it, and each codec reads what the other has written.
func TestRaftMessageBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not secret
	for range 5000 {
		m := randomMessage(rnd)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := appendRaft([]byte("before"), m)
		if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Fatalf("%v: %x, %v, want %x", m, got, err, want)
		}
		read, err := decodeRaft(want)
		if err != nil || !proto.Equal(read, m) {
			t.Fatalf("%v, %v, want %v", read, err, m)
		}
		if plain := m.Snapshot == nil && m.Responses == nil; plain != (readRaft(want) != nil) {
			t.Fatalf("%v: read by hand %v", m, !plain)
		}
	}
}

// Whatever is read by hand is what the general codec reads, and nothing that it refuses; the bytes are not kept.
func FuzzRaftMessage(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not secret
	for range 50 {
		b, err := proto.Marshal(randomMessage(rnd))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}) // a type below zero
	f.Add([]byte{7 << 3, 1, 7<<3 | 2, 0, 15 << 3, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := readRaft(b)
		if got == nil {
			return
		}
		want := &raftpb.Message{}
		if err := proto.Unmarshal(b, want); err != nil {
			t.Fatalf("%x is no message: %v", b, err)
		}
		clear(b)
		if !proto.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

func randomMessage(rnd *rand.Rand) *raftpb.Message {
	number := func() *uint64 {
		if rnd.IntN(2) == 0 {
			return nil
		}
		return new(rnd.Uint64() >> rnd.IntN(64))
	}
	data := func() []byte {
		if rnd.IntN(3) == 0 {
			return nil
		}
		return make([]byte, rnd.IntN(300))
	}
	m := &raftpb.Message{
		To: number(), From: number(), Term: number(), LogTerm: number(), Index: number(), Commit: number(), RejectHint: number(),
		Vote: number(), Context: data(),
	}
	if rnd.IntN(4) > 0 {
		m.Type = raftpb.MessageType(rnd.IntN(20)).Enum() //nolint:gosec // small
	}
	if rnd.IntN(2) == 0 {
		m.Reject = new(rnd.IntN(2) == 0)
	}
	for range rnd.IntN(4) {
		e := &raftpb.Entry{Term: number(), Index: number(), Data: data()}
		if rnd.IntN(2) == 0 {
			e.Type = raftpb.EntryType(rnd.IntN(3)).Enum() //nolint:gosec // small
		}
		m.Entries = append(m.Entries, e)
	}
	if rnd.IntN(8) == 0 {
		m.Snapshot = &raftpb.Snapshot{Data: data(), Metadata: &raftpb.SnapshotMetadata{Index: number()}}
	}
	if rnd.IntN(8) == 0 {
		m.Responses = []*raftpb.Message{{Term: number()}}
	}
	return m
}

// BenchmarkRaftMessage is two entries of 400 bytes for a follower, by both codecs.
func BenchmarkRaftMessage(b *testing.B) {
	entry := func(index uint64) *raftpb.Entry {
		return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(7)), Index: &index, Data: make([]byte, 400)}
	}
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(7)), LogTerm: new(uint64(7)),
		Index: new(uint64(123456)), Commit: new(uint64(123450)), Entries: []*raftpb.Entry{entry(123457), entry(123458)},
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 2*len(raw))
	for name, f := range map[string]func() error{
		"write":          func() error { _, err := appendRaft(buf, m); return err },
		"write, general": func() error { _, err := proto.MarshalOptions{}.MarshalAppend(buf, m); return err },
		"read":           func() error { _, err := decodeRaft(raw); return err },
		"read, general":  func() error { return proto.Unmarshal(raw, &raftpb.Message{}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Raft's messages and entries have no field that is not written here: one would be lost on the way.
func TestRaftMessageFields(t *testing.T) {
	for m, want := range map[proto.Message]int{&raftpb.Message{}: 14, &raftpb.Entry{}: 4} {
		fields := m.ProtoReflect().Descriptor().Fields()
		if fields.Len() != want || fields.ByNumber(protowire.Number(want)) == nil {
			t.Errorf("%s has %d fields: write and read them all", m.ProtoReflect().Descriptor().Name(), fields.Len())
		}
	}
}
