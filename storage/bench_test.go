package storage

import (
	"fmt"
	"testing"

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

// BenchmarkRecovery opens a closed log of 256 MiB, every byte checked; the page cache is warm.
func BenchmarkRecovery(b *testing.B) {
	dir := b.TempDir()
	log := benchLog(b, dir)
	const frames, size = 4096, 64 << 10
	entries := make([]*raftpb.Entry, 16)
	for i := range uint64(frames) {
		for j := range entries {
			entries[j] = newEntry(1, i*16+uint64(j)+1, make([]byte, size/16))
		}
		if err := log.Append(entries, nil, false); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(frames * size)
	for b.Loop() {
		log := benchLog(b, dir)
		if log.tip.index != frames*16 {
			b.Fatal(log.tip.index)
		}
		if err := log.Close(); err != nil {
			b.Fatal(err)
		}
	}
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
