package storage

import (
	"crypto/rand"
	"fmt"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkAppend is one group commit with its fdatasync, on written blocks.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			log := benchLog(b, b.TempDir())
			data := make([]byte, size)
			b.SetBytes(int64(size))
			for index := uint64(1); b.Loop(); index++ {
				if err := log.Append([]*raftpb.Entry{newEntry(1, index, data)}, nil, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRecovery opens a closed log of 1 GiB, every byte checked by CRC-32C and the SHA-256 chain; the page cache is
// warm.
func BenchmarkRecovery(b *testing.B) {
	dir := b.TempDir()
	log := benchLog(b, dir)
	const frames, size = 16384, 64 << 10
	entries := make([]*raftpb.Entry, 16)
	for i := range uint64(frames) {
		for j := range entries {
			data := make([]byte, size/16)
			_, _ = rand.Read(data)
			entries[j] = newEntry(1, i*16+uint64(j)+1, data)
		}
		if err := log.Append(entries, nil, false); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(frames * size)
	cpu := cpuTime(b)
	for b.Loop() {
		log := benchLog(b, dir)
		if log.tip.index != frames*16 {
			b.Fatal(log.tip.index)
		}
		if err := log.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpuTime(b)-cpu).Seconds()/float64(b.N), "cpu-s/op")
}

// cpuTime is what this process has used so far.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchLog(b *testing.B, dir string) *Log {
	options := logOptions(OS())
	options.Dir, options.SegmentBytes = dir, 0
	log, _, err := OpenLog(options)
	if err != nil {
		b.Fatal(err)
	}
	return log
}
