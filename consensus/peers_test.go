package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-mesh/parley/clock"
)

func heartbeat(to uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(to), Term: new(uint64(1))}
}

func bulk(to uint64, size int) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(to), Term: new(uint64(1)),
		Entries: []*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(1)), Data: make([]byte, size)}}}
}

// TestQueueLanes: a heartbeat overtakes the entries that wait, and a frame holds few of those.
func TestQueueLanes(t *testing.T) {
	q := newPeerQueue()
	for range 10 {
		q.put(bulk(2, 400<<10))
	}
	q.put(heartbeat(2))
	messages, _ := q.next(frameTarget)
	if messages[0].GetType() != raftpb.MsgHeartbeat || len(messages) != 4 {
		t.Errorf("first frame: %v first of %d messages", messages[0].GetType(), len(messages))
	}
	q.put(heartbeat(2))
	if messages, _ = q.next(frameTarget); messages[0].GetType() != raftpb.MsgHeartbeat {
		t.Errorf("second frame begins with %v", messages[0].GetType())
	}
}

// TestQueueLimits: at each limit the oldest goes, and a lost snapshot is named.
func TestQueueLimits(t *testing.T) {
	q := newPeerQueue()
	snapshot := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: new(uint64(2))}
	q.put(snapshot)
	for range maxPeerMessages - 1 {
		if n, _ := q.put(bulk(2, 1)); n > 0 {
			t.Fatal("dropped below the limit")
		}
	}
	if n, snap := q.put(bulk(2, 1)); n != 1 || !snap {
		t.Errorf("at the limit: dropped %d, snapshot %v", n, snap)
	}
	q = newPeerQueue()
	dropped := 0
	for range 70 {
		n, _ := q.put(bulk(2, 1<<20))
		dropped += n
	}
	if dropped == 0 || q.mu.bytes > maxPeerBytes {
		t.Errorf("dropped %d, %d bytes wait", dropped, q.mu.bytes)
	}
	for range maxPeerMessages {
		q.put(heartbeat(2))
	}
	if n, _ := q.put(heartbeat(2)); n != 1 {
		t.Errorf("urgent lane: dropped %d", n)
	}
	if n, _ := q.clear(); n != maxPeerMessages+70-dropped {
		t.Errorf("cleared %d", n)
	}
}

// TestFrameRoundTrip: what goes in comes out, reports included.
func TestFrameRoundTrip(t *testing.T) {
	var b []byte
	b = appendReport(b, peerReport{from: 7, index: 9, ok: true})
	b, err := appendMessage(b, bulk(2, 100))
	if err != nil {
		t.Fatal(err)
	}
	framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	body, err := readFrame(bytes.NewReader(framed), nil)
	if err != nil {
		t.Fatal(err)
	}
	in, err := decodeFrame(body)
	if err != nil || len(in.messages) != 1 || !proto.Equal(in.messages[0], bulk(2, 100)) || in.reports[0] != (peerReport{7, 9, true}) {
		t.Errorf("got %+v, %v", in, err)
	}
}

// TestFrameLimits: too large is refused before it is read or sent, with the limit in the error.
func TestFrameLimits(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, maxFrame+1)
	if _, err := readFrame(bytes.NewReader(head), nil); !errors.Is(err, errFrame) || !strings.Contains(err.Error(), fmt.Sprint(maxFrame)) {
		t.Errorf("reading: %v", err)
	}
	if _, err := appendMessage(nil, bulk(2, maxFrame)); err == nil || !strings.Contains(err.Error(), "over the frame limit") {
		t.Errorf("writing: %v", err)
	}
	if _, err := decodeFrame(bytes.Repeat([]byte{itemMessage, 0, 0, 0, 0}, maxFrameItem+1)); !errors.Is(err, errFrame) {
		t.Errorf("items: %v", err)
	}
}

