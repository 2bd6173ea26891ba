package consensus

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
)

// promptConn is a connection above one that may have room.
type promptConn struct {
	net.Conn // nil: what is not below is not called
	room     bool
	prompt   bool
	fails    error
	closed   bool
	written  bytes.Buffer
	waited   bool // it was written to in a way that may wait
}

func (c *promptConn) NetConn() net.Conn { return c }

func (c *promptConn) Prompt(on bool) bool {
	c.prompt = on && c.room
	return c.room
}

func (c *promptConn) Write(b []byte) (int, error) {
	c.waited = c.waited || !c.prompt
	if c.fails != nil {
		return 0, c.fails
	}
	return c.written.Write(b)
}

func (c *promptConn) SetWriteDeadline(time.Time) error { return nil }

func (c *promptConn) Close() error {
	c.closed = true
	return nil
}

// Who rings for little writes it at once, without ever waiting; for all else, and wherever it might wait, it wakes the writer.
func TestRingWritesLittleAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		atOnce bool
		put    func(p *peers, q *peer, conn *promptConn)
		wrote  bool
	}{
		{"a heartbeat", true, func(p *peers, _ *peer, _ *promptConn) { p.send(heartbeat(2)) }, true},
		{"a heartbeat and a note", true, func(p *peers, _ *peer, _ *promptConn) {
			p.send(heartbeat(2))
			p.tell(1, note{peer: 2, kind: noteLines, body: make([]byte, 100)})
		}, true},
		{"not asked for", false, func(p *peers, _ *peer, _ *promptConn) { p.send(heartbeat(2)) }, false},
		{"entries", true, func(p *peers, _ *peer, _ *promptConn) { p.send(bulk(2, 10)) }, false},
		{"a long note", true, func(p *peers, _ *peer, _ *promptConn) {
			p.tell(1, note{peer: 2, kind: noteClaim, body: make([]byte, promptBytes)})
		}, false},
		{"many heartbeats", true, func(p *peers, _ *peer, _ *promptConn) {
			for range promptBytes / 64 {
				p.send(heartbeat(2))
			}
		}, false},
		{"no room", true, func(p *peers, _ *peer, conn *promptConn) { conn.room = false; p.send(heartbeat(2)) }, false},
		{"an envelope of another", true, func(p *peers, q *peer, _ *promptConn) { q.queue.pass(envelope{raw: make([]byte, 100)}) }, false},
		{"no connection", true, func(p *peers, q *peer, _ *promptConn) { q.line.close(); p.send(heartbeat(2)) }, false},
		{"a connection that may wait", true, func(p *peers, q *peer, conn *promptConn) {
			q.line.open(struct{ net.Conn }{conn})
			p.send(heartbeat(2))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeers(PeerOptions{Dial: nobody}, zap.NewNop(), func(uint64, bool) { t.Error("lost") })
			conn, q := &promptConn{room: true}, p.peer(2)
			q.line.open(conn)
			c.put(p, q, conn)
			p.ring(c.atOnce)
			rung := len(q.queue.bell.c) == 1
			if wrote := conn.written.Len() > 0; wrote != c.wrote || rung == c.wrote {
				t.Errorf("written at once: %v, writer woken: %v", wrote, rung)
			}
			if conn.waited || conn.prompt {
				t.Errorf("it could have waited: %v; the connection was left as it was: %v", conn.waited, !conn.prompt)
			}
			if c.wrote {
				if body, err := readFrame(&conn.written, nil); err != nil || conn.written.Len() > 0 {
					t.Errorf("%d bytes in the first frame, %d behind it, %v", len(body), conn.written.Len(), err)
				}
			}
		})
	}
	t.Run("the writer writes", func(t *testing.T) {
		p := newPeers(PeerOptions{Dial: nobody}, zap.NewNop(), func(uint64, bool) {})
		conn, q := &promptConn{room: true}, p.peer(2)
		q.line.open(conn)
		q.line.Lock()
		p.send(heartbeat(2))
		p.ring(true)
		q.line.Unlock()
		if conn.written.Len() > 0 || len(q.queue.bell.c) != 1 {
			t.Error("two write to one connection")
		}
	})
	t.Run("a write that fails", func(t *testing.T) {
		lost := 0
		p := newPeers(PeerOptions{Dial: nobody}, zap.NewNop(), func(uint64, bool) { lost++ })
		conn, q := &promptConn{room: true, fails: errors.New("would wait")}, p.peer(2)
		q.line.open(conn)
		p.send(heartbeat(2))
		p.ring(true)
		if lost != 1 || !conn.closed {
			t.Errorf("%d reports, closed %v", lost, conn.closed)
		}
		p.send(heartbeat(2))
		p.ring(true)
		if len(q.queue.bell.c) != 1 {
			t.Error("after it the writer, who connects anew, is not woken")
		}
	})
}

func nobody(context.Context, uint64) (net.Conn, error) { return nil, errors.New("nobody listens") }
