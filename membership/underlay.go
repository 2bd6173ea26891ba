package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/quic-go/quic-go"
	"go.uber.org/zap"
)

const (
	// maxLinks caps open connections, each about 50 KB. Beyond it the one idle longest goes.
	maxLinks = 256
	// maxDials caps handshakes that we start at once: an uncapped burst on a starved host never
	// converges.
	maxDials = 8
	// maxQueued is how many packets wait for a peer's link; the oldest is dropped.
	maxQueued = 32
	// maxPeerLinks caps the links of one peer, those being drained included.
	maxPeerLinks = 4
	// inboxPackets and inboxStreams are what waits for memberlist; then links wait, and QUIC drops.
	inboxPackets = 256
	inboxStreams = 16
	// idlePeer is how long a peer without links is remembered.
	idlePeer = 30 * time.Second
)

// underlay is memberlist's transport: one authenticated link to each peer in use, found by node
// name, over QUIC or, where UDP is blocked, over TLS on TCP. Everything a peer sends passes the
// firewall first.
type underlay struct {
	opts    Options
	fw      *firewall
	addr    func(node string) (netip.AddrPort, bool) // verified address, if known
	quic    *quic.Transport
	listen  *quic.Listener
	flood   *limiter
	aims    aims
	dials   chan struct{} // cap maxDials: a token for each handshake that we started
	packets chan *memberlist.Packet
	streams chan net.Conn
	log     *zap.Logger

	ctx    context.Context // ends with Shutdown; set by start under mu, constant afterwards
	cancel context.CancelFunc
	wg     sync.WaitGroup // of all goroutines; Add happens before close, under mu

	mu struct {
		sync.Mutex
		peers  map[string]*peer // by authenticated name; nothing is sent or dialled under mu
		links  map[*link]struct{}
		closed bool
	}
}

var _ memberlist.NodeAwareTransport = (*underlay)(nil)

func newUnderlay(o Options, fw *firewall) *underlay {
	u := &underlay{
		opts: o, fw: fw, log: o.Log, flood: newLimiter(o.Now),
		dials:   make(chan struct{}, maxDials),
		packets: make(chan *memberlist.Packet, inboxPackets),
		streams: make(chan net.Conn, inboxStreams),
	}
	u.addr = func(node string) (netip.AddrPort, bool) {
		k, ok := fw.known.get(node)
		return k.Addr, ok
	}
	u.mu.peers = make(map[string]*peer)
	u.mu.links = make(map[*link]struct{})
	return u
}

// start opens the QUIC endpoint and the goroutines that serve it; stop ends them.
func (u *underlay) start(ctx context.Context) error {
	u.mu.Lock()
	u.ctx, u.cancel = context.WithCancel(ctx)
	u.mu.Unlock()
	key := quic.StatelessResetKey(u.opts.ResetKey)
	u.quic = &quic.Transport{
		Conn: u.opts.Conn, StatelessResetKey: &key, VerifySourceAddress: u.flooded,
	}
	listener, err := u.quic.Listen(gossipTLS(u.opts.ServerTLS), u.quicConfig())
	if err != nil {
		u.cancel()
		return errors.Join(err, u.quic.Close())
	}
	u.listen = listener
	u.spawn(u.acceptLoop)
	u.spawn(u.upkeepLoop)
	return nil
}

// spawn runs f as one of the underlay's goroutines, unless it is stopping.
func (u *underlay) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mu.closed {
		return false
	}
	u.wg.Go(f)
	return true
}

// Shutdown closes every link, tells the peers, and waits for the goroutines. Safe twice.
func (u *underlay) Shutdown() error {
	u.mu.Lock()
	if u.mu.closed {
		u.mu.Unlock()
		return nil
	}
	u.mu.closed = true
	links := make([]*link, 0, len(u.mu.links))
	for l := range u.mu.links {
		links = append(links, l)
	}
	u.mu.Unlock()
	u.cancel()
	// quic.Transport.Close tells nobody, so each connection is closed first.
	for _, l := range links {
		l.close(closeStopping)
	}
	err := errors.Join(u.listen.Close(), u.quic.Close())
	u.wg.Wait()
	return err
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (u *underlay) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(u.opts.Advertise.Addr().AsSlice()), int(u.opts.Advertise.Port()), nil
}

