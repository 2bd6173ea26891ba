package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// LogOptions says where a log is and whose it is. FS, Dir and RaftID are required.
type LogOptions struct {
	FS           FS
	Dir          string // the data directory; the log is in wal/ and anchor
	ClusterID    [16]byte
	RaftID       uint64
	SegmentBytes int64       // of new segments; 0 is DefaultSegmentBytes, else a multiple of 4096 from 16 KiB to 1 GiB
	Log          *zap.Logger // nil logs nothing
	// Rare makes things happen that are legal and seldom (RarePoints) whenever it returns true; nil = never.
	Rare func(point string) bool

	ignoreAnchor bool // control tests only: what happens without the anchor
}

// Recovered is what OpenLog found. Entries run from FirstIndex to LastIndex without a gap and may
// begin before the newest snapshot.
type Recovered struct {
	FirstIndex, LastIndex uint64 // LastIndex = FirstIndex-1: no entries
	PrevTerm              uint64 // term of the entry at FirstIndex-1
	PrevChain             [32]byte
	Entries               []*raftpb.Entry
	HardState             *raftpb.HardState // nil if none was ever written
	Unclean               bool              // the last process did not Close: the last frames are in doubt
	TornBytes             int64             // cut from the end, kept in wal/torn-*

	// InDoubt says why this member may have acknowledged more than its log holds, or cast a vote that it does not
	// remember; "" if nothing speaks for it. Such a voter answers nobody before it has heard all others. It stays
	// so over restarts until Settled.
	InDoubt string
}

// Log is the write-ahead log of one raft member. Append, Compact, Reset and Close take turns; Chain
// does not wait for them.
type Log struct {
	fs           FS
	id           identity
	log          *zap.Logger
	ignoreAnchor bool
	rare         func(point string) bool
	spares       spares
	spareCount   atomic.Uint64 // numbers the spares' names
	anchor       *anchorFile

	// turn has one place: who is in it owns the fields below, and does I/O.
	turn     chan struct{}
	chainer  *chainer
	segments []segment // the last one is active
	active   *activeSegment
	tip      tip
	hard     hardState // the latest given to us; ahead of tip.hard while held back
	buf      []byte    // for frames

	// Capacity 1 each, a level signal that is dropped when already up.
	anchorDue chan struct{}
	spareDue  chan struct{}
	broken    chan struct{} // closed on the first fatal error

	mu struct {
		sync.Mutex // no I/O under it
		links      links
		durable    tip // synced
		spares     []string
		failed     *FatalError
		closed     bool
	}
}

// OpenLog opens the log in options.Dir, or makes one where there is none, and completes a repair that a crash has cut.
// It returns *DamageError or *ForeignError having changed nothing else, *FatalError when a write or sync failed, and a
// wrapped ErrNoSpace. Nothing runs until Run.
func OpenLog(options LogOptions) (*Log, Recovered, error) {
	l, err := newLog(options)
	if err != nil {
		return nil, Recovered{}, err
	}
	recovered, err := l.open(options.Dir)
	if err != nil {
		return nil, Recovered{}, errors.Join(err, l.closeFiles())
	}
	return l, recovered, nil
}

func newLog(o LogOptions) (*Log, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.SegmentBytes%pageBytes != 0 || o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes {
		return nil, fmt.Errorf("log: SegmentBytes %d must be a multiple of %d from %d to %d", o.SegmentBytes, pageBytes, minSegmentBytes, maxSegmentBytes)
	}
	if o.FS == nil || o.Dir == "" || o.RaftID == 0 {
		return nil, errors.New("log: FS, Dir and RaftID are required")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Log{
		fs:           o.FS,
		id:           identity{o.ClusterID, o.RaftID},
		log:          o.Log,
		ignoreAnchor: o.ignoreAnchor, rare: o.Rare,
		spares:    spares{fs: o.FS, dir: filepath.Join(o.Dir, "wal"), size: o.SegmentBytes},
		turn:      make(chan struct{}, 1),
		chainer:   newChainer(),
		anchorDue: make(chan struct{}, 1),
		spareDue:  make(chan struct{}, 1),
		broken:    make(chan struct{}),
	}, nil
}

// open recovers or creates, and ends with an anchor that says "in use".
func (l *Log) open(root string) (Recovered, error) {
	if err := finishRepair(l.fs, root, l.id); err != nil {
		return Recovered{}, err
	}
	path := filepath.Join(root, anchorName)
	anchor, haveAnchor, err := readAnchor(l.fs, path, l.id)
	if err != nil {
		return Recovered{}, err
	}
	numbers, err := segmentNumbers(l.fs, l.spares.dir)
	if err != nil {
		return Recovered{}, fmt.Errorf("list log segments: %w", err)
	}
	recovered := Recovered{FirstIndex: 1}
	switch {
	case len(numbers) > 0 && !haveAnchor:
		return Recovered{}, &DamageError{Path: path, Detail: "the log has segments and no anchor", Hint: hintLog}
	case len(numbers) == 0 && anchor.used():
		return Recovered{}, &DamageError{Path: l.spares.dir, Seq: 1, Hint: hintLog,
			Detail: fmt.Sprintf("all segments are missing, the anchor says that frame %d was durable in segment %d", anchor.tip.seq, anchor.segment)}
	case len(numbers) == 0:
		if err := l.create(haveAnchor, root); err != nil {
			return Recovered{}, err
		}
		if anchor, _, err = readAnchor(l.fs, path, l.id); err != nil {
			return Recovered{}, err
		}
	default:
		r := &recovery{log: l}
		if err := r.read(numbers, anchor); err != nil {
			return Recovered{}, err
		}
		if err := r.repair(); err != nil {
			return Recovered{}, err
		}
		recovered = r.result()
	}
	l.hard = l.tip.hard
	if l.anchor, err = openAnchor(l.fs, path, l.id, anchor.generation); err != nil {
		return Recovered{}, err
	}
	l.anchor.doubt = recovered.InDoubt != ""
	raise(l.spareDue)
	return recovered, l.anchor.begin(l.active.number, l.tip)
}

// Settled ends what Recovered.InDoubt says: the voter has heard all others and holds what it has to.
func (l *Log) Settled() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if err := l.usable(); err != nil {
		return err
	}
	return l.fail(l.anchor.settle(l.durable()))
}

