package consensus

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// PeerOptions connects a node with the others. Both functions are called concurrently.
type PeerOptions struct {
	// Dial opens the Raft connection to a peer, authenticated both ways. A node without it sends
	// nothing: a core of one.
	Dial func(ctx context.Context, id uint64) (net.Conn, error)
	// NodeOf returns the name in the certificate of a peer. False: unknown, nothing is taken from it.
	NodeOf func(id uint64) (string, bool)
	// Seal returns a MAC over data for a peer, by a key that nobody but the two has, and Verify checks that of a peer:
	// what goes through a third member is believed by it alone. Without both of them nothing is relayed.
	Seal   func(to uint64, data []byte) (mac [32]byte, ok bool)
	Verify func(from uint64, data, mac []byte) bool
}

const (
	peerDialTimeout  = 5 * time.Second
	peerWriteTimeout = 10 * time.Second
	peerPauseMin     = 50 * time.Millisecond
	peerPauseMax     = 2 * time.Second
	maxPeers         = 64 // nobody needs a core that large; a bound against a confused configuration
)

// peers owns the outgoing connections, one a peer, each with its writer goroutine, and knows the
// incoming ones in order to close them. Incoming connections are only read: a peer that can dial
// us but cannot be dialled is one-way, and raft sees that.
type peers struct {
	opts    PeerOptions
	log     *zap.Logger
	lost    func(id uint64, snapshot bool) // must not block
	refused func(id uint64)                // must not block; set before the first use
	self    uint64                         // for relays, as the next; set before the first use
	life    uint64

	sent, sentBytes atomic.Uint64 // envelopes of ours

	mu struct {
		sync.Mutex // never held while dialling, writing or calling lost
		ctx        context.Context
		out        []*peer             // in ascending order of their ids
		routes     map[uint64]Route    // never changed, but replaced
		in         map[string]net.Conn // newest connection of each node
		closed     bool
	}
	writers sync.WaitGroup
}

func newPeers(o PeerOptions, log *zap.Logger, lost func(uint64, bool)) *peers {
	p := &peers{opts: o, log: log, lost: lost, refused: func(uint64) {}}
	p.mu.in = make(map[string]net.Conn)
	return p
}

// run lets the writers work until ctx ends, then closes every connection and waits for the writers.
func (p *peers) run(ctx context.Context) error {
	p.mu.Lock()
	p.mu.ctx = ctx
	for _, q := range p.mu.out {
		p.start(q)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.mu.closed = true
	for _, c := range p.mu.in {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.writers.Wait()
	return nil
}

// start runs the writer of q; the caller holds mu.
func (p *peers) start(q *peer) {
	ctx, cancel := context.WithCancel(p.mu.ctx)
	q.cancel = cancel
	p.writers.Go(func() {
		defer cancel()
		q.run(ctx)
	})
}

// send queues messages for their receivers, until the bells are rung. Never blocks.
func (p *peers) send(messages ...*raftpb.Message) {
	for _, m := range messages {
		if q := p.peer(m.GetTo()); q != nil {
			q.drop(q.queue.put(m))
		}
	}
}

// report queues a report on a snapshot for its sender.
func (p *peers) report(to uint64, r peerReport) {
	if q := p.peer(to); q != nil {
		q.queue.report(r)
	}
}

// tell queues a note for its receiver.
func (p *peers) tell(from uint64, n note) {
	if q := p.peer(n.peer); q != nil {
		q.queue.tell(sentNote{n, from})
	}
}

// peer returns the peer's queue, making it when needed.
func (p *peers) peer(id uint64) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	q, made := p.get(id)
	if made {
		p.applyRoutes()
	}
	return q
}

// get is peer; the caller holds mu.
func (p *peers) get(id uint64) (q *peer, made bool) {
	at, found := p.place(id)
	if found {
		return p.mu.out[at], false
	}
	if p.mu.closed || p.opts.Dial == nil || len(p.mu.out) >= maxPeers {
		return nil, false
	}
	q = &peer{id: id, queue: newPeerQueue(), owner: p}
	p.mu.out = slices.Insert(p.mu.out, at, q)
	if p.mu.ctx != nil {
		p.start(q)
	}
	return q, true
}

// place is where a peer is, or belongs; the caller holds mu.
func (p *peers) place(id uint64) (at int, found bool) {
	return slices.BinarySearchFunc(p.mu.out, id, func(q *peer, id uint64) int { return cmp.Compare(q.id, id) })
}

// retain ends the writers of everybody who is not in ids, unless ids is empty: a node that was not
// added yet answers whoever talks to it. A message to one that ended starts a new one.
func (p *peers) retain(ids []uint64) {
	if len(ids) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.out = slices.DeleteFunc(p.mu.out, func(q *peer) bool {
		gone := !slices.Contains(ids, q.id)
		if gone && q.cancel != nil {
			q.cancel()
		}
		return gone
	})
	p.applyRoutes()
}

// peer is one outgoing connection.
type peer struct {
	id     uint64
	queue  *peerQueue
	owner  *peers
	cancel context.CancelFunc // guarded by peers.mu
	number atomic.Uint64      // of the last envelope
	line   line
}

// drop tells raft about lost messages, so that it probes instead of streaming into the void.
func (q *peer) drop(n int, snapshot bool) {
	if n > 0 {
		q.owner.lost(q.id, snapshot)
	}
}

// run connects when there is something to say, and again after a pause when that failed.
func (q *peer) run(ctx context.Context) {
	log := q.owner.log.With(zap.Uint64("peer", q.id))
	pause := peerPauseMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.queue.bell.c:
		}
		worked, err := q.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			q.owner.refused(q.id)
		}
		q.lose() // old by the time we are connected again
		log.Debug("raft connection lost", zap.Error(err))
		if worked {
			pause = peerPauseMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, peerPauseMax)
	}
}

