package httpconn

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const benchClients = 64

// What a small put over a kept connection costs net/http, client included: processor time of this process, since its server's alone
// cannot be told apart. The client writes and reads bytes, and is no HTTP client.
func BenchmarkPut(b *testing.B) {
	for _, kind := range []string{"plain", "lazy"} {
		for _, lasts := range []time.Duration{0, time.Millisecond} {
			b.Run(fmt.Sprintf("%s/%v", kind, lasts), func(b *testing.B) {
				b.ReportAllocs()
				benchPuts(b, kind == "lazy", lasts)
			})
		}
	}
}

func benchPuts(b *testing.B, lazy bool, lasts time.Duration) {
	addr := serve(b, lazy, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if lasts > 0 {
			time.Sleep(lasts)
		}
		_, _ = io.WriteString(w, `{"revision":12345}`)
	})
	conns := make([]net.Conn, benchClients)
	for i := range conns {
		conns[i] = dial(b, addr)
	}
	request := []byte("PUT /parley/v1/kv/web/1 HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nContent-Length: 256\r\n\r\n" + strings.Repeat("x", 256))
	b.ResetTimer()
	before := used()
	var clients sync.WaitGroup
	for i, conn := range conns {
		turns := (b.N + i) / benchClients
		clients.Go(func() {
			answer := make([]byte, 4096)
			for range turns {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				if n, err := conn.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), "}") {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
