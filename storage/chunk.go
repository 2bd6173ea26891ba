package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxChunkBytes is the uncompressed size of all chunks but the last.
	maxChunkBytes = 1 << 20

	// maxStoredBytes bounds what a peer may send for a chunk: incompressible data grows by little.
	maxStoredBytes = maxChunkBytes + maxChunkBytes/16
)

// The compressors hold megabytes of tables and are safe for concurrent use, so the process has one of
// each, made when first needed. The decoder never makes more than a chunk, whatever the input claims.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(maxChunkBytes))
		if err != nil {
			panic(fmt.Sprintf("storage: zstd encoder options: %v", err))
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxChunkBytes), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic(fmt.Sprintf("storage: zstd decoder options: %v", err))
		}
		return d
	})
)

// compress returns a chunk's stored bytes and its reference.
func compress(raw []byte) ([]byte, chunkRef) {
	stored := encoder().EncodeAll(raw, nil)
	return stored, chunkRef{name: sha256.Sum256(stored), stored: uint32(len(stored)), raw: uint32(len(raw))}
}

// verify checks stored bytes against the reference without decompressing them.
func (c chunkRef) verify(stored []byte) error {
	if len(stored) != int(c.stored) || sha256.Sum256(stored) != c.name {
		return fmt.Errorf("%w %s: %d bytes do not have that hash", ErrChunk, c, len(stored))
	}
	return nil
}

// expand verifies stored bytes and returns the raw ones.
func (c chunkRef) expand(stored []byte) ([]byte, error) {
	if err := c.verify(stored); err != nil {
		return nil, err
	}
	return c.decode(stored)
}

// decode is expand of bytes that were verified, or are to be judged by zstd's checksum of the content alone.
func (c chunkRef) decode(stored []byte) ([]byte, error) {
	raw, err := decoder().DecodeAll(stored, make([]byte, 0, c.raw))
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrChunk, c, err)
	}
	if len(raw) != int(c.raw) {
		return nil, fmt.Errorf("%w %s: %d bytes instead of %d", ErrChunk, c, len(raw), c.raw)
	}
	return raw, nil
}

// String is the chunk's file name.
func (c chunkRef) String() string { return hex.EncodeToString(c.name[:]) }

// chunkReader streams a snapshot's content, one verified chunk at a time.
type chunkReader struct {
	snapshots *Snapshots
	manifest  manifest
	chunks    []chunkRef // to come
	rest      []byte     // of the current one
	sum       stdhash.Hash
	closed    bool
}

// Read implements io.Reader. io.EOF comes only if the whole content has the manifest's hash.
func (r *chunkReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	for len(r.rest) == 0 {
		if len(r.chunks) == 0 {
			return 0, r.end()
		}
		raw, err := r.snapshots.raw(r.chunks[0])
		if err != nil {
			return 0, err
		}
		r.sum.Write(raw)
		r.rest, r.chunks = raw, r.chunks[1:]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *chunkReader) end() error {
	if [32]byte(r.sum.Sum(nil)) != r.manifest.whole {
		return fmt.Errorf("%w: the chunks are intact, their content is not what the manifest says", ErrManifest)
	}
	return io.EOF
}

// Close lets the chunks be collected again.
func (r *chunkReader) Close() error {
	if !r.closed {
		r.closed = true
		r.snapshots.unpin(r.manifest.chunks)
	}
	return nil
}

// raw reads and verifies a chunk from disk.
func (s *Snapshots) raw(ref chunkRef) ([]byte, error) {
	stored, err := s.stored(ref)
	if err != nil {
		raise(s.damaged)
		return nil, err
	}
	return ref.expand(stored)
}

// stored reads a chunk's bytes and checks their hash.
func (s *Snapshots) stored(ref chunkRef) ([]byte, error) {
	stored, err := ReadFile(s.fs, s.chunkPath(ref), maxStoredBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s: missing", ErrChunk, ref)
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrChunk, ref, err)
	}
	return stored, ref.verify(stored)
}

// keep stores a chunk durably, but for its name, unless an intact one is there already.
func (s *Snapshots) keep(ref chunkRef, stored []byte) error {
	if _, err := s.stored(ref); err == nil {
		return nil
	}
	return writeTmpRename(s.fs, s.chunkPath(ref), stored, filePerm)
}
