// Package federation exchanges trust bundles with other trust domains, by SPIFFE's bundle endpoints: Endpoint serves ours,
// Client fetches theirs and keeps the last good ones, in memory and on disk.
//
//	c, err := federation.NewClient(federation.Options{Peers: peers, Dir: dir, Log: log})
//	go c.Run(ctx) // fetches until ctx ends
//	bundles, changed := c.Bundles()
//
// A Client is safe for concurrent use; its directory is its own.
package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"go.uber.org/zap"
)

// The limits of the endpoint, which anybody may ask.
const (
	maxEndpointConns    = 256
	maxEndpointHeader   = 8 << 10
	endpointRequestTime = 10 * time.Second
	endpointIdleTime    = 30 * time.Second
	stopWithin          = time.Second
)

// Handler serves a bundle: JSON Web Keys, with a sequence number and a hint when to come again.
func Handler(bundle func() (*spiffebundle.Bundle, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "a bundle can be read only", http.StatusMethodNotAllowed)
			return
		}
		b, err := bundle()
		if err != nil {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "there is no bundle yet", http.StatusServiceUnavailable)
			return
		}
		text, err := b.Marshal()
		if err != nil {
			http.Error(w, "the bundle cannot be encoded", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(text) // the other side sees what is missing
	})
}

// Serve answers on a listener by TLS until ctx ends, and closes it.
func Serve(ctx context.Context, l net.Listener, config *tls.Config, handler http.Handler, log *zap.Logger) error {
	std, err := zap.NewStdLogAt(log, zap.DebugLevel) // a stranger's failed handshake is nobody's problem here
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, TLSConfig: config, ErrorLog: std, MaxHeaderBytes: maxEndpointHeader,
		ReadTimeout: endpointRequestTime, WriteTimeout: endpointRequestTime, IdleTimeout: endpointIdleTime,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(newBounded(l, maxEndpointConns), "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the bundle: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close() // it had its time
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the bundle: %w", err)
	}
	return nil
}

// bounded is a listener with at most so many connections at a time; others wait in the kernel's queue.
type bounded struct {
	net.Listener
	room   chan struct{}
	closed chan struct{}
	close  func() // closes closed, once
}

func newBounded(l net.Listener, conns int) *bounded {
	closed := make(chan struct{})
	return &bounded{Listener: l, room: make(chan struct{}, conns), closed: closed, close: sync.OnceFunc(func() { close(closed) })}
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.room <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

func (b *bounded) Close() error {
	b.close()
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