// FuzzFrame: a frame of any bytes is refused or taken apart, and put together again it means the same. What it makes us
// hold is not more than it has bytes; one that says that it is longer than it is, is refused.
func FuzzFrame(f *testing.F) {
	b, _ := appendMessage(appendReport(nil, peerReport{1, 2, false}), bulk(2, 3))
	f.Add(b)
	b = appendNote(b, 2, note{kind: noteClaim, body: make([]byte, claimBytes)})
	b = appendEnvelope(b, itemRelay, envelope{origin: 2, final: 3}.append(nil, make([]byte, envelopeMAC)))
	f.Add(appendEnvelope(b, itemRelayed, envelope{origin: 3, final: 1, seq: 1}.append(nil, make([]byte, envelopeMAC))))
	for _, h := range hostile {
		b, _ := appendMessage(nil, addressed(h.m))
		f.Add(b)
	}
	f.Add([]byte{itemNote, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		if got, err := readFrame(bytes.NewReader(framed), nil); err == nil && !bytes.Equal(got, body) || (err == nil) != (len(body) > 0) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if _, err := readFrame(bytes.NewReader(framed[:len(framed)-1]), nil); err == nil {
			t.Fatal("a frame that was cut is taken")
		}
		in, err := decodeFrame(body)
		if err != nil {
			return
		}
		again, held := encodeInbound(t, in)
		if held > len(body) || len(in.messages)+len(in.reports)+len(in.notes)+len(in.passes)+len(in.relayed) > len(body)/itemHeader {
			t.Fatalf("%d bytes are held of %d", held, len(body))
		}
		back, err := decodeFrame(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, _ := encodeInbound(t, back); !bytes.Equal(third, again) {
			t.Fatalf("%x, and then %x", again, third)
		}
		for _, m := range in.messages {
			_ = checkMessage(1, m)
		}
	})
}

// encodeInbound puts a frame together again, kind by kind, and counts the bytes of what was no message.
func encodeInbound(t *testing.T, in inbound) (b []byte, held int) {
	t.Helper()
	for _, m := range in.messages {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.BigEndian.AppendUint32(append(b, itemMessage), uint32(len(raw))), raw...)
	}
	for _, r := range in.reports {
		b = appendReport(b, r)
	}
	for _, n := range in.notes {
		b, held = appendNote(b, n.peer, n), held+len(n.body)
	}
	for _, e := range in.passes {
		b, held = appendEnvelope(b, itemRelay, e.raw), held+len(e.raw)
	}
	for _, r := range in.relayed {
		b, held = appendEnvelope(b, itemRelayed, r.raw), held+len(r.raw)
	}
	return b, held
}

// TestPeersReconnect: while a peer cannot be dialled messages are dropped and reported, with pauses
// between the attempts; afterwards they arrive.
func TestPeersReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost, dials atomic.Int64
		var reachable atomic.Bool
		there := make(chan net.Conn, 1)
		p := newPeers(PeerOptions{Dial: func(context.Context, uint64) (net.Conn, error) {
			dials.Add(1)
			if !reachable.Load() {
				return nil, errors.New("refused")
			}
			a, b := net.Pipe()
			there <- b
			return a, nil
		}}, zap.NewNop(), func(uint64, bool) { lost.Add(1) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.run(ctx) }()
		for range 200 { // ten seconds of heartbeats
			p.send(heartbeat(2))
			p.ring(false)
			time.Sleep(50 * time.Millisecond)
		}
		if d := dials.Load(); lost.Load() == 0 || d < 4 || d > 20 {
			t.Errorf("%d dials and %d reports in 10 s", d, lost.Load())
		}
		reachable.Store(true)
		time.Sleep(5 * time.Second)
		p.send(heartbeat(2))
		p.ring(false)
		body, err := readFrame(<-there, nil)
		if in, derr := decodeFrame(body); err != nil || derr != nil || len(in.messages) == 0 {
			t.Errorf("got %v, %v", err, derr)
		}
		cancel()
		t.Log("the writer ended with", <-ended)
	})
}

// TestPeersStalledReader: a peer that stops reading is cut off by the write deadline, and what was
// meant for it is reported lost; nobody else waits.
func TestPeersStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Int64
		p := newPeers(PeerOptions{Dial: func(context.Context, uint64) (net.Conn, error) {
			a, _ := net.Pipe() // nobody reads
			return a, nil
		}}, zap.NewNop(), func(_ uint64, snapshot bool) {
			if snapshot {
				lost.Add(1)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.run(ctx) }()
		p.send(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(2))})
		p.ring(false)
		time.Sleep(peerWriteTimeout + time.Second)
		if lost.Load() != 1 {
			t.Errorf("%d reports of a lost snapshot", lost.Load())
		}
		p.retain([]uint64{3})
		synctest.Wait()
		cancel()
		t.Log("the writer ended with", <-ended)
	})
}

// TestServePeerIdentity: a message counts only if its Raft id belongs to the certificate that it
// came with; garbage and forgeries end the connection.
func TestServePeerIdentity(t *testing.T) {
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(9)),
		Index: new(uint64(99)), LogTerm: new(uint64(9)), Context: []byte(transferContext)}
	forged := proto.CloneOf(vote)
	forged.From = new(uint64(3))
	storage := &raftpb.Message{Type: raftpb.MsgStorageAppendResp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(1)), Index: new(uint64(9))}
	frame := func(m *raftpb.Message) []byte {
		b, err := appendMessage(make([]byte, frameHeader), m)
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-frameHeader))
		return b
	}
	tests := []struct {
		name string
		send []byte
		ok   bool
	}{
		{"honest", frame(vote), true},
		{"another's id", frame(forged), false},
		{"local message", frame(storage), false},
		{"no frame", []byte("GET / HTTP/1.1\r\n\r\n"), false},
		{"report of another", func() []byte {
			b := appendReport(make([]byte, frameHeader), peerReport{from: 3})
			binary.BigEndian.PutUint32(b, uint32(len(b)-frameHeader))
			return b
		}(), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				defer m.stopAll()
				n := m.add(1, nil, 1, 2)
				here, there := net.Pipe()
				served := make(chan struct{})
				go func() { defer close(served); n.ServePeer(t.Context(), there, "node2") }()
				_, _ = here.Write(test.send)
				synctest.Wait()
				select {
				case <-served:
					if test.ok {
						t.Error("the connection was closed")
					}
				default:
					if !test.ok {
						t.Error("the connection is still open")
					}
				}
				if term := n.Status().Term; (term == 9) != test.ok {
					t.Errorf("term is %d", term)
				}
				_ = here.Close()
				<-served
			})
		})
	}
}

