package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
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
func (c chunkRef) decode(stored []byte) ([]byte, error) { return c.decodeInto(nil, stored) }

// decodeInto is decode into the room of a chunk that nobody needs any more, if it is enough.
func (c chunkRef) decodeInto(room, stored []byte) ([]byte, error) {
	if cap(room) < int(c.raw) {
		room = make([]byte, 0, c.raw)
	}
	raw, err := decoder().DecodeAll(stored, room[:0:c.raw])
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

// chunkReader streams a snapshot's content, one verified chunk at a time. Chunks ahead of the reader are read, verified and
// decompressed beside each other, and summed up in their order, while the reader is busy with the ones before.
type chunkReader struct {
	snapshots *Snapshots
	manifest  manifest
	workers   int
	summed    bool                   // the reader adds up the whole
	rest      []byte                 // of the current chunk
	current   []byte                 // the whole of it
	used      chan []byte            // chunks that were read: room for those to come. As many as are in memory at a time
	ahead     chan expanded          // nil before the first Read; closed at the end
	quit      chan struct{}          // ends the goroutine that fills ahead
	sum       chan [sha256.Size]byte // of the whole, after ahead is closed; capacity 1
	err       error                  // io.EOF included: it is returned again
	closed    bool
}

// expanded is a chunk's raw content.
type expanded struct {
	raw []byte
	err error
}

// Read implements io.Reader. io.EOF comes only if the whole content has the manifest's hash.
func (r *chunkReader) Read(p []byte) (int, error) {
	if err := r.more(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// more brings the next chunk if there is nothing left of the current one.
func (r *chunkReader) more() error {
	if r.closed {
		return fs.ErrClosed
	}
	if r.ahead == nil {
		r.start()
	}
	for len(r.rest) == 0 && r.err == nil {
		next, more := <-r.ahead
		switch {
		case !more:
			r.err = r.end()
		case next.err != nil:
			r.err = next.err
		default:
			r.giveBack()
			r.rest, r.current = next.raw, next.raw
		}
	}
	if len(r.rest) == 0 {
		return r.err
	}
	return nil
}

// WriteTo implements io.WriterTo: w gets one chunk after the other, and may not keep it.
func (r *chunkReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if err := r.more(); errors.Is(err, io.EOF) {
			return written, nil
		} else if err != nil {
			return written, err
		}
		n, err := w.Write(r.rest)
		r.rest = r.rest[n:]
		if written += int64(n); err != nil {
			return written, err
		}
	}
}

// giveBack lets a chunk that was read be room for another.
func (r *chunkReader) giveBack() {
	if r.current == nil {
		return
	}
	select {
	case r.used <- r.current:
	default:
	}
	r.current = nil
}

// room is that of a chunk which was read, nil if there is none.
func (r *chunkReader) room() []byte {
	select {
	case room := <-r.used:
		return room
	default:
		return nil
	}
}

// start begins to read ahead. At most two chunks for each worker, and two more, are in memory at a time.
func (r *chunkReader) start() {
	r.ahead, r.quit = make(chan expanded, r.workers), make(chan struct{})
	r.sum, r.used = make(chan [sha256.Size]byte, 1), make(chan []byte, 2*r.workers+2)
	inOrder := make(chan chan expanded, r.workers-1)
	go func() {
		defer close(inOrder)
		for _, ref := range r.manifest.chunks {
			one := make(chan expanded, 1)
			select {
			case inOrder <- one:
			case <-r.quit:
				return
			}
			go func() {
				raw, err := r.snapshots.raw(ref, r.room())
				one <- expanded{raw, err}
			}()
		}
	}()
	go r.deliver(inOrder)
}

// deliver hands the chunks over in their order, and ends behind the first that is not intact.
func (r *chunkReader) deliver(inOrder <-chan chan expanded) {
	defer close(r.ahead)
	sum := sha256.New()
	ended := false
	for one := range inOrder {
		next := <-one
		if ended {
			continue // waits for what was begun
		}
		if !r.summed {
			sum.Write(next.raw)
		}
		select {
		case r.ahead <- next:
		case <-r.quit:
			ended = true
		}
	}
	r.sum <- [sha256.Size]byte(sum.Sum(nil))
}

func (r *chunkReader) end() error {
	if sum := <-r.sum; !r.summed && sum != r.manifest.whole {
		return fmt.Errorf("%w: the chunks are intact, their content is not what the manifest says", ErrManifest)
	}
	return io.EOF
}

// Close ends the reading ahead, and lets the chunks be collected again.
func (r *chunkReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.ahead != nil {
		close(r.quit)
		for range r.ahead { // what was read and is not wanted
		}
	}
	r.snapshots.unpin(r.manifest.chunks)
	r.snapshots.dropWarm()
	return nil
}

// raw reads and verifies a chunk from disk, into room if that is enough.
func (s *Snapshots) raw(ref chunkRef, room []byte) ([]byte, error) {
	if stored, warm := s.takeWarm(ref); warm {
		return ref.decodeInto(room, stored)
	}
	stored, err := s.stored(ref)
	if err != nil {
		raise(s.damaged)
		return nil, err
	}
	return ref.decodeInto(room, stored)
}

// takeWarm returns a chunk's verified bytes if they are still in memory from OpenSnapshots, once.
func (s *Snapshots) takeWarm(ref chunkRef) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, warm := s.mu.warm[ref.name]
	delete(s.mu.warm, ref.name)
	return stored, warm
}

func (s *Snapshots) dropWarm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.warm)
}

// verifyAll reads the chunks beside each other and checks their hashes; it keeps up to warm bytes of them for the next
// reader. The error is that of the first one that is not intact.
func (s *Snapshots) verifyAll(chunks []chunkRef, warm int) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, len(chunks))
	kept := make([][]byte, len(chunks))
	for _, ref := range chunks {
		warm -= int(ref.stored)
	}
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for i := w; i < len(chunks); i += workers {
				stored, err := s.stored(chunks[i])
				if errs[i] = err; err == nil && warm >= 0 {
					kept[i] = stored
				}
			}
		})
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			return &DamageError{Path: s.chunkPath(chunks[i]), Detail: err.Error(), Hint: hintSnapshot, Snapshot: true}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.warm)
	for i, ref := range chunks {
		if kept[i] != nil {
			s.mu.warm[ref.name] = kept[i]
		}
	}
	return nil
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
