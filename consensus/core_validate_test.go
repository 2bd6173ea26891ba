package consensus

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// hostile are messages from 2 to the leader 1 of term 2 whose log ends at 2. The library panics on
// them, some at once, some when the garbage is applied.
var hostile = []struct {
	name   string
	m      *raftpb.Message
	atLead bool // 1 leads, else 2 does
	why    string
}{
	{"heartbeat response with a short context", &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Context: []byte{1, 2}}, true, "context of 2 bytes"},
	{"heartbeat response for a read never issued", &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Context: []byte{255, 255, 255, 255, 0, 0, 0, 0}}, true, "read 4294967295 of"},
	{"read index without entries", &raftpb.Message{Type: raftpb.MsgReadIndex.Enum()}, true, "not taken from peers"},
	{"empty proposal", &raftpb.Message{Type: raftpb.MsgProp.Enum()}, true, "not taken from peers"},
	{"garbage change of the core", &raftpb.Message{Type: raftpb.MsgProp.Enum(),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte{0xff, 0xff}}}}, true, "entries"},
	{"commit beyond the log", &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Commit: new(uint64(1000))}, false, "commits 1000 but the log ends at 2"},
	{"entries with a gap", &raftpb.Message{Type: raftpb.MsgApp.Enum(), Index: new(uint64(2)), LogTerm: new(uint64(2)),
		Entries: []*raftpb.Entry{{Index: new(uint64(3)), Term: new(uint64(2))}, {Index: new(uint64(9)), Term: new(uint64(2))}}, Commit: new(uint64(4))}, false, "entry 9 where 4 belongs"},
}

// bubbleTime is Options.Elapsed in a bubble of synctest, where CLOCK_BOOTTIME stands still.
func bubbleTime() time.Duration { return time.Duration(time.Now().UnixNano()) }

// prepared returns a core of three whose node 1 leads or follows 2 in term 2, its log ending at 2.
func prepared(t *testing.T, leads bool) *sim {
	s := newSim(t, 1)
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	s.now = s.now.Add(leaseLength) // nobody votes before
	leader := s.nodes[2]
	if leads {
		leader = s.nodes[1]
	}
	leader.do(func() { _ = leader.core.rn.Campaign(); leader.core.drain() })
	s.settle()
	if got := s.nodes[1].core; got.leads() != leads || got.term != 2 || got.log.last() != 2 {
		t.Fatalf("not prepared: %s", s.describe())
	}
	return s
}

func addressed(m *raftpb.Message) *raftpb.Message {
	m = proto.CloneOf(m)
	m.From, m.To = new(uint64(2)), new(uint64(1))
	if m.GetType() != raftpb.MsgProp && m.GetType() != raftpb.MsgReadIndex {
		m.Term = new(uint64(2)) // the library's own senders leave it out of those two
	}
	return m
}

// TestHostileMessagesAreRefused: each of the seven malformed messages is refused with its reason,
// and the cluster goes on.
func TestHostileMessagesAreRefused(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			s := prepared(t, h.atLead)
			m := addressed(h.m)
			m.Term = new(uint64(2))
			err := checkMessage(1, m)
			if err == nil {
				s.nodes[1].do(func() { err = s.nodes[1].core.step(m) })
			}
			if err == nil || !strings.Contains(err.Error(), h.why) {
				t.Errorf("got %v, want an error with %q", err, h.why)
			}
			r := s.nodes[s.current()].propose("a", "1")
			s.settle()
			s.tick(2)
			if *r == nil || (*r).err != nil {
				t.Errorf("the cluster does not go on: %s", describeOutcome(*r))
			}
		})
	}
}

// TestStockRawNodePanics is the control: without the checks every one of them stops the process.
func TestStockRawNodePanics(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			s := prepared(t, h.atLead)
			c := s.nodes[1].core
			defer func() {
				if p := recover(); p == nil {
					t.Error("the library took it: the check is not needed any more")
				} else {
					t.Log(p)
				}
			}()
			s.nodes[1].do(func() {
				m := addressed(h.m)
				if h.m.GetType() == raftpb.MsgReadIndex {
					m.From = nil // then the answer is for this node, and taken from the entries
				}
				_ = c.rn.Step(m)
				if h.m.GetType() == raftpb.MsgHeartbeatResp {
					m := addressed(h.m)
					m.From = new(uint64(3)) // a majority of two must lie about the reads
					_ = c.rn.Step(m)
				}
				c.drain()
			})
			s.settle() // what entered the log panics when it is handed on
			s.tick(3)
		})
	}
}

