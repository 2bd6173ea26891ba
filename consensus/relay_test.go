package consensus

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"testing"
)

// sealing gives a member what it needs to relay: a key for each pair.
func sealing(o *Options) {
	self := o.ID
	mac := func(peer uint64, data []byte) []byte {
		h := hmac.New(sha256.New, fmt.Appendf(nil, "%d %d", min(self, peer), max(self, peer)))
		h.Write(data)
		return h.Sum(nil)
	}
	o.Peers.Seal = func(to uint64, data []byte) ([32]byte, bool) { return [32]byte(mac(to, data)), true }
	o.Peers.Verify = func(from uint64, data, got []byte) bool { return hmac.Equal(got, mac(from, data)) }
}

// tick lets so many ticks pass everywhere.
func (c *replicas) tick(times int) {
	for range times {
		for _, r := range c.all {
			c.do(r.Tick())
		}
		c.settle()
	}
}

// only leaves these links, both ways, and cuts all others.
func (c *replicas) only(links ...[2]uint64) {
	c.cut = make(map[[2]uint64]bool)
	for i := range c.all {
		for j := range c.all {
			c.cut[[2]uint64{uint64(i + 1), uint64(j + 1)}] = true
		}
	}
	for _, l := range links {
		delete(c.cut, l)
		delete(c.cut, [2]uint64{l[1], l[0]})
	}
}

func (c *replicas) put(r *Replica, key string) (acked bool) {
	c.do(r.Propose([]byte(key+"=v"), func(_ Proposed, err error) { acked = err == nil }))
	c.settle()
	return acked
}

// constrained cuts the leader of five off from everybody, and of the others leaves only what goes through one of them,
// whose log is behind. It returns the ids of those that are left, the hub first.
func constrained(c *replicas) []uint64 {
	leader := c.leader()
	left := make([]uint64, 0, 4)
	for _, r := range c.all {
		if r != leader {
			left = append(left, r.n.opts.ID)
		}
	}
	var links [][2]uint64
	for _, id := range left[1:] {
		links = append(links, [2]uint64{leader.n.opts.ID, id})
	}
	c.only(links...)
	c.put(leader, "behind")
	links = nil
	for _, id := range left[1:] {
		links = append(links, [2]uint64{left[0], id})
	}
	c.only(links...)
	return left
}

// leads returns the first of these that leads and has committed in its term, nil if none does.
func (c *replicas) leads(ids []uint64) *Replica {
	for _, id := range ids {
		if r := c.all[id-1]; r.Leads() && r.Status().Confirmed {
			return r
		}
	}
	return nil
}

// TestConstrainedElection: three members that hear each other only through a fourth, which is behind and cannot lead
// itself, elect one of them and write. The control without relays never has a leader.
func TestConstrainedElection(t *testing.T) {
	for seed := range uint64(20) {
		newSim(t, seed)
		c := replicasOf(t, 5, sealing)
		left := constrained(c)
		ticks := 0
		for ; c.leads(left) == nil && ticks < 200; ticks++ {
			c.tick(1)
		}
		leader := c.leads(left)
		if leader == nil {
			t.Fatalf("seed %d: no leader after %d ticks", seed, ticks)
		}
		c.put(leader, "again")
		c.tick(20)
		for _, id := range left {
			if r := c.all[id-1]; r.Applied() < leader.Commit() {
				t.Errorf("seed %d: member %d has applied %d of %d", seed, id, r.Applied(), leader.Commit())
			}
		}
		if s := c.all[left[0]-1].Status(); s.Relayed.Passed == 0 || len(leader.Status().Relays) != 2 {
			t.Errorf("seed %d: the hub passed %+v; the leader's relays: %v", seed, s.Relayed, leader.Status().Relays)
		}

		newSim(t, seed)
		c = replicasOf(t, 5)
		left = constrained(c)
		for range 1000 {
			c.tick(1)
			if c.leads(left) != nil {
				t.Fatalf("control, seed %d: there is a leader without relays", seed)
			}
		}
	}
}

