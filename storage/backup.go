package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
)

// A backup file is one snapshot that leaves the data directory: a manifest that its caller writes and
// reads, the content in compressed chunks, a trailer. It is written and read in one pass, a chunk in
// memory at a time, so that it can be a file, a pipe, or the body of an answer. Every byte is under a
// SHA-256, the manifest's before anything else is looked at; a file that was cut has no trailer.

const (
	// MaxBackupManifestBytes bounds the manifest of a backup file.
	MaxBackupManifestBytes = 64 << 10

	// maxBackupChunks bounds the content: 8 GiB.
	maxBackupChunks = 8 << 10

	backupFixedBytes = 8 + 4 + 4
	backupChunkHead  = 4 + 4 + sha256.Size
	backupTailBytes  = 4 + 4 + 8 + sha256.Size + sha256.Size
)

var backupMagic = []byte("PARLEYBK")

// ErrBackup is returned, wrapped, for bytes that are not an intact backup file.
var ErrBackup = errors.New("bad backup file")

// BackupWriter writes a backup file's content. It belongs to one goroutine.
type BackupWriter struct {
	w     io.Writer
	file  stdhash.Hash // of everything written
	whole stdhash.Hash // of the content
	buf   []byte
	count uint32
	size  uint64
	err   error
}

// NewBackupWriter begins a backup file with a manifest of the caller's. Close ends it.
func NewBackupWriter(w io.Writer, manifest []byte) (*BackupWriter, error) {
	if len(manifest) > MaxBackupManifestBytes {
		return nil, fmt.Errorf("backup manifest of %d bytes, limit %d", len(manifest), MaxBackupManifestBytes)
	}
	b := &BackupWriter{w: w, file: sha256.New(), whole: sha256.New(), buf: make([]byte, 0, maxChunkBytes)}
	head := order.AppendUint32(bytes.Clone(backupMagic), formatVersion)
	head = append(order.AppendUint32(head, uint32(len(manifest))), manifest...)
	b.put(head)
	b.put(b.file.Sum(nil))
	return b, b.err
}

// put writes p, unless something failed before.
func (b *BackupWriter) put(p []byte) {
	if b.err == nil {
		b.file.Write(p)
		_, b.err = b.w.Write(p)
	}
}

// Write implements io.Writer.
func (b *BackupWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && b.err == nil {
		n := min(len(p), cap(b.buf)-len(b.buf))
		b.buf, p, written = append(b.buf, p[:n]...), p[n:], written+n
		if len(b.buf) == cap(b.buf) {
			b.cut()
		}
	}
	return written, b.err
}

// cut writes what is buffered as a chunk.
func (b *BackupWriter) cut() {
	if len(b.buf) == 0 || b.err != nil {
		return
	}
	if b.count == maxBackupChunks {
		b.err = fmt.Errorf("state is larger than a backup file can hold (%d chunks of %d bytes)", maxBackupChunks, cap(b.buf))
		return
	}
	b.whole.Write(b.buf)
	stored, ref := compress(b.buf)
	head := order.AppendUint32(make([]byte, 0, backupChunkHead), ref.stored)
	head = append(order.AppendUint32(head, ref.raw), ref.name[:]...)
	b.put(head)
	b.put(stored)
	b.size += uint64(len(b.buf))
	b.count++
	b.buf = b.buf[:0]
}

// Close writes the rest and the trailer, without which the file does not count. It does not close the
// writer below.
func (b *BackupWriter) Close() error {
	b.cut()
	tail := order.AppendUint32(make([]byte, 0, backupTailBytes), 0)
	tail = order.AppendUint32(tail, b.count)
	tail = b.whole.Sum(order.AppendUint64(tail, b.size))
	b.put(tail)
	b.put(b.file.Sum(nil))
	return b.err
}

// BackupReader reads a backup file. It belongs to one goroutine.
type BackupReader struct {
	r        io.Reader
	manifest []byte
	file     stdhash.Hash
	whole    stdhash.Hash
	rest     []byte // of the current chunk
	count    uint32
	size     uint64
	stored   uint64
	err      error // the first one, io.EOF after an intact trailer
}

