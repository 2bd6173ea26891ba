package client

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
)

// delivery finds out whether any byte of a request may have left. It goes by the connection, which the transport has
// only once dial and handshake are over, and not by what was written: that is told by another goroutine, perhaps after
// the call has ended.
type delivery struct {
	connected atomic.Bool
	distrust  atomic.Bool // the TLS handshake failed
}

func (d *delivery) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { d.connected.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				d.distrust.Store(true)
			}
		},
	}
}

// explain marks an error of a request of which nothing was sent.
func (d *delivery) explain(err error) error {
	if err == nil || d.connected.Load() {
		return err
	}
	return &unsentError{err: err, distrust: d.distrust.Load()}
}

// unsentError is a request that never left.
type unsentError struct {
	err      error
	distrust bool
}

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// certificateAlerts are what a TLS peer says of the certificate that it was shown: bad, unsupported, revoked, expired,
// unknown, of an unknown authority, without access, missing.
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// refusedCertificate reports an agent that did not accept our certificate. In TLS 1.3 we hear of it after our half of
// the handshake, when the request is on its way already; the agent drops it unread.
func refusedCertificate(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" &&
		slices.ContainsFunc(certificateAlerts, func(a tls.AlertError) bool { return remote.Err.Error() == a.Error() })
}
