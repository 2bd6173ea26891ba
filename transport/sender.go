package transport

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// sendQueueBytes is how much may wait for the writer; a frame is admitted when it fits, or
	// when nothing else waits. Callers beyond that wait, each with its own context.
	sendQueueBytes = 4 << 20
	// sendForceBytes ends the connection: frames that may not wait (refusals, cancels, credits)
	// reach it only when the peer keeps sending and does not read.
	sendForceBytes = 2 * sendQueueBytes
	// keepBuffer is the largest buffer kept for the next batch, in bytes.
	keepBuffer = 256 << 10
)

var errNotReading = errors.New("peer does not read what it asks for")

// outFrame is a frame to be encoded. The payload is request, failure or body, by kind; credit
// frames carry grant.
type outFrame struct {
	kind     kind
	id       uint64
	priority Priority
	request  request
	failure  *Error
	body     []byte
	grant    uint32
}

// sender is a connection's send queue and the writer's side of it. Frames are encoded into one
// buffer as they are queued; the writer takes the whole buffer and hands it to one Write, so that
// what queued up meanwhile costs one system call and few TLS records, however many frames it is.
//
// Two counts of bytes tell for each frame whether the writer has touched it: a frame queued at
// offset x was never written if the connection ended with taken <= x.
type sender struct {
	conn    net.Conn
	timeout time.Duration // for one Write
	wake    chan struct{} // capacity 1, a level: something is queued

	mu struct {
		sync.Mutex
		buf   []byte
		spare []byte        // the buffer of the batch before, for reuse
		taken uint64        // bytes handed to Write since the start
		room  chan struct{} // closed when buf is taken; nil while nobody waits
		pong  bool          // a ping waits for its answer; more pings change nothing
		pongs uint64        // the id that the answer carries
		err   error         // set once; nothing is queued or taken afterwards
	}
}

func newSender(conn net.Conn, timeout time.Duration) *sender {
	return &sender{conn: conn, timeout: timeout, wake: make(chan struct{}, 1)}
}

// put queues f. It never waits: when the queue is full it returns a channel that is closed at the
// next chance, and nothing is queued. The offset tells later whether the frame was written.
func (s *sender) put(f *outFrame) (offset uint64, full <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return 0, nil, s.mu.err
	}
	if len(s.mu.buf) > 0 && len(s.mu.buf)+headerBytes+f.size() > sendQueueBytes {
		if s.mu.room == nil {
			s.mu.room = make(chan struct{})
		}
		return 0, s.mu.room, nil
	}
	return s.appendLocked(f), nil, nil
}

// force queues f though the queue be full. For small frames that the reader sends, which must not
// wait for the writer.
func (s *sender) force(f *outFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return s.mu.err
	}
	if len(s.mu.buf)+headerBytes+f.size() > sendForceBytes {
		return errNotReading
	}
	s.appendLocked(f)
	return nil
}

// answerPing queues a pong. Any number of pings that wait for the writer get one answer.
func (s *sender) answerPing(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.pong, s.mu.pongs = true, id
	s.signal()
}

func (s *sender) appendLocked(f *outFrame) (offset uint64) {
	offset = s.mu.taken + uint64(len(s.mu.buf))
	s.mu.buf = f.append(s.mu.buf)
	s.signal()
	return offset
}

func (s *sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take gives the writer all that is queued, nil when that is nothing.
func (s *sender) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return nil
	}
	if s.mu.pong {
		s.mu.pong = false
		s.mu.buf = appendHeader(s.mu.buf, header{kind: kindPong, id: s.mu.pongs})
	}
	if len(s.mu.buf) == 0 { // queued just before the take before; nobody waits for room, and the buffer stays
		return nil
	}
	if s.mu.room != nil {
		close(s.mu.room)
		s.mu.room = nil
	}
	batch := s.mu.buf
	s.mu.buf, s.mu.spare = s.mu.spare[:0], nil
	s.mu.taken += uint64(len(batch))
	return batch
}

// flush writes what is queued. Called by the writer goroutine alone.
func (s *sender) flush() error {
	// Let goroutines that are about to queue do so first: a turn of the scheduler costs far less
	// than another system call.
	runtime.Gosched()
	batch := s.take()
	if len(batch) == 0 {
		return nil
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.conn.Write(batch); err != nil {
		return err
	}
	if cap(batch) <= keepBuffer {
		s.mu.Lock()
		s.mu.spare = batch
		s.mu.Unlock()
	}
	return nil
}

// stop refuses everything from now on with err. Afterwards written is final.
func (s *sender) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil {
		s.mu.err = err
		s.mu.buf = nil
	}
	if s.mu.room != nil {
		close(s.mu.room)
		s.mu.room = nil
	}
}

// written reports whether any byte of the frame queued at offset may have left.
func (s *sender) written(offset uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return offset < s.mu.taken
}

// size is the payload's length in bytes.
func (f *outFrame) size() int {
	switch f.kind {
	case kindRequest:
		return f.request.size()
	case kindError:
		return f.failure.size()
	case kindCredit:
		return creditBytes
	default:
		return len(f.body)
	}
}

func (f *outFrame) append(b []byte) []byte {
	b = appendHeader(b, header{kind: f.kind, flags: uint8(f.priority), id: f.id, payload: f.size()})
	switch f.kind {
	case kindRequest:
		return appendRequest(b, f.request)
	case kindError:
		return appendError(b, f.failure)
	case kindCredit:
		return binary.BigEndian.AppendUint32(b, f.grant)
	default:
		return append(b, f.body...)
	}
}
