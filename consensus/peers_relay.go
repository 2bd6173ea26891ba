package consensus

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/mutant"
)

// Who is reached by whom the core decides (core_relay.go). Here its routes are followed: what waits for a member with a
// route is put into envelopes by the writer of the hub, behind all that waits for the hub itself, and what a hub passes on
// waits in the queue of the receiver behind all that we have to say to it.
const (
	relayTarget     = 256 << 10 // bytes of envelopes of each kind in a frame, about
	maxPassingBytes = 8 << 20   // bytes of others that wait for one peer; the oldest go first
	maxPassing      = 256       // envelopes of others in a frame
)

// wake is for whoever writes what waits here, when the bells are rung; the caller holds mu.
func (q *peerQueue) wake() {
	if q.mu.hub != nil {
		q.mu.hub.raise()
		return
	}
	q.bell.raise()
}

// route makes the writer that hub wakes the one who takes what waits here; nil: the peer's own.
func (q *peerQueue) route(hub *bell) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.hub != hub {
		q.mu.hub = hub
		q.wake()
	}
}

func (q *peerQueue) routed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.hub != nil
}

// pass adds an envelope of another member.
func (q *peerQueue) pass(e envelope) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.passing, q.mu.passBytes = append(q.mu.passing, e), q.mu.passBytes+len(e.raw)
	for q.mu.passBytes > maxPassingBytes && len(q.mu.passing) > 1 {
		q.mu.passBytes -= len(q.mu.passing[0].raw)
		q.mu.passing = q.mu.passing[1:]
	}
	q.bell.raise()
}

// takePassing takes about target bytes of envelopes of others.
func (q *peerQueue) takePassing(target int) (taken []envelope) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := 0
	for len(q.mu.passing) > 0 && size < target && len(taken) < maxPassing {
		e := q.mu.passing[0]
		q.mu.passing = q.mu.passing[1:]
		q.mu.passBytes -= len(e.raw)
		size += len(e.raw)
		taken = append(taken, e)
	}
	if len(q.mu.passing) > 0 {
		q.bell.raise()
	}
	return taken
}

// takeStraight takes the notes that go through nobody.
func (q *peerQueue) takeStraight() []sentNote {
	q.mu.Lock()
	defer q.mu.Unlock()
	notes := q.mu.straight
	q.mu.straight = nil
	return notes
}

// clearStraight drops what the peer's own writer takes while there is a route.
func (q *peerQueue) clearStraight() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.straight, q.mu.passing, q.mu.passBytes = nil, nil, 0
}

// setRoutes follows the routes from now on. They must not be changed afterwards.
func (p *peers) setRoutes(routes map[uint64]Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.routes = routes
	p.applyRoutes()
}

// applyRoutes tells all queues who takes from them; the caller holds mu.
func (p *peers) applyRoutes() {
	hubs := make(map[uint64]*bell)
	for _, id := range sortedKeys(p.mu.routes) {
		if hub, _ := p.get(p.mu.routes[id].Via); hub != nil {
			hubs[id] = hub.queue.bell
		}
	}
	for _, q := range p.mu.out {
		q.queue.route(hubs[q.id])
	}
}

// through lists whom we reach through a hub, in ascending order of ids, with their lives.
func (p *peers) through(hub uint64) (list []*peer, routes map[uint64]Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.routes) == 0 {
		return nil, nil
	}
	for _, id := range sortedKeys(p.mu.routes) {
		if at, found := p.place(id); found && p.mu.routes[id].Via == hub {
			list = append(list, p.mu.out[at])
		}
	}
	return list, p.mu.routes
}

// pass queues an envelope of another member for its receiver.
func (p *peers) pass(e envelope) {
	if q := p.peer(e.final); q != nil {
		q.queue.pass(e)
	}
}

// carried is what a frame held, for the case that it is lost.
type carried struct {
	messages int
	snapshot bool
	relayed  []*peer
}

// frame makes the next frame for the peer, header included: what waits for it, what others have for it, and what it is to
// pass on for us.
func (q *peer) frame(buf []byte) ([]byte, carried) {
	var in carried
	buf = q.encode(append(buf, make([]byte, frameHeader)...), nil, nil, q.queue.takeStraight())
	if !q.queue.routed() {
		messages, reports := q.queue.next(frameTarget)
		buf = q.encode(buf, messages, reports, q.queue.takeNotes())
		in.messages, in.snapshot = len(messages), hasSnapshot(messages)
	}
	for _, e := range q.queue.takePassing(relayTarget) {
		if len(buf)+itemHeader+len(e.raw)-frameHeader <= maxFrame {
			buf = appendEnvelope(buf, itemRelayed, e.raw)
		}
	}
	finals, routes := q.owner.through(q.id)
	for _, final := range finals {
		before := len(buf)
		buf = final.seal(buf, routes[final.id], 0)           // what is urgent
		buf = final.seal(buf, routes[final.id], relayTarget) // entries and snapshots
		if len(buf) > before {
			in.relayed = append(in.relayed, final)
		}
	}
	return buf, in
}