// TestDirectedCuts: of three members, whatever directions are cut, two that reach each other, straight or through the
// third, have a leader that takes writes.
func TestDirectedCuts(t *testing.T) {
	links := [][2]uint64{{1, 2}, {2, 1}, {1, 3}, {3, 1}, {2, 3}, {3, 2}}
	connected, led := 0, 0
	for set := range 1 << len(links) {
		newSim(t, uint64(set)) //nolint:gosec // small
		c := replicasOf(t, 3, sealing)
		c.leader()
		c.cut = make(map[[2]uint64]bool)
		for i, l := range links {
			if set>>i&1 == 1 {
				c.cut[l] = true
			}
		}
		want := c.connected()
		c.tick(200)
		leader := c.leads([]uint64{1, 2, 3})
		if leader != nil {
			led++
		}
		if want {
			connected++
		}
		if want && (leader == nil || !c.put(leader, "k")) {
			t.Errorf("cut %v: no leader that takes writes", c.cut)
		}
	}
	if connected == 0 || connected == 1<<len(links) {
		t.Errorf("%d of %d sets of cuts leave a majority connected", connected, 1<<len(links))
	}
	t.Logf("%d sets of cuts leave a majority connected over two hops; %d have a leader", connected, led)
}

// connected reports whether two members reach each other over at most two hops.
func (c *replicas) connected() bool {
	reach := func(from, to uint64) bool {
		third := 6 - from - to
		return !c.cut[[2]uint64{from, to}] || !c.cut[[2]uint64{from, third}] && !c.cut[[2]uint64{third, to}]
	}
	for _, p := range [][2]uint64{{1, 2}, {1, 3}, {2, 3}} {
		if reach(p[0], p[1]) && reach(p[1], p[0]) {
			return true
		}
	}
	return false
}

// TestRelayEnds: when the straight link works again it is used again, though not at once, and nothing is passed on any
// more.
func TestRelayEnds(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	leader := c.leader().n.opts.ID
	other, hub := leader%3+1, (leader+1)%3+1
	c.only([2]uint64{leader, hub}, [2]uint64{other, hub})
	c.tick(40) // the hub would soon lead
	if got := c.all[leader-1].Status().Relays; len(got) != 1 || got[other] != hub || c.leader().n.opts.ID != leader {
		t.Fatalf("relays of the leader: %v", got)
	}
	c.cut = nil
	c.tick(20)
	if got := c.all[leader-1].Status().Relays; len(got) != 1 {
		t.Errorf("the relay ended before the link had worked for a while: %v", got)
	}
	c.tick(60)
	if got := c.all[leader-1].Status().Relays; len(got) != 0 {
		t.Errorf("the relay goes on: %v", got)
	}
	passed := c.all[hub-1].Status().Relayed.Passed
	c.put(c.all[leader-1], "k")
	c.tick(20)
	if now := c.all[hub-1].Status().Relayed.Passed; now != passed || passed == 0 {
		t.Errorf("passed on: %d, then %d", passed, now)
	}
}

// bring wraps an envelope as a hub does.
func bring(raw []byte) []byte { return appendEnvelope(nil, itemRelayed, raw) }

