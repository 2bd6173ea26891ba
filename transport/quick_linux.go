package transport

import (
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Quick returns a connection that does not tell Go's scheduler of its system calls, if conn is one over TCP, else conn.
//
// The scheduler is told of a call so that others can run while it waits. These never wait: the socket is in non-blocking mode, and
// who has to wait does so in the runtime's poller, as with any connection. What it saves is seen on a host at rest, where
// such a call after a pause wakes the thread that watches over calls, and that thread looks several times until all is quiet
// again: a third of what a core member at rest used.
func Quick(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &quickConn{TCPConn: tcp, raw: raw}
	c.unsent.init()
	c.in.init(syscall.SYS_READ, raw.Read)
	c.out.init(syscall.SYS_WRITE, raw.Write)
	return c
}

// quickConn is a connection over TCP.
type quickConn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out quickCall
	unsent  unsent
}

// maxQuick is how much one system call moves: nothing else runs on the processor meanwhile.
const maxQuick = 64 << 10

// quickCall is one direction.
type quickCall struct {
	sync.Mutex // of the one who reads or writes; the fields below are its own

	trap uintptr
	wait func(try func(fd uintptr) bool) error // of syscall.RawConn: until try has done it
	try  func(fd uintptr) bool                 // made once, so that a call allocates nothing
	now  atomic.Bool                           // see Prompt
	b    []byte
	n    int
	err  syscall.Errno
}

func (c *quickCall) init(trap uintptr, wait func(func(uintptr) bool) error) {
	c.trap, c.wait = trap, wait
	c.try = func(fd uintptr) bool {
		for {
			n, _, err := syscall.RawSyscall(c.trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(c.b))), uintptr(len(c.b))) //nolint:gosec // the kernel's way to take a buffer
			switch err {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				if c.now.Load() {
					c.n, c.err = 0, err
					return true
				}
				return false
			case 0:
				c.n, c.err = int(n), 0 //nolint:gosec // at most len(b)
			default:
				c.n, c.err = 0, err
			}
			return true
		}
	}
}

// do moves up to len(b) bytes; the caller holds the lock.
func (c *quickCall) do(b []byte) (n int, err error) {
	c.b = b[:min(len(b), maxQuick)]
	err = c.wait(c.try)
	c.b = nil
	if err != nil {
		return 0, err
	}
	if c.err != 0 {
		return 0, c.err
	}
	return c.n, nil
}

// Read implements net.Conn.
func (c *quickConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.in.Lock()
	defer c.in.Unlock()
	n, err := c.in.do(b)
	if err != nil {
		return 0, c.failed("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *quickConn) Write(b []byte) (n int, err error) {
	c.out.Lock()
	defer c.out.Unlock()
	for n < len(b) {
		m, err := c.out.do(b[n:])
		n += m
		if err != nil {
			return n, c.failed("write", err)
		}
	}
	return n, nil
}

// promptBytes is how much may be on its way for a write to be prompt: the kernel has room for several times that.
const promptBytes = 4 << 10

// Prompt has writes fail where they would have to wait, and reports whether there is room: a few kilobytes can be written, then.
// Prompt(false) has them wait again. A write that failed has ended a connection over TLS.
func (c *quickConn) Prompt(on bool) bool {
	if !on {
		c.out.now.Store(false)
		return true
	}
	c.unsent.Lock()
	defer c.unsent.Unlock()
	if err := c.raw.Control(c.unsent.ask); err != nil || c.unsent.bytes > promptBytes {
		return false
	}
	c.out.now.Store(true)
	return true
}

// unsent asks how much of what was written the peer does not have yet.
type unsent struct {
	sync.Mutex
	ask   func(fd uintptr)
	bytes int32
}

func (u *unsent) init() {
	u.ask = func(fd uintptr) {
		if _, _, err := syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&u.bytes))); err != 0 { //nolint:gosec // the kernel's way
			u.bytes = math.MaxInt32
		}
	}
}

// failed words an error as the net package does.
func (c *quickConn) failed(op string, err error) error {
	if no, ok := err.(syscall.Errno); ok { //nolint:errorlint // it is ours, unwrapped
		err = os.NewSyscallError(op, no)
	} else if raw, ok := err.(*net.OpError); ok { //nolint:errorlint // the poller's
		err = raw.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
