package state

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
)

// BenchmarkRewrite puts so many times to 10,000 keys, with request ids, so that their histories fill and, with 400,000, are cut; it reports the
// processor time of the process: on a machine with other work the time that passes says little.
func BenchmarkRewrite(b *testing.B) {
	for _, of := range []struct{ batch, puts int }{{18, 150_000}, {100, 150_000}, {50, 400_000}} {
		batch := of.batch
		b.Run(fmt.Sprintf("batch=%d/puts=%d", batch, of.puts), func(b *testing.B) {
			entries := rewrites(b, of.puts, batch)
			var spent int64
			for b.Loop() {
				m := testGenesis()
				index := m.View().Index()
				runtime.GC()
				before := processorTime(b)
				for _, commands := range entries {
					index++
					if _, _, err := m.Apply(index, 1, stampAt(1), commands); err != nil {
						b.Fatal(err)
					}
					m.View()
				}
				spent += processorTime(b) - before
			}
			b.ReportMetric(float64(spent)/float64(b.N*len(entries)*batch), "cpu-ns/put")
		})
	}
}

func rewrites(b *testing.B, puts, batch int) (entries [][][]byte) {
	index, rnd := testGenesis().View().Index(), rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 256)
	for n := 0; n < puts; n += batch {
		commands := make([][]byte, batch)
		for i := range commands {
			e := Envelope{Caller: "spiffe://lab.test/parley/agent/a1", Via: "a1", Request: id(index+uint64(n/batch), n+i)}
			e.Command = Put{Key: fmt.Sprintf("bench/%05d", rnd.IntN(10_000)), Value: value}
			var err error
			if commands[i], err = Encode(e, Version); err != nil {
				b.Fatal(err)
			}
		}
		entries = append(entries, commands)
	}
	return entries
}

func processorTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
