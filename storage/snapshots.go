package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"
)

const (
	manifestSuffix = ".manifest"

	// keptSnapshots is the newest and the one to fall back to.
	keptSnapshots = 2
)

// SnapshotOptions says where snapshots are and whose they are. FS and Dir are required.
type SnapshotOptions struct {
	FS        FS
	Dir       string // the data directory; snapshots are in snap/
	ClusterID [16]byte
	Log       *zap.Logger // nil logs nothing

	// WarmBytes is how much of the newest snapshot may stay in memory from its verification until it is first read: of all of
	// it, or none. 0 is none. For who reads it next.
	WarmBytes int

	// Unusable says, by the SHA-256 of its manifest, which snapshots hold what nobody can read, and why: they count as damaged.
	Unusable map[[32]byte]string

	chunkBytes int // tests: smaller chunks; 0 is maxChunkBytes
}

// Snapshots keeps the newest snapshot and the one before it. A snapshot is a manifest and chunks,
// named by their hash, that both may share. Save and Install take turns; the rest does not wait.
type Snapshots struct {
	fs         FS
	dir        string // snap/
	cluster    [16]byte
	log        *zap.Logger
	chunkBytes int
	warmBytes  int
	unusable   map[[32]byte]string

	// turn has one place: who is in it writes files.
	turn chan struct{}

	damaged chan struct{} // capacity 1: a read found damage

	mu struct {
		sync.Mutex // no I/O under it
		kept       []savedManifest
		partial    *savedManifest  // being fetched, nil if none
		pins       map[hash]int    // chunks that readers and writers need
		warm       map[hash][]byte // verified chunks that are to be read next
		damage     error
		saves      uint64 // that succeeded
	}
}

// savedManifest is a snapshot on disk, in Snapshots.mu.kept oldest first.
type savedManifest struct {
	manifest
	data []byte
}

// OpenSnapshots lists the snapshots in options.Dir and verifies the newest, or if that is damaged the
// one before. It returns *DamageError if there are snapshots and none is intact (beside Snapshots into
// which another member's can be installed), and *ForeignError if they are another cluster's.
func OpenSnapshots(o SnapshotOptions) (*Snapshots, error) {
	if o.FS == nil || o.Dir == "" {
		return nil, errors.New("snapshots: FS and Dir are required")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.chunkBytes == 0 {
		o.chunkBytes = maxChunkBytes
	}
	s := &Snapshots{
		fs: o.FS, dir: filepath.Join(o.Dir, "snap"), cluster: o.ClusterID, log: o.Log,
		chunkBytes: o.chunkBytes, warmBytes: o.WarmBytes, unusable: o.Unusable, turn: make(chan struct{}, 1), damaged: make(chan struct{}, 1),
	}
	s.mu.pins, s.mu.warm = map[hash]int{}, map[hash][]byte{}
	for _, dir := range []string{o.Dir, s.dir, s.chunkDir()} {
		if err := s.fs.MkdirAll(dir, dirPerm); err != nil {
			return nil, classifySoft("mkdir", dir, err)
		}
	}
	for _, dir := range []string{o.Dir, s.dir} {
		if err := s.fs.SyncDir(dir); err != nil {
			return nil, classifySoft("sync", dir, err)
		}
	}
	if err := s.load(); err != nil {
		return s, err
	}
	return s, s.loadPartial()
}

func (s *Snapshots) chunkDir() string              { return filepath.Join(s.dir, "chunks") }
func (s *Snapshots) chunkPath(ref chunkRef) string { return filepath.Join(s.chunkDir(), ref.String()) }

func (s *Snapshots) manifestPath(index uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016x%s", index, manifestSuffix))
}

// manifestIndexes lists the manifests by index, oldest first.
func (s *Snapshots) manifestIndexes() ([]uint64, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var indexes []uint64
	for _, name := range names {
		digits, found := strings.CutSuffix(name, manifestSuffix)
		index, err := strconv.ParseUint(digits, 16, 64)
		if found && err == nil && filepath.Base(s.manifestPath(index)) == name {
			indexes = append(indexes, index)
		}
	}
	return indexes, nil
}

// load fills mu.kept. Everything up to the newest intact snapshot counts; older ones are only
// verified when they are needed.
func (s *Snapshots) load() error {
	indexes, err := s.manifestIndexes()
	if err != nil {
		return err
	}
	intact := false
	for _, index := range slices.Backward(indexes) {
		saved, err := s.read(index, !intact)
		var damage *DamageError
		switch {
		case err == nil:
			intact = true
			s.mu.kept = append([]savedManifest{saved}, s.mu.kept...)
		case errors.As(err, &damage):
			s.log.Error("snapshot is damaged", zap.Uint64("index", index), zap.Error(err))
			s.mu.damage = errors.Join(s.mu.damage, err)
		default:
			return err
		}
	}
	if len(indexes) > 0 && !intact {
		return s.mu.damage
	}
	return nil
}

// read loads the manifest of index, with all chunks verified if asked.
func (s *Snapshots) read(index uint64, verify bool) (savedManifest, error) {
	path := s.manifestPath(index)
	data, err := ReadFile(s.fs, path, MaxManifestBytes)
	if err != nil {
		err = readError(path, err, hintSnapshot)
		var damage *DamageError
		if errors.As(err, &damage) {
			damage.Snapshot = true
		}
		return savedManifest{}, err
	}
	if why, bad := s.unusable[sha256.Sum256(data)]; bad {
		return savedManifest{}, &DamageError{Path: path, Detail: "nothing can be restored from it: " + why, Hint: hintSnapshot, Snapshot: true}
	}
	m, err := decodeManifest(data)
	if errors.Is(err, errFormat) {
		return savedManifest{}, fmt.Errorf("read %s: %w", path, err)
	}
	if err == nil && m.meta.Index != index {
		err = fmt.Errorf("%w: of index %d", ErrManifest, m.meta.Index)
	}
	if err != nil {
		return savedManifest{}, &DamageError{Path: path, Detail: err.Error(), Hint: hintSnapshot, Snapshot: true}
	}
	if m.cluster != s.cluster {
		return savedManifest{}, s.foreign(path, m.cluster)
	}
	if verify {
		if err := s.verifyAll(m.chunks, s.warmBytes); err != nil {
			return savedManifest{}, err
		}
	}
	return savedManifest{m, data}, nil
}

func (s *Snapshots) foreign(path string, have [16]byte) error {
	return &ForeignError{Path: path, Have: fmt.Sprintf("cluster %x", have), Want: fmt.Sprintf("cluster %x", s.cluster)}
}

// Latest returns the newest intact snapshot, false if there is none. It may be older than the newest
// on disk: see Damage.
func (s *Snapshots) Latest() (meta SnapshotMeta, manifest []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.kept) == 0 {
		return SnapshotMeta{}, nil, false
	}
	newest := s.mu.kept[len(s.mu.kept)-1]
	return newest.meta, newest.data, true
}

