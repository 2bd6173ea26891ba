package transport

import (
	"testing"
)

// BenchmarkCall measures whole round trips over mutual TLS on loopback, both ends in this process.
func BenchmarkCall(b *testing.B) {
	r := newMeshRig(b, MeshOptions{}, nil)
	p := r.rpc(b, "honest")
	body := make([]byte, 256)
	b.Run("clients=1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Call(b.Context(), "n", "whoami", body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("clients=512", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(256) // times GOMAXPROCS, on 2 cores 512
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := p.Call(b.Context(), "n", "whoami", body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
