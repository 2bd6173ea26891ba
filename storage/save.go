package storage

import (
	"crypto/sha256"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
	"path/filepath"
	"runtime"
	"strings"

	"go.uber.org/zap"
)

// Save stores the content that write produces as the snapshot meta describes, and returns its
// manifest once the snapshot is durable and was read back. Content must not exceed what a manifest
// can list (6 GiB). Errors: write's own, ErrNoSpace and ErrOldSnapshot (wrapped), *FatalError when
// a sync failed, others; the snapshots before stay as they were.
func (s *Snapshots) Save(meta SnapshotMeta, write func(io.Writer) error) (manifest []byte, err error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if err := s.checkNewer(meta.Index); err != nil {
		return nil, err
	}
	w := newChunkWriter(s, meta)
	defer func() { s.unpin(w.manifest.chunks) }()
	data, err := w.run(write)
	if err == nil {
		err = s.commit(w.manifest, data)
	}
	if err != nil {
		return nil, s.abandon(fmt.Errorf("save snapshot at %d: %w", meta.Index, err), w.manifest.chunks)
	}
	return data, nil
}

// checkNewer refuses to go back; the same index may be saved again.
func (s *Snapshots) checkNewer(index uint64) error {
	if newest, _, ok := s.Latest(); ok && index < newest.Index {
		return fmt.Errorf("snapshot at %d: %w (%d)", index, ErrOldSnapshot, newest.Index)
	}
	return nil
}

// abandon gives back the space of an unfinished snapshot, so that a full disk does not stay full.
func (s *Snapshots) abandon(err error, chunks []chunkRef) error {
	var fatal *FatalError
	if errors.As(err, &fatal) {
		return err
	}
	s.unpin(chunks)
	collectErr := s.collect()
	s.pin(chunks) // the caller's deferred unpin takes it back
	return errors.Join(err, collectErr)
}

// chunkWriter cuts a stream into stored chunks.
type chunkWriter struct {
	snapshots *Snapshots
	manifest  manifest
	sum       stdhash.Hash
	buf       []byte
}

func newChunkWriter(s *Snapshots, meta SnapshotMeta) *chunkWriter {
	return &chunkWriter{
		snapshots: s,
		manifest:  manifest{meta: meta, cluster: s.cluster},
		sum:       sha256.New(),
		buf:       make([]byte, 0, s.likelyBytes()),
	}
}

// likelyBytes is about how large the first chunk of the next snapshot is: as that of the last.
func (s *Snapshots) likelyBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.kept) == 0 {
		return 0
	}
	last := s.mu.kept[len(s.mu.kept)-1].size
	return int(min(last+last/8, uint64(s.chunkBytes))) //nolint:gosec // at most a chunk
}

// run stores everything but the manifest, and checks it as it lies on the disk.
func (w *chunkWriter) run(write func(io.Writer) error) ([]byte, error) {
	if err := write(w); err != nil {
		return nil, err
	}
	if err := w.cut(); err != nil {
		return nil, err
	}
	w.manifest.whole, w.manifest.meta.Size = [32]byte(w.sum.Sum(nil)), w.manifest.size
	data, err := w.manifest.encode()
	if err != nil {
		return nil, err
	}
	return data, w.snapshots.readBack(data)
}

// Write implements io.Writer. Whoever waits for a processor goes first, between any two steps here: nobody waits for a snapshot,
// and a goroutine that does not stop by itself is stopped only after 10 ms.
func (w *chunkWriter) Write(p []byte) (int, error) {
	runtime.Gosched()
	written := 0
	for len(p) > 0 {
		n := min(len(p), w.snapshots.chunkBytes-len(w.buf))
		w.buf, p = append(w.buf, p[:n]...), p[n:]
		if written += n; len(w.buf) == w.snapshots.chunkBytes {
			if err := w.cut(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// cut stores what is buffered as a chunk.
func (w *chunkWriter) cut() error {
	if len(w.buf) == 0 {
		return nil
	}
	if len(w.manifest.chunks) == maxChunks {
		return fmt.Errorf("state is larger than a snapshot can hold (%d chunks of %d bytes)", maxChunks, w.snapshots.chunkBytes)
	}
	w.sum.Write(w.buf)
	runtime.Gosched()
	stored, ref := compress(w.buf)
	runtime.Gosched()
	w.manifest.size += uint64(len(w.buf))
	w.manifest.chunks = append(w.manifest.chunks, ref)
	w.buf = w.buf[:0]
	w.snapshots.pin([]chunkRef{ref})
	return w.snapshots.keep(ref, stored)
}

// readBack reads the whole content through Open. It comes from the page cache as a rule: that finds
// errors of memory and of ours, not of the disk. Nobody waits for it: it takes no more processors than it must.
func (s *Snapshots) readBack(manifest []byte) error {
	r, err := s.openWith(manifest, 1)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// commit makes a snapshot whose chunks are in place the newest, and collects what is not needed.
func (s *Snapshots) commit(m manifest, data []byte) error {
	if err := s.fs.SyncDir(s.chunkDir()); err != nil {
		return classifySoft("sync", s.chunkDir(), err)
	}
	if err := WriteFileAtomic(s.fs, s.manifestPath(m.meta.Index), data, filePerm); err != nil {
		return err
	}
	s.mu.Lock()
	kept := s.mu.kept
	if n := len(kept); n > 0 && kept[n-1].meta.Index == m.meta.Index {
		kept = kept[:n-1]
	}
	kept = append(kept[:len(kept):len(kept)], savedManifest{m, data})
	s.mu.kept = kept[max(0, len(kept)-keptSnapshots):]
	s.mu.damage = nil
	s.mu.saves++
	if s.mu.partial != nil && s.mu.partial.meta.Index <= m.meta.Index {
		s.mu.partial = nil
	}
	s.mu.Unlock()
	var fatal *FatalError
	if err := s.collect(); errors.As(err, &fatal) {
		return err
	} else if err != nil {
		s.log.Warn("old snapshots could not be removed", zap.Error(err))
	}
	return nil
}

// collect removes manifests that are not kept and then, durably after them, chunks that no kept one
// lists and nobody pins.
func (s *Snapshots) collect() error {
	keep := map[string]bool{}
	s.mu.Lock()
	for _, saved := range s.mu.kept {
		keep[filepath.Base(s.manifestPath(saved.meta.Index))] = true
		for _, ref := range saved.chunks {
			keep[ref.String()] = true
		}
	}
	if s.mu.partial != nil {
		keep[partialName] = true
		for _, ref := range s.mu.partial.chunks {
			keep[ref.String()] = true
		}
	}
	for name := range s.mu.pins {
		keep[chunkRef{name: name}.String()] = true
	}
	damaged := s.mu.damage != nil
	s.mu.Unlock()
	if damaged {
		return nil // evidence: only a new intact snapshot lets it go
	}
	for _, dir := range []string{s.dir, s.chunkDir()} {
		if err := s.collectDir(dir, keep); err != nil {
			return err
		}
	}
	return nil
}

func (s *Snapshots) collectDir(dir string, keep map[string]bool) error {
	names, err := s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	removed := false
	for _, name := range names {
		if keep[name] || strings.HasPrefix(name, badPrefix) || filepath.Join(dir, name) == s.chunkDir() {
			continue
		}
		if err := s.fs.Remove(filepath.Join(dir, name)); err != nil {
			return classifySoft("remove", name, err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return classifySoft("sync", dir, err)
	}
	return nil
}