// goodAppend is an append that passes every check.
func goodAppend() *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(5)), LogTerm: new(uint64(3)), Index: new(uint64(10)),
		Entries: []*raftpb.Entry{{Index: new(uint64(11)), Term: new(uint64(4))}, {Index: new(uint64(12)), Term: new(uint64(5))}},
	}
}

// snap makes it a snapshot that passes.
func snap(m *raftpb.Message) {
	m.Type, m.Entries = raftpb.MsgSnap.Enum(), nil
	m.Snapshot = &raftpb.Snapshot{Data: []byte("m"), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(9)), Term: new(uint64(4)),
		ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}, AutoLeave: new(false)}}}
}

// edits break one rule each, except those marked ok.
var edits = []struct {
	name string
	edit func(*raftpb.Message)
	ok   bool
}{
	{"good", func(*raftpb.Message) {}, true},
	{"for another", func(m *raftpb.Message) { m.To = new(uint64(3)) }, false},
	{"from nobody", func(m *raftpb.Message) { m.From = nil }, false},
	{"from us", func(m *raftpb.Message) { m.From = new(uint64(1)) }, false},
	{"from the append thread", func(m *raftpb.Message) { m.From = new(raft.LocalAppendThread) }, false},
	{"no term", func(m *raftpb.Message) { m.Term = nil }, false},
	{"huge index", func(m *raftpb.Message) { m.Index = new(^uint64(0)) }, false},
	{"responses", func(m *raftpb.Message) { m.Responses = []*raftpb.Message{{}} }, false},
	{"storage response", func(m *raftpb.Message) { m.Type, m.Entries = raftpb.MsgStorageAppendResp.Enum(), nil }, false},
	{"hup", func(m *raftpb.Message) { m.Type, m.Entries = raftpb.MsgHup.Enum(), nil }, false},
	{"transfer", func(m *raftpb.Message) { m.Type, m.Entries = raftpb.MsgTransferLeader.Enum(), nil }, false},
	{"read index response", func(m *raftpb.Message) { m.Type, m.Entries = raftpb.MsgReadIndexResp.Enum(), nil }, false},
	{"unknown type", func(m *raftpb.Message) { m.Type, m.Entries = raftpb.MessageType(99).Enum(), nil }, false},
	{"context on an append", func(m *raftpb.Message) { m.Context = make([]byte, 8) }, false},
	{"term falls", func(m *raftpb.Message) { m.Entries[1].Term = new(uint64(3)) }, false},
	{"term above the message", func(m *raftpb.Message) { m.Entries[1].Term = new(uint64(6)) }, false},
	{"term zero", func(m *raftpb.Message) { m.LogTerm = nil; m.Entries[0].Term = nil }, false},
	{"log term above the message", func(m *raftpb.Message) { m.LogTerm, m.Entries = new(uint64(6)), nil }, false},
	{"entry type", func(m *raftpb.Message) { m.Entries[0].Type = raftpb.EntryType(7).Enum() }, false},
	{"garbage change", func(m *raftpb.Message) {
		m.Entries[0].Type, m.Entries[0].Data = raftpb.EntryConfChange.Enum(), []byte{0xff}
	}, false},
	{"change of id 0", func(m *raftpb.Message) { m.Entries[0].Type = raftpb.EntryConfChange.Enum() }, false},
	{"leave joint", func(m *raftpb.Message) { m.Entries[0].Type = raftpb.EntryConfChangeV2.Enum() }, true},
	{"large entry", func(m *raftpb.Message) { m.Entries[0].Data = make([]byte, maxBatchBytes+1) }, false},
	{"too many entries", func(m *raftpb.Message) { m.Entries = make([]*raftpb.Entry, maxMessageEntries+1) }, false},
	{"hint above index", func(m *raftpb.Message) {
		m.Type, m.Entries, m.Reject, m.RejectHint = raftpb.MsgAppResp.Enum(), nil, new(true), new(uint64(11))
	}, false},
	{"vote context", func(m *raftpb.Message) {
		m.Type, m.Entries, m.Context = raftpb.MsgVote.Enum(), nil, []byte("x")
	}, false},
	{"transfer vote", func(m *raftpb.Message) {
		m.Type, m.Entries, m.Context = raftpb.MsgVote.Enum(), nil, []byte(transferContext)
	}, true},
	{"snapshot", snap, true},
	{"snapshot on an append", func(m *raftpb.Message) { snap(m); m.Type = raftpb.MsgApp.Enum() }, false},
	{"empty snapshot", func(m *raftpb.Message) { snap(m); m.Snapshot = nil }, false},
	{"snapshot of a later term", func(m *raftpb.Message) { snap(m); m.Snapshot.Metadata.Term = new(uint64(6)) }, false},
	{"snapshot without voters", func(m *raftpb.Message) { snap(m); m.Snapshot.Metadata.ConfState.Voters = nil }, false},
	{"snapshot with a voter twice", func(m *raftpb.Message) { snap(m); m.Snapshot.Metadata.ConfState.Voters = []uint64{1, 1} }, false},
	{"snapshot with a voter that learns", func(m *raftpb.Message) { snap(m); m.Snapshot.Metadata.ConfState.Learners = []uint64{1} }, false},
	{"snapshot with id 0", func(m *raftpb.Message) { snap(m); m.Snapshot.Metadata.ConfState.Voters = []uint64{0} }, false},
	{"large manifest", func(m *raftpb.Message) { snap(m); m.Snapshot.Data = make([]byte, maxManifestBytes+1) }, false},
}

