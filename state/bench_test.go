package state

import (
	"bytes"
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

// BenchmarkRestore loads a snapshot of 500,000 keys of 256 bytes.
func BenchmarkRestore(b *testing.B) {
	m := testGenesis()
	fill256(b, m, 500_000)
	var snapshot bytes.Buffer
	if err := m.View().WriteSnapshot(&snapshot); err != nil {
		b.Fatal(err)
	}
	for name, beside := range map[string]Beside{"alone": inTurn, "beside": inGoroutine} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(snapshot.Len()))
			runtime.GC()
			for b.Loop() {
				if err := NewMachine().RestoreBeside(bytes.NewReader(snapshot.Bytes()), beside); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// inGoroutine is a Beside.
func inGoroutine(work func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	return func() { <-done }
}

// BenchmarkWriteSnapshot is the other way.
func BenchmarkWriteSnapshot(b *testing.B) {
	m := testGenesis()
	fill256(b, m, 500_000)
	var n counter
	for b.Loop() {
		n = 0
		if err := m.View().WriteSnapshot(&n); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(n))
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkMemory is what a key of 12 bytes with a value of 256 costs in live heap.
func BenchmarkMemory(b *testing.B) {
	const keys = 500_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := testGenesis()
		fill256(b, m, keys)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "B/key")
		b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/keys, "objects/key")
		runtime.KeepAlive(m)
	}
}

func fill256(b testing.TB, m *Machine, keys int) {
	index := m.View().Index()
	value := make([]byte, 256)
	for i := 0; i < keys; {
		var commands [][]byte
		for ; len(commands) < 1000 && i < keys; i++ {
			copy(value, fmt.Sprint(i))
			command, err := Encode(Envelope{Caller: "uid:0@a1", Via: "a1", Command: Put{Key: fmt.Sprintf("bench/%06d", i), Value: value}}, Version)
			if err != nil {
				b.Fatal(err)
			}
			commands = append(commands, command)
		}
		index++
		if _, _, err := m.Apply(index, 1, stampAt(1), commands); err != nil {
			b.Fatal(err)
		}
	}
}
