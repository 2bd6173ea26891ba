package storage

import (
	"bytes"
	"errors"
	"hash/crc32"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// fuzzSegment is a small segment with three frames.
func fuzzSegment(f *testing.F) (segmentHeader, []byte) {
	fsys := NewMem()
	options := logOptions(fsys)
	options.SegmentBytes = minSegmentBytes + pageBytes
	log, _, err := OpenLog(options)
	if err != nil {
		f.Fatal(err)
	}
	for index := uint64(1); index <= 3; index++ {
		if err := log.Append([]*raftpb.Entry{newEntry(1, index, []byte("value"))}, nil, true); err != nil {
			f.Fatal(err)
		}
	}
	data, err := ReadFile(fsys, log.active.path, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	return log.active.segmentHeader, data
}

// FuzzFrame: any bytes after a right checksum decode without a panic, into entries that encode to
// the same bytes.
func FuzzFrame(f *testing.F) {
	_, data := fuzzSegment(f)
	f.Add(data[pageBytes+frameHeaderBytes:pageBytes+frameHeaderBytes+21], uint64(0), uint32(1))
	f.Add([]byte{}, uint64(1)<<63, ^uint32(0))
	f.Fuzz(func(t *testing.T, payload []byte, prevIndex uint64, count uint32) {
		entries, err := decodeEntries(payload, prevIndex, count)
		if err != nil {
			return
		}
		var back []byte
		for i, entry := range entries {
			if entry.GetIndex() != prevIndex+1+uint64(i) {
				t.Fatalf("entry %d has index %d", i, entry.GetIndex())
			}
			back = appendEntry(back, entry)
		}
		if !bytes.Equal(back, payload) || uint32(len(entries)) != count {
			t.Fatalf("%d entries encode to %x, not %x", len(entries), back, payload)
		}
	})
}

// FuzzFrameHeader: headers with arbitrary fields and right checksums never break recovery.
func FuzzFrameHeader(f *testing.F) {
	header, data := fuzzSegment(f)
	f.Add(data[pageBytes:pageBytes+frameHeaderBytes], []byte("payload"))
	f.Fuzz(func(t *testing.T, raw, payload []byte) {
		if len(raw) < frameHeaderBytes || len(payload) > 3000 {
			return
		}
		page := make([]byte, pageBytes)
		copy(page, raw[:frameHeaderBytes])
		copy(page[frameHeaderBytes:], payload)
		order.PutUint32(page, frameMagic)
		order.PutUint64(page[8:], header.number)
		order.PutUint32(page[168:], uint32(len(payload)))
		order.PutUint32(page[176:], saltedCRC(header.salt, payload))
		order.PutUint32(page[4:], saltedCRC(header.salt, page[8:frameHeaderBytes]))
		changed := bytes.Clone(data)
		copy(changed[2*pageBytes:], page)
		openFuzzed(t, changed)
	})
}

// FuzzSegment: a segment with any bytes between its headers opens or is refused; what is served is
// the written entries, or fewer where no anchor covers them.
func FuzzSegment(f *testing.F) {
	_, data := fuzzSegment(f)
	f.Add(data[pageBytes : len(data)-pageBytes])
	f.Add(make([]byte, pageBytes))
	f.Fuzz(func(t *testing.T, inner []byte) {
		changed := bytes.Clone(data)
		copy(changed[pageBytes:len(data)-pageBytes], inner)
		openFuzzed(t, changed)
	})
}

// FuzzSegmentHeader: any header page, with its checksum made right.
func FuzzSegmentHeader(f *testing.F) {
	_, data := fuzzSegment(f)
	f.Add(data[:segmentHeaderBytes])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < segmentHeaderBytes || len(raw) > pageBytes {
			return
		}
		changed, page := bytes.Clone(data), bytes.Clone(raw)
		copy(page, segmentMagic)
		order.PutUint32(page[8:], crc32.Checksum(page[12:segmentHeaderBytes], castagnoli))
		copy(changed, page)
		copy(changed[len(changed)-pageBytes:], page)
		openFuzzed(t, changed)
	})
}