// PacketCh implements memberlist.Transport.
func (u *underlay) PacketCh() <-chan *memberlist.Packet { return u.packets }

// StreamCh implements memberlist.Transport.
func (u *underlay) StreamCh() <-chan net.Conn { return u.streams }

var errNameless = errors.New("gossip address without a node name")

// WriteTo implements memberlist.Transport. Without a name nobody can be authenticated.
func (u *underlay) WriteTo([]byte, string) (time.Time, error) {
	return time.Time{}, writeError(errNameless)
}

// DialTimeout implements memberlist.Transport.
func (u *underlay) DialTimeout(string, time.Duration) (net.Conn, error) {
	return nil, dialError(errNameless)
}

// WriteToAddress queues a packet and returns at once: memberlist's probe and gossip loops call it
// inline. The error, if any, is a *net.OpError: with any other the prober gives up its round, and
// a dead node is never found.
func (u *underlay) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	p, err := u.peerAt(a)
	if err != nil {
		return time.Time{}, writeError(err)
	}
	u.fw.outbound(a.Name, b)
	if !p.enqueue(append([]byte(nil), b...)) {
		return time.Time{}, writeError(errUnreachable)
	}
	return u.opts.Now(), nil
}

// DialAddressTimeout opens a stream to a peer, connecting first if needed.
func (u *underlay) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	p, err := u.peerAt(a)
	if err != nil {
		return nil, dialError(err)
	}
	ctx, cancel := context.WithTimeout(u.ctx, timeout)
	defer cancel()
	conn, err := p.openStream(ctx)
	if err != nil {
		return nil, dialError(err)
	}
	return newFilteredConn(conn, func(r net.Conn) ([]byte, error) {
		if u.fw.bare {
			return nil, errPassThrough
		}
		return u.fw.response(p.name, r)
	}), nil
}

func writeError(err error) error { return &net.OpError{Op: "write", Net: "udp", Err: err} }
func dialError(err error) error  { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// peerAt returns the peer that an address names, with where to dial it: where it is being joined, else the
// verified address, or the given one while we know none.
func (u *underlay) peerAt(a memberlist.Address) (*peer, error) {
	if a.Name == "" || a.Name == u.opts.Name {
		return nil, errNameless
	}
	addr, ok := u.aims.at(a.Name)
	if !ok {
		addr, ok = u.addr(a.Name)
	}
	if !ok {
		given, err := netip.ParseAddrPort(a.Addr)
		if err != nil {
			return nil, err
		}
		addr = given
	}
	p, err := u.peer(a.Name)
	if err != nil {
		return nil, err
	}
	p.setAddr(addr)
	return p, nil
}

// peer returns the peer of an authenticated or dialled name, and starts its sender if it is new.
func (u *underlay) peer(name string) (*peer, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mu.closed || u.ctx == nil {
		return nil, net.ErrClosed
	}
	p := u.mu.peers[name]
	if p == nil {
		p = newPeer(u, name)
		u.mu.peers[name] = p
		u.wg.Go(p.sendLoop)
	}
	p.touch()
	return p, nil
}

// deliver hands a peer's packet to memberlist, as far as the firewall lets it.
func (u *underlay) deliver(from string, addr net.Addr, packet []byte) {
	kept := u.fw.inbound(from, packet)
	if kept == nil {
		return
	}
	u.inject(kept, addr)
}

// inject hands memberlist a packet of our own making or one that the firewall passed.
func (u *underlay) inject(packet []byte, from net.Addr) {
	select {
	case u.packets <- &memberlist.Packet{Buf: packet, From: from, Timestamp: u.opts.Now()}:
	case <-u.ctx.Done():
	}
}

// deliverStream hands memberlist a stream that a peer opened.
func (u *underlay) deliverStream(from string, conn net.Conn) {
	filtered := newFilteredConn(conn, func(r net.Conn) ([]byte, error) {
		if u.fw.bare {
			return nil, errPassThrough
		}
		return u.fw.request(from, r)
	})
	select {
	case u.streams <- filtered:
	case <-u.ctx.Done():
		_ = filtered.Close()
	}
}

// gossipTLS enforces on a copy what must hold whatever the caller set. Resumption would skip the
// caller's checks of the peer.
func gossipTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = tls.VersionTLS13
	c.NextProtos = []string{alpn}
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	return c
}
