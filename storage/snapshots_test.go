package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func openTestSnapshots(t *testing.T, fsys FS) *Snapshots {
	t.Helper()
	s, err := OpenSnapshots(snapOptions(fsys))
	mustNil(t, err)
	return s
}

func saveBody(t *testing.T, s *Snapshots, index uint64) []byte {
	t.Helper()
	manifest, err := s.Save(testMeta(index, [32]byte{byte(index)}), writeBody(index))
	mustNil(t, err)
	return manifest
}

func readBody(s *Snapshots, manifest []byte) (string, error) {
	r, err := s.Open(manifest)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(r)
	return string(content), errors.Join(err, r.Close())
}

// wantLatest fails unless the newest snapshot is of index, whole.
func wantLatest(t *testing.T, s *Snapshots, index uint64) {
	t.Helper()
	meta, manifest, ok := s.Latest()
	content, err := readBody(s, manifest)
	if !ok || meta.Index != index || err != nil || content != body(index) {
		t.Errorf("Latest() = %d, %v with %d bytes, %v; want %d", meta.Index, ok, len(content), err, index)
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	if _, _, ok := s.Latest(); ok {
		t.Error("a snapshot in an empty directory")
	}
	want := SnapshotMeta{Index: 5, Term: 2, Chain: [32]byte{5}, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}}}
	manifest, err := s.Save(want, writeBody(5))
	mustNil(t, err)
	got, err := ParseManifest(manifest)
	if err != nil || got.Index != 5 || got.Term != 2 || got.Chain != want.Chain || !proto.Equal(got.ConfState, want.ConfState) {
		t.Errorf("ParseManifest = %+v, %v; want %+v", got, err, want)
	}
	wantLatest(t, s, 5)
	wantLatest(t, openTestSnapshots(t, fsys.Crash(LoseUnsynced, 0)), 5)
}