// TestRelayedFramesAreAuthentic: the receiver takes a relayed frame that its origin made for it, in this life, once. It
// takes no other, and the hub's connection stays.
func TestRelayedFramesAreAuthentic(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	c.tick(30)
	to, life := c.all[0], c.all[0].n.core.relay.life
	beat := heartbeat(1)
	beat.From, beat.Term = new(uint64(3)), new(uint64(1))
	body, err := appendMessage(nil, beat)
	if err != nil {
		t.Fatal(err)
	}
	good := func(e envelope, body []byte) []byte {
		raw := e.append(nil, body)
		mac, _ := c.all[2].n.opts.Peers.Seal(e.final, raw)
		return append(raw, mac[:]...)
	}
	e := envelope{origin: 3, final: 1, life: 1 << 60, finalLife: life, seq: 5}
	with := func(f func(*envelope)) envelope { o := e; f(&o); return o }
	other, _ := appendMessage(nil, heartbeat(1)) // of member 1 itself
	flipped := good(e, body)
	flipped[envelopeHeader+3] ^= 1
	first := good(e, body)
	for _, tt := range []struct {
		name  string
		raw   []byte
		taken bool
	}{
		{"made by the origin", first, true},
		{"again", first, false},
		{"an earlier one", good(with(func(e *envelope) { e.seq = 4 }), body), true},
		{"changed on its way", flipped, false},
		{"without a MAC", append(e.append(nil, body), make([]byte, envelopeMAC)...), false},
		{"for another", good(with(func(e *envelope) { e.final = 2 }), body), false},
		{"for an earlier life of the receiver", good(with(func(e *envelope) { e.finalLife-- }), body), false},
		{"of an earlier life of the origin", good(with(func(e *envelope) { e.life--; e.seq = 9 }), body), false},
		{"of a later life", good(with(func(e *envelope) { e.life++; e.seq = 1 }), body), true},
		{"with a message of another", good(with(func(e *envelope) { e.life++; e.seq = 2 }), other), false},
		{"an envelope in it", good(with(func(e *envelope) { e.life++; e.seq = 3 }), bring(first)), false},
		{"garbage in it", good(with(func(e *envelope) { e.life++; e.seq = 4 }), []byte{9, 9}), false},
	} {
		before := to.n.core.relay.counts
		if err := to.Receive("2", bring(tt.raw)); err != nil {
			t.Errorf("%s: the connection ends: %v", tt.name, err)
		}
		now := to.n.core.relay.counts
		if taken := now.Received == before.Received+1; taken != tt.taken || !taken && now.Refused != before.Refused+1 {
			t.Errorf("%s: taken %v; %+v", tt.name, taken, now)
		}
	}
}

// TestHubTakesFromOriginsOnly: what is to be passed on must come from its origin, and be for a third member.
func TestHubTakesFromOriginsOnly(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	c.tick(30)
	hub := c.all[1]
	ask := func(origin, final uint64) []byte {
		raw := envelope{origin: origin, final: final}.append(nil, make([]byte, envelopeMAC))
		return appendEnvelope(nil, itemRelay, raw)
	}
	if err := hub.Receive("1", ask(3, 1)); err == nil {
		t.Error("a hub took a frame of 3 from 1")
	}
	for _, final := range []uint64{1, 2, 77} {
		if err := hub.Receive("1", ask(1, final)); err != nil || hub.n.core.relay.counts.Passed != 0 {
			t.Errorf("to %d: %v, %+v", final, err, hub.n.core.relay.counts)
		}
	}
	if err := hub.Receive("1", ask(1, 3)); err != nil || hub.n.core.relay.counts.Passed != 1 {
		t.Errorf("control: %v, %+v", err, hub.n.core.relay.counts)
	}
}

// TestHubLimits: a hub passes on so much and no more; what it keeps waiting has a limit; and small frames do not wait
// behind large ones.
func TestHubLimits(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	c.tick(30)
	core := c.all[1].n.core
	frame := func(size int) envelope {
		return envelope{origin: 1, final: 3, raw: make([]byte, size)}
	}
	for range 40 {
		if err := core.pass(frame(maxEnvelope / 16)); err != nil {
			t.Fatal(err)
		}
	}
	got := core.relay.counts
	if got.PassedBytes > passBulkPerTick+maxEnvelope || got.Dropped == 0 || core.relay.bulk.bytes > maxPassWaiting {
		t.Errorf("%+v, %d bytes wait", got, core.relay.bulk.bytes)
	}
	if err := core.pass(frame(100)); err != nil || core.relay.counts.Passed != got.Passed+1 {
		t.Errorf("a small frame waits behind large ones: %v", err)
	}
	for range 100 {
		core.tickPass()
	}
	if n := len(core.relay.bulk.waiting) + core.relay.bulk.bytes; n != 0 || core.relay.counts.Passed+core.relay.counts.Dropped != 41 {
		t.Errorf("after a while: %d wait, %+v", n, core.relay.counts)
	}
}