func openFuzzed(t *testing.T, segment []byte) {
	fsys := NewMem()
	options := logOptions(fsys)
	if err := fsys.MkdirAll(filepath.Join(dataDir, "wal"), dirPerm); err != nil {
		t.Fatal(err)
	}
	if err := createAnchor(fsys, filepath.Join(dataDir, anchorName), identity{options.ClusterID, options.RaftID}); err != nil {
		t.Fatal(err)
	}
	if err := WriteFileAtomic(fsys, walPath(1), segment, filePerm); err != nil {
		t.Fatal(err)
	}
	log, recovered, err := OpenLog(options)
	var damage *DamageError
	var foreign *ForeignError
	if errors.As(err, &damage) || errors.As(err, &foreign) || errors.Is(err, errFormat) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := uint64(len(recovered.Entries)); recovered.LastIndex-recovered.FirstIndex+1 != n {
		t.Fatalf("%d entries from %d to %d", n, recovered.FirstIndex, recovered.LastIndex)
	}
	next := newEntry(1, recovered.LastIndex+1, []byte("next"))
	if recovered.LastIndex < 1<<60 {
		if err := log.Append([]*raftpb.Entry{next}, nil, true); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzManifest: any bytes parse or give ErrManifest, and what parses encodes to the same bytes.
func FuzzManifest(f *testing.F) {
	m := manifest{meta: testMeta(5, [32]byte{1}), size: 5, chunks: []chunkRef{{stored: 9, raw: 5}}}
	data, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-32])
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sumHeader(body)
		data := append(bytes.Clone(body), sum[:]...)
		if _, err := ParseManifest(body); err == nil {
			t.Fatal("parsed without a checksum")
		}
		m, err := decodeManifest(data)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatalf("err = %v, want ErrManifest", err)
			}
			return
		}
		if again, err := m.encode(); err != nil {
			t.Fatalf("encode: %v", err)
		} else if _, err := decodeManifest(again); err != nil {
			t.Fatalf("decode again: %v", err)
		}
	})
}

// FuzzChunk: any stored bytes give at most the promised size.
func FuzzChunk(f *testing.F) {
	stored, _ := compress([]byte("hello, hello, hello"))
	f.Add(stored, uint32(19))
	f.Fuzz(func(t *testing.T, stored []byte, raw uint32) {
		ref := chunkRef{name: sumHeader(stored), stored: uint32(len(stored)), raw: raw%maxChunkBytes + 1}
		if got, err := ref.expand(stored); err == nil && len(got) != int(ref.raw) {
			t.Fatalf("%d bytes instead of %d", len(got), ref.raw)
		}
	})
}

// FuzzBackup: any bytes are a backup file or give ErrBackup, also behind a manifest whose checksum is
// right; what is read encodes to a file that is read the same.
func FuzzBackup(f *testing.F) {
	head := len(backupBytes(f, []byte(`{"index":1}`), nil)) - backupTailBytes
	for _, content := range []string{"", "hello, hello", "x"} {
		data := backupBytes(f, []byte(`{"index":1}`), []byte(content))
		f.Add([]byte(`{"index":1}`), data[head:])
		f.Add([]byte(nil), data)
	}
	f.Fuzz(func(t *testing.T, manifest, rest []byte) {
		if _, _, err := readBackup(rest); err != nil && !errors.Is(err, ErrBackup) {
			t.Fatalf("err = %v, want ErrBackup", err)
		}
		if len(manifest) > MaxBackupManifestBytes {
			return
		}
		begun := backupBytes(t, manifest, nil)
		data := append(begun[:len(begun)-backupTailBytes:len(begun)-backupTailBytes], rest...)
		got, content, err := readBackup(data)
		if err != nil {
			if !errors.Is(err, ErrBackup) {
				t.Fatalf("err = %v, want ErrBackup", err)
			}
			return
		}
		again, same, err := readBackup(backupBytes(t, got, content))
		if err != nil || !bytes.Equal(again, manifest) || !bytes.Equal(same, content) {
			t.Fatalf("again: %v", err)
		}
	})
}
