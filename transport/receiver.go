package transport

import (
	"bufio"
	"io"
	"sync/atomic"
)

// readStep is how much of a payload must arrive within the keepalive time for the peer to count as
// alive, and how far memory is allocated ahead of the bytes that fill it, in bytes.
const readStep = 64 << 10

const readBuffer = 16 << 10 // one TLS record

// receiver reads frames from a connection. Owned by the reader goroutine.
type receiver struct {
	r     *bufio.Reader
	heard atomic.Bool // set for each step that arrived; the keepalive clears it
}

// next reads and checks a frame's header. The payload must be taken by payload or skip.
func (r *receiver) next() (header, error) {
	b, err := r.r.Peek(headerBytes)
	if err != nil {
		return header{}, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return header{}, err
	}
	_, err = r.r.Discard(headerBytes)
	r.heard.Store(true)
	return h, err
}

// payload reads n bytes. A peer that announces much and sends little makes us hold little.
func (r *receiver) payload(n int) ([]byte, error) {
	b := make([]byte, 0, min(n, readStep))
	for len(b) < n {
		step := min(n-len(b), readStep)
		if cap(b)-len(b) < step {
			grown := make([]byte, len(b), min(n, 2*cap(b)))
			copy(grown, b)
			b = grown
		}
		got, err := io.ReadFull(r.r, b[len(b):len(b)+step])
		b = b[:len(b)+got]
		if err != nil {
			return nil, err
		}
		r.heard.Store(true)
	}
	return b, nil
}

// skip reads n bytes and drops them.
func (r *receiver) skip(n int) error {
	for n > 0 {
		got, err := r.r.Discard(min(n, readStep))
		n -= got
		if err != nil {
			return err
		}
		r.heard.Store(true)
	}
	return nil
}
