//go:build !linux

package api

import (
	"errors"
	"net"
)

// tcpPeerUID needs Linux's sock_diag; elsewhere all anonymous callers share one set of limits.
func tcpPeerUID(net.Conn) (uint32, error) {
	return 0, errors.New("sock_diag needs Linux")
}
