package httpconn

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// serve starts a server with the timeouts that ours have, and returns its address.
func serve(tb testing.TB, lazy bool, handler http.HandlerFunc, with ...func(*http.Server)) net.Addr {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return serveOn(tb, l, lazy, handler, with...)
}

func serveOn(tb testing.TB, l net.Listener, lazy bool, handler http.HandlerFunc, with ...func(*http.Server)) net.Addr {
	tb.Helper()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, WriteTimeout: 10 * time.Minute}
	if lazy {
		if _, already := l.(*listener); !already {
			l = NewListener(l)
		}
		server.ConnContext = Context
	}
	for _, set := range with {
		set(server)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	tb.Cleanup(func() {
		_ = server.Close()
		<-ended //nolint:errcheck // it was closed
	})
	return l.Addr()
}

func dial(tb testing.TB, addr net.Addr) net.Conn {
	tb.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

const (
	get     = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	soon    = 10 * time.Second       // by which something has to have happened, on a busy machine
	notYet  = 400 * time.Millisecond // in which something must not happen
	shortly = 100 * time.Millisecond // a deadline
)

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// answer reads one response and returns its body.
func answer(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// within fails the test unless c gives something before limit.
func within[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(soon):
		t.Fatalf("%s: not within %v", what, soon)
	}
	return v
}

// held is a handler whose requests last until their context ends, or they are let go.
type held struct{ begun, canceled, let chan struct{} }

func newHeld() held {
	return held{make(chan struct{}, 1000), make(chan struct{}, 1000), make(chan struct{})}
}

func (h held) serve(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h.begun <- struct{}{}
	select {
	case <-r.Context().Done():
		h.canceled <- struct{}{}
	case <-h.let:
	}
}

func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A long request ends when its client goes, closes its half, or resets the connection. The control never looks.
func TestClientGoesDuringALongRequest(t *testing.T) {
	leave := map[string]func(net.Conn){
		"close": func(c net.Conn) { _ = c.Close() },
		"half":  func(c net.Conn) { _ = c.(socket).CloseWrite() },
		"reset": func(c net.Conn) {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		},
	}
	for network, listen := range map[string]func(*testing.T) net.Listener{"tcp": listenTCP, "unix": listenUnix} {
		for how, goAway := range leave {
			for _, parked := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/parked=%v", network, how, parked), func(t *testing.T) {
					h := newHeld()
					conn := dial(t, serveOn(t, listen(t), true, h.serve))
					send(t, conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
					within(t, h.begun, "request")
					if parked {
						time.Sleep(4 * usualTick) // it is watched by now
					}
					goAway(conn)
					within(t, h.canceled, "end of the context")
				})
			}
		}
	}
	t.Run("control", func(t *testing.T) {
		h, l := newHeld(), NewListener(listenTCP(t)).(*listener)
		l.tick = time.Hour
		conn := dial(t, serveOn(t, l, true, h.serve))
		send(t, conn, get)
		within(t, h.begun, "request")
		_ = conn.Close()
		select {
		case <-h.canceled:
			t.Fatal("the context ended although nobody looked")
		case <-time.After(notYet):
		}
		close(h.let)
	})
}

