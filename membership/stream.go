package membership

import (
	"errors"
	"io"
	"net"
	"sync"
)

// errPassThrough from a filter: read the connection as it is.
var errPassThrough = errors.New("no filter")

// filteredConn is a stream of which memberlist reads only what the firewall made of it. A peer
// says one message on a stream; the first Read takes in all of it.
type filteredConn struct {
	net.Conn
	filter func(net.Conn) ([]byte, error)
	once   sync.Once
	rest   []byte
	err    error
}

func newFilteredConn(c net.Conn, filter func(net.Conn) ([]byte, error)) *filteredConn {
	return &filteredConn{Conn: c, filter: filter}
}

// Read implements net.Conn; one goroutine reads.
func (c *filteredConn) Read(b []byte) (int, error) {
	c.once.Do(func() { c.rest, c.err = c.filter(c.Conn) })
	if errors.Is(c.err, errPassThrough) {
		return c.Conn.Read(b)
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// trackedConn counts as an open stream of its link until closed.
type trackedConn struct {
	net.Conn
	once sync.Once
	done func()
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.done)
	return err
}
