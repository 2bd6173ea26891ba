package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// Standing judges an authenticated connection while it is open. A handshake proves who the peer was when it was made;
// what it proved may end before the connection does.
type Standing struct {
	// Check returns why the connection must end, or nil. It is asked often and must be quick.
	Check func() error
}

// stands checks whatever was given.
func (s Standing) stands() error {
	if s.Check == nil {
		return nil
	}
	return s.Check()
}

// Live is the table of the authenticated connections that are open, in either direction. Its size is bounded by the
// limits of those who open and accept them. Safe for concurrent use.
type Live struct {
	mu struct { // nothing is checked or closed under it
		sync.Mutex
		conns map[net.Conn]Standing
	}
}

// NewLive returns an empty table.
func NewLive() *Live {
	l := &Live{}
	l.mu.conns = make(map[net.Conn]Standing)
	return l
}

// Add puts a connection into the table, which its owner closes. The error is that it does not stand even now: between
// the handshake and Add things may have changed.
func (l *Live) Add(conn net.Conn, s Standing) (remove func(), err error) {
	l.mu.Lock()
	l.mu.conns[conn] = s
	l.mu.Unlock()
	remove = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.mu.conns, conn)
	}
	if err := s.stands(); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// Recheck closes every connection that does not stand any more, and calls cut for each with the reason.
func (l *Live) Recheck(cut func(conn net.Conn, why error)) {
	l.mu.Lock()
	all := make(map[net.Conn]Standing, len(l.mu.conns))
	for conn, s := range l.mu.conns {
		all[conn] = s
	}
	l.mu.Unlock()
	for conn, s := range all {
		if err := s.stands(); err != nil {
			abort(conn)
			cut(conn, err)
		}
	}
}

// abort closes without the farewell of TLS, for which a peer that does not read would make us wait.
func abort(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	_ = conn.Close() // its owner will notice
}

// Outgoing is a connection that we made. Closing it takes it out of the table it is in.
type Outgoing struct {
	*tls.Conn
	remove func()
}

// Guard puts a connection that we made into the table; it is closed when it does not stand.
func (l *Live) Guard(conn *tls.Conn, s Standing) (*Outgoing, error) {
	remove, err := l.Add(conn, s)
	if err != nil {
		abort(conn)
		return nil, err
	}
	return &Outgoing{Conn: conn, remove: remove}, nil
}

// Close implements net.Conn.
func (o *Outgoing) Close() error {
	o.remove()
	return o.Conn.Close()
}

// errStanding wraps why a connection does not stand right after its handshake.
var errStanding = errors.New("peer does not stand any more")

// guard is what the mesh does with a connection that it accepted, until it is released.
func (m *Mesh) guard(conn *tls.Conn, peer Peer) (release func(), err error) {
	if m.options.Standing == nil || peer == (Peer{}) {
		return func() {}, nil
	}
	if release, err = m.options.Live.Add(conn, m.options.Standing(conn.ConnectionState())); err != nil {
		return nil, errors.Join(errStanding, err)
	}
	return release, nil
}
