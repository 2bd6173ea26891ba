package storage

import (
	"errors"
	"io"
	"syscall"
)

// memNode is a file's content, apart from its names.
type memNode struct {
	data    memContent // current
	durable memContent // after a power cut
	dirty   []memWrite
	mapped  bool // stores that nobody sees reach data
}

func (n *memNode) truncate() {
	n.data = memContent{}
	n.dirty = append(n.dirty, memWrite{offset: -1})
}

func (n *memNode) write(data []byte, offset int64) {
	parts := splitWrite(data, offset)
	n.data.grow(int(offset) + len(data))
	for _, w := range parts {
		n.data.apply(w)
	}
	if n.dirty == nil {
		n.dirty = parts
	} else {
		n.dirty = append(n.dirty, parts...)
	}
}

// sync makes everything written durable.
func (n *memNode) sync() {
	for _, w := range n.dirty {
		n.durable.apply(w)
	}
	n.dirty = nil
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
	if offset >= int64(f.node.data.size) {
		return 0, io.EOF
	}
	n := f.node.data.readAt(p, offset)
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
		for _, part := range splitWrite(p[:len(p)*(1+len(f.fs.mu.ops)%3)/4+1], offset) {
			f.node.durable.apply(part)
		}
		return 0, pathError("write", f.path, ErrCrashed)
	}
	grow := max(0, offset+int64(len(p))-int64(f.node.data.size))
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
	before := f.node.data.size
	f.node.write(p, offset)
	f.fs.mu.used += int64(f.node.data.size - before)
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
	return int64(f.node.data.size), nil
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
	if f.node.data.size < size {
		return nil, pathError("mmap", f.path, syscall.EINVAL)
	}
	f.node.mapped = true
	return memPage{f.node, f.node.data.together(size)}, nil
}

type memPage struct {
	node  *memNode
	bytes []byte
}

func (p memPage) Bytes() []byte { return p.bytes }
func (p memPage) Close() error {
	p.node.dirty = append(p.node.dirty, splitWrite(p.bytes, 0)...)
	return nil
}
