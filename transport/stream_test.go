package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamDeliversItemsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Window: 1000}) // far less than the items take
		next := 0
		err := p.Stream(t.Context(), "n", "count", make([]byte, 5000), func(item []byte) error {
			if string(item) != fmt.Sprint(next) {
				return fmt.Errorf("got item %s, want %d", item, next)
			}
			next++
			return nil
		})
		if err != nil || next != 5000 {
			t.Errorf("got %d items, %v, want 5000", next, err)
		}
	})
}

func TestItemLargerThanTheWindowPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Window: 1})
		p.server.HandleStream("large", func(_ context.Context, _ Peer, _ []byte, send func([]byte) error) error {
			for range 3 {
				if err := send(make([]byte, MaxBody)); err != nil {
					return err
				}
			}
			return send(make([]byte, MaxBody+1))
		})
		items := 0
		err := p.Stream(t.Context(), "n", "large", nil, func(item []byte) error {
			if len(item) == MaxBody {
				items++
			}
			return nil
		})
		wantCode(t, err, CodeTooLarge)
		if items != 3 {
			t.Errorf("got %d items, want 3", items)
		}
	})
}

func TestSlowReaderHoldsBoundedMemoryAndNobodyElse(t *testing.T) {
	const window = 10_000
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Window: window})
		sent := 0
		p.server.HandleStream("endless", func(ctx context.Context, _ Peer, _ []byte, send func([]byte) error) error {
			for {
				if err := send(make([]byte, 1000)); err != nil {
					return err
				}
				sent++
			}
		})
		stop := errors.New("enough")
		first := true
		err := p.Stream(t.Context(), "n", "endless", nil, func([]byte) error {
			if !first {
				return stop
			}
			first = false
			synctest.Wait() // the sender has done all it can
			if most := window/1000 + 1; sent > most {
				t.Errorf("the sender sent %d items to a reader that does not read, want at most %d", sent, most)
			}
			if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil {
				t.Errorf("a call beside the slow stream: %v", err)
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Errorf("got %v, want the reader's own error", err)
		}
	})
}

func TestEmptyItemsCostCreditToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(10 * itemOverhead)
		for range 10 {
			if !w.trySpend(itemOverhead) {
				t.Fatal("no credit for an item within the window")
			}
		}
		if w.trySpend(itemOverhead) {
			t.Error("an eleventh item passed")
		}
		if err := w.grant(itemOverhead); err != nil || !w.trySpend(itemOverhead) {
			t.Errorf("after a grant: %v", err)
		}
		if err := w.grant(10*itemOverhead + 1); !errors.Is(err, errProtocol) {
			t.Errorf("more credit than was lent: got %v, want errProtocol", err)
		}
	})
}

func TestStreamsTogetherAreBounded(t *testing.T) {
	// Each stream is within its window; together they pass MaxBytes, and the one whose item does
	// not fit ends.
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Window: 10_000, MaxBytes: 25_000})
		release := make(chan struct{})
		results := make(chan error, 3)
		for range 3 {
			go func() {
				results <- p.Stream(t.Context(), "n", "count", make([]byte, 1000), func([]byte) error {
					<-release
					return nil
				})
			}()
		}
		synctest.Wait()
		close(release)
		busy := 0
		for range 3 {
			if err := <-results; Code(err) == CodeBusy {
				busy++
			} else if err != nil {
				t.Errorf("got %v", err)
			}
		}
		if busy != 1 {
			t.Errorf("got %d streams ended as busy, want 1", busy)
		}
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		if c.mu.bytes != 0 || len(c.mu.calls) != 0 {
			t.Errorf("got %d bytes and %d calls left over", c.mu.bytes, len(c.mu.calls))
		}
	})
}

func TestStreamEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		ended := make(chan struct{})
		p.server.HandleStream("idle", func(ctx context.Context, _ Peer, _ []byte, _ func([]byte) error) error {
			defer close(ended)
			<-ctx.Done()
			time.Sleep(time.Millisecond) // both sides know the deadline; the caller is to be first
			return ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := p.Stream(ctx, "n", "idle", nil, func([]byte) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want context.DeadlineExceeded", err)
		}
		<-ended
	})
}

func TestHostileServerEndsTheConnection(t *testing.T) {
	frames := map[string][]outFrame{
		"item without credit":           {{kind: kindItem, id: 1, body: make([]byte, 200)}, {kind: kindItem, id: 1, body: make([]byte, 200)}},
		"response to a stream":          {{kind: kindResponse, id: 1}},
		"answer to a call never made":   {{kind: kindResponse, id: 99}},
		"request from a server":         {{kind: kindRequest, id: 1, request: request{method: "m"}}},
		"error that cannot be read":     {{kind: kindError, id: 1, failure: &Error{}}},
		"item for a call that was made": {{kind: kindItem, id: 0}},
	}
	for name, answer := range frames {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, ServerOptions{}, PoolOptions{Window: 100, Dial: func(context.Context, string) (net.Conn, error) {
					client, server := net.Pipe()
					go hostileServer(server, answer)
					return client, nil
				}})
				// The first item is held back by a reader that waits, so the second has no credit.
				err := p.Stream(t.Context(), "n", "m", nil, func([]byte) error {
					time.Sleep(time.Second)
					return nil
				})
				if !errors.Is(err, errProtocol) {
					t.Errorf("got %v, want errProtocol", err)
				}
			})
		})
	}
}

// hostileServer answers the first ping, reads one request, sends the frames and waits for the end.
func hostileServer(conn net.Conn, frames []outFrame) {
	defer func() { _ = conn.Close() }()
	_, _ = conn.Read(make([]byte, 1024))
	_, _ = conn.Write(appendHeader(nil, header{kind: kindPong}))
	_, _ = conn.Read(make([]byte, 1024))
	var b []byte
	for i := range frames {
		b = frames[i].append(b)
	}
	_, _ = conn.Write(b)
	for {
		if _, err := conn.Read(make([]byte, 1024)); err != nil {
			return
		}
	}
}
