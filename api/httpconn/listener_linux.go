package httpconn

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// usualTick is so long that few requests see two of them; a request is watched when it has seen a whole one.
const usualTick = 25 * time.Millisecond

// NewListener returns l, with connections of this package where it accepts TCP and Unix sockets.
func NewListener(l net.Listener) net.Listener {
	lazy := &listener{Listener: l, tick: usualTick, conns: make(map[*lazyConn]struct{})}
	lazy.timer = time.AfterFunc(time.Hour, lazy.look)
	lazy.timer.Stop()
	return lazy
}

type listener struct {
	net.Listener
	tick   time.Duration
	timer  *time.Timer
	ticked atomic.Bool   // the timer runs
	now    atomic.Uint64 // in ticks, which are not counted while nothing is young

	mu    sync.Mutex // nothing but each connection's watcher.mu is taken under it
	conns map[*lazyConn]struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	socket, ok := inner.(socket)
	if !ok {
		return inner, nil
	}
	c, err := newConn(socket, l)
	if err != nil {
		return inner, nil //nolint:nilerr // it is closed, which the first read will say
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c, nil
}

func (l *listener) forget(c *lazyConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// lookSoon lets the timer run, if it does not. Who calls it has written down before what look is to see.
func (l *listener) lookSoon() {
	if !l.ticked.Load() && l.ticked.CompareAndSwap(false, true) {
		l.timer.Reset(l.tick)
	}
}

// look begins to watch those connections whose request is no longer young.
func (l *listener) look() {
	l.ticked.Store(false) // first, so that a request that begins now is seen below or lets the timer run
	now := l.now.Add(1)
	young := false
	l.mu.Lock()
	for c := range l.conns {
		young = c.client.look(now) || young
	}
	l.mu.Unlock()
	if young {
		l.lookSoon()
	}
}
