package workload

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxChallenges is how many challenges may be open on one connection; each call has one at a time.
const maxChallenges = 256

var (
	errForeign    = errors.New("another process than the one that connected used the connection")
	errEnded      = errors.New("the process that connected has ended, or the connection was closed")
	errChallenges = errors.New("too many calls at once on one connection")
)

// conn is a connection of a process to the workload socket. It knows who sent each byte, and can challenge the process.
type conn struct {
	net.Conn // the socket; Read and Write are ours
	peer     *peer
	receive  func(p []byte) (n int, pid int32, err error)
	gone     chan struct{} // closed by Close
	closing  sync.Once
	onClose  func()

	foreign atomic.Bool // some byte was sent by another process

	// Read's own: one goroutine reads.
	in     incoming
	raw    []byte
	fed    []byte // what the server is to read of raw
	unread []byte // the rest of it

	// writing is held by who writes to the socket, or follows out. Capacity 1, so that one can stop waiting for it.
	writing chan struct{}
	out     outgoing

	mu struct {
		sync.Mutex // nothing is called under it
		open       map[challenge]chan bool
		queued     [][]byte // frames for the next place between two frames
	}
}

func newConn(socket net.Conn, p *peer, receive func([]byte) (int, int32, error), onClose func()) *conn {
	c := &conn{
		Conn: socket, peer: p, receive: receive, gone: make(chan struct{}), onClose: onClose,
		raw: make([]byte, 16<<10), writing: make(chan struct{}, 1),
	}
	c.mu.open = make(map[challenge]chan bool)
	return c
}

// Close closes the socket and forgets the process. Safe to call twice.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closing.Do(func() {
		close(c.gone)
		c.peer.close()
		c.onClose()
	})
	return err
}

// Read gives the server what the client sent, without the answers to challenges.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.unread) == 0 {
		n, pid, err := c.receive(c.raw)
		if n > 0 {
			ours := pid == c.peer.pid
			if !ours {
				c.foreign.Store(true)
			}
			c.fed = c.in.feed(c.fed[:0], c.raw[:n], ours, c.answered)
			c.unread = c.fed
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// answered hands a PING answer to who waits for it.
func (c *conn) answered(ch challenge, attested bool) bool {
	c.mu.Lock()
	waiting, ok := c.mu.open[ch]
	delete(c.mu.open, ch)
	c.mu.Unlock()
	if ok {
		waiting <- attested // capacity 1, one answer
	}
	return ok
}

// Write sends what the server has to say, with challenges put between frames.
func (c *conn) Write(p []byte) (written int, err error) {
	select {
	case c.writing <- struct{}{}:
	case <-c.gone:
		return 0, net.ErrClosed
	}
	defer func() { <-c.writing }()
	for written < len(p) {
		if err := c.flush(); err != nil {
			return written, err
		}
		if !c.queues() {
			n := c.follow(p[written:])
			m, err := c.Conn.Write(p[written : written+n])
			written += m
			if err != nil {
				return written, err
			}
			continue
		}
		m, err := c.Conn.Write(p[written : written+c.out.until(p[written:])])
		written += m
		if err != nil {
			return written, err
		}
	}
	return written, c.flush()
}

// follow counts all of p as sent.
func (c *conn) follow(p []byte) int {
	for n := 0; n < len(p); {
		n += c.out.until(p[n:])
	}
	return len(p)
}

func (c *conn) queues() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.queued) > 0
}

// flush writes queued frames if this is a place for them. The caller holds writing.
func (c *conn) flush() error {
	if !c.out.between() {
		return nil
	}
	c.mu.Lock()
	queued := c.mu.queued
	c.mu.queued = nil
	c.mu.Unlock()
	for _, frame := range queued {
		if _, err := c.Conn.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// challengeWithin is challenge with a limit on its time.
func (c *conn) challengeWithin(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return c.challenge(ctx)
}

// challenge returns nil after the process that connected has answered, by a message of its own, something that nobody could
// have known before the call.
func (c *conn) challenge(ctx context.Context) error {
	var ch challenge
	if _, err := rand.Read(ch[:]); err != nil {
		return err
	}
	answer := make(chan bool, 1)
	if err := c.pose(ch, answer); err != nil {
		return err
	}
	defer c.withdraw(ch)
	select {
	case c.writing <- struct{}{}: // nobody writes: it goes out now, or with the rest of what is begun
		err := c.flush()
		<-c.writing
		if err != nil {
			return errEnded
		}
	case <-ctx.Done():
		return ctx.Err()
	case <-c.gone:
		return errEnded
	}
	select {
	case attested := <-answer:
		if !attested {
			return errForeign
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.gone:
		return errEnded
	}
}

func (c *conn) pose(ch challenge, answer chan bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.open) >= maxChallenges || len(c.mu.queued) >= maxChallenges {
		return errChallenges
	}
	c.mu.open[ch] = answer
	c.mu.queued = append(c.mu.queued, ch.frame())
	return nil
}

func (c *conn) withdraw(ch challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.open, ch)
}
