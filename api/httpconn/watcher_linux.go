package httpconn

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
)

// watcher sees whether a connection's client has gone while a request is being served.
type watcher struct {
	raw   syscall.RawConn
	reads *side
	gone  context.CancelFunc // nil: nobody asked for a context, and nothing is watched

	mu      sync.Mutex
	serving bool
	since   uint64        // in ticks of the listener
	over    chan struct{} // closed when the goroutine has ended; nil: none was started since the last read
}

// begin says that a request is being served from now on.
func (w *watcher) begin(now uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.serving, w.since = true, now
}

// look starts to watch a request that is older than a tick, and says whether one is younger.
func (w *watcher) look(now uint64) (young bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.serving || w.over != nil {
		return false
	}
	if w.since+1 >= now {
		return true
	}
	w.over = make(chan struct{})
	w.reads.tellNow(time.Time{})
	go w.watch(w.over)
	return false
}

// end returns when the connection is no longer watched, and can be read.
func (w *watcher) end() {
	w.mu.Lock()
	over := w.over
	w.serving, w.over = false, nil
	w.mu.Unlock()
	if over != nil {
		w.reads.tellNow(time.Unix(1, 0))
		<-over // it waits for nothing but the poller, which was just told
	}
}

// watch waits until there is something to read, and ends the context when that is the end. What the client has sent of its next request
// stays where it is; then, as net/http has it, nothing more is found out until it is read.
func (w *watcher) watch(over chan<- struct{}) {
	defer close(over)
	gone := false
	err := w.raw.Read(func(fd uintptr) bool {
		n, err := retried(peek, fd, make([]byte, 1))
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		gone = err != nil || n == 0
		return true
	})
	if err == nil && gone {
		w.gone()
	}
}

func peek(fd int, p []byte) (int, error) {
	n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
