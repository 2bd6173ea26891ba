package httpconn

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// deaf accepts connections whose poller is never told a deadline.
type deaf struct{ net.Listener }

func (d deaf) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if c, ok := conn.(*lazyConn); ok {
		nothing := func(time.Time) error { return nil }
		c.in.tell, c.out.tell = nothing, nothing
	}
	return conn, err
}

// Every timeout of a server ends its connection, and does not where the poller is not told. A header that comes in pieces is ended
// by the read that is late as well, so its control has no timeout.
func TestTimeouts(t *testing.T) {
	type timeout struct {
		name string
		set  func(*http.Server)
		do   func(*testing.T, net.Conn)
	}
	answered := func(t *testing.T, conn net.Conn) { // and idle since
		send(t, conn, get)
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []timeout{
		{"first header", func(s *http.Server) { s.ReadHeaderTimeout = shortly }, func(t *testing.T, conn net.Conn) { send(t, conn, "GET / HT") }},
		{"nothing sent", func(s *http.Server) { s.ReadHeaderTimeout = shortly }, func(*testing.T, net.Conn) {}},
		{"second header", func(s *http.Server) { s.ReadHeaderTimeout = shortly }, func(t *testing.T, conn net.Conn) {
			answered(t, conn)
			send(t, conn, "GET / HT")
		}},
		{"slow loris", func(s *http.Server) { s.ReadHeaderTimeout = shortly }, func(t *testing.T, conn net.Conn) {
			send(t, conn, "GET / HTTP/1.1\r\n")
			go func() {
				for err := error(nil); err == nil; time.Sleep(shortly / 10) {
					_, err = io.WriteString(conn, "X: y\r\n")
				}
			}()
		}},
		{"idle", func(s *http.Server) { s.IdleTimeout = shortly }, answered},
		{"body", func(*http.Server) {}, func(t *testing.T, conn net.Conn) {
			send(t, conn, "PUT /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab")
		}},
		{"write", func(s *http.Server) { s.WriteTimeout = shortly }, func(t *testing.T, conn net.Conn) {
			send(t, conn, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		}},
	} {
		for _, told := range []bool{true, false} {
			name := c.name
			if !told {
				name += ", control"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				closed := make(chan struct{}, 1)
				l := NewListener(listenTCP(t))
				if !told {
					l = deaf{l}
				}
				addr := serveOn(t, l, false, timed, c.set, func(s *http.Server) {
					if !told && c.name == "slow loris" {
						s.ReadHeaderTimeout = 0
					}
					s.ConnContext = Context
					s.ConnState = func(_ net.Conn, state http.ConnState) {
						if state == http.StateClosed {
							closed <- struct{}{}
						}
					}
				})
				conn := dial(t, addr)
				c.do(t, conn)
				if told {
					within(t, closed, c.name)
					return
				}
				select {
				case <-closed:
					t.Fatal("closed without a deadline")
				case <-time.After(notYet):
				}
			})
		}
	}
}

// timed is a handler that sets a deadline for its body, as ours does, and one that writes more than a connection holds.
func timed(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/body":
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(shortly))
		if _, err := io.ReadAll(r.Body); err != nil {
			w.Header().Set("Connection", "close")
		}
	case "/large":
		_, _ = w.Write(make([]byte, 64<<20))
	default:
		_, _ = io.WriteString(w, "here")
	}
}

// pair returns both ends of a connection.
func pair(t *testing.T) (ours *lazyConn, theirs net.Conn) {
	t.Helper()
	l := NewListener(listenTCP(t))
	defer func() { _ = l.Close() }()
	theirs = dial(t, l.Addr())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*lazyConn), theirs
}

func mustTimeOut(t *testing.T, err error) {
	t.Helper()
	var netErr net.Error
	var op *net.OpError
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() || !errors.As(err, &op) || op.Op != "read" {
		t.Fatalf("not the timeout of a read: %v", err)
	}
}

// A deadline that the poller knows from a request before wakes it and ends nothing.
func TestWokenTooEarly(t *testing.T) {
	ours, theirs := pair(t)
	_ = ours.SetReadDeadline(time.Now().Add(shortly))
	_, err := ours.Read(make([]byte, 8))
	mustTimeOut(t, err)

	begun := time.Now()
	_ = ours.SetReadDeadline(begun.Add(shortly)) // it is told by the next read
	go func() {
		time.Sleep(shortly / 2)
		_, _ = theirs.Write([]byte("a"))
	}()
	if n, err := ours.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	_ = ours.SetReadDeadline(begun.Add(3 * shortly))
	_, err = ours.Read(make([]byte, 8))
	mustTimeOut(t, err)
	if took := time.Since(begun); took < 3*shortly {
		t.Fatalf("timed out after %v", took)
	}
	_ = ours.SetReadDeadline(time.Time{})
	go func() {
		time.Sleep(shortly)
		_, _ = theirs.Write([]byte("b"))
	}()
	if n, err := ours.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// A deadline that is set while a read waits holds for it, and one that has passed ends a read although there are bytes.
func TestSetWhileWaiting(t *testing.T) {
	ours, theirs := pair(t)
	failed := make(chan error, 1)
	read := func() {
		_, err := ours.Read(make([]byte, 8))
		failed <- err
	}
	for _, before := range []time.Time{{}, time.Now().Add(time.Hour)} {
		_ = ours.SetReadDeadline(before)
		go read()
		time.Sleep(shortly)
		_ = ours.SetReadDeadline(time.Unix(1, 0))
		mustTimeOut(t, within(t, failed, "timeout"))
	}
	_, _ = theirs.Write([]byte("a"))
	time.Sleep(shortly)
	go read()
	mustTimeOut(t, within(t, failed, "timeout"))
	_ = ours.SetReadDeadline(time.Time{})
	go read()
	if err := within(t, failed, "byte"); err != nil {
		t.Fatal(err)
	}
}

func TestClosedWhileWaiting(t *testing.T) {
	ours, _ := pair(t)
	failed := make(chan error, 1)
	go func() {
		_, err := ours.Read(make([]byte, 8))
		failed <- err
	}()
	time.Sleep(shortly)
	_ = ours.Close()
	if err := within(t, failed, "end of the read"); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := ours.Write([]byte("a")); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

// A buffer with room for one byte is filled in the end, whoever it belongs to.
func TestReadOfOneByte(t *testing.T) {
	ours, theirs := pair(t)
	Context(t.Context(), ours)
	_, _ = theirs.Write([]byte("ab"))
	_ = ours.SetReadDeadline(time.Time{})
	for _, want := range "ab" {
		var b [1]byte
		if _, err := io.ReadFull(ours, b[:]); err != nil || rune(b[0]) != want {
			t.Fatalf("%q, %v", b[:], err)
		}
	}
}

func TestInner(t *testing.T) {
	ours, theirs := pair(t)
	if _, ok := Inner(ours).(*net.TCPConn); !ok || Inner(theirs) != theirs {
		t.Fatal("not the connection of package net")
	}
}
