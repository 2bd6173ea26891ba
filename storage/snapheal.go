package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

const (
	badPrefix   = "bad-"
	maxBadFiles = 8 // kept aside; the oldest goes
)

// Mended is what Mend found.
type Mended struct {
	Damaged []string // files that were not what was written there
	Healed  int      // of them, put right: written again, or fetched by their hash
	Dropped []uint64 // indexes of older snapshots that were given up: the newest is whole
	// Lost says that the newest snapshot is damaged still. Only a new one, saved from the state, helps.
	Lost bool
}

// Mend verifies the snapshots that are kept and puts right what is damaged: a manifest from memory, a chunk
// from whoever has one of the same hash, which is all that it takes to know that it is the right one. What
// was found is kept aside beside it, as bad-*. An older snapshot that cannot be put right is given up; the newest
// is reported as lost, and stays. fetch returns a chunk's stored bytes, from any peer, and may be nil.
// Errors: ctx's, ErrNoSpace (wrapped), *FatalError, others as they come.
func (s *Snapshots) Mend(ctx context.Context, fetch func(ctx context.Context, name [32]byte) ([]byte, error)) (Mended, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Mended{}, ctx.Err()
	}
	m := &mender{s: s, fetch: fetch, whole: map[hash]bool{}}
	kept := s.pinKept()
	err := m.run(ctx, kept)
	for _, saved := range kept {
		s.unpin(saved.chunks)
	}
	if err != nil {
		return m.out, fmt.Errorf("mend snapshots: %w", err)
	}
	if len(m.out.Dropped) > 0 {
		s.drop(m.out.Dropped)
		if err := s.collect(); err != nil {
			return m.out, fmt.Errorf("mend snapshots: %w", err)
		}
	}
	if s.Damage() != nil {
		m.out.Lost = true // OpenSnapshots passed one over; it stays as evidence until there is a newer one
	}
	return m.out, nil
}

// Damaged signals that a read found a chunk that is not what its name says: Mend is due. A level of
// capacity 1, for one reader.
func (s *Snapshots) Damaged() <-chan struct{} { return s.damaged }

// Saves counts the snapshots that were saved or installed since OpenSnapshots.
func (s *Snapshots) Saves() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.saves
}

// drop forgets snapshots.
func (s *Snapshots) drop(indexes []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.kept = slices.DeleteFunc(slices.Clone(s.mu.kept), func(saved savedManifest) bool {
		return slices.Contains(indexes, saved.meta.Index)
	})
}

// mender is one run of Mend.
type mender struct {
	s     *Snapshots
	fetch func(ctx context.Context, name [32]byte) ([]byte, error)
	whole map[hash]bool // chunks that were looked at, and whether they are whole now
	out   Mended
}

// run looks at the newest first: what older ones share with it is whole then.
func (m *mender) run(ctx context.Context, kept []savedManifest) error {
	for i, saved := range slices.Backward(kept) {
		if err := m.manifest(saved); err != nil {
			return err
		}
		whole := true
		for _, ref := range saved.chunks {
			ok, looked := m.whole[ref.name]
			if !looked {
				var err error
				if ok, err = m.chunk(ctx, ref); err != nil {
					return err
				}
				m.whole[ref.name] = ok
			}
			whole = whole && ok
		}
		switch newest := i == len(kept)-1; {
		case whole:
		case newest:
			m.out.Lost = true
		case !m.out.Lost:
			m.out.Dropped = append(m.out.Dropped, saved.meta.Index)
		}
	}
	return m.s.syncChunks(m.out.Healed)
}

func (s *Snapshots) syncChunks(written int) error {
	if written == 0 {
		return nil
	}
	if err := s.fs.SyncDir(s.chunkDir()); err != nil {
		return classifySoft("sync", s.chunkDir(), err)
	}
	return nil
}

// manifest writes a manifest's file again when it is not what is in memory.
func (m *mender) manifest(saved savedManifest) error {
	path := m.s.manifestPath(saved.meta.Index)
	data, err := ReadFile(m.s.fs, path, MaxManifestBytes)
	if err == nil && bytes.Equal(data, saved.data) {
		return nil
	}
	if err := m.aside(path); err != nil {
		return err
	}
	if err := WriteFileAtomic(m.s.fs, path, saved.data, filePerm); err != nil {
		return err
	}
	m.out.Healed++
	return nil
}

// chunk verifies one and replaces it if it has to. ok false means that nobody has it.
func (m *mender) chunk(ctx context.Context, ref chunkRef) (ok bool, err error) {
	if _, err := m.s.stored(ref); err == nil {
		return true, nil
	}
	path := m.s.chunkPath(ref)
	stored, err := m.ask(ctx, ref)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		m.out.Damaged = append(m.out.Damaged, path)
		return false, nil
	}
	if err := m.aside(path); err != nil {
		return false, err
	}
	if err := writeTmpRename(m.s.fs, path, stored, filePerm); err != nil {
		return false, err
	}
	m.out.Healed++
	return true, nil
}

func (m *mender) ask(ctx context.Context, ref chunkRef) ([]byte, error) {
	if m.fetch == nil {
		return nil, ErrChunk
	}
	stored, err := m.fetch(ctx, ref.name)
	if err == nil {
		_, err = ref.expand(stored)
	}
	return stored, err
}

// aside moves what was found out of the way, for people, and notes it.
func (m *mender) aside(path string) error {
	m.out.Damaged = append(m.out.Damaged, path)
	dir := filepath.Dir(path)
	to := filepath.Join(dir, badPrefix+filepath.Base(path))
	if err := m.s.fs.Rename(path, to); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return classifySoft("rename", path, err)
	}
	if err := m.s.fs.SyncDir(dir); err != nil {
		return classifySoft("sync", dir, err)
	}
	return removeOldest(m.s.fs, dir, badPrefix, maxBadFiles)
}
