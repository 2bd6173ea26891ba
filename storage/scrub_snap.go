package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// scrubSnapshots verifies every manifest and every chunk that one lists, a shared chunk once.
func (s *scrubber) scrubSnapshots(ctx context.Context) error {
	snapshots, kept, err := s.keptSnapshots(ctx)
	if s.o.Snapshots != nil {
		defer func() {
			for _, saved := range kept {
				snapshots.unpin(saved.chunks)
			}
		}()
	}
	if err != nil {
		return err
	}
	checked := map[hash]bool{}
	for _, saved := range kept {
		if err := s.scrubManifest(ctx, snapshots, saved); err != nil {
			return err
		}
		for _, ref := range saved.chunks {
			if checked[ref.name] {
				continue
			}
			checked[ref.name] = true
			if err := s.scrubChunk(ctx, snapshots, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// keptSnapshots lists what there is: of snapshots in use by their own list, with the chunks pinned, so
// that none is collected while it is read.
func (s *scrubber) keptSnapshots(ctx context.Context) (*Snapshots, []savedManifest, error) {
	if open := s.o.Snapshots; open != nil {
		return open, open.pinKept(), s.passedOver(open.Damage())
	}
	closed := &Snapshots{fs: s.o.FS, dir: filepath.Join(s.o.Dir, "snap"), cluster: s.o.ClusterID}
	indexes, err := closed.manifestIndexes()
	if errors.Is(err, fs.ErrNotExist) {
		return closed, nil, nil
	}
	if err != nil {
		return closed, nil, err
	}
	var kept []savedManifest
	for _, index := range indexes {
		saved, err := closed.read(index, false)
		if err != nil {
			s.report.Snapshots++
			found, err := s.problem(closed.manifestPath(index), 0, err)
			if err != nil {
				return closed, nil, err
			}
			s.add(found)
			continue
		}
		if err := s.pace(ctx, len(saved.data)); err != nil {
			return closed, nil, err
		}
		kept = append(kept, saved)
	}
	return closed, kept, nil
}

// passedOver reports what OpenSnapshots found damaged and did not take.
func (s *scrubber) passedOver(damage error) error {
	joined, ok := damage.(interface{ Unwrap() []error }) //nolint:errorlint // the list itself is wanted
	switch {
	case damage == nil:
		return nil
	case ok:
		for _, err := range joined.Unwrap() {
			if err := s.passedOver(err); err != nil {
				return err
			}
		}
		return nil
	}
	found, err := s.problem(s.o.Dir, 0, damage)
	s.add(found)
	return err
}

// pinKept returns the snapshots that are kept, their chunks pinned.
func (s *Snapshots) pinKept() []savedManifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, saved := range s.mu.kept {
		for _, ref := range saved.chunks {
			s.mu.pins[ref.name]++
		}
	}
	return append([]savedManifest(nil), s.mu.kept...)
}

// scrubManifest compares a manifest's file with what it should be. One that is collected meanwhile is
// passed over.
func (s *scrubber) scrubManifest(ctx context.Context, snapshots *Snapshots, saved savedManifest) error {
	path := snapshots.manifestPath(saved.meta.Index)
	data, err := s.readFile(ctx, path, MaxManifestBytes)
	var found []ScrubProblem
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		found = []ScrubProblem{{path, 0, "missing"}}
	case err != nil:
		if found, err = s.problem(path, 0, err); err != nil {
			return err
		}
	case string(data) != string(saved.data):
		found = []ScrubProblem{{path, int64(differsAt(data, saved.data)), "is not the manifest that was written"}}
	}
	if len(found) > 0 && s.o.Snapshots != nil && !snapshots.keeps(saved) {
		return nil
	}
	s.add(found)
	s.report.Snapshots++
	return nil
}

// keeps reports whether saved is still one of the snapshots, and not replaced by another of its index.
func (s *Snapshots) keeps(saved savedManifest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kept := range s.mu.kept {
		if kept.meta.Index == saved.meta.Index && string(kept.data) == string(saved.data) {
			return true
		}
	}
	return false
}

func differsAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// scrubChunk verifies a chunk by the hash that is its name, and by zstd's own checksum of its content.
func (s *scrubber) scrubChunk(ctx context.Context, snapshots *Snapshots, ref chunkRef) error {
	path := snapshots.chunkPath(ref)
	stored, err := s.readFile(ctx, path, maxStoredBytes)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var found []ScrubProblem
	switch {
	case errors.Is(err, fs.ErrNotExist):
		found = []ScrubProblem{{path, 0, "missing"}}
	case err != nil:
		if found, err = s.problem(path, 0, err); err != nil {
			return err
		}
	default:
		found = s.judgeChunk(path, ref, stored)
	}
	s.add(found)
	return nil
}

// judgeChunk compares what is stored with both checksums.
func (s *scrubber) judgeChunk(path string, ref chunkRef, stored []byte) []ScrubProblem {
	named := ref.verify(stored)
	_, expanded := ref.decode(stored)
	if (named == nil) != (expanded == nil) {
		s.report.Disagree++
	}
	switch {
	case named != nil:
		return []ScrubProblem{{path, 0, fmt.Sprintf("%d bytes do not have the hash that is the file's name", len(stored))}}
	case expanded != nil:
		return []ScrubProblem{{path, 0, "the hash is right, the content is not: " + expanded.Error()}}
	}
	return nil
}
