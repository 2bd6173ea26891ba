package membership

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// Path is how packets reach a peer.
type Path string

// The paths: QUIC, or TLS over TCP where UDP does not get through.
const (
	PathUDP Path = "udp"
	PathTCP Path = "tcp"
)

// closeReason is the application error code with which a link is closed.
type closeReason uint64

const (
	closeStopping closeReason = iota + 1
	closeIdle
	closeDuplicate
	closeStalled
	closeBusy
	closeRefused
	closeBroken
)

// carrier is one authenticated connection: QUIC or TLS over TCP.
type carrier interface {
	// send hands over one packet; it may block until close.
	send(packet []byte) error
	// open opens a stream to the peer.
	open(ctx context.Context) (net.Conn, error)
	// progress counts packets of any kind that came from the peer, acknowledgements included.
	progress() uint64
	remote() net.Addr
	// close tells the peer and makes the other methods return.
	close(closeReason)
}

// link is a carrier in use for a peer. Times are Unix nanoseconds.
type link struct {
	peer   *peer
	path   Path
	opener string // node name of the side that dialled
	born   time.Time
	carrier
	standing transport.Standing // constant once the link is adopted

	streams  atomic.Int32 // open; such a link is never evicted
	used     atomic.Int64 // last packet or stream, either way
	heard    atomic.Int64 // last packet or stream from the peer
	waiting  atomic.Int64 // since when something sent is unacknowledged; 0 if nothing is
	seen     atomic.Uint64
	draining atomic.Bool // lost to another link: not sent on, closed soon

	closeOnce sync.Once
}

func newLink(p *peer, path Path, opener string, c carrier) *link {
	now := p.under.opts.Now()
	l := &link{peer: p, path: path, opener: opener, born: now, carrier: c}
	l.used.Store(now.UnixNano())
	l.heard.Store(now.UnixNano())
	return l
}

// stands reports whether the peer could still open the link.
func (l *link) stands() error {
	if l.standing.Check == nil {
		return nil
	}
	return l.standing.Check()
}

func (l *link) now() int64 { return l.peer.under.opts.Now().UnixNano() }

// noteHeard records life from the peer.
func (l *link) noteHeard() {
	l.peer.noteReceived()
	now := l.now()
	l.used.Store(now)
	l.heard.Store(now)
	l.waiting.Store(0)
}

func (l *link) noteSent() {
	now := l.now()
	l.used.Store(now)
	l.waiting.CompareAndSwap(0, now)
}

// stalledFor is how long the peer has acknowledged nothing of what we sent.
func (l *link) stalledFor(now time.Time) time.Duration {
	if n := l.progress(); l.seen.Swap(n) != n {
		l.waiting.Store(0)
		return 0
	}
	since := l.waiting.Load()
	if since == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, since))
}

// evictable: nothing open, nothing used lately.
func (l *link) evictable(now time.Time) bool {
	return l.streams.Load() == 0 && now.Sub(time.Unix(0, l.used.Load())) > evictIdle
}

func (l *link) send(packet []byte) error {
	l.noteSent()
	return l.carrier.send(packet)
}

func (l *link) openStream(ctx context.Context) (net.Conn, error) {
	l.streams.Add(1)
	conn, err := l.open(ctx)
	if err != nil {
		l.streams.Add(-1)
		return nil, err
	}
	l.noteSent()
	return l.track(conn), nil
}

// acceptStream takes in a stream that the peer opened.
func (l *link) acceptStream(conn net.Conn) {
	l.streams.Add(1)
	l.noteHeard()
	l.peer.under.deliverStream(l.peer.name, l.track(conn))
}

func (l *link) track(conn net.Conn) net.Conn {
	return &trackedConn{Conn: conn, done: func() { l.streams.Add(-1) }}
}

func (l *link) receive(packet []byte) {
	l.noteHeard()
	l.peer.under.deliver(l.peer.name, l.remote(), packet)
}

// close removes the link and tells the peer. Safe to repeat.
func (l *link) close(why closeReason) {
	l.closeOnce.Do(func() {
		l.peer.drop(l)
		l.peer.under.unlink(l)
		l.carrier.close(why)
	})
}
