package load

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow answers after a fixed time, or refuses.
type slow struct {
	takes time.Duration
	fails error
}

func (s slow) Put(ctx context.Context, _ string, _ []byte) error {
	if err := sleep(ctx, s.takes); err != nil {
		return err
	}
	return s.fails
}
func (s slow) Get(ctx context.Context, key string) (int, error)   { return 3, s.Put(ctx, key, nil) }
func (s slow) Stale(ctx context.Context, key string) (int, error) { return s.Get(ctx, key) }

func clients(n int, c Client) []Client {
	all := make([]Client, n)
	for i := range all {
		all[i] = c
	}
	return all
}

// A closed loop of 4 clients at 10 ms a request does 400 a second; what is answered while it warms up does not count.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Closed(t.Context(), Loop{
			Clients: clients(4, slow{takes: 10 * time.Millisecond}), Op: Get(3), Keys: Keys(10),
			Warm: 105 * time.Millisecond, Span: time.Second, Pids: []int{os.Getpid()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.PerSecond(); got != 400 {
			t.Errorf("got %v a second, want 400", got)
		}
		if first, last := s.Latencies[0], s.Latencies[len(s.Latencies)-1]; first != 10*time.Millisecond || last != first {
			t.Errorf("latencies from %v to %v, want 10 ms", first, last)
		}
	})
}

// One wrong answer ends a loop: errors are never counted as work.
func TestClosedFails(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		op   Op
		err  error
		want string
	}{
		"an error":          {Put([]byte("abc")), broken, "broken"},
		"a value cut short": {Get(256), nil, "has 3 bytes, and 256 were written"},
		"a stale one too":   {Stale(256), nil, "has 3 bytes, and 256 were written"},
	} {
		_, err := Closed(t.Context(), Loop{
			Clients: clients(2, slow{fails: c.err}), Op: c.op, Keys: Keys(1), Span: time.Minute, Pids: []int{os.Getpid()},
		})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// An open loop at 1,000 a second over 5 clients that take 10 ms each: 500 a second are done and the rest is not sent; that
// what is due waits for nobody is why it differs from a closed loop.
func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var edges []time.Duration
		began := time.Now()
		o, err := Open(t.Context(), Arrivals{
			Clients: clients(5, slow{takes: 10 * time.Millisecond}), Op: Get(3), Keys: Keys(10), Rate: 1000, Warm: 100 * time.Millisecond, Span: time.Second,
			Edge: func() { edges = append(edges, time.Since(began).Round(10*time.Millisecond)) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if o.Done < 400 || o.Done > 510 || len(edges) != 2 || edges[0] != 100*time.Millisecond || edges[1] != 1100*time.Millisecond {
			t.Errorf("%d were done between %v", o.Done, edges)
		}
		if o.Due < 990 || o.Due > 1010 || o.Sent < 400 || o.Sent > 510 || o.Failed+o.Busy != 0 || len(o.Accepted) != o.Sent {
			t.Errorf("got %d due, %d sent, %d accepted, %d busy, %d failed", o.Due, o.Sent, len(o.Accepted), o.Busy, o.Failed)
		}
	})
}

// Who has no answer after another span is given up, and that is no error of the loop.
func TestOpenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o, err := Open(t.Context(), Arrivals{Clients: clients(2, slow{takes: time.Hour}), Op: Get(3), Keys: Keys(10), Rate: 1000, Span: time.Second})
		if took := time.Since(began); err != nil || took > 2*time.Second+10*time.Millisecond || o.Done+len(o.Accepted) > 0 {
			t.Errorf("after %v %d were done, %v", took, o.Done, err)
		}
	})
}

// Refusals are told apart from failures, and neither is goodput.
func TestOpenOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := Open(t.Context(), Arrivals{
			Clients: []Client{slow{fails: ErrBusy}, slow{fails: io.EOF}}, Op: Get(3), Keys: Keys(10), Rate: 1000, Span: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		if o.Busy == 0 || o.Failed == 0 || o.Goodput() != 0 || !errors.Is(o.First, io.EOF) {
			t.Errorf("got %d busy, %d failed, goodput %v, first %v", o.Busy, o.Failed, o.Goodput(), o.First)
		}
	})
}

// The name of a process may hold brackets and spaces.
func TestParse(t *testing.T) {
	stat := "42 (a) b ) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1 1 1"
	got, err := parse([]byte(stat), []byte("Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"))
	if want := (Usage{CPU: 2 * time.Second, RSSBytes: 1 << 20, PeakBytes: 2 << 20}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"42 (a) S 1", "42 (a) S 1 1 1 0 -1 0 0 0 0 0 x 50 0"} {
		if _, err := parse([]byte(bad), []byte("VmHWM: 1 kB\nVmRSS: 1 kB\n")); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if _, err := parse([]byte(stat), []byte("Name: a\n")); err == nil {
		t.Error("a status without memory was read")
	}
}

// The client for loads speaks to Go's own server, and tells a refusal from an error.
func TestHTTP(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(status)
		_, stale := r.URL.Query()["stale"]
		if r.Method == http.MethodPut && (string(body) != "abc" || r.URL.Path != "/parley/v1/kv/bench/1") || stale && r.Method != http.MethodGet {
			t.Errorf("got %s %s with %q", r.Method, r.URL, body)
		}
		_, _ = io.WriteString(w, `{"key":"bench/1","value":"abcd","revision":5}`)
	}))
	defer server.Close()
	c, err := DialHTTP(t.Context(), server.Listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's end
	for range 3 {
		if err := c.Put(t.Context(), "bench/1", []byte("abc")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Get(t.Context(), "bench/1"); n != 4 || err != nil {
			t.Fatalf("get: %d bytes, %v", n, err)
		}
		if n, err := c.Stale(t.Context(), "bench/1"); n != 4 || err != nil {
			t.Fatalf("stale: %d bytes, %v", n, err)
		}
	}
	server.CloseClientConnections()
	if err := c.Put(t.Context(), "bench/1", []byte("abc")); err == nil {
		t.Error("a put over a closed connection succeeded")
	}
	if err := c.Put(t.Context(), "bench/1", []byte("abc")); err != nil {
		t.Errorf("the put after it does not connect again: %v", err)
	}
	status = http.StatusTooManyRequests
	if err := c.Put(t.Context(), "bench/1", []byte("abc")); !errors.Is(err, ErrBusy) {
		t.Errorf("busy: got %v", err)
	}
	status = http.StatusInternalServerError
	if err := c.Put(t.Context(), "bench/1", []byte("abc")); err == nil || errors.Is(err, ErrBusy) {
		t.Errorf("an error: got %v", err)
	}
}
