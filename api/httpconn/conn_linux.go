package httpconn

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// socket is what *net.TCPConn and *net.UnixConn are.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Context returns a context that ends when conn's client goes away while a request is being served, and when conn is closed. It is what
// a server's ConnContext has to do; for other connections it returns ctx.
func Context(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*lazyConn); ok {
		ctx, c.client.gone = context.WithCancel(ctx)
	}
	return ctx
}

// Inner returns the connection of package net that conn is made of, or conn.
func Inner(conn net.Conn) net.Conn {
	if c, ok := conn.(*lazyConn); ok {
		return c.socket
	}
	return conn
}

type lazyConn struct {
	socket
	listener *listener
	client   watcher
	hijacked atomic.Bool
	late     error // a read's deadline has passed: made once, since net/http ends many a read so that never began

	in  reading
	out writing
}

func newConn(s socket, l *listener) (*lazyConn, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &lazyConn{socket: s, listener: l}
	c.late = c.opError("read", os.ErrDeadlineExceeded)
	c.in.side = side{run: raw.Read, tell: s.SetReadDeadline}
	c.in.once = c.in.attempt
	c.out.side = side{run: raw.Write, tell: s.SetWriteDeadline}
	c.out.once = c.out.attempt
	c.client.raw, c.client.reads = raw, &c.in.side
	return c, nil
}

// Read returns nothing at once when net/http asks whether the client has gone: it does so by a read of one byte after it has set a deadline
// of never. Should its buffer ever have room for one byte only behind such a deadline, it asks again, and is given the byte then.
func (c *lazyConn) Read(p []byte) (int, error) {
	if len(p) == 1 && c.client.gone != nil && !c.hijacked.Load() && c.in.takeNever() {
		c.client.begin(c.listener.now.Load())
		c.listener.lookSoon()
		return 0, nil
	}
	c.client.end()
	n, err := c.in.read(p)
	return n, c.named("read", err)
}

func (c *lazyConn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.named("write", err)
}

// SetDeadline is called by net/http for a connection that is hijacked, and for no other.
func (c *lazyConn) SetDeadline(t time.Time) error {
	c.hijacked.Store(true)
	return errors.Join(c.in.set(t), c.out.set(t))
}

func (c *lazyConn) SetReadDeadline(t time.Time) error  { return c.in.set(t) }
func (c *lazyConn) SetWriteDeadline(t time.Time) error { return c.out.set(t) }

func (c *lazyConn) Close() error {
	c.listener.forget(c)
	err := c.socket.Close()
	if c.client.gone != nil {
		c.client.gone()
	}
	return err
}

// named gives an error the form that those of package net have.
func (c *lazyConn) named(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return io.EOF
	case op == "read" && errors.Is(err, os.ErrDeadlineExceeded):
		return c.late
	}
	if inner := new(net.OpError); errors.As(err, &inner) {
		err = inner.Err
	}
	return c.opError(op, err)
}

func (c *lazyConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// reading is the side that reads. Its attempt is a value that is made once, and finds here what it is to do.
type reading struct {
	side
	turn sync.Mutex // one read at a time, which may wait for the client under it
	once func(fd uintptr) bool
	p    []byte
	n    int
	err  error
}

func (r *reading) read(p []byte) (int, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.p, r.n, r.err = p, 0, nil
	err := r.do(r.once)
	r.p = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, os.NewSyscallError("read", r.err)
	case r.n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return r.n, nil
}

func (r *reading) attempt(fd uintptr) bool {
	r.n, r.err = retried(syscall.Read, fd, r.p)
	return r.again(r.err)
}

// writing is the side that writes, in the same manner.
type writing struct {
	side
	turn sync.Mutex // one write at a time, which may wait for the client under it
	once func(fd uintptr) bool
	p    []byte // what is left
	err  error
}

func (w *writing) write(p []byte) (int, error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	w.p, w.err = p, nil
	err := w.do(w.once)
	n := len(p) - len(w.p)
	w.p = nil
	if err == nil && w.err != nil {
		err = os.NewSyscallError("write", w.err)
	}
	return n, err
}

func (w *writing) attempt(fd uintptr) bool {
	for len(w.p) > 0 {
		var n int
		if n, w.err = retried(syscall.Write, fd, w.p); w.err != nil {
			return w.again(w.err)
		}
		w.p = w.p[n:]
	}
	return true
}

// retried calls again what a signal has interrupted.
func retried(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		if n, err := call(int(fd), p); err == nil || !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
