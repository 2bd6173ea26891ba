package consensus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// recordedLoad has clients write to three nodes, some of which do not wait, and returns what the recorders hold at the end.
func recordedLoad(t *testing.T, ring int) (recordings [][]byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for id := uint64(1); id <= 3; id++ {
			m.add(id, func(o *Options) {
				o.Record = RecordOptions{Bytes: ring, Build: "test"}
				o.SnapshotEntries, o.TrailingEntries, o.MaxBatchCommands = 200, 20, 5
			}, 1, 2, 3)
		}
		l := m.leader()
		var clients sync.WaitGroup
		for client := range 4 {
			clients.Go(func() {
				for i := range 900 {
					wait := 2 * time.Second
					if i%17 == client {
						wait = 0
					}
					ctx, cancel := context.WithTimeout(t.Context(), wait)
					_, _ = l.Propose(ctx, fmt.Appendf(nil, "password%d=hunter2-%d", client, i))
					_, _ = l.ReadIndex(ctx)
					cancel()
				}
			})
		}
		clients.Wait()
		for _, n := range m.nodes {
			b, err := n.Recording(t.Context(), "asked for")
			if err != nil {
				t.Fatal(err)
			}
			recordings = append(recordings, b)
		}
		m.stopAll()
	})
	return recordings
}

// TestReplay: what running nodes did is done again from the recording alone, of a whole life and of the end of one, and nothing
// of what was written is in it. The smaller ring is turned over and has room for any state: on a busy machine the log in memory is longer.
func TestReplay(t *testing.T) {
	for _, ring := range []int{16 << 20, 80 << 10} {
		for _, b := range recordedLoad(t, ring) {
			if bytes.Contains(b, []byte("hunter2")) || bytes.Contains(b, []byte("password")) {
				t.Error("a command is in the recording")
			}
			h, halves, err := openRecording(b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Replay(b, "test")
			if err != nil || got.Differs() != nil || got.Panic != nil || got.Violations != 0 || got.Turns == 0 {
				t.Errorf("%+v, %v, %v, %+v", got, err, got.Differs(), got.Panic)
			}
			if cut := got.Events < h.Events; cut != (ring < 1<<20) || cut != (len(halves) == 2) {
				t.Errorf("a ring of %d bytes has %d of %d events, in %d halves", ring, got.Events, h.Events, len(halves))
			}
			if len(b) > ring+ring/8 {
				t.Errorf("%d bytes of a ring of %d", len(b), ring)
			}
		}
	}
}

// TestReplayFindsDifferences: a recording that is changed in one event does not pass for what was done: the control of all
// replays that agree.
func TestReplayFindsDifferences(t *testing.T) {
	b := recordedLoad(t, 16<<20)[0]
	_, halves, err := openRecording(b)
	if err != nil {
		t.Fatal(err)
	}
	differ, tried := 0, 0
	for at := len(halves[0].events) / 4; at < len(halves[0].events); at += len(halves[0].events)/40 + 1 {
		p, err := newReplayer(halves[0].state)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(halves[0].events)
		changed[at] ^= 4
		tried++
		if err := p.play(changed); err != nil || p.over() {
			differ++
		}
	}
	if differ < tried/2 { // the others are in times and sizes that decided nothing
		t.Errorf("%d of %d changed recordings differ", differ, tried)
	}
}

// TestReplayRefuses: what another program or version recorded, and what is damaged, with what to do.
func TestReplayRefuses(t *testing.T) {
	b := recordedLoad(t, 16<<20)[0]
	if _, err := Replay(b, "other"); !errors.Is(err, ErrRecordingBuild) || !strings.Contains(err.Error(), "--any-build") {
		t.Errorf("another build: %v", err)
	}
	if got, err := Replay(b, ""); err != nil || got.Differs() != nil {
		t.Errorf("any build: %v, %v", err, got.Differs())
	}
	next := bytes.Replace(b[:len(b)-sha256.Size], []byte(`"format":2`), []byte(`"format":3`), 1)
	hash := sha256.Sum256(next)
	if _, err := Replay(append(next, hash[:]...), ""); !errors.Is(err, ErrRecordingFormat) {
		t.Errorf("another format: %v", err)
	}
	flipped := bytes.Clone(b)
	flipped[len(b)/2] ^= 1
	for name, bad := range map[string][]byte{"flipped": flipped, "cut": b[:len(b)/2], "empty": nil, "something else": []byte("hello"), "magic": []byte(recordingMagic)} {
		if _, err := Replay(bad, ""); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := readState(halvesOf(t, b)[0].state[:100]); err == nil {
		t.Error("a state that is cut off is taken")
	}
	huge := binary.AppendUvarint(nil, maxFilled+1)
	size := &tape{b: append([]byte{1}, huge...), reading: true}
	var filled []byte
	if size.size(&filled); size.err == nil || filled != nil {
		t.Error("a command without end is taken")
	}
}

func halvesOf(t *testing.T, b []byte) []half {
	t.Helper()
	_, halves, err := openRecording(b)
	if err != nil {
		t.Fatal(err)
	}
	return halves
}

// TestRecorderGivesUp: a state that does not fit into the ring turns the recorder off, says so, changes nothing else, and is tried
// again.
func TestRecorderGivesUp(t *testing.T) {
	c := newReplicas(t, 1, func(o *Options) { o.Record = RecordOptions{Bytes: 256, Build: "test"} })
	for range 20 {
		c.do(c.all[0].Tick())
		c.settle()
	}
	r := c.all[0]
	if _, err := r.Recording(""); !errors.Is(err, errStateTooLarge) {
		t.Errorf("got %v", err)
	}
	if !r.Leads() {
		t.Error("the only voter does not lead")
	}
	rec := r.n.recorder
	rec.opts.Bytes, rec.wait = 1<<20, 2
	for range 20 {
		c.do(r.Tick())
		c.settle()
	}
	b, err := r.Recording("")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Replay(b, "test"); err != nil || got.Differs() != nil || got.Events == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	c = newReplicas(t, 1)
	if _, err := c.all[0].Recording(""); !errors.Is(err, ErrNoRecorder) {
		t.Errorf("without a recorder: %v", err)
	}
}

// TestRecordingIsSaved: a halt and a panic give a recording away, once for each reason within the pause.
func TestRecordingIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var mu sync.Mutex
		var reasons []string
		l := m.add(1, func(o *Options) {
			o.Record = RecordOptions{Bytes: 1 << 20, Build: "test", Save: func(reason string, b []byte) {
				mu.Lock()
				defer mu.Unlock()
				if _, err := Replay(b, "test"); err != nil {
					t.Error(err)
				}
				reasons = append(reasons, reason)
			}}
		}, 1)
		m.leader()
		_, _ = l.Propose(t.Context(), []byte("panic"))
		time.Sleep(time.Second)
		l.events.put(input{kind: inputHalt, err: errors.New("again")})
		time.Sleep(time.Second)
		l.events.put(input{kind: inputLook, look: func(*core) { panic("a bug") }})
		if err := <-l.ended; err == nil {
			t.Error("it goes on")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(reasons) != 2 || reasons[0] != "halt" || !strings.HasPrefix(reasons[1], "panic in ") {
			t.Errorf("saved: %q", reasons)
		}
		l.ended <- nil
		m.stopAll()
	})
}

