package storage

import (
	"errors"
	"io"
	"syscall"
)

// memSector is the unit that a crashed Mem writes wholly or not at all, except in FaultTorn.
const memSector = 512

// memNode is a file's content, apart from its names.
type memNode struct {
	data    []byte // current
	durable []byte // after a power cut
	dirty   []memWrite
	mapped  bool // stores that nobody sees reach data
}

// memWrite is a write that no Sync has covered yet; offset -1 empties the file.
type memWrite struct {
	offset int64
	data   []byte
}

func (n *memNode) truncate() {
	n.data = nil
	n.dirty = append(n.dirty, memWrite{offset: -1})
}

func (n *memNode) write(data []byte, offset int64) {
	w := memWrite{offset, append([]byte(nil), data...)}
	n.data = w.apply(n.data)
	n.dirty = append(n.dirty, w)
}

// sync makes everything written durable.
func (n *memNode) sync() {
	for _, w := range n.dirty {
		n.durable = w.apply(n.durable)
	}
	n.dirty = nil
}

func (w memWrite) apply(content []byte) []byte {
	if w.offset < 0 {
		return nil
	}
	if end := int(w.offset) + len(w.data); end > len(content) {
		content = append(content, make([]byte, end-len(content))...)
	}
	copy(content[w.offset:], w.data)
	return content
}

// sectors splits w where a disk would.
func (w memWrite) sectors() []memWrite {
	if w.offset < 0 {
		return []memWrite{w}
	}
	var parts []memWrite
	for data, offset := w.data, w.offset; len(data) > 0; {
		n := min(len(data), memSector-int(offset%memSector))
		parts = append(parts, memWrite{offset, data[:n]})
		data, offset = data[n:], offset+int64(n)
	}
	return parts
}

// memFile is an open handle on a node.
type memFile struct {
	fs   *Mem
	node *memNode
	path string
}

// ReadAt implements File.
func (f *memFile) ReadAt(p []byte, offset int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.mu.crashed {
		return 0, pathError("read", f.path, ErrCrashed)
	}
	if f.fs.mu.bad[f.path] || f.fs.mu.soon.take("read") == FaultIO {
		return 0, pathError("read", f.path, syscall.EIO)
	}
	if offset >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements File. A write that fails for want of space or with EIO leaves its first half.
func (f *memFile) WriteAt(p []byte, offset int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.begin("write", f.path)
	if errors.Is(err, errTorn) {
		part := memWrite{offset, p[:len(p)*(1+len(f.fs.mu.ops)%3)/4+1]}
		f.node.durable = part.apply(f.node.durable)
		return 0, pathError("write", f.path, ErrCrashed)
	}
	grow := max(0, offset+int64(len(p))-int64(len(f.node.data)))
	if err == nil && f.fs.mu.limit > 0 && grow > 0 && f.fs.mu.used+grow > f.fs.mu.limit {
		return 0, pathError("write", f.path, syscall.ENOSPC)
	}
	if err != nil && !errors.Is(err, ErrCrashed) {
		f.put(p[:len(p)/2], offset)
		return len(p) / 2, err
	}
	if err != nil {
		return 0, err
	}
	f.put(p, offset)
	return len(p), nil
}

func (f *memFile) put(p []byte, offset int64) {
	before := len(f.node.data)
	f.node.write(p, offset)
	f.fs.mu.used += int64(len(f.node.data) - before)
}

// Sync implements File. With EIO it does what Linux does: the pages stay readable, count as clean, and
// are never written unless they are written to again.
func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.begin("sync", f.path)
	switch {
	case errors.Is(err, errLostSync):
		return nil
	case errors.Is(err, syscall.EIO):
		f.node.dirty = nil
		return err
	case err != nil:
		return err
	}
	f.node.sync()
	return nil
}

// Size implements File.
func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.mu.crashed {
		return 0, pathError("stat", f.path, ErrCrashed)
	}
	return int64(len(f.node.data)), nil
}

// Close implements File; it never fails and syncs nothing.
func (f *memFile) Close() error { return nil }

// Map implements mapper: stores reach the content at once, and survive a crash that keeps what was not synced.
func (f *memFile) Map(size int) (mapped, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.mu.crashed {
		return nil, pathError("mmap", f.path, ErrCrashed)
	}
	if len(f.node.data) < size {
		return nil, pathError("mmap", f.path, syscall.EINVAL)
	}
	f.node.data = append([]byte(nil), f.node.data...) // nothing else refers to it
	f.node.mapped = true
	return memPage{f.node, size}, nil
}

type memPage struct {
	node *memNode
	size int
}

func (p memPage) Bytes() []byte { return p.node.data[:p.size] }
func (p memPage) Close() error {
	p.node.dirty = append(p.node.dirty, memWrite{0, append([]byte(nil), p.node.data[:p.size]...)})
	return nil
}
