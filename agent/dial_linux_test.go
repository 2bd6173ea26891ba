package agent

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to a peer ends when the peer acknowledges nothing for a while: without it an agent that
// was cut off for a minute stayed without a leader for half a minute after the heal.
func TestLimitUnacked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test's own
	d := net.Dialer{Control: limitUnacked}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a test's own
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if err := raw.Control(func(fd uintptr) {
		got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); err != nil {
		t.Fatal(err)
	}
	if want := int(unackedLimit.Milliseconds()); err != nil || got != want {
		t.Errorf("got %d ms, error %v, want %d ms", got, err, want)
	}
}
