package transport

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestServerRefusesWhatIsOverItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{MaxBody: 1000, MaxCalls: 8, MaxBytes: 5000}, PoolOptions{})
		p.server.Handle("long", func(context.Context, Peer, []byte) ([]byte, error) { return make([]byte, 1001), nil })

		if _, err := p.Call(t.Context(), "n", "echo", make([]byte, 1000)); err != nil {
			t.Errorf("a body at the limit: %v", err)
		}
		_, err := p.Call(t.Context(), "n", "echo", make([]byte, 1001))
		wantCode(t, err, CodeTooLarge)
		_, err = p.Call(t.Context(), "n", "echo", make([]byte, 100_000))
		wantCode(t, err, CodeTooLarge)
		_, err = p.Call(t.Context(), "n", "long", nil)
		wantCode(t, err, CodeTooLarge)

		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		hold := func(body int) {
			group.Go(func() { _, _ = p.Call(ctx, "n", "wait", make([]byte, body)) })
			synctest.Wait()
		}
		for range 5 {
			hold(900)
		}
		_, err = p.Call(t.Context(), "n", "echo", make([]byte, 900)) // the sixth passes 5000 bytes
		wantCode(t, err, CodeBusy)
		hold(0)
		hold(0)
		_, err = p.Call(t.Context(), "n", "echo", nil) // the eighth place is for the urgent
		wantCode(t, err, CodeBusy)
		if _, err = p.Call(WithPriority(t.Context(), PriorityHealth), "n", "echo", nil); err != nil {
			t.Errorf("an urgent call in the last place: %v", err)
		}
		cancel()
		group.Wait()
		synctest.Wait()
		if _, err = p.Call(t.Context(), "n", "echo", nil); err != nil || p.dials.Load() != 1 {
			t.Errorf("after the load: %v, %d dials", err, p.dials.Load())
		}
	})
}

func TestPoolRefusesWhatIsOverItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{MaxBody: 10, MaxCalls: 1, MaxNodes: 1})
		_, err := p.Call(t.Context(), "n", "echo", make([]byte, 11))
		wantCode(t, err, CodeTooLarge)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _, _ = p.Call(ctx, "n", "wait", nil) }()
		synctest.Wait()
		_, err = p.Call(t.Context(), "n", "echo", nil)
		wantCode(t, err, CodeBusy)

		_, err = p.Call(t.Context(), "other", "echo", nil)
		wantCode(t, err, CodeBusy)
		p.Drop("n")
		if _, err = p.Call(t.Context(), "other", "echo", nil); err != nil {
			t.Errorf("after Drop made room: %v", err)
		}
	})
}

func TestFullSendQueueMakesCallersWait(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	defer func() { _ = server.Close() }()
	s := newSender(client, time.Second)
	half := &outFrame{kind: kindResponse, body: make([]byte, sendQueueBytes/2)}
	for i := range 2 {
		_, full, err := s.put(half)
		if err != nil || (full != nil) != (i == 1) { // two halves and their headers do not fit
			t.Fatalf("put %d: full %v, %v", i, full != nil, err)
		}
	}
	_, full, _ := s.put(half)
	s.take()
	select {
	case <-full:
	default:
		t.Error("taking the queue did not wake who waits for room")
	}
	// A frame larger than the queue passes when it is alone.
	if _, full, err := s.put(&outFrame{kind: kindResponse, body: make([]byte, sendQueueBytes)}); full != nil || err != nil {
		t.Errorf("a large frame alone: full %v, %v", full != nil, err)
	}
	// Small frames that cannot wait are still taken, up to their own limit.
	if err := s.force(&outFrame{kind: kindCancel}); err != nil {
		t.Errorf("force within the limit: %v", err)
	}
	if err := s.force(&outFrame{kind: kindError, body: nil, failure: &Error{}}); err != nil {
		t.Errorf("force within the limit: %v", err)
	}
	s.mu.buf = append(s.mu.buf, make([]byte, sendForceBytes-len(s.mu.buf))...)
	if err := s.force(&outFrame{kind: kindCancel}); !errors.Is(err, errNotReading) {
		t.Errorf("force over the limit: got %v, want errNotReading", err)
	}
}

func TestPingFloodGetsOneAnswer(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	defer func() { _ = server.Close() }()
	s := newSender(client, time.Second)
	for i := range uint64(1000) {
		s.answerPing(i)
	}
	if got := len(s.take()); got != headerBytes {
		t.Errorf("got %d bytes queued for 1000 pings, want %d", got, headerBytes)
	}
}