// TestRelayedComesLast: what a hub passes on stands behind its own messages in a frame, and is limited there too.
func TestRelayedComesLast(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	q := c.all[1].n.peers.peer(3)
	q.queue.clear()
	for range 40 {
		q.queue.pass(envelope{raw: make([]byte, 1<<18)})
	}
	if q.queue.mu.passBytes > maxPassingBytes {
		t.Errorf("%d bytes wait", q.queue.mu.passBytes)
	}
	q.queue.put(heartbeat(3))
	b, _ := q.frame(nil)
	if b[frameHeader] != itemMessage || len(b) > 2*relayTarget {
		t.Errorf("a frame of %d bytes begins with an item of kind %d", len(b), b[frameHeader])
	}
}

// TestSeenFrames: each number is taken once, in any order within the window.
func TestSeenFrames(t *testing.T) {
	var s seenFrames
	for _, tt := range []struct {
		life, seq uint64
		want      bool
	}{
		{1, 0, false}, {1, 1, true}, {1, 1, false}, {1, 3, true}, {1, 2, true}, {1, 2, false}, {1, 3 + seenWindow, true},
		{1, 3, false}, {1, 4, true}, {1, 4, false}, {1, 1 << 40, true}, {1, 1<<40 - seenWindow, false}, {1, 1<<40 - seenWindow + 1, true},
		{2, 7, true}, {1, 1<<40 + 1, false}, {2, 6, true}, {2, 7, false},
	} {
		if got := s.take(tt.life, tt.seq); got != tt.want {
			t.Errorf("life %d number %d: %v", tt.life, tt.seq, got)
		}
	}
}

// FuzzRelay: nothing that a hub may bring or a peer may say of links does harm. Lines and envelopes come back as they
// went; without the MAC of its origin nothing is opened, and with it only messages of that origin.
func FuzzRelay(f *testing.F) {
	f.Add(appendLine(nil, 3, linkLine{life: 1, seq: 2, hears: []uint64{1, 2}}), byte(0))
	f.Add(bring(envelope{origin: 3, final: 1, seq: 1}.append(nil, make([]byte, envelopeMAC))), byte(1))
	beat := heartbeat(1)
	beat.From = new(uint64(3))
	body, err := appendMessage(nil, beat)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bring(append(envelope{origin: 3, final: 1, seq: 1}.append(nil, body), make([]byte, envelopeMAC)...)), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		if kind&1 == 0 {
			ids, lines, err := decodeLines(b)
			if err != nil {
				return
			}
			var again []byte
			for i, id := range ids {
				again = appendLine(again, id, lines[i])
			}
			if string(again) != string(b) {
				t.Errorf("%x came back as %x", b, again)
			}
			return
		}
		o := Options{ID: 1}
		sealing(&o)
		n := &Node{opts: o}
		forged, err := decodeFrame(b)
		if err != nil {
			return
		}
		for _, r := range forged.relayed {
			if again := append(r.append(nil, r.body()), r.mac()...); string(again) != string(r.raw) {
				t.Errorf("envelope %x came back as %x", r.raw, again)
			}
		}
		if n.openRelayed(&forged); len(forged.relayed) > 0 {
			t.Errorf("%d envelopes without a MAC are opened", len(forged.relayed))
		}
		in, err := decodeFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		n.opts.Peers.Verify = func(uint64, []byte, []byte) bool { return true }
		n.openRelayed(&in)
		for _, r := range in.relayed {
			for _, m := range r.in.messages {
				if m.GetFrom() != r.origin {
					t.Errorf("a message of %x in a frame of %x", m.GetFrom(), r.origin)
				}
			}
		}
	})
}