// connect dials and writes until something fails. It reports whether anything was written.
func (q *peer) connect(ctx context.Context) (worked bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, peerDialTimeout)
	conn, err := q.owner.opts.Dial(dialCtx, q.id)
	cancel()
	if err != nil {
		return false, fmt.Errorf("dial: %w", err)
	}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	// The peer never writes here. Reading finds out that it closed, which a write would only
	// notice a lost message later.
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	defer func() {
		_ = conn.Close()
		<-watched
	}()
	return q.write(ctx, conn)
}

func (q *peer) write(ctx context.Context, conn net.Conn) (worked bool, err error) {
	q.line.open(conn)
	defer q.line.close()
	notify(q.queue.bell.c) // what we connected for
	for {
		select {
		case <-ctx.Done():
			return worked, ctx.Err()
		case <-q.queue.bell.c:
		}
		if err := q.writeNext(); err != nil {
			return worked, err
		}
		worked = true
	}
}

// encode adds items. A message over the limit is left out and reported.
func (q *peer) encode(buf []byte, messages []*raftpb.Message, reports []peerReport, notes []sentNote) []byte {
	size := 0
	for _, m := range messages {
		size += itemHeader + messageSize(m)
	}
	buf = slices.Grow(buf, size)
	for _, n := range notes {
		buf = appendNote(buf, n.from, n.note)
	}
	for _, r := range reports {
		buf = appendReport(buf, r)
	}
	for _, m := range messages {
		var err error
		before := len(buf)
		if buf, err = appendMessage(buf, m); err == nil && len(buf)-frameHeader > maxFrame {
			buf, err = buf[:before], fmt.Errorf("frame over %d bytes", maxFrame)
		}
		if err != nil {
			q.owner.log.Error("raft message not sent", zap.Uint64("peer", q.id), zap.Error(err))
			q.drop(1, m.GetType() == raftpb.MsgSnap)
		}
	}
	return buf
}

// takeFrames makes one frame for each peer for whom something waits, in ascending order of ids.
func (p *peers) takeFrames() []Frame {
	var few [8]*peer
	queues := few[:0]
	p.mu.Lock()
	for _, q := range p.mu.out {
		q.queue.bell.ring()
		select {
		case <-q.queue.bell.c: // what its writer waits for
			queues = append(queues, q)
		default:
		}
	}
	p.mu.Unlock()
	var frames []Frame
	for _, q := range queues {
		if b, _ := q.frame(nil); len(b) > frameHeader {
			frames = append(frames, Frame{To: q.id, Body: b[frameHeader:]})
		}
	}
	return frames
}

