package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
)

// Op is one operation that changes a Mem: create, write, sync, rename, remove, mkdir or syncdir.
type Op struct {
	Kind string
	Path string
}

// Fault is what happens to one operation of a Mem.
type Fault int

// The faults.
const (
	FaultCrash    Fault = iota + 1 // the power is cut before it
	FaultTorn                      // a quarter, half or three quarters of a write reach the disk, then as FaultCrash
	FaultLostSync                  // a sync reports success and does nothing; no effect on others
	FaultNoSpace                   // ENOSPC if it needs space, else no effect
	FaultIO                        // EIO
)

// CrashMode is what a power cut does to what was never synced.
type CrashMode int

// The crash modes.
const (
	LoseUnsynced CrashMode = iota // all of it is gone
	KeepUnsynced                  // all of it is there: also what a killed process leaves behind
	LosePart                      // each sector and each name by the toss of a coin
	GarblePart                    // as LosePart, and what is there of a sector may be anything
)

// How begin tells the operation that it has to misbehave in its own way.
var (
	errLostSync = errors.New("lost sync")
	errTorn     = fmt.Errorf("torn: %w", ErrCrashed)
)

// Ops returns every operation so far, the refused ones included.
func (m *Mem) Ops() []Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mu.ops)
}

// Inject makes the n-th operation, counted from 0 at NewMem or Crash, suffer fault.
func (m *Mem) Inject(n int, fault Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.faults[n] = fault
}

// Lie makes every sync of a path (a file, or a directory's names) for which lies is true do nothing
// and succeed; nil ends it.
func (m *Mem) Lie(lies func(path string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.lies = lies
}

// Limit makes writes that grow files beyond size bytes in total fail with ENOSPC; 0 lifts it.
func (m *Mem) Limit(size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.limit = size
}

// Used returns the bytes in all files.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.used
}

// soonFault waits for operations of a kind.
type soonFault struct {
	kind     string // "" for all that change something
	left     int
	fault    Fault
	happened func()
}

// take counts an operation, and returns the fault that it suffers, 0 for none.
func (s *soonFault) take(kind string) Fault {
	if s.fault == 0 || s.kind != kind && (s.kind != "" || kind == "read") {
		return 0
	}
	if s.left--; s.left >= 0 {
		return 0
	}
	fault := s.fault
	s.fault = 0
	s.happened()
	return fault
}

// FailSoon lets n more operations of a kind pass, then makes one suffer fault: kind is as in Op, or "read", or "" for any
// that changes something. happened is called then, and must not use m. It replaces an earlier call, and ends with a crash.
func (m *Mem) FailSoon(kind string, n int, fault Fault, happened func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.soon = soonFault{kind, n, fault, happened}
}

// Crashed reports whether the power was cut.
func (m *Mem) Crashed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.crashed
}

// FailReads makes reads of path fail with EIO.
func (m *Mem) FailReads(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.bad[filepath.Clean(path)] = true
}

// Size returns the bytes of a file, 0 if there is none.
func (m *Mem) Size(path string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.mu.names[filepath.Clean(path)]
	if node == nil {
		return 0
	}
	return int64(node.data.size)
}

// Flip inverts the bits of mask in the byte of path at offset, on the disk and in the cache.
func (m *Mem) Flip(path string, offset int64, mask byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.mu.names[filepath.Clean(path)]
	if node == nil || offset >= int64(node.data.size) {
		panic(fmt.Sprintf("storage: flip %s at %d: no such byte", path, offset))
	}
	node.sync()
	node.data.flip(offset, mask)
	node.durable.flip(offset, mask)
}

// Crash cuts the power. It returns the disk as it is found at the next start, with no faults, limits
// or counts; m itself refuses everything from now on, but can be crashed again, to look at another
// outcome of the same cut. seed decides LosePart.
func (m *Mem) Crash(mode CrashMode, seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.crashed = true
	random := rand.New(rand.NewPCG(seed, uint64(mode)))
	keep := func() bool {
		return mode == KeepUnsynced || mode >= LosePart && random.IntN(2) == 0
	}
	garble := func(w memWrite) memWrite {
		if mode != GarblePart || w.offset < 0 || random.IntN(3) > 0 {
			return w
		}
		garbage := memWrite{w.offset, make([]byte, len(w.data))}
		for i := range garbage.data {
			garbage.data[i] = byte(random.Uint32())
		}
		return garbage
	}
	durable := maps.Clone(m.mu.durable)
	for _, change := range m.mu.waiting {
		if keep() {
			change.apply(durable)
		}
	}
	next := NewMem()
	next.mu.dirs = maps.Clone(m.mu.dirs)
	for _, path := range slices.Sorted(maps.Keys(durable)) {
		content := durable[path].afterCrash(keep, garble)
		node := &memNode{data: content, durable: content.share()}
		next.mu.names[path], next.mu.durable[path] = node, node
		next.mu.used += int64(content.size)
	}
	return next
}

func (n *memNode) afterCrash(keep func() bool, garble func(memWrite) memWrite) memContent {
	if n.mapped && keep() {
		return n.data.clone()
	}
	content := n.durable.share()
	for _, w := range n.dirty {
		if keep() {
			content.apply(garble(w))
		}
	}
	return content
}

// begin counts an operation and returns the error that it must give, if any.
func (m *Mem) begin(kind, path string) error {
	if m.mu.crashed {
		return pathError(kind, path, ErrCrashed)
	}
	fault := m.mu.faults[len(m.mu.ops)]
	m.mu.ops = append(m.mu.ops, Op{kind, path})
	isSync := kind == "sync" || kind == "syncdir"
	if isSync && m.mu.lies != nil && m.mu.lies(path) {
		return errLostSync
	}
	if f := m.mu.soon.take(kind); f != 0 {
		fault = f
	}
	switch fault {
	case FaultCrash, FaultTorn:
		m.mu.crashed = true
		if fault == FaultTorn && kind == "write" {
			return errTorn
		}
		return pathError(kind, path, ErrCrashed)
	case FaultLostSync:
		if isSync {
			return errLostSync
		}
	case FaultNoSpace:
		if !isSync && kind != "remove" {
			return pathError(kind, path, syscall.ENOSPC)
		}
	case FaultIO:
		return pathError(kind, path, syscall.EIO)
	}
	return nil
}