// rewrite puts data at offset of an existing file, durably.
func (l *Log) rewrite(path string, offset int64, data []byte) (err error) {
	f, err := l.fs.Open(path)
	if err != nil {
		return classify("open", path, err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = classify("close", path, closeErr)
		}
	}()
	if _, err := f.WriteAt(data, offset); err != nil {
		return classify("write", path, err)
	}
	if err := f.Sync(); err != nil {
		return classify("sync", path, err)
	}
	return nil
}

// tidyDir removes what a crash left behind and takes over the spares of the right size.
func (l *Log) tidyDir() error {
	names, err := l.fs.List(l.spares.dir)
	if err != nil {
		return fmt.Errorf("list log files: %w", err)
	}
	for _, name := range names {
		path := filepath.Join(l.spares.dir, name)
		isSpare := strings.HasPrefix(name, sparePrefix) && !strings.HasSuffix(name, TmpSuffix)
		if isSpare && l.adopt(path) {
			continue
		}
		if isSpare || strings.HasSuffix(name, TmpSuffix) || strings.HasPrefix(name, repairedPrefix) {
			if err := l.fs.Remove(path); err != nil {
				return classify("remove", path, err)
			}
		}
	}
	return nil
}

// adopt takes a spare of a former process if there is a use for it. Its name is changed when used, so
// numbering ours from beyond it avoids a clash.
func (l *Log) adopt(path string) bool {
	var number uint64
	if _, err := fmt.Sscanf(filepath.Base(path), sparePrefix+"%x", &number); err != nil || len(l.mu.spares) >= maxSpares {
		return false
	}
	f, err := l.fs.Open(path)
	if err != nil {
		return false
	}
	size, err := f.Size()
	if closeErr := f.Close(); err != nil || closeErr != nil || size != l.spares.size {
		return false
	}
	l.spareCount.Store(max(l.spareCount.Load(), number))
	l.mu.spares = append(l.mu.spares, path)
	return true
}

// activateNext begins the segment after the active one, or the first. What came before is durable.
func (l *Log) activateNext(ctx context.Context) error {
	spare, err := l.takeSpare(ctx)
	if err != nil {
		return err
	}
	header := segmentHeader{id: l.id, number: 1, salt: newSalt(), size: l.spares.size, start: l.tip}
	if l.active != nil {
		header.number = l.active.number + 1
	}
	next, err := l.spares.activate(spare, header)
	if err != nil {
		l.putSpare(spare)
		return err
	}
	old := l.active
	l.active, l.segments = next, append(l.segments, next.segment)
	raise(l.spareDue)
	if old == nil {
		return nil // the first: open writes the anchor
	}
	if err := old.file.Close(); err != nil {
		return classify("close", old.path, err)
	}
	return l.anchor.begin(next.number, l.tip)
}

// takeSpare returns a prepared segment, making one if there is none.
func (l *Log) takeSpare(ctx context.Context) (string, error) {
	l.mu.Lock()
	if n := len(l.mu.spares); n > 0 && !l.rarely(rareNoSpare) {
		path := l.mu.spares[n-1]
		l.mu.spares = l.mu.spares[:n-1]
		l.mu.Unlock()
		return path, nil
	}
	l.mu.Unlock()
	return l.spares.make(ctx, l.spareCount.Add(1))
}

func (l *Log) putSpare(path string) {
	l.mu.Lock()
	l.mu.spares = append(l.mu.spares, path)
	l.mu.Unlock()
}

// raise sets a level signal.
func raise(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}
