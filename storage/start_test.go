package storage

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// Entries come back the same whether they fill their segments, and stay in the buffer they were read into, or are copied
// out of one that is nearly empty; and segments that are checked beside each other are as many as there are.
func TestRecoveryOfFullSegments(t *testing.T) {
	for name, size := range map[string]int{"full": 7*pageBytes - frameHeaderBytes - entryHeaderBytes, "nearly empty": 10} {
		t.Run(name, func(t *testing.T) {
			options := logOptions(NewMem())
			options.SegmentBytes = 16 * pageBytes
			log, _, err := OpenLog(options)
			mustNil(t, err)
			var want []*raftpb.Entry
			for i := range uint64(60) {
				entry := newEntry(1, i+1, bytes.Repeat([]byte{byte(i + 1)}, size))
				want = append(want, entry)
				mustNil(t, log.Append([]*raftpb.Entry{entry}, nil, true))
			}
			mustNil(t, log.Close())
			scan, err := readSegment(options.FS, walPath(1), 1, identity{options.ClusterID, options.RaftID})
			mustNil(t, err)
			scan.check()
			first := scan.frames[0].entries[0]
			first.GetData()[0] ^= 0xff
			aliased := scan.data[pageBytes+frameHeaderBytes+entryHeaderBytes] == first.GetData()[0]
			if aliased != (name == "full") {
				t.Errorf("the entries stay in the segment's buffer: %v", aliased)
			}
			log, recovered, err := OpenLog(options)
			mustNil(t, err)
			mustNil(t, log.Close())
			if len(recovered.Entries) != len(want) {
				t.Fatalf("%d entries came back, %d were written", len(recovered.Entries), len(want))
			}
			for i, e := range recovered.Entries {
				if !bytes.Equal(e.GetData(), want[i].GetData()) || e.GetIndex() != uint64(i+1) {
					t.Fatalf("entry %d came back as entry %d with other data", i+1, e.GetIndex())
				}
			}
		})
	}
}

// What was read to verify the newest snapshot serves its first reader and no other, and nothing is kept of one over the
// limit.
func TestSnapshotIsReadOnce(t *testing.T) {
	content := make([]byte, 100_000)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	for name, limit := range map[string]int{"kept": 1 << 20, "over the limit": 100} {
		t.Run(name, func(t *testing.T) {
			options := SnapshotOptions{FS: NewMem(), Dir: dataDir, chunkBytes: 4 << 10}
			s, err := OpenSnapshots(options)
			mustNil(t, err)
			_, err = s.Save(SnapshotMeta{Index: 1, Term: 1, ConfState: &raftpb.ConfState{}}, func(w io.Writer) error {
				_, err := w.Write(content)
				return err
			})
			mustNil(t, err)
			options.WarmBytes = limit
			s, err = OpenSnapshots(options)
			mustNil(t, err)
			if n := len(s.mu.warm); (n > 0) != (name == "kept") {
				t.Fatalf("%d chunks are kept in memory", n)
			}
			_, manifest, _ := s.Latest()
			m, err := decodeManifest(manifest)
			mustNil(t, err)
			r, err := s.Open(manifest)
			mustNil(t, err)
			got, err := io.ReadAll(r)
			mustNil(t, err)
			mustNil(t, r.Close())
			if !bytes.Equal(got, content) {
				t.Error("the content is another")
			}
			if n := len(s.mu.warm); n != 0 {
				t.Errorf("%d chunks stay in memory", n)
			}
			mustNil(t, options.FS.Remove(s.chunkPath(m.chunks[len(m.chunks)-1])))
			r, err = s.Open(manifest)
			mustNil(t, err)
			if _, err := io.ReadAll(r); !errors.Is(err, ErrChunk) {
				t.Errorf("a chunk is gone, the second reader got %v", err)
			}
			mustNil(t, r.Close())
		})
	}
}

// A reader that is closed before its end leaves nothing running and no chunk pinned.
func TestSnapshotReaderIsGivenUp(t *testing.T) {
	options := SnapshotOptions{FS: NewMem(), Dir: dataDir, chunkBytes: 1 << 10}
	s, err := OpenSnapshots(options)
	mustNil(t, err)
	manifest, err := s.Save(SnapshotMeta{Index: 1, Term: 1, ConfState: &raftpb.ConfState{}}, func(w io.Writer) error {
		for i := range 64 {
			if _, err := w.Write(bytes.Repeat([]byte{byte(i)}, 1<<10)); err != nil {
				return err
			}
		}
		return nil
	})
	mustNil(t, err)
	r, err := s.Open(manifest)
	mustNil(t, err)
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	mustNil(t, r.Close())
	mustNil(t, r.Close())
	if len(s.mu.pins) != 0 {
		t.Errorf("%d chunks stay pinned", len(s.mu.pins))
	}
	if _, open := <-r.(*chunkReader).ahead; open {
		t.Error("it reads on")
	}
}