// A request that is over soon is answered to a client that has closed its half.
func TestShortRequestOfHalfAConnection(t *testing.T) {
	conn := dial(t, serve(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	send(t, conn, get)
	_ = conn.(*net.TCPConn).CloseWrite()
	if got := answer(t, bufio.NewReader(conn)); got != "here" {
		t.Fatalf("answer %q", got)
	}
}

// Requests that follow each other without waiting, in pieces of all sizes, while some are so long that they are watched, are answered
// in order and whole.
func TestPipelined(t *testing.T) {
	addr := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasPrefix(string(body), "slow") {
			time.Sleep(4 * usualTick)
		}
		if r.Context().Err() != nil {
			body = []byte("canceled")
		}
		_, _ = w.Write(body)
	})
	var stream strings.Builder
	var want []string
	for i := range 60 {
		body := fmt.Sprintf("%d-%s", i, strings.Repeat("x", i*37%5000))
		if i%10 == 0 {
			body = "slow" + body
		}
		want = append(want, body)
		fmt.Fprintf(&stream, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	for _, piece := range []int{1 << 20, 4095, 4097, 1500, 61} {
		conn := dial(t, addr)
		go func() {
			for s := stream.String(); s != ""; {
				n := min(piece, len(s))
				if _, err := io.WriteString(conn, s[:n]); err != nil {
					return
				}
				s = s[n:]
			}
		}()
		r := bufio.NewReader(conn)
		for i := range want {
			if got := answer(t, r); got != want[i] {
				t.Fatalf("pieces of %d, answer %d: %.40q instead of %.40q", piece, i, got, want[i])
			}
		}
	}
}

// Requests that end about when a watch of them begins, on many connections: none is cancelled, and nothing stays behind.
func TestEndsAsAWatchBegins(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("requests", func(t *testing.T) {
		var n sync.Mutex
		count := 0
		addr := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
			n.Lock()
			count++
			lasts := time.Duration(count%40) * usualTick / 16 // none, to two and a half ticks
			n.Unlock()
			time.Sleep(lasts)
			fmt.Fprint(w, r.Context().Err())
		})
		var clients sync.WaitGroup
		for range 300 {
			conn := dial(t, addr)
			clients.Go(func() {
				r := bufio.NewReader(conn)
				for range 20 {
					if _, err := io.WriteString(conn, get); err != nil {
						t.Error(err)
						return
					}
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					body, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if string(body) != "<nil>" {
						t.Errorf("context: %s", body)
					}
				}
			})
		}
		clients.Wait()
	})
	for deadline := time.Now().Add(soon); runtime.NumGoroutine() > before+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// Closing the server ends requests, watched or not, and empties the table of connections.
func TestServerCloses(t *testing.T) {
	for _, parked := range []bool{true, false} {
		h, l := newHeld(), NewListener(listenTCP(t)).(*listener)
		server := make(chan *http.Server, 1)
		addr := serveOn(t, l, true, h.serve, func(s *http.Server) { server <- s })
		const conns = 50
		for range conns {
			send(t, dial(t, addr), get)
		}
		for range conns {
			within(t, h.begun, "request")
		}
		if parked {
			time.Sleep(4 * usualTick)
		}
		_ = (<-server).Close()
		for range conns {
			within(t, h.canceled, "end of the context")
		}
		for deadline := time.Now().Add(soon); l.open() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are kept", l.open())
			}
		}
	}
}

func (l *listener) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// What net/http does in a request is what Read takes it for: without, nothing would be saved, and no other test would fail.
func TestAsksInARequest(t *testing.T) {
	l := NewListener(listenTCP(t)).(*listener)
	asked := make(chan bool, 1)
	conn := dial(t, serveOn(t, l, true, func(http.ResponseWriter, *http.Request) {
		found := false
		for deadline := time.Now().Add(soon); !found && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			found = l.serving()
		}
		asked <- found
	}))
	send(t, conn, get)
	if !<-asked {
		t.Fatal("net/http read no byte to see whether the client has gone")
	}
	answer(t, bufio.NewReader(conn))
	for deadline := time.Now().Add(soon); l.serving(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end of the request was not seen")
		}
	}
}

func (l *listener) serving() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.client.mu.Lock()
		serving := c.client.serving
		c.client.mu.Unlock()
		if serving {
			return true
		}
	}
	return false
}

func TestHijacked(t *testing.T) {
	addr := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(3 * usualTick)
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetReadDeadline(time.Time{})
		var b [1]byte // a read of one byte is one now
		for {
			if n, err := conn.Read(b[:]); err != nil {
				return
			} else if n != 1 {
				t.Error("read nothing")
			}
			_, _ = both.WriteString(strings.ToUpper(string(b[:])))
			_ = both.Flush()
		}
	})
	conn := dial(t, addr)
	send(t, conn, get)
	time.Sleep(5 * usualTick)
	send(t, conn, "spoken")
	got := make([]byte, 6)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "SPOKEN" {
		t.Fatalf("%q, %v", got, err)
	}
}