// writeFrame writes one frame, if there is anything in it.
func writeFrame(conn net.Conn, buf []byte) error {
	if len(buf) == frameHeader {
		return nil
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-frameHeader)) //nolint:gosec // at most maxFrame
	if err := conn.SetWriteDeadline(time.Now().Add(peerWriteTimeout)); err != nil {
		return fmt.Errorf("write deadline: %w", err)
	}
	if _, err := conn.Write(buf); err != nil {
		return fmt.Errorf("write frame of %d bytes: %w", len(buf), err)
	}
	return nil
}

// ServePeer reads a peer's Raft connection until it ends, ctx ends or the node stops, and closes
// it. node is the name in the peer's certificate: messages must come from the Raft id that belongs
// to it. A newer connection of the same node replaces the older one. A malformed message ends the
// connection.
func (n *Node) ServePeer(ctx context.Context, conn net.Conn, node string) {
	if !n.peers.enter(node, conn) {
		_ = conn.Close()
		return
	}
	defer n.peers.leave(node, conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err := n.readPeer(ctx, conn, node)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) && ctx.Err() == nil {
		n.closings.log(n.log, node, err)
	}
}

func (n *Node) readPeer(ctx context.Context, conn net.Conn, node string) error {
	r := bufio.NewReaderSize(conn, 64<<10)
	var buf []byte
	for {
		body, err := readFrame(r, buf)
		if err != nil {
			return err
		}
		buf = body
		if cap(buf) > 4*frameTarget {
			buf = nil
		}
		in, err := decodeFrame(body)
		if err != nil {
			return err
		}
		if err := n.checkInbound(&in, node); err != nil {
			return err
		}
		if n.takeTurn(in) {
			continue
		}
		n.turns.queued.Add(1)
		select {
		case n.inbound <- in: // full: the peer waits, TCP tells it
		case <-n.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// checkInbound compares each sender with the certificate and refuses malformed messages. Of what was relayed it
// leaves what its origin made.
func (n *Node) checkInbound(in *inbound, node string) error {
	if err := n.checkItems(in, func(id uint64) error { return n.checkSender(id, node) }); err != nil {
		return err
	}
	for _, e := range in.passes {
		if err := n.checkSender(e.origin, node); err != nil {
			return err
		}
	}
	n.openRelayed(in)
	return nil
}

// checkItems checks what is in a frame beside envelopes.
func (n *Node) checkItems(in *inbound, sender func(id uint64) error) error {
	for _, m := range in.messages {
		if err := sender(m.GetFrom()); err != nil {
			return err
		}
		if err := checkMessage(n.opts.ID, m); err != nil {
			return fmt.Errorf("malformed message: %w", err)
		}
	}
	for _, r := range in.reports {
		if err := sender(r.from); err != nil {
			return err
		}
	}
	for _, told := range in.notes {
		if err := sender(told.peer); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) checkSender(id uint64, node string) error {
	if n.opts.Peers.NodeOf == nil {
		return errors.New("this node takes no messages from peers")
	}
	if name, ok := n.opts.Peers.NodeOf(id); !ok || name != node {
		return fmt.Errorf("message claims to come from raft id %x, which does not belong to node %q", id, node)
	}
	return nil
}

// enter notes an incoming connection and closes the one it replaces.
func (p *peers) enter(node string, conn net.Conn) bool {
	p.mu.Lock()
	old := p.mu.in[node]
	ok := !p.mu.closed && (old != nil || len(p.mu.in) < maxPeers)
	if ok {
		p.mu.in[node] = conn
	}
	p.mu.Unlock()
	if ok && old != nil {
		_ = old.Close()
	}
	return ok
}

func (p *peers) leave(node string, conn net.Conn) {
	p.mu.Lock()
	if p.mu.in[node] == conn {
		delete(p.mu.in, node)
	}
	p.mu.Unlock()
	_ = conn.Close()
}