// OpenBackup reads a backup file's manifest. Errors wrap ErrBackup for what is in the file.
func OpenBackup(r io.Reader) (*BackupReader, error) {
	b := &BackupReader{r: r, file: sha256.New(), whole: sha256.New()}
	head, err := b.take(backupFixedBytes, "header")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:8], backupMagic) {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	if version := order.Uint32(head[8:]); version != formatVersion {
		return nil, fmt.Errorf("%w: %w (%d, not %d)", ErrBackup, errFormat, version, formatVersion)
	}
	n := order.Uint32(head[12:])
	if n > MaxBackupManifestBytes {
		return nil, fmt.Errorf("%w: manifest of %d bytes", ErrBackup, n)
	}
	if b.manifest, err = b.take(int(n), "manifest"); err != nil {
		return nil, err
	}
	return b, b.checkSum("manifest")
}

// Manifest returns what the writer wrote first. Its checksum was right.
func (b *BackupReader) Manifest() []byte { return b.manifest }

// Bytes returns how much content was read, and the bytes that it took in the file.
func (b *BackupReader) Bytes() (content, stored uint64) { return b.size, b.stored }

// take reads n bytes of the file.
func (b *BackupReader) take(n int, what string) ([]byte, error) {
	buf := make([]byte, n)
	if _, err := io.ReadFull(b.r, buf); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: it ends in its %s: the file was cut off", ErrBackup, what)
	} else if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	b.file.Write(buf)
	return buf, nil
}

// checkSum reads a checksum of everything before it.
func (b *BackupReader) checkSum(what string) error {
	want := b.file.Sum(nil)
	have, err := b.take(sha256.Size, what)
	if err == nil && !bytes.Equal(have, want) {
		err = fmt.Errorf("%w: wrong checksum of its %s", ErrBackup, what)
	}
	return err
}

// Read implements io.Reader. Every chunk is verified before any of it is returned; io.EOF comes only
// after an intact trailer with nothing behind it.
func (b *BackupReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 && b.err == nil {
		b.err = b.next()
	}
	if len(b.rest) == 0 {
		return 0, b.err
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// next reads a chunk, or the trailer.
func (b *BackupReader) next() error {
	lengths, err := b.take(8, "content")
	if err != nil {
		return err
	}
	ref := chunkRef{stored: order.Uint32(lengths), raw: order.Uint32(lengths[4:])}
	if ref.stored == 0 {
		return b.end(ref.raw)
	}
	if b.count == maxBackupChunks || ref.stored > maxStoredBytes || ref.raw == 0 || ref.raw > maxChunkBytes {
		return fmt.Errorf("%w: chunk %d of %d bytes, %d stored", ErrBackup, b.count, ref.raw, ref.stored)
	}
	name, err := b.take(sha256.Size, "content")
	if err != nil {
		return err
	}
	ref.name = hash(name)
	stored, err := b.take(int(ref.stored), "content")
	if err != nil {
		return err
	}
	raw, err := ref.expand(stored)
	if err != nil {
		return fmt.Errorf("%w: chunk %d: %w", ErrBackup, b.count, err)
	}
	b.whole.Write(raw)
	b.rest, b.count, b.size, b.stored = raw, b.count+1, b.size+uint64(len(raw)), b.stored+uint64(len(stored))
	return nil
}

// end checks the trailer; count is its number of chunks.
func (b *BackupReader) end(count uint32) error {
	tail, err := b.take(8+sha256.Size, "trailer")
	if err != nil {
		return err
	}
	if size := order.Uint64(tail); count != b.count || size != b.size || !bytes.Equal(tail[8:], b.whole.Sum(nil)) {
		return fmt.Errorf("%w: the chunks are intact, their content is not what the trailer says", ErrBackup)
	}
	if err := b.checkSum("trailer"); err != nil {
		return err
	}
	switch n, err := io.ReadFull(b.r, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: it goes on behind its trailer", ErrBackup)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read backup: %w", err)
	}
	return io.EOF
}
