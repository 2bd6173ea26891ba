package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// Mem is a file system in memory that loses what was not synced. Tests crash it, break the n-th
// operation, make its syncs lie, flip bits and fill it up. It is safe for concurrent use.
//
// Each file has a current content, which reads see, and a durable one; writes wait between the two
// for a Sync. Names likewise wait for SyncDir of their directory. Directories themselves are durable
// at once.
type Mem struct {
	mu struct {
		sync.Mutex
		names   map[string]*memNode // current
		durable map[string]*memNode // after a power cut
		waiting []nameChange        // in order, for their directory's SyncDir
		dirs    map[string]bool
		faults  map[int]Fault
		soon    soonFault
		ops     []Op
		lies    func(path string) bool
		used    int64
		limit   int64 // 0 is none
		bad     map[string]bool
		crashed bool
	}
}

// nameChange is one rename, creation or removal: names that it sets (nil removes), all or none.
type nameChange struct {
	dir string
	set map[string]*memNode
}

// ErrCrashed is what a Mem returns for everything after its power was cut.
var ErrCrashed = errors.New("the in-memory disk has lost its power")

// NewMem returns an empty Mem whose root is "/".
func NewMem() *Mem {
	m := &Mem{}
	m.mu.names = map[string]*memNode{}
	m.mu.durable = map[string]*memNode{}
	m.mu.dirs = map[string]bool{"/": true, ".": true}
	m.mu.faults = map[int]Fault{}
	m.mu.bad = map[string]bool{}
	return m
}

// Create implements FS.
func (m *Mem) Create(path string, _ fs.FileMode) (File, error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("create", path); err != nil {
		return nil, err
	}
	if !m.mu.dirs[filepath.Dir(path)] {
		return nil, pathError("create", path, syscall.ENOENT)
	}
	node := m.mu.names[path]
	if node == nil {
		node = &memNode{}
		m.change(filepath.Dir(path), map[string]*memNode{path: node})
	}
	m.mu.used -= int64(node.data.size)
	node.truncate()
	return &memFile{fs: m, node: node, path: path}, nil
}

// Open implements FS.
func (m *Mem) Open(path string) (File, error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.crashed {
		return nil, pathError("open", path, ErrCrashed)
	}
	node := m.mu.names[path]
	if node == nil {
		return nil, pathError("open", path, syscall.ENOENT)
	}
	return &memFile{fs: m, node: node, path: path}, nil
}

// OpenRead implements FS.
func (m *Mem) OpenRead(path string) (File, error) { return m.Open(path) }

// Rename implements FS, within one directory.
func (m *Mem) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	if filepath.Dir(from) != filepath.Dir(to) {
		panic(fmt.Sprintf("storage: Mem renames within a directory only: %s to %s", from, to))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("rename", to); err != nil {
		return err
	}
	node := m.mu.names[from]
	if node == nil {
		return pathError("rename", from, syscall.ENOENT)
	}
	if old := m.mu.names[to]; old != nil {
		m.mu.used -= int64(old.data.size)
	}
	m.change(filepath.Dir(to), map[string]*memNode{from: nil, to: node})
	return nil
}

// Remove implements FS, for files.
func (m *Mem) Remove(path string) error {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("remove", path); err != nil {
		return err
	}
	node := m.mu.names[path]
	if node == nil {
		return pathError("remove", path, syscall.ENOENT)
	}
	m.mu.used -= int64(node.data.size)
	m.change(filepath.Dir(path), map[string]*memNode{path: nil})
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(path string, _ fs.FileMode) error {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.dirs[path] && !m.mu.crashed {
		return nil
	}
	if err := m.begin("mkdir", path); err != nil {
		return err
	}
	for dir := path; !m.mu.dirs[dir]; dir = filepath.Dir(dir) {
		m.mu.dirs[dir] = true
	}
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.crashed {
		return nil, pathError("list", dir, ErrCrashed)
	}
	if !m.mu.dirs[dir] {
		return nil, pathError("list", dir, syscall.ENOENT)
	}
	names := []string{}
	for _, set := range []map[string]bool{m.mu.dirs, has(m.mu.names)} {
		for path := range set {
			if filepath.Dir(path) == dir && path != dir {
				names = append(names, filepath.Base(path))
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func has(nodes map[string]*memNode) map[string]bool {
	set := make(map[string]bool, len(nodes))
	for path := range nodes {
		set[path] = true
	}
	return set
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.begin("syncdir", dir)
	if errors.Is(err, errLostSync) {
		return nil
	}
	if err != nil {
		return err
	}
	m.mu.waiting = slices.DeleteFunc(m.mu.waiting, func(c nameChange) bool {
		if c.dir != dir {
			return false
		}
		c.apply(m.mu.durable)
		return true
	})
	return nil
}

// change sets names now, and durably once dir is synced.
func (m *Mem) change(dir string, set map[string]*memNode) {
	c := nameChange{dir: dir, set: set}
	c.apply(m.mu.names)
	m.mu.waiting = append(m.mu.waiting, c)
}

func (c nameChange) apply(names map[string]*memNode) {
	for path, node := range c.set {
		if node == nil {
			delete(names, path)
		} else {
			names[path] = node
		}
	}
}

// Paths returns the current files, sorted.
func (m *Mem) Paths() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.mu.names))
}

func pathError(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: path, Err: err}
}