// seal adds an envelope with what waits for this peer, of bulk about target bytes.
func (q *peer) seal(buf []byte, route Route, target int) []byte {
	if len(buf)+itemHeader+maxEnvelope-frameHeader > maxFrame {
		q.queue.again()
		return buf
	}
	messages, reports := q.queue.next(target)
	body := q.encode(nil, messages, reports, q.queue.takeNotes())
	if len(body) == 0 {
		return buf
	}
	e := envelope{origin: q.owner.self, final: q.id, life: q.owner.life, finalLife: route.Life, seq: q.number.Add(1)}
	raw := e.append(nil, body)
	mac, ok := q.owner.opts.Seal(q.id, raw)
	if raw = append(raw, mac[:]...); !ok || len(raw) > maxEnvelope {
		q.drop(len(messages), hasSnapshot(messages))
		return buf
	}
	q.owner.sent.Add(1)
	q.owner.sentBytes.Add(uint64(len(raw)))
	return appendEnvelope(buf, itemRelay, raw)
}

// again wakes the writer once more.
func (q *peerQueue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake()
}

func appendEnvelope(b []byte, kind byte, raw []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(raw))) //nolint:gosec // at most maxEnvelope
	return append(b, raw...)
}

// dropCarried tells raft what was lost with a frame.
func (q *peer) dropCarried(in carried) {
	q.drop(in.messages, in.snapshot)
	for _, final := range in.relayed {
		q.owner.lost(final.id, true)
	}
}

// lose drops what waits for a peer that cannot be reached, and for those who are reached through it.
func (q *peer) lose() {
	if q.queue.routed() {
		q.queue.clearStraight()
	} else {
		q.drop(q.queue.clear())
	}
	finals, _ := q.owner.through(q.id)
	for _, final := range finals {
		final.drop(final.queue.clear())
	}
}

// relayed is an envelope that was passed on to us, opened.
type relayed struct {
	envelope
	in inbound
}

// refusal is why one was not.
type refusal struct {
	peer uint64
	err  error
}

// addEnvelope takes an item. Envelopes are not put into envelopes: see openRelayed.
func (in *inbound) addEnvelope(kind byte, item []byte) error {
	e, err := decodeEnvelope(item)
	if err != nil {
		return err
	}
	if kind == itemRelay {
		in.passes = append(in.passes, e)
	} else {
		in.relayed = append(in.relayed, relayed{envelope: e})
	}
	return nil
}

// openRelayed opens the envelopes for us. What is wrong with one is not the fault of the connection: it is left out.
func (n *Node) openRelayed(in *inbound) {
	good := in.relayed[:0]
	for _, r := range in.relayed {
		if err := n.open(&r); err != nil {
			in.refused = append(in.refused, refusal{r.origin, err})
			continue
		}
		good = append(good, r)
	}
	in.relayed = good
}

func (n *Node) open(r *relayed) (err error) {
	switch {
	case r.final != n.opts.ID:
		return fmt.Errorf("relayed frame for %x, this is %x", r.final, n.opts.ID)
	case n.opts.Peers.Verify == nil:
		return errRelayOff
	case !n.opts.Peers.Verify(r.origin, r.signed(), r.mac()) && !mutant.On(mutant.RelayUnauthenticated):
		return fmt.Errorf("a relayed frame is not what %x made", r.origin)
	}
	if r.in, err = decodeFrame(r.body()); err != nil {
		return err
	}
	if len(r.in.passes)+len(r.in.relayed) > 0 {
		return fmt.Errorf("%w: an envelope in an envelope", errFrame)
	}
	return n.checkItems(&r.in, func(id uint64) error {
		if id != r.origin {
			return fmt.Errorf("a relayed frame of %x has a message of %x", r.origin, id)
		}
		return nil
	})
}

// receiveStraight notes who was heard without a hub, and takes what came.
func (n *Node) receiveStraight(in inbound) {
	for _, m := range in.messages {
		n.feed(&input{kind: inputStraight, id: m.GetFrom()})
	}
	for _, r := range in.reports {
		n.feed(&input{kind: inputStraight, id: r.from})
	}
	for _, told := range in.notes {
		n.feed(&input{kind: inputStraight, id: told.peer})
	}
	n.receiveItems(in)
}

// receiveRelayed passes on what is for others, and takes what others passed on to us.
func (n *Node) receiveRelayed(in inbound) {
	for i := range in.passes {
		e := &in.passes[i]
		if err := n.feedPeer(&input{kind: inputPass, envelope: e}); err != nil {
			n.refused.line(n.log, n.core.ticks, e.origin, err)
		}
	}
	for _, r := range in.refused {
		n.feed(&input{kind: inputRelayRefused})
		n.refused.line(n.log, n.core.ticks, r.peer, r.err)
	}
	for i := range in.relayed {
		r := &in.relayed[i]
		if err := n.feedPeer(&input{kind: inputRelayed, envelope: &r.envelope}); err != nil {
			n.refused.line(n.log, n.core.ticks, r.origin, err)
			continue
		}
		n.receiveItems(r.in)
	}
}
