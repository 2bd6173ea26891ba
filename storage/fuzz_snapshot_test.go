package storage

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// FuzzManifest: any bytes parse or give ErrManifest; without their checksum none do, and what parses means the same once
// it is encoded.
func FuzzManifest(f *testing.F) {
	for _, m := range []manifest{
		{meta: testMeta(5, [32]byte{1}), size: 5, chunks: []chunkRef{{stored: 9, raw: 5}}},
		{meta: testMeta(1, [32]byte{}), size: maxChunkBytes + 1, chunks: []chunkRef{{stored: 9, raw: maxChunkBytes}, {stored: 1, raw: 1}}},
		{meta: testMeta(9, [32]byte{2})},
	} {
		data, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:len(data)-32])
	}
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
		if n := len(m.chunks); n > maxChunks+maxConfStateBytes/manifestChunkBytes {
			t.Fatalf("%d chunks", n)
		}
		again, err := m.encode()
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		back, err := decodeManifest(again)
		if err != nil {
			t.Fatalf("decode again: %v", err)
		}
		third, err := back.encode()
		if err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%v, %x and then %x", err, again, third)
		}
	})
}

// FuzzChunk: any stored bytes give exactly the promised size or ErrChunk, and nothing when a bit of them is another.
func FuzzChunk(f *testing.F) {
	stored, _ := compress([]byte("hello, hello, hello"))
	f.Add(stored, uint32(18))
	bomb, _ := compress(make([]byte, maxChunkBytes))
	f.Add(bomb, uint32(18))
	f.Add(append(bytes.Clone(stored), stored...), uint32(37)) // two frames in a row
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint32(0))
	f.Fuzz(func(t *testing.T, stored []byte, raw uint32) {
		ref := chunkRef{name: sumHeader(stored), stored: uint32(len(stored)), raw: raw%maxChunkBytes + 1}
		got, err := ref.expand(stored)
		if err == nil && (len(got) != int(ref.raw) || cap(got) > 2*maxChunkBytes) || err != nil && !errors.Is(err, ErrChunk) {
			t.Fatalf("%d bytes with room for %d, want %d; %v", len(got), cap(got), ref.raw, err)
		}
		if len(stored) > 0 {
			bad := bytes.Clone(stored)
			bad[int(raw)%len(bad)] ^= 1
			if _, err := ref.expand(bad); !errors.Is(err, ErrChunk) {
				t.Fatalf("bytes with another hash: %v", err)
			}
		}
	})
}

// FuzzInstall: a snapshot of any chunk and any size that a peer claims is installed as it says, or refused with the one
// before still the newest: also after a restart. One bit of a chunk or of its manifest makes it refused.
func FuzzInstall(f *testing.F) {
	content := []byte("hello, hello, hello")
	stored, _ := compress(content)
	f.Add(stored, uint32(len(content)), content, uint32(0))
	f.Add(stored, uint32(len(content)), content, uint32(7))
	f.Add(stored, uint32(len(content)+1), content, uint32(0))
	f.Add(stored, uint32(len(content)), []byte("another"), uint32(0))
	f.Add([]byte("no zstd"), uint32(7), []byte("no zstd"), uint32(0))
	f.Fuzz(func(t *testing.T, stored []byte, raw uint32, content []byte, flip uint32) {
		ref := chunkRef{name: sumHeader(stored), stored: uint32(len(stored)), raw: raw}
		m := manifest{meta: testMeta(9, [32]byte{9}), cluster: traceCluster, whole: sumHeader(content), size: uint64(raw), chunks: []chunkRef{ref}}
		data, err := m.encode()
		mustNil(t, err)
		fsys := NewMem()
		s := openTestSnapshots(t, fsys)
		saveBody(t, s, 5)
		sent := bytes.Clone(stored)
		if flip > 0 && len(sent) > 0 {
			sent[int(flip)%len(sent)] ^= 1
			bad := bytes.Clone(data)
			bad[int(flip)%len(bad)] ^= 1
			if err := s.Install(t.Context(), bad, nil); !errors.Is(err, ErrManifest) {
				t.Fatalf("a manifest with a flipped bit: %v", err)
			}
		}
		err = s.Install(t.Context(), data, func(context.Context, [32]byte) ([]byte, error) { return sent, nil })
		if err != nil {
			if !errors.Is(err, ErrChunk) && !errors.Is(err, ErrManifest) {
				t.Fatal(err)
			}
			wantLatest(t, s, 5)
			wantLatest(t, openTestSnapshots(t, fsys.Crash(LoseUnsynced, 1)), 5)
			return
		}
		if !bytes.Equal(sent, stored) {
			t.Fatal("installed with a chunk that has another hash")
		}
		after := openTestSnapshots(t, fsys.Crash(LoseUnsynced, 1))
		if got, err := readBody(after, data); err != nil || got != string(content) {
			t.Fatalf("%q, %v, want %q", got, err, content)
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