// Damage returns what OpenSnapshots found damaged and passed over, *DamageErrors joined, nil if
// nothing. A successful Save or Install ends it.
func (s *Snapshots) Damage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.damage
}

// Open streams a snapshot's content. Every chunk is verified before any of it is returned, and io.EOF
// means that the whole is right. Errors wrap ErrManifest or ErrChunk. Close it.
func (s *Snapshots) Open(manifest []byte) (io.ReadCloser, error) {
	r, err := s.openWith(manifest, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	return r, nil
}

// OpenSummed is Open for content that holds a sum of itself, which the reader checks: every chunk is verified, and that they
// are the ones which Save read back is known from their names, but nobody adds up the whole once more.
func (s *Snapshots) OpenSummed(manifest []byte) (io.ReadCloser, error) {
	r, err := s.openWith(manifest, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	r.summed = true
	return r, nil
}

// openWith is Open with so many workers.
func (s *Snapshots) openWith(manifest []byte, workers int) (*chunkReader, error) {
	m, err := s.decode(manifest)
	if err != nil {
		return nil, err
	}
	s.pin(m.chunks)
	return &chunkReader{snapshots: s, manifest: m, workers: workers}, nil
}

// decode parses a manifest of this cluster.
func (s *Snapshots) decode(data []byte) (manifest, error) {
	m, err := decodeManifest(data)
	if err == nil && m.cluster != s.cluster {
		err = s.foreign("manifest", m.cluster)
	}
	return m, err
}

// Chunk returns the stored bytes of a chunk for a peer that installs a snapshot. An error wraps
// ErrChunk; if the chunk is gone, the peer asks again with a newer manifest.
func (s *Snapshots) Chunk(name [32]byte) ([]byte, error) {
	stored, err := ReadFile(s.fs, filepath.Join(s.chunkDir(), hex.EncodeToString(name[:])), maxStoredBytes)
	if err != nil {
		return nil, fmt.Errorf("%w %x: %w", ErrChunk, name, err)
	}
	err = chunkRef{name: name, stored: uint32(len(stored))}.verify(stored)
	if err != nil {
		raise(s.damaged)
	}
	return stored, err
}

// pin keeps chunks from being collected; unpin takes it back.
func (s *Snapshots) pin(chunks []chunkRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range chunks {
		s.mu.pins[ref.name]++
	}
}

func (s *Snapshots) unpin(chunks []chunkRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range chunks {
		if s.mu.pins[ref.name]--; s.mu.pins[ref.name] == 0 {
			delete(s.mu.pins, ref.name)
		}
	}
}
