package state

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkApply is one put of 256 bytes over 100,000 keys, alone in its entry and 100 in one, with
// a View taken after each entry, without and with request ids.
func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, -1, 100, -100} {
		once := batch < 0
		batch := max(batch, -batch)
		b.Run(fmt.Sprintf("batch=%d,once=%v", batch, once), func(b *testing.B) {
			m := testGenesis()
			fill(b, m, "k/", 100_000)
			commands := make([][]byte, batch)
			value := make([]byte, 256)
			index := m.View().Index()
			runtime.GC()
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				b.StopTimer()
				for i := range commands {
					e := Envelope{Caller: "uid:0@a1", Via: "a1", Command: Put{Key: fmt.Sprintf("k/%07d", (n+i)*7919%100_000), Value: value}}
					if once {
						e.Request = id(index, n+i)
					}
					commands[i], _ = Encode(e, Version)
				}
				b.StartTimer()
				index++
				if _, _, err := m.Apply(index, 1, stampAt(1), commands); err != nil {
					b.Fatal(err)
				}
				m.View()
			}
		})
	}
}

// BenchmarkGet reads one key of 100,000.
func BenchmarkGet(b *testing.B) {
	m := testGenesis()
	fill(b, m, "k/", 100_000)
	v := m.View()
	b.ResetTimer()
	for n := range b.N {
		if _, ok := v.Get(fmt.Sprintf("k/%07d", n%100_000)); !ok {
			b.Fatal("missing")
		}
	}
}
