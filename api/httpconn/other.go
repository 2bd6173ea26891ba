//go:build !linux

package httpconn

import (
	"context"
	"net"
)

// NewListener returns l.
func NewListener(l net.Listener) net.Listener { return l }

// Context returns ctx.
func Context(ctx context.Context, _ net.Conn) context.Context { return ctx }

// Inner returns conn.
func Inner(conn net.Conn) net.Conn { return conn }