// TestServePeerReplaces: a second connection of a node closes the first: half-open ones do not pile up.
func TestServePeerReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		n := m.add(1, nil, 1, 2)
		a1, b1 := net.Pipe()
		a2, b2 := net.Pipe()
		go n.ServePeer(t.Context(), b1, "node2")
		synctest.Wait()
		go n.ServePeer(t.Context(), b2, "node2")
		if _, err := a1.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("first connection: %v", err)
		}
		m.stopAll()
		if _, err := a2.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the node stopped: %v", err)
		}
		_, b3 := net.Pipe()
		n.ServePeer(t.Context(), b3, "node2") // returns at once
	})
}

// TestServePeerLogsSparingly: a peer that is refused each time connects again at once. It gets one line a
// second, with the number of refusals in it.
func TestServePeerLogsSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, seen := observer.New(zap.WarnLevel)
		m := newMesh(t)
		defer m.stopAll()
		n := m.add(1, func(o *Options) { o.Logger = zap.New(lines) }, 1, 2)
		refuse := func() {
			here, there := net.Pipe()
			go func() { _, _ = here.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }()
			n.ServePeer(t.Context(), there, "node2")
			_ = here.Close()
		}
		for range 20 {
			refuse()
		}
		if got := seen.FilterMessage("raft connection closed").Len(); got != 1 {
			t.Errorf("%d lines about 20 refusals", got)
		}
		time.Sleep(closingPause)
		refuse()
		all := seen.FilterMessage("raft connection closed").All()
		if len(all) != 2 || all[1].ContextMap()["count"] != int64(20) {
			t.Errorf("a second later: %d lines, the last says %v", len(all), all[len(all)-1].ContextMap())
		}
	})
}

// overTCP starts three nodes on loopback sockets. A first byte stands for the certificate.
func overTCP(ctx context.Context, t *testing.T, ended chan<- error) (nodes []*Node, listeners map[uint64]net.Listener) {
	listeners = map[uint64]net.Listener{}
	for id := uint64(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[id] = l
	}
	for id, l := range listeners {
		log, snaps := newFakeLog(), newFakeSnapshots()
		if err := genesis(log, snaps, 1, 2, 3); err != nil {
			t.Fatal(err)
		}
		clk, err := clock.New(clock.Options{Physical: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		dial := func(ctx context.Context, to uint64) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", listeners[to].Addr().String())
			if err == nil {
				_, err = c.Write([]byte{byte(id)})
			}
			return c, err
		}
		n, err := New(Options{ID: id, Clock: clk, Log: log, Recovered: log.recovered(snaps), Snapshots: snaps,
			Machine: newFakeMachine(), Tick: 10 * time.Millisecond,
			Peers: PeerOptions{Dial: dial, NodeOf: func(id uint64) (string, bool) { return fmt.Sprint("node", id), true }}})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
		go func() { ended <- n.Run(ctx) }()
		go accept(ctx, l, n)
	}
	return nodes, listeners
}

func accept(ctx context.Context, l net.Listener, n *Node) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		var who [1]byte
		if _, err := io.ReadFull(c, who[:]); err == nil {
			go n.ServePeer(ctx, c, fmt.Sprint("node", who[0]))
		}
	}
}

// TestNodesOverTCP: three nodes over real sockets elect, write and stop, and leave no goroutine.
func TestNodesOverTCP(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	nodes, listeners := overTCP(ctx, t, ended)
	acknowledged := 0
	for deadline := time.Now().Add(10 * time.Second); acknowledged < 50 && time.Now().Before(deadline); {
		for _, n := range nodes {
			if n.Status().Role != "leader" {
				<-time.After(time.Millisecond)
			} else if _, err := n.Propose(ctx, []byte("a=1")); err == nil {
				acknowledged++
			}
		}
	}
	if acknowledged < 50 {
		t.Errorf("%d writes acknowledged", acknowledged)
	}
	cancel()
	for range nodes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	if after := runtime.NumGoroutine(); after > before {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", before, after, buf[:runtime.Stack(buf, true)])
	}
}
