package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// countedConn counts the writes to the network below TLS.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// BenchmarkCall measures whole round trips over mutual TLS on loopback, both ends in this process: allocations and CPU time
// are those of both, writes those of the caller's side.
func BenchmarkCall(b *testing.B) {
	r := newMeshRig(b, MeshOptions{}, nil)
	var writes atomic.Int64
	config := r.clientTLS("honest", ALPNRPC)
	p := NewPool(PoolOptions{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(countedConn{conn, &writes}, config)
		return secured, secured.HandshakeContext(ctx)
	}})
	b.Cleanup(func() { _ = p.Close() })
	body := make([]byte, 256)
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			if _, err := p.Call(b.Context(), "n", "bounded", body); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			began, wrote := cpuTime(b), writes.Load()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := p.Call(b.Context(), "n", "bounded", body); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(writes.Load()-wrote)/float64(b.N), "writes/op")
		})
	}
}

// cpuTime is what this process has used: on a busy machine it says more than the clock.
func cpuTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