// FuzzReplay: whatever stands in the place of events, a replay ends with a result or an error.
func FuzzReplay(f *testing.F) {
	var recording []byte
	f.Add([]byte{byte(inputTick), 0, byte(inputFlush), markTookNone})
	f.Add([]byte{byte(inputSubmit), 1, 5, byte(inputFlush), markTake, 1})
	f.Add([]byte{byte(inputStep), 0xff, 0x7f, 4})
	f.Fuzz(func(t *testing.T, events []byte) {
		if recording == nil {
			c := newReplicas(t, 3, func(o *Options) { o.Record = RecordOptions{Bytes: 1 << 20} })
			for range 30 {
				for _, r := range c.all {
					c.do(r.Tick())
				}
				c.settle()
			}
			var err error
			if recording, err = c.all[0].Recording(""); err != nil {
				t.Fatal(err)
			}
		}
		p, err := newReplayer(halvesOf(t, recording)[0].state)
		if err != nil {
			t.Fatal(err)
		}
		_ = p.play(events)
	})
}

// BenchmarkRecorder is what a put costs three replicas and their codec, without disks and network, with the recorder and without.
func BenchmarkRecorder(b *testing.B) {
	for _, ring := range []int{0, 16 << 20} {
		b.Run(fmt.Sprintf("ring=%d", ring), func(b *testing.B) {
			t := &testing.T{}
			c := replicasOf(t, 3, func(o *Options) { o.Record = RecordOptions{Bytes: ring} })
			for range 60 {
				for _, r := range c.all {
					c.do(r.Tick())
				}
				c.settle()
			}
			var l *Replica
			for _, r := range c.all {
				if r.Leads() {
					l = r
				}
			}
			if l == nil {
				b.Fatal("no leader")
			}
			command := bytes.Repeat([]byte("x"), 256)
			command[3] = '='
			b.ReportAllocs()
			for b.Loop() {
				for range 32 {
					c.do(l.Propose(command, func(Proposed, error) {}))
				}
				c.settle()
			}
		})
	}
}

// BenchmarkRecorderEvent is what the recorder adds to the handling of an entry of 32 commands by a follower, and to its effects.
func BenchmarkRecorderEvent(b *testing.B) {
	c := replicasOf(&testing.T{}, 1, func(o *Options) { o.Record = RecordOptions{Bytes: 64 << 20} })
	r := c.all[0].n.recorder
	commands := make([][]byte, 32)
	for i := range commands {
		commands[i] = make([]byte, 256)
	}
	entry := &raftpb.Entry{Term: new(uint64(2)), Index: new(uint64(9)), Type: raftpb.EntryNormal.Enum(), Data: encodeBatch(1, commands)}
	m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(2)), LogTerm: new(uint64(2)),
		Index: new(uint64(8)), Commit: new(uint64(8)), Entries: []*raftpb.Entry{entry}}
	out := &effects{appends: []*appendTask{{entries: m.Entries, remote: []*raftpb.Message{{Type: raftpb.MsgAppResp.Enum(), Index: new(uint64(9))}}}}}
	b.ReportAllocs()
	for b.Loop() {
		in := input{kind: inputStep, message: m}
		r.before(c.all[0].n.core, &in)
		r.after()
		r.took(c.all[0].n.core, out)
	}
}

// BenchmarkRecorderState is the writing of the state of a core with 100,000 entries in memory, once for half a ring.
func BenchmarkRecorderState(b *testing.B) {
	c := replicasOf(&testing.T{}, 1, func(o *Options) { o.Record = RecordOptions{Bytes: 64 << 20} })
	core := c.all[0].n.core
	data := encodeBatch(1, [][]byte{make([]byte, 256)})
	for range 100_000 {
		core.log.entries = append(core.log.entries, &raftpb.Entry{Term: new(uint64(2)), Index: new(core.log.last() + 1), Type: raftpb.EntryNormal.Enum(), Data: data})
	}
	core.applied = core.log.last()
	state := recordedState{core: core}
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buffer, err = writeState(buffer[:0], &state); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(buffer)), "bytes")
}
