package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// collision is a pair of values with the same CRC32C (ae8d1985), wherever they stand in what is summed.
func collision(t *testing.T) (first, second []byte) {
	t.Helper()
	first, err := hex.DecodeString("e9b1302140011a58")
	mustNil(t, err)
	second, err = hex.DecodeString("2d9ca8df4c4db03e")
	mustNil(t, err)
	if crc32.Checksum(first, castagnoli) != crc32.Checksum(second, castagnoli) {
		t.Fatal("the pair does not collide and the test proves nothing")
	}
	return first, second
}

// Two values with the same CRC32C are swapped on the disk: what the CRC accepts the SHA-256 refuses, in entries, in a
// frame's header, in a snapshot. A scrub finds it, says where, and that the two kinds of checksum disagree; the value is
// never served. The control is a flipped bit there, about which both agree.
func TestScrubFindsACollision(t *testing.T) {
	first, second := collision(t)
	disk := func(t *testing.T) *Mem {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		for index := uint64(1); index <= 3; index++ {
			hard := &raftpb.HardState{Term: new(uint64(1)), Vote: new(order.Uint64(first)), Commit: new(index - 1)}
			mustNil(t, log.Append([]*raftpb.Entry{newEntry(1, index, first)}, hard, true))
		}
		mustClose(t, log)
		return fsys
	}
	const entry, vote = frameHeaderBytes + entryHeaderBytes, 152
	for what, at := range map[string]int64{
		"entry in the middle": 2*pageBytes + entry, "last entry": 3*pageBytes + entry,
		"vote in the middle": 2*pageBytes + vote, "last vote": 3*pageBytes + vote,
	} {
		for _, inUse := range []bool{false, true} {
			fsys := disk(t)
			o := scrubOptions(fsys)
			if inUse {
				o.Log, _ = openTestLog(t, fsys)
			}
			data, err := ReadFile(fsys, walPath(1), 1<<20)
			mustNil(t, err)
			if !bytes.Equal(data[at:at+8], first) {
				t.Fatalf("%s: %x is not the value", what, data[at:at+8])
			}
			overwrite(t, fsys, walPath(1), at, second)
			if report := mustScrub(t, o); report.Errors != 1 || report.Disagree != 1 || report.Problems[0].File != walPath(1) {
				t.Errorf("%s, in use %t: %+v, want one problem about which the checksums disagree", what, inUse, report)
			}
			if !inUse {
				_ = wantDamage(t, fsys, what)
			}
			overwrite(t, fsys, walPath(1), at, first)
			if report := mustScrub(t, o); report.Errors != 0 || report.Disagree != 0 {
				t.Errorf("%s, in use %t, swapped back: %+v", what, inUse, report)
			}
			fsys.Flip(walPath(1), at, 1)
			if report := mustScrub(t, o); report.Errors != 1 || report.Disagree != 0 {
				t.Errorf("%s, in use %t, a flipped bit: %+v, want one problem and no disagreement", what, inUse, report)
			}
		}
	}
}

// The reverse, in the log: the CRC that a frame's header holds is another one, and the entries reproduce their chain.
func TestScrubFindsAWrongCRC(t *testing.T) {
	w := writtenLog(t)
	segment := bytes.Clone(w.segment)
	header := segment[3*pageBytes:][:frameHeaderBytes]
	header[176] ^= 1
	order.PutUint32(header[4:], saltedCRC(w.header.salt, header[8:]))
	anchored := *w
	anchored.tip.frame = sumHeader(header)
	disk := anchored.disk(t, segment, true)
	if report := mustScrub(t, scrubOptions(disk)); report.Errors != 1 || report.Disagree != 1 {
		t.Errorf("%+v, want one problem about which the checksums disagree", report)
	}
}

// Of a snapshot the pair is found as well: what is stored has a SHA-256 for its name, and no CRC32C to deceive. Both kinds
// of checksum of a chunk are verified, so one that is right alone is a disagreement.
func TestScrubFindsACollisionInASnapshot(t *testing.T) {
	first, second := collision(t)
	content := make([]byte, 256) // not compressible, so that the value stands in the file as it is
	random := rand.NewChaCha8([32]byte{26})
	_, _ = random.Read(content)
	copy(content[100:], first)
	fsys := NewMem()
	snapshots := openTestSnapshots(t, fsys)
	_, err := snapshots.Save(testMeta(5, hash{5}), func(w io.Writer) error { _, err := w.Write(content); return err })
	mustNil(t, err)
	path := files(fsys, "chunks/")[0]
	stored, err := ReadFile(fsys, path, 1<<20)
	mustNil(t, err)
	at := bytes.Index(stored, first)
	if at < 0 {
		t.Fatalf("the value is not in the chunk %s of %d bytes, and the test proves nothing", path, len(stored))
	}
	for _, o := range []ScrubOptions{{Snapshots: snapshots}, {}} {
		o.FS, o.Dir, o.ClusterID = fsys, dataDir, traceCluster
		for _, tt := range []struct {
			what             string
			at               int
			change           []byte
			errors, disagree int
		}{
			{"nothing", at, first, 0, 0},
			{"the pair", at, second, 1, 0},
			{"zstd's checksum", len(stored) - 1, []byte{^stored[len(stored)-1]}, 1, 0},
			{"a field that zstd ignores", 4, []byte{stored[4] ^ 0x10}, 1, 1},
		} {
			overwrite(t, fsys, path, int64(tt.at), tt.change)
			if report := mustScrub(t, o); report.Errors != tt.errors || report.Disagree != tt.disagree {
				t.Errorf("%s: %+v, want %d problems, %d of them disagreements", tt.what, report, tt.errors, tt.disagree)
			}
			overwrite(t, fsys, path, int64(tt.at), stored[tt.at:tt.at+len(tt.change)])
		}
	}
	// The reverse: the name is that of bytes whose content has another checksum.
	stored[len(stored)-1] ^= 1
	ref := chunkRef{name: sha256.Sum256(stored), stored: uint32(len(stored)), raw: uint32(len(content))}
	s := &scrubber{o: ScrubOptions{FS: fsys, Dir: dataDir}}
	mustNil(t, WriteFileAtomic(fsys, snapshots.chunkPath(ref), stored, filePerm))
	mustNil(t, s.scrubChunk(t.Context(), snapshots, ref))
	if s.report.Errors != 1 || s.report.Disagree != 1 {
		t.Errorf("a chunk with the right name and the wrong content: %+v", s.report)
	}
}
