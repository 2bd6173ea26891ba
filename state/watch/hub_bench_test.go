package watch

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/state"
)

// subscribeMany is 100,000 of the shapes that programs use: keys of their own, and prefixes of several lengths.
func subscribeMany(tb testing.TB, h *Hub, n int) {
	tb.Helper()
	for i := range n {
		sel := Selector{Key: fmt.Sprintf("app/%06d/config", i)}
		if i%10 == 0 {
			sel = Selector{Key: fmt.Sprintf("app/%d/", i), Prefix: true}
		}
		if _, err := h.Subscribe(sel); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkTouchNone is one put on its way through the hub: published, and looked up among those who wait. It touches none
// of them.
func BenchmarkTouchNone(b *testing.B) {
	for _, n := range []int{0, 1_000, 100_000} {
		b.Run(fmt.Sprintf("subscriptions=%d", n), func(b *testing.B) {
			m := newMachine()
			h := NewHub(m.View())
			subscribeMany(b, h, n)
			changes := []state.Change{{Table: state.TableKV, Class: state.ClassKV, Key: "other/service/number/0001/settings"}}
			entries := []entry{{changes: changes}}
			b.ReportAllocs()
			for b.Loop() {
				h.mu.Lock()
				if out := h.mu.index.touched(entries); len(out) > 0 {
					b.Fatal("touched somebody")
				}
				h.mu.Unlock()
			}
		})
	}
}

// BenchmarkTouchNoneOfAllLengths is the same beside one caller who watches a prefix of every length there is.
func BenchmarkTouchNoneOfAllLengths(b *testing.B) {
	h := NewHub(newMachine().View())
	for n := range state.MaxKeyBytes {
		if _, err := h.Subscribe(Selector{Key: strings.Repeat("x", n+1), Prefix: true}); err != nil {
			b.Fatal(err)
		}
	}
	entries := []entry{{changes: []state.Change{{Table: state.TableKV, Class: state.ClassKV, Key: strings.Repeat("y", state.MaxKeyBytes)}}}}
	for b.Loop() {
		h.mu.index.touched(entries)
	}
}

// BenchmarkSubscribe tells what an idle subscription costs in bytes.
func BenchmarkSubscribe(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		h := NewHub(newMachine().View())
		before := heapBytes()
		subscribeMany(b, h, n)
		b.ReportMetric(float64(heapBytes()-before)/n, "B/subscription")
		runtime.KeepAlive(h)
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
