package transport

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// silentTicks is how many keepalive intervals without a byte from the peer end a connection. A
// ping goes out after the first.
const silentTicks = 3

var (
	errSilent = errors.New("peer is silent")
	errClosed = errors.New("connection was closed here")
)

// wire is what both ends of an RPC connection share: the queue to the writer, the frame reader and
// the one moment at which the connection ends.
type wire struct {
	conn net.Conn
	in   receiver
	out  *sender

	done chan struct{} // closed by fail
	end  sync.Once
	err  error // why it ended; read after done is closed
}

func newWire(conn net.Conn, writeTimeout time.Duration) *wire {
	return &wire{
		conn: conn,
		in:   receiver{r: bufio.NewReaderSize(conn, readBuffer)},
		out:  newSender(conn, writeTimeout),
		done: make(chan struct{}),
	}
}

// fail ends the connection; the first reason counts. Reader and writer return soon after.
func (w *wire) fail(err error) {
	w.end.Do(func() {
		w.err = err
		w.out.stop(err)
		_ = w.conn.Close() // its error adds nothing to err
		close(w.done)
	})
}

// send queues f, waiting for room until the connection or the caller ends. The error is the
// connection's end or errCallEnded.
func (w *wire) send(f *outFrame, ended <-chan struct{}) error {
	for {
		_, full, err := w.out.put(f)
		if err != nil || full == nil {
			return err
		}
		select {
		case <-full:
		case <-ended:
			return errCallEnded
		}
	}
}

var errCallEnded = errors.New("call ended")

// write is the writer goroutine: it flushes when woken and watches for a silent peer.
func (w *wire) write(keepAlive time.Duration) {
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	silent := 0
	for {
		var err error
		select {
		case <-w.done:
			return
		case <-w.out.wake:
			err = w.out.flush()
		case <-ticker.C:
			silent, err = w.tick(silent, keepAlive)
		}
		if err != nil {
			w.fail(err)
			return
		}
	}
}

// tick counts silent intervals and asks after the first whether the peer is there.
func (w *wire) tick(silent int, keepAlive time.Duration) (int, error) {
	if w.in.heard.Swap(false) {
		return 0, nil
	}
	silent++
	switch silent {
	case 1:
		return silent, w.out.force(&outFrame{kind: kindPing})
	case silentTicks:
		return silent, fmt.Errorf("%w for %v", errSilent, silentTicks*keepAlive)
	default:
		return silent, nil
	}
}
