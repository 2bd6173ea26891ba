package consensus

import (
	"errors"
	"net"
	"sync"
)

// line is the open connection to a peer, for those who write to it one at a time: its writer, and the loop.
//
// The loop writes what is small by itself while the core is at rest: heartbeats, the answers to them, notes. To wake a writer
// for each costs more than the write, for the scheduler wakes another thread with it. It never waits: it writes to a
// connection that says that there is room, and is told where there was none after all. Then the connection is given up, as
// after any write that failed. While the core has work the loop leaves all writing to the writers.
type line struct {
	sync.Mutex
	conn   net.Conn // nil: there is none
	prompt prompt   // nil: it cannot be written to without waiting
	buf    []byte
}

// prompt is what the connection below TLS may offer.
type prompt interface {
	// Prompt(true) reports whether there is room for a few kilobytes, and has writes fail that would wait, until Prompt(false).
	Prompt(on bool) bool
}

// promptBytes is the most that the loop writes by itself.
const promptBytes = 4 << 10

func (l *line) open(conn net.Conn) {
	l.Lock()
	defer l.Unlock()
	l.conn, l.prompt = conn, nil
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		l.prompt, _ = outer.NetConn().(prompt)
	}
}

func (l *line) close() {
	l.Lock()
	defer l.Unlock()
	l.conn, l.prompt, l.buf = nil, nil, nil
}

// ring wakes the writers for whom something was put. With atOnce the caller writes what is small itself.
func (p *peers) ring(atOnce bool) {
	var few [8]*peer
	due := few[:0]
	p.mu.Lock()
	for _, q := range p.mu.out {
		if q.queue.bell.due.Load() {
			due = append(due, q)
		}
	}
	p.mu.Unlock()
	for _, q := range due {
		if !atOnce || !q.writeAtOnce() {
			q.queue.bell.ring()
		}
	}
}

// writeNext writes one frame, and waits for it if it must.
func (q *peer) writeNext() error {
	q.line.Lock()
	defer q.line.Unlock()
	return q.writeLocked()
}

// writeLocked is writeNext; the caller holds the line, which is open.
func (q *peer) writeLocked() error {
	buf, in := q.frame(q.line.buf[:0])
	q.queue.bell.ring() // for what did not fit
	if q.line.buf = buf; cap(buf) > 4*frameTarget {
		q.line.buf = nil
	}
	if err := writeFrame(q.line.conn, buf); err != nil {
		q.dropCarried(in)
		return err
	}
	return nil
}

// writeAtOnce writes what waits for a peer if that is little, nobody else writes, and there is room. It never waits.
func (q *peer) writeAtOnce() bool {
	if !q.line.TryLock() {
		return false
	}
	defer q.line.Unlock()
	l := &q.line
	if l.conn == nil || l.prompt == nil || !q.queue.little(promptBytes) || !l.prompt.Prompt(true) {
		return false
	}
	defer l.prompt.Prompt(false)
	if !q.queue.bell.due.Swap(false) {
		return true // its writer was rung for
	}
	if err := q.writeLocked(); err != nil && !errors.Is(err, net.ErrClosed) {
		_ = l.conn.Close() // its reader tells the writer
		l.conn, l.prompt = nil, nil
	}
	return true
}

// little reports whether what waits takes about so many bytes at most, and nothing of it is bulk or of others.
func (q *peerQueue) little(limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.hub != nil || len(q.mu.bulk)+len(q.mu.passing)+len(q.mu.reports) > 0 {
		return false
	}
	size := 0
	for _, m := range q.mu.urgent {
		size += itemHeader + messageSize(m)
	}
	for _, notes := range [][]sentNote{q.mu.notes, q.mu.straight} {
		for _, n := range notes {
			size += itemHeader + noteHeader + len(n.body)
		}
	}
	return size <= limit
}
