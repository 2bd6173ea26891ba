package agent

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unackedLimit is how long a peer may leave what we sent unacknowledged. The kernel's own patience is a
// quarter of an hour, with pauses that grow to two minutes: after a network that was cut for a minute
// and healed, Raft went on waiting for half a minute on a connection from before, and longer after
// longer cuts. With the limit the connection ends during the cut, and a new one is tried every few
// seconds.
const unackedLimit = 5 * time.Second

// limitUnacked is for net.Dialer.Control.
func limitUnacked(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedLimit.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