// TestHostileCallerEndsItsConnection: each of these ends the connection, with no handler run and
// nothing sent back but the goaway of the end.
func TestHostileCallerEndsItsConnection(t *testing.T) {
	good := outFrame{kind: kindRequest, id: 5, request: request{method: "wait", window: 0}}
	cases := map[string][]byte{
		"garbage":                []byte("GET / HTTP/1.1\r\nHost: mesh\r\n\r\n"),
		"response":               (&outFrame{kind: kindResponse, id: 1}).append(nil),
		"id used twice":          good.append(good.append(nil)),
		"request cut short":      append(appendHeader(nil, header{kind: kindRequest, id: 1, payload: 2}), 200, 0),
		"credit of 2 bytes":      append(appendHeader(nil, header{kind: kindCredit, id: 1, payload: 2}), 0, 0),
		"endless frame":          appendHeader(nil, header{kind: kindRequest, id: 1, payload: 1 << 30}),
		"slow loris":             appendHeader(nil, header{kind: kindRequest, id: 1, payload: 100}),
		"credit never lent":      (&outFrame{kind: kindCredit, id: 6, grant: 1}).append((&outFrame{kind: kindRequest, id: 6, request: request{method: "hold", window: 10}}).append(nil)),
		"silence from the start": nil,
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, ServerOptions{KeepAlive: time.Second}, PoolOptions{})
				p.server.HandleStream("hold", func(ctx context.Context, _ Peer, _ []byte, _ func([]byte) error) error {
					<-ctx.Done()
					return ctx.Err()
				})
				conn := p.connect()
				defer func() { _ = conn.Close() }()
				go func() { _, _ = conn.Write(b) }()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					in := bufio.NewReader(conn)
					for {
						if _, err := in.ReadByte(); err != nil {
							return
						}
					}
				}()
				select {
				case <-ended:
				case <-time.After(time.Minute):
					t.Error("the connection is still open")
				}
			})
		})
	}
}

func TestCallerThatNeverReadsRefusalsIsCutOff(t *testing.T) {
	// A caller floods requests and reads nothing: what we owe it is bounded, then it is cut off.
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{WriteTimeout: time.Hour}, PoolOptions{})
		conn := p.connect()
		defer func() { _ = conn.Close() }()
		for id := uint64(1); ; id++ {
			f := outFrame{kind: kindRequest, id: id, request: request{method: "absent"}}
			if _, err := conn.Write(f.append(nil)); err != nil {
				return
			}
			if id > sendForceBytes/headerBytes {
				t.Fatal("still accepted after the limit")
			}
		}
	})
}

// A peer that asks for much and reads nothing makes a connection, and all connections of a server together, hold no more
// of its answers than the limits say. What has no room is answered by a few bytes, and nothing stays counted.
func TestAnswersThatWaitAreBounded(t *testing.T) {
	const queue = sendQueueBytes / (1<<20 + headerBytes) // so many answers of 1 MiB with their headers fit into a full queue
	for _, c := range []struct {
		name    string
		options ServerOptions
		conns   int
		most    int // answers: those that wait, a queue for each connection, and a queue in the hands of each writer
	}{
		{"on a connection", ServerOptions{MaxBytes: 3 << 20}, 1, 3 + 2*queue},
		{"on all", ServerOptions{MaxAnswers: 3 << 20}, 2, 3 + 2*2*queue},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, c.options, PoolOptions{})
				p.server.Handle("large", func(context.Context, Peer, []byte) ([]byte, error) { return make([]byte, 1<<20), nil })
				const calls = 20
				var conns []net.Conn
				for range c.conns {
					conn := p.connect()
					t.Cleanup(func() { _ = conn.Close() })
					conns = append(conns, conn)
					var ask []byte
					for id := range uint64(calls) {
						f := outFrame{kind: kindRequest, id: id + 1, request: request{method: "large"}}
						ask = f.append(ask)
					}
					if _, err := conn.Write(ask); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if held := p.server.answers.Load(); held > 3<<20 {
					t.Errorf("%d bytes of answers wait", held)
				}
				large, refused := 0, 0
				for _, conn := range conns {
					in := receiver{r: bufio.NewReader(conn)}
					for range calls {
						h, err := in.next()
						if err != nil {
							t.Fatal(err)
						}
						payload, err := in.payload(h.payload)
						if err != nil {
							t.Fatal(err)
						}
						if h.kind == kindResponse {
							large++
							continue
						}
						e, err := parseError(payload)
						if err != nil {
							t.Fatal(err)
						}
						wantCode(t, e, CodeOutcomeUnknown)
						refused++
					}
				}
				if large > c.most || refused == 0 {
					t.Errorf("%d answers were kept and %d refused, want at most %d kept", large, refused, c.most)
				}
				synctest.Wait()
				if held := p.server.answers.Load(); held != 0 {
					t.Errorf("%d bytes stay counted", held)
				}
			})
		})
	}
}

// The two buffers of a sender are used again and again, though the writer is sometimes woken for what it has taken already.
func TestBuffersAreUsedAgain(t *testing.T) {
	conn := &swallow{}
	s := newSender(conn, time.Minute)
	frame := &outFrame{kind: kindResponse, id: 1, body: make([]byte, 1000)}
	queue := func() {
		for range 20 {
			if _, _, err := s.put(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := testing.AllocsPerRun(200, func() {
		queue()
		conn.meanwhile = queue
		for range 3 { // the second writes what was queued meanwhile, the third finds nothing
			if err := s.flush(); err != nil {
				t.Fatal(err)
			}
			conn.meanwhile = nil
		}
	})
	if got >= 1 {
		t.Errorf("%v allocations for two batches of 20 frames, want none", got)
	}
}

// swallow is a connection that takes everything.
type swallow struct {
	net.Conn
	meanwhile func() // during a Write
}

func (c *swallow) Write(b []byte) (int, error) {
	if c.meanwhile != nil {
		c.meanwhile()
	}
	return len(b), nil
}

func (*swallow) SetWriteDeadline(time.Time) error { return nil }