func TestSnapshotSizes(t *testing.T) {
	// Empty, one byte around a chunk's size, incompressible, and written byte by byte.
	s := openTestSnapshots(t, NewMem())
	for i, size := range []int{0, 1, 255, 256, 257, 100_000} {
		content := strings.Repeat(body(uint64(i)), size/500+1)[:size]
		manifest, err := s.Save(testMeta(uint64(i)+1, [32]byte{}), func(w io.Writer) error {
			_, err := io.Copy(w, iotest.OneByteReader(strings.NewReader(content)))
			return err
		})
		mustNil(t, err)
		if got, err := readBody(s, manifest); err != nil || got != content {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

func TestSnapshotOfMegabytes(t *testing.T) {
	// Real chunk sizes, on the machine's own file system.
	options := snapOptions(OS())
	options.Dir, options.chunkBytes = t.TempDir(), 0
	s, err := OpenSnapshots(options)
	mustNil(t, err)
	content := bytes.Repeat([]byte(body(1)), 5000)
	manifest, err := s.Save(testMeta(1, [32]byte{}), func(w io.Writer) error { _, err := w.Write(content); return err })
	mustNil(t, err)
	m, err := decodeManifest(manifest)
	if want := (len(content) + maxChunkBytes - 1) / maxChunkBytes; err != nil || len(m.chunks) != want {
		t.Errorf("%d chunks, %v; want %d", len(m.chunks), err, want)
	}
	if got, err := readBody(s, manifest); err != nil || got != string(content) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestManifestOfAGigabyteIsSmall(t *testing.T) {
	m := manifest{meta: testMeta(1, [32]byte{})}
	for range 1024 {
		m.chunks = append(m.chunks, chunkRef{stored: 1, raw: maxChunkBytes})
		m.size += maxChunkBytes
	}
	if data, err := m.encode(); err != nil || len(data) > 64<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestSnapshotLargerThanAManifest(t *testing.T) {
	options := snapOptions(NewMem())
	options.chunkBytes = 1
	s, err := OpenSnapshots(options)
	mustNil(t, err)
	_, err = s.Save(testMeta(1, [32]byte{}), func(w io.Writer) error { _, err := w.Write(make([]byte, maxChunks+1)); return err })
	if err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("err = %v, want one about the size", err)
	}
	meta := testMeta(1, [32]byte{})
	meta.ConfState.Voters = make([]uint64, maxConfStateBytes)
	if _, err = s.Save(meta, func(io.Writer) error { return nil }); err == nil {
		t.Error("saved with an oversized configuration")
	}
}

func TestPreviousSnapshotIsKept(t *testing.T) {
	// After three snapshots the last two are there, with their chunks and no others.
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	first := saveBody(t, s, 1)
	second := saveBody(t, s, 2)
	saveBody(t, s, 3)
	if got, err := readBody(s, second); err != nil || got != body(2) {
		t.Errorf("previous: %d bytes, %v", len(got), err)
	}
	if _, err := readBody(s, first); !errors.Is(err, ErrChunk) {
		t.Errorf("first: %v, want ErrChunk", err)
	}
	needed := map[string]bool{}
	for _, saved := range s.mu.kept {
		for _, ref := range saved.chunks {
			needed[ref.String()] = true
		}
	}
	names, err := fsys.List(s.chunkDir())
	if err != nil || len(names) != len(needed) {
		t.Errorf("%d chunks, %v; want %d", len(names), err, len(needed))
	}
}

func TestDamagedSnapshotFallsBack(t *testing.T) {
	for _, what := range []string{"manifest", "chunk", "missing chunk"} {
		fsys := NewMem()
		s := openTestSnapshots(t, fsys)
		saveBody(t, s, 1)
		m, err := decodeManifest(saveBody(t, s, 2))
		mustNil(t, err)
		own := s.chunkPath(m.chunks[len(m.chunks)-1]) // not shared with the first
		switch what {
		case "manifest":
			fsys.Flip(s.manifestPath(2), 60, 1)
		case "chunk":
			fsys.Flip(own, 20, 1)
		case "missing chunk":
			mustNil(t, fsys.Remove(own))
		}
		s = openTestSnapshots(t, fsys)
		wantLatest(t, s, 1)
		var damage *DamageError
		if !errors.As(s.Damage(), &damage) {
			t.Errorf("%s: Damage() = %v", what, s.Damage())
		}
		saveBody(t, s, 2) // heals
		wantLatest(t, openTestSnapshots(t, fsys), 2)
		if s.Damage() != nil {
			t.Errorf("%s: still damaged: %v", what, s.Damage())
		}
	}
}

func TestNoIntactSnapshot(t *testing.T) {
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	saveBody(t, s, 1)
	fsys.Flip(s.manifestPath(1), 60, 1)
	_, err := OpenSnapshots(snapOptions(fsys))
	var damage *DamageError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("err = %v, want *DamageError with a hint", err)
	}
}

func TestForeignSnapshot(t *testing.T) {
	fsys := NewMem()
	manifest := saveBody(t, openTestSnapshots(t, fsys), 1)
	options := snapOptions(fsys)
	options.ClusterID[0]++
	var foreign *ForeignError
	if _, err := OpenSnapshots(options); !errors.As(err, &foreign) {
		t.Errorf("err = %v, want *ForeignError", err)
	}
	options.FS = NewMem()
	s, err := OpenSnapshots(options)
	mustNil(t, err)
	if err := s.Install(t.Context(), manifest, nil); !errors.As(err, &foreign) {
		t.Errorf("Install: err = %v, want *ForeignError", err)
	}
}

func TestReaderNeverServesABadChunk(t *testing.T) {
	// A chunk goes bad after the snapshot was verified: what is read is a true prefix, then an error.
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	manifest := saveBody(t, s, 1)
	m, _ := decodeManifest(manifest)
	fsys.Flip(s.chunkPath(m.chunks[2]), 5, 4)
	content, err := readBody(s, manifest)
	if !errors.Is(err, ErrChunk) || content != "" && !strings.HasPrefix(body(1), content) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
	if _, err := s.Chunk(m.chunks[2].name); !errors.Is(err, ErrChunk) {
		t.Errorf("Chunk = %v, want ErrChunk", err)
	}
	summed, err := s.OpenSummed(manifest)
	mustNil(t, err)
	if _, err := io.Copy(io.Discard, summed); !errors.Is(err, ErrChunk) {
		t.Errorf("OpenSummed: %v, want ErrChunk", err)
	}
	mustNil(t, summed.Close())
	// Intact chunks that are not the whole that the manifest promises.
	m.whole[0] ^= 1
	m.chunks = m.chunks[:2]
	m.size = uint64(m.chunks[0].raw + m.chunks[1].raw)
	lying, err := m.encode()
	mustNil(t, err)
	if _, err := readBody(s, lying); !errors.Is(err, ErrManifest) {
		t.Errorf("err = %v, want ErrManifest", err)
	}
}

func TestReaderPinsItsChunks(t *testing.T) {
	// A slow reader of a snapshot that is no longer kept gets all of it; afterwards it is collected.
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	first := saveBody(t, s, 1)
	r, err := s.Open(first)
	mustNil(t, err)
	saveBody(t, s, 2)
	saveBody(t, s, 3)
	content, err := io.ReadAll(r)
	if err != nil || string(content) != body(1) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
	mustNil(t, r.Close())
	mustNil(t, r.Close())
	saveBody(t, s, 4)
	if _, err := readBody(s, first); !errors.Is(err, ErrChunk) {
		t.Errorf("after Close: %v, want ErrChunk", err)
	}
	if len(s.mu.pins) != 0 {
		t.Errorf("%d pins left", len(s.mu.pins))
	}
}

func TestInstallContinuesAndVerifies(t *testing.T) {
	// The peer's link breaks after two chunks, then it sends a wrong chunk, then the right ones.
	peer := openTestSnapshots(t, NewMem())
	manifest := saveBody(t, peer, 9)
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	saveBody(t, s, 1)
	broken, fetched := errors.New("link broke"), 0
	fetch := func(limit int, spoil byte) func(context.Context, [32]byte) ([]byte, error) {
		return func(_ context.Context, name [32]byte) ([]byte, error) {
			if fetched++; fetched > limit {
				return nil, broken
			}
			stored, err := peer.Chunk(name)
			stored[len(stored)-1] ^= spoil
			return stored, err
		}
	}
	if err := s.Install(t.Context(), manifest, fetch(2, 0)); !errors.Is(err, broken) {
		t.Fatalf("err = %v, want the link's", err)
	}
	if err := s.Install(t.Context(), manifest, fetch(99, 1)); !errors.Is(err, ErrChunk) {
		t.Fatalf("err = %v, want ErrChunk", err)
	}
	wantLatest(t, s, 1)
	fetched = 0
	mustNil(t, s.Install(t.Context(), manifest, fetch(99, 0)))
	m, _ := decodeManifest(manifest)
	if fetched >= len(m.chunks)-1 {
		t.Errorf("fetched %d of %d chunks; want those left only", fetched, len(m.chunks))
	}
	wantLatest(t, s, 9)
	wantLatest(t, openTestSnapshots(t, fsys.Crash(LoseUnsynced, 0)), 9)
	if err := s.Install(t.Context(), saveBody(t, openTestSnapshots(t, NewMem()), 8), nil); !errors.Is(err, ErrOldSnapshot) {
		t.Errorf("err = %v, want ErrOldSnapshot", err)
	}
}

func TestInstallWaitsWithItsContext(t *testing.T) {
	s := openTestSnapshots(t, NewMem())
	manifest := saveBody(t, openTestSnapshots(t, NewMem()), 1)
	s.turn <- struct{}{} // a Save is under way
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Install(ctx, manifest, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want Canceled", err)
	}
}

func TestHostileChunks(t *testing.T) {
	// A chunk with the right hash that expands to more than promised is refused, and is bounded.
	stored, ref := compress(make([]byte, maxChunkBytes))
	ref.raw = 100
	if _, err := ref.expand(stored); !errors.Is(err, ErrChunk) {
		t.Errorf("err = %v, want ErrChunk", err)
	}
	_, ref = compress([]byte("x"))
	garbage := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ref.name, ref.stored = [32]byte{}, uint32(len(garbage))
	if _, err := ref.expand(garbage); !errors.Is(err, ErrChunk) {
		t.Errorf("err = %v, want ErrChunk", err)
	}
}

func TestHostileManifests(t *testing.T) {
	good := manifest{meta: testMeta(1, [32]byte{}), size: 5, chunks: []chunkRef{{stored: 9, raw: 5}}}
	for what, change := range map[string]func(*manifest){
		"sizes do not add up": func(m *manifest) { m.size = 6 },
		"empty chunk":         func(m *manifest) { m.chunks[0].raw, m.size = 0, 0 },
		"chunk too large":     func(m *manifest) { m.chunks[0].raw, m.size = maxChunkBytes+1, maxChunkBytes+1 },
		"stored too large":    func(m *manifest) { m.chunks[0].stored = maxStoredBytes + 1 },
	} {
		m := good
		m.chunks = append([]chunkRef(nil), good.chunks...)
		change(&m)
		data, err := m.encode()
		mustNil(t, err)
		if _, err := ParseManifest(data); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v, want ErrManifest", what, err)
		}
	}
	if _, err := ParseManifest(make([]byte, MaxManifestBytes+1)); !errors.Is(err, ErrManifest) {
		t.Errorf("too long: %v, want ErrManifest", err)
	}
}

func TestSaveOnAFullDisk(t *testing.T) {
	// A snapshot that finds no space leaves none of itself behind; the next one works.
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	saveBody(t, s, 1)
	used := fsys.Used()
	fsys.Limit(used + 300)
	if _, err := s.Save(testMeta(2, [32]byte{}), writeBody(2)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("err = %v, want ErrNoSpace", err)
	}
	if fsys.Used() != used {
		t.Errorf("%d bytes used, %d before", fsys.Used(), used)
	}
	fsys.Limit(0)
	saveBody(t, s, 2)
	wantLatest(t, s, 2)
}

func TestSaveReportsTheWritersError(t *testing.T) {
	s := openTestSnapshots(t, NewMem())
	broken := errors.New("state is odd")
	_, err := s.Save(testMeta(3, [32]byte{}), func(w io.Writer) error { fmt.Fprint(w, body(1)); return broken })
	if !errors.Is(err, broken) {
		t.Errorf("err = %v, want %v", err, broken)
	}
	saveBody(t, s, 4)
	if _, err := s.Save(testMeta(3, [32]byte{}), writeBody(3)); !errors.Is(err, ErrOldSnapshot) {
		t.Errorf("err = %v, want ErrOldSnapshot", err)
	}
}

// A snapshot whose content nobody can read counts as damaged, by its manifest: the one before is the newest then, and one that is
// saved in its place, at the same index too, is another.
func TestUnusableSnapshotIsPassedOver(t *testing.T) {
	fsys := NewMem()
	s := openTestSnapshots(t, fsys)
	first, second := saveBody(t, s, 1), saveBody(t, s, 2)
	wantLatest(t, openTestSnapshots(t, fsys), 2) // control
	o := snapOptions(fsys)
	o.Unusable = map[[32]byte]string{sha256.Sum256(second): "rows out of order"}
	s, err := OpenSnapshots(o)
	mustNil(t, err)
	wantLatest(t, s, 1)
	var damage *DamageError
	if err := s.Damage(); !errors.As(err, &damage) || !damage.Snapshot || !strings.Contains(err.Error(), "rows out of order") {
		t.Errorf("damage: %v", err)
	}
	if found, err := s.Mend(t.Context(), nil); err != nil || !found.Lost {
		t.Errorf("mended %+v, %v; want that a new one is asked for", found, err)
	}
	o.Unusable[sha256.Sum256(first)] = "as well"
	if none, err := OpenSnapshots(o); none == nil || !errors.As(err, &damage) {
		t.Errorf("both are unusable: %v", err)
	}
	_, err = s.Save(testMeta(2, [32]byte{2}), writeBody(3))
	mustNil(t, err)
	delete(o.Unusable, sha256.Sum256(first))
	s, err = OpenSnapshots(o)
	mustNil(t, err)
	if meta, _, ok := s.Latest(); !ok || meta.Index != 2 || s.Damage() != nil {
		t.Errorf("after a new one: %+v, %v", meta, s.Damage())
	}
}
