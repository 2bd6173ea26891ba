package consensus

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var updateCorpus = flag.Bool("update-corpus", false, "write the named messages into testdata/fuzz")

// TestHostileMessagesAreInTheCorpus: the seven malformed messages that stock raft panics on are seeds of FuzzStep, each
// in a file of its own that says which it is; and the bytes of each, as a peer would send them, are refused with their
// reason.
func TestHostileMessagesAreInTheCorpus(t *testing.T) {
	if len(hostile) != 7 {
		t.Errorf("%d messages, seven are known", len(hostile))
	}
	for _, h := range hostile {
		m := addressed(h.m)
		m.Term = new(uint64(2)) // as a peer would send it
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nbool(%t)\n", b, h.atLead)
		path := filepath.Join("testdata", "fuzz", "FuzzStep", strings.ReplaceAll(h.name, " ", "-"))
		if *updateCorpus {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s is not the message of the table (%v): go test ./consensus -run Corpus -update-corpus", path, err)
		}
		quoted := strings.TrimSuffix(strings.TrimPrefix(strings.Split(string(got), "\n")[1], "[]byte("), ")")
		raw, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body := append([]byte{itemMessage}, binary.BigEndian.AppendUint32(nil, uint32(len(raw)))...)
		in, err := decodeFrame(append(body, raw...))
		if err != nil || len(in.messages) != 1 {
			t.Fatalf("%s: a frame of %d messages, %v", path, len(in.messages), err)
		}
		s := prepared(t, h.atLead)
		if err = checkMessage(1, in.messages[0]); err == nil {
			s.nodes[1].do(func() { err = s.nodes[1].core.step(in.messages[0]) })
		}
		if err == nil || !strings.Contains(err.Error(), h.why) {
			t.Errorf("%s: got %v, want an error with %q", path, err, h.why)
		}
	}
}

// messageBytes is how much of a script makes one message.
const messageBytes = 12

// scripted builds a message from a few bytes, such that it is close to what the checks let through: it comes from a peer,
// its terms and indexes are near those of a core whose log ends at 2 in term 2, and its entries follow each other
// unless the script says otherwise.
func scripted(b []byte) *raftpb.Message {
	near := func(base uint64, x byte) uint64 { return base + uint64(x%7) }
	m := &raftpb.Message{
		Type: raftpb.MessageType(b[0] % 25).Enum(), From: new(2 + uint64(b[1]%2)), To: new(uint64(1)),
		Term: new(near(1, b[2])), Index: new(near(0, b[3])), LogTerm: new(uint64(b[4] % 5)), Commit: new(near(0, b[5])),
		Reject: new(b[6]&1 == 1), RejectHint: new(near(0, b[7])),
	}
	if n := b[8] % 4; n < 3 {
		m.Context = bytes.Repeat([]byte{b[8] >> 4}, []int{0, 8, 2}[n])
	} else {
		m.Context = binary.BigEndian.AppendUint64(nil, uint64(b[8]>>4))
	}
	for i := range uint64(b[9] % 4) {
		e := &raftpb.Entry{Index: new(m.GetIndex() + 1 + i), Term: new(max(1, m.GetLogTerm())), Type: raftpb.EntryType(b[10] % 4).Enum()}
		switch b[10] >> 4 {
		case 1:
			e.Index = new(e.GetIndex() + 1)
		case 2:
			e.Term = new(e.GetTerm() + i)
		case 3:
			e.Data = []byte{b[11], b[10]}
		case 4: // a batch of nothing
			e.Data = encodeBatch(1, nil)
		case 5:
			change := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeType(b[11] % 4).Enum(), NodeId: new(uint64(b[11]>>4) % 6)}}}
			e.Type = raftpb.EntryConfChangeV2.Enum()
			e.Data, _ = proto.Marshal(change)
		}
		m.Entries = append(m.Entries, e)
	}
	if m.GetType() == raftpb.MsgSnap {
		m.Snapshot = &raftpb.Snapshot{Data: b[:3], Metadata: &raftpb.SnapshotMetadata{
			Index: new(near(0, b[10])), Term: new(uint64(b[11] % 5)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, uint64(b[9]%3) + 3}},
		}}
	}
	return m
}

// FuzzMessages: no sequence of messages that each pass the checks panics a core, leading or not, whatever is done with
// its log in between.
func FuzzMessages(f *testing.F) {
	for kind := range byte(25) {
		f.Add(bytes.Repeat([]byte{kind, 0, 1, 2, 2, 2, 0, 1, 1, 1, 0x40, 0}, 3), kind%2 == 0)
		f.Add(bytes.Repeat([]byte{kind, 1, 2, 1, 2, 1, 1, 1, 3, 2, 0x50, 0x12}, 2), kind%2 == 1)
	}
	f.Fuzz(func(t *testing.T, script []byte, leads bool) {
		s := prepared(t, leads)
		n := s.nodes[1]
		for range 16 {
			if len(script) < messageBytes {
				break
			}
			m := scripted(script)
			tick := script[11]&1 == 1
			script = script[messageBytes:]
			if checkMessage(1, m) != nil {
				continue
			}
			n.do(func() { _ = n.core.step(m) })
			for len(n.logQ) > 0 {
				n.writeLog()
			}
			if tick {
				n.do(func() { n.core.tick() })
			}
		}
	})
}

// FuzzNotes: a note of any kind and body is taken or refused, by a leader and by a follower, and what decodes encodes to
// the same bytes. One that a single peer told stops nobody: the cluster takes a write afterwards.
func FuzzNotes(f *testing.F) {
	held := claim{term: 2, index: 2, chain: [32]byte{1}, mac: [32]byte{2}}
	whole := tail{term: 2, lastTerm: 2, index: 2, applied: 2, voters: []uint64{1, 2, 3}, acked: 2, claim: &held}
	short := tail{term: 1, lastTerm: 1, index: 1}
	mark := binary.BigEndian.AppendUint64(nil, 2)
	line := appendLine(nil, 2, linkLine{life: 1, seq: 1, hears: []uint64{1, 3}})
	for _, leads := range []bool{true, false} {
		f.Add(byte(noteTailAsk), []byte(nil), leads)
		f.Add(byte(noteTail), whole.encode(), leads)
		f.Add(byte(noteTail), short.encode(), leads)
		f.Add(byte(noteClaim), held.append(nil), leads)
		f.Add(byte(noteCheckpoint), append(mark, make([]byte, 64)...), leads)
		f.Add(byte(noteCheckpoint), append(binary.BigEndian.AppendUint64(nil, 1<<62), make([]byte, 64)...), leads)
		f.Add(byte(noteProbation), []byte(nil), leads)
		f.Add(byte(noteLines), line, leads)
		f.Add(byte(255), []byte("of a later version"), leads)
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte, leads bool) {
		if m, err := decodeClaim(body); err == nil && !bytes.Equal(m.append(nil), body) {
			t.Fatalf("claim %+v encodes differently", m)
		}
		if m, err := decodeTail(body); err == nil && !bytes.Equal(m.encode(), body) {
			t.Fatalf("tail %+v encodes differently", m)
		}
		s := prepared(t, leads)
		n := s.nodes[1]
		n.do(func() { _ = n.core.hear(note{peer: 2, kind: noteKind(kind), body: body}) })
		s.settle()
		leader := s.current()
		if leader == 0 {
			t.Fatal("no leader any more")
		}
		r := s.nodes[leader].propose("a", "1")
		s.settle()
		s.tick(2)
		if *r == nil || (*r).err != nil {
			t.Fatalf("the cluster does not go on: %s", describeOutcome(*r))
		}
	})
}
