package storage

import (
	"errors"
	"io/fs"
	"path/filepath"

	"go.uber.org/zap"
)

// partialName is the manifest of a snapshot whose chunks are being fetched. While it is there they are not
// collected, so that a fetch goes on where it was cut: by an error, by a restart, or by a snapshot of our own
// that was saved in between.
const partialName = "partial"

func (s *Snapshots) partialPath() string { return filepath.Join(s.dir, partialName) }

// begin notes durably which snapshot is being fetched. Another one that was is given up.
func (s *Snapshots) begin(m manifest, data []byte) error {
	s.mu.Lock()
	same := s.mu.partial != nil && string(s.mu.partial.data) == string(data)
	s.mu.Unlock()
	if same {
		return nil
	}
	if err := WriteFileAtomic(s.fs, s.partialPath(), data, filePerm); err != nil {
		return err
	}
	s.setPartial(&savedManifest{m, data})
	return nil
}

func (s *Snapshots) setPartial(p *savedManifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.partial = p
}

// loadPartial finds what an earlier process was fetching. What is no manifest of this cluster, or not newer than
// what is there, is nothing.
func (s *Snapshots) loadPartial() error {
	data, err := ReadFile(s.fs, s.partialPath(), MaxManifestBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		s.log.Warn("an unfinished snapshot cannot be read and is begun anew", zap.Error(err))
		return nil
	}
	m, err := s.decode(data)
	if err != nil || s.checkNewer(m.meta.Index) != nil {
		return nil //nolint:nilerr // it is fetched again, if it is wanted at all
	}
	s.setPartial(&savedManifest{m, data})
	return nil
}