// TestCheckMessage goes through the rules one by one, from a message that passes.
func TestCheckMessage(t *testing.T) {
	for _, test := range edits {
		t.Run(test.name, func(t *testing.T) {
			m := goodAppend()
			test.edit(m)
			if err := checkMessage(1, m); (err == nil) != test.ok {
				t.Errorf("got %v, want ok %v", err, test.ok)
			}
		})
	}
}

// TestAdmit: what only our own state can refuse.
func TestAdmit(t *testing.T) {
	tests := []struct {
		name   string
		atLead bool
		m      *raftpb.Message
	}{
		{"acknowledged beyond our log", true, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Index: new(uint64(77))}},
		{"second leader of a term", true, &raftpb.Message{Type: raftpb.MsgApp.Enum()}},
		{"a term from far away", false, &raftpb.Message{Type: raftpb.MsgVote.Enum(), Term: new(uint64(1 << 40))}},
	}
	for _, test := range tests {
		s := prepared(t, test.atLead)
		m := proto.CloneOf(test.m)
		m.From, m.To = new(uint64(2)), new(uint64(1))
		if m.Term == nil {
			m.Term = new(uint64(2))
		}
		if err := checkMessage(1, m); err != nil {
			t.Fatal(err)
		}
		if err := s.nodes[1].core.step(m); err == nil {
			t.Errorf("%s: not refused", test.name)
		}
	}
	s := prepared(t, false)
	m := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(3)), To: new(uint64(1)), Term: new(uint64(2))}
	if err := s.nodes[1].core.step(m); err == nil {
		t.Error("told to take over by one that does not lead: not refused")
	}
}

// FuzzStep: no message that passes the checks may panic the core, whatever its bytes.
func FuzzStep(f *testing.F) {
	for _, h := range hostile {
		b, err := proto.Marshal(addressed(h.m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, h.atLead)
	}
	f.Fuzz(func(t *testing.T, b []byte, leads bool) {
		m := &raftpb.Message{}
		if err := proto.Unmarshal(b, m); err != nil {
			return
		}
		m.To = new(uint64(1))
		if checkMessage(1, m) != nil {
			return
		}
		s := prepared(t, leads)
		n := s.nodes[1]
		n.do(func() { _ = n.core.step(m) })
		for len(n.logQ) > 0 {
			n.writeLog()
		}
		n.do(func() { n.core.tick() })
	})
}
