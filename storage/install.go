package storage

import (
	"context"
	"errors"
	"fmt"
)

// Install makes the snapshot of a peer's manifest the newest: it calls fetch for every chunk that is
// not here, verifies all, makes it durable, and reads it back. fetch returns a chunk's stored bytes.
// Fetched chunks stay after an error and a restart, so that the next try of the same manifest continues;
// after ErrNoSpace they go.
// Errors are as Save's, fetch's own, and wrapped ErrManifest and ErrChunk for what the peer sent.
func (s *Snapshots) Install(ctx context.Context, manifest []byte, fetch func(ctx context.Context, name [32]byte) ([]byte, error)) error {
	m, err := s.decode(manifest)
	if err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.checkNewer(m.meta.Index); err != nil {
		return err
	}
	s.pin(m.chunks)
	defer s.unpin(m.chunks)
	err = s.begin(m, append([]byte(nil), manifest...))
	if err == nil {
		err = s.pull(ctx, m, fetch)
	}
	if err != nil {
		err = fmt.Errorf("install snapshot at %d: %w", m.meta.Index, err)
		if errors.Is(err, ErrNoSpace) {
			s.setPartial(nil)
			return s.abandon(err, m.chunks)
		}
		return err
	}
	if err := s.readBack(manifest); err != nil {
		return fmt.Errorf("install snapshot at %d: %w", m.meta.Index, err)
	}
	return s.commit(m, append([]byte(nil), manifest...))
}

// pullSyncEvery is after how many chunks their names are synced, so that a power cut does not undo more.
const pullSyncEvery = 32

// pull fetches and stores the missing chunks, one after the other: one is in memory at a time.
func (s *Snapshots) pull(ctx context.Context, m manifest, fetch func(context.Context, [32]byte) ([]byte, error)) error {
	fetched := 0
	for _, ref := range m.chunks {
		if _, err := s.stored(ref); err == nil {
			continue
		}
		stored, err := fetch(ctx, ref.name)
		if err != nil {
			return fmt.Errorf("fetch chunk %s: %w", ref, err)
		}
		if _, err := ref.expand(stored); err != nil {
			return err
		}
		if err := s.keep(ref, stored); err != nil {
			return err
		}
		if fetched++; fetched%pullSyncEvery == 0 {
			if err := s.syncChunks(fetched); err != nil {
				return err
			}
		}
	}
	return nil
}
