package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/mutant"
)

const (
	tornPrefix   = "torn-"
	maxTornFiles = 8 // kept aside; the oldest goes
)

func sumHeader(header []byte) hash { return sha256.Sum256(header) }

// recovery opens an existing log in two halves: read, which changes nothing, and repair, which only
// runs when all was found well.
type recovery struct {
	log      *Log
	replay   replay
	segments []segment
	last     *segmentScan
	torn     int64 // end of the unfinished writes after last.end
	repairs  []repair
}

// repair is a header page to be written again from its intact copy.
type repair struct {
	path   string
	offset int64
	page   []byte
}

// read scans all segments; numbers are those of the existing ones, in order.
func (r *recovery) read(numbers []uint64, anchor anchorState) error {
	r.replay = replay{anchor: anchor}
	ahead := r.readAhead(numbers)
	defer ahead.stop()
	for i, number := range numbers {
		path := filepath.Join(r.log.spares.dir, segmentName(number))
		if i > 0 && number != numbers[i-1]+1 {
			return &DamageError{Path: path, Seq: r.replay.tip.seq + 1, Hint: hintLog,
				Detail: fmt.Sprintf("segment %d follows segment %d: the files between are missing", number, numbers[i-1])}
		}
		next := <-ahead.segments
		<-next.checked
		if next.err != nil {
			return next.err
		}
		scan := next.scan
		if err := r.enter(scan, i == 0); err != nil {
			return err
		}
		if err := scan.run(&r.replay); err != nil {
			return r.damage(scan, err.Error())
		}
		r.segments = append(r.segments, scan.segment)
		r.noteHeaders(scan)
		r.last = scan
	}
	if lost := r.replay.anchor.segment; lost > r.last.number && !r.log.ignoreAnchor && !mutant.On(mutant.NoAnchor) {
		return &DamageError{Path: filepath.Join(r.log.spares.dir, segmentName(lost)), Seq: r.replay.tip.seq + 1, Hint: hintLog,
			Detail: fmt.Sprintf("the log ends with segment %d, and the anchor says that segment %d was begun: it is missing", r.last.number, lost)}
	}
	return r.judgeTail()
}

// readAhead loads segments in order and has them checked beside each other, a few ahead of who takes them.
type readAhead struct {
	segments chan loadedSegment // capacity: what may be loaded and is not taken; closed at the end
	quit     chan struct{}
}

type loadedSegment struct {
	scan    *segmentScan
	err     error
	checked chan struct{} // closed when scan was checked
}

func (r *recovery) readAhead(numbers []uint64) readAhead {
	workers := runtime.GOMAXPROCS(0)
	ahead := readAhead{segments: make(chan loadedSegment, workers), quit: make(chan struct{})}
	go func() {
		defer close(ahead.segments)
		for _, number := range numbers {
			path := filepath.Join(r.log.spares.dir, segmentName(number))
			scan, err := readSegment(r.log.fs, path, number, r.log.id)
			next := loadedSegment{scan, err, make(chan struct{})}
			go func() {
				defer close(next.checked)
				if scan != nil {
					scan.check()
				}
			}()
			select {
			case ahead.segments <- next:
			case <-ahead.quit:
				<-next.checked
				return
			}
		}
	}()
	return ahead
}

// stop ends the goroutines and waits for them.
func (a readAhead) stop() {
	close(a.quit)
	for next := range a.segments { // what was loaded and is not wanted
		<-next.checked
	}
}

// enter checks that a segment begins where the one before ended. Rolling syncs the old segment first,
// so a later segment proves that all before it was durable.
func (r *recovery) enter(scan *segmentScan, first bool) error {
	if first {
		r.replay.tip = scan.start
		r.replay.links = newLinks(scan.start.index, scan.start.term, scan.start.chain)
	}
	if have, want := r.replay.tip, scan.start; have != want {
		detail := fmt.Sprintf("the log breaks off at frame %d but segment %d begins at frame %d", have.seq+1, scan.number, want.seq+1)
		if have.seq == want.seq {
			detail = fmt.Sprintf("segment %d does not continue this log", scan.number)
		}
		return r.damage(r.last, detail)
	}
	if err := r.replay.checkAnchor(); err != nil {
		return r.damage(scan, err.Error())
	}
	return nil
}

func (r *recovery) damage(scan *segmentScan, detail string) error {
	return &DamageError{Path: scan.path, Offset: scan.end, Seq: r.replay.tip.seq + 1, Detail: detail, Hint: hintLog}
}

// noteHeaders plans to restore a header page that differs from the intact one.
func (r *recovery) noteHeaders(scan *segmentScan) {
	page := scan.encode()
	for _, offset := range []int64{0, scan.size - pageBytes} {
		if !bytes.Equal(scan.data[offset:offset+pageBytes], page) {
			r.repairs = append(r.repairs, repair{scan.path, offset, page})
		}
	}
}

// judgeTail decides what the first frame that is not good means.
func (r *recovery) judgeTail() error {
	missing := r.replay.tip.seq + 1
	durable, torn := r.last.evidence(missing)
	if mutant.On(mutant.TruncateMidlog) {
		r.torn = torn
		return nil
	}
	if durable {
		return r.damage(r.last, "frame is bad, and a later frame says that it was durable")
	}
	if r.replay.anchor.tip.seq >= missing && !r.log.ignoreAnchor && !mutant.On(mutant.NoAnchor) {
		return r.damage(r.last, fmt.Sprintf("frame is bad or missing, and the anchor says that frame %d was durable", r.replay.anchor.tip.seq))
	}
	r.torn = torn
	return nil
}

// repair makes the recovered log durable and ready for appends.
func (r *recovery) repair() error {
	l := r.log
	for _, h := range r.repairs {
		l.log.Warn("segment header restored from its copy", zap.String("path", h.path))
		if err := l.rewrite(h.path, h.offset, h.page); err != nil {
			return err
		}
	}
	if err := syncDir(l.fs, l.spares.dir); err != nil {
		return err // the last process may have ended for it, and the newest segment's name is on no disk
	}
	if err := r.keepTorn(); err != nil {
		return err
	}
	// A sync that failed before the last process ended may have left frames in the page cache that
	// count as clean and are not on disk: write again all that nothing proves, then sync.
	if r.last.doubtful < r.last.end {
		if err := l.rewrite(r.last.path, r.last.doubtful, r.last.data[r.last.doubtful:r.last.end]); err != nil {
			return err
		}
	}
	file, err := l.fs.Open(r.last.path)
	if err != nil {
		return classify("open", r.last.path, err)
	}
	l.active = &activeSegment{segment: r.last.segment, file: file, offset: r.last.end}
	l.segments, l.tip, l.mu.links, l.mu.durable = r.segments, r.replay.tip, r.replay.links, r.replay.tip
	return l.tidyDir()
}

// keepTorn copies a torn tail to a file of its own before new frames overwrite it: nothing in it was
// acknowledged as far as we can tell, but on a lying disk it is the only trace. On a full disk the
// copy is left out, for the agent must be able to start.
func (r *recovery) keepTorn() error {
	if r.torn == r.last.end {
		return nil
	}
	dir := r.log.spares.dir
	path := filepath.Join(dir, fmt.Sprintf("%s%016x-%016x", tornPrefix, r.last.number, r.replay.tip.seq+1))
	log := r.log.log.With(zap.String("path", path), zap.Int64("bytes", r.torn-r.last.end))
	err := WriteFileAtomic(r.log.fs, path, r.last.data[r.last.end:r.torn], filePerm)
	switch {
	case errors.Is(err, ErrNoSpace):
		log.Warn("torn tail of the log cut, no space to keep it aside")
		return nil
	case err != nil:
		return err
	}
	log.Warn("torn tail of the log cut and kept aside")
	return removeOldest(r.log.fs, dir, tornPrefix, maxTornFiles)
}

// removeOldest removes the first files by name until keep of those with prefix remain.
func removeOldest(fsys FS, dir, prefix string, keep int) error {
	names, err := listPrefix(fsys, dir, prefix)
	if err != nil {
		return err
	}
	if len(names) <= keep {
		return nil
	}
	for _, name := range names[:len(names)-keep] {
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
			return classify("remove", name, err)
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return classify("sync", dir, err)
	}
	return nil
}

func listPrefix(fsys FS, dir, prefix string) ([]string, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	kept := names[:0]
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, TmpSuffix) {
			kept = append(kept, name)
		}
	}
	return kept, nil
}

// result is what OpenLog returns about an existing log.
func (r *recovery) result() Recovered {
	base := r.replay.links.list[0]
	recovered := Recovered{
		FirstIndex: r.replay.links.base + 1,
		LastIndex:  r.replay.tip.index,
		PrevTerm:   base.term,
		PrevChain:  base.chain,
		Entries:    r.replay.entries,
		Unclean:    !r.replay.anchor.clean || r.replay.anchor.tip.seq != r.replay.tip.seq,
		TornBytes:  r.torn - r.last.end,
	}
	switch {
	case r.replay.anchor.doubt:
		recovered.InDoubt = "an earlier start found the end of the log in doubt, and not all voters were heard since"
	case r.torn > r.last.end && !r.replay.anchor.clean:
		recovered.InDoubt = "the last frame of the log is not whole, and nothing says whether it was durable"
	}
	if h := r.replay.tip.hard; h != (hardState{}) {
		recovered.HardState = &raftpb.HardState{Term: &h.term, Vote: &h.vote, Commit: &h.commit}
	}
	return recovered
}

// create makes the files of a new log; an interrupted creation is simply done again.
func (l *Log) create(haveAnchor bool, root string) error {
	for _, dir := range []string{root, l.spares.dir} {
		if err := l.fs.MkdirAll(dir, dirPerm); err != nil {
			return classify("mkdir", dir, err)
		}
	}
	if haveAnchor { // an interrupted creation: wal/ may be new
		if err := l.fs.SyncDir(root); err != nil {
			return classify("sync", root, err)
		}
	} else if err := createAnchor(l.fs, filepath.Join(root, anchorName), l.id); err != nil {
		return err
	}
	if err := l.tidyDir(); err != nil {
		return err
	}
	l.mu.links = newLinks(0, 0, hash{})
	return l.activateNext(context.Background())
}

// segmentNumbers lists the segments; the directory may not exist yet.
func segmentNumbers(fsys FS, dir string) ([]uint64, error) {
	names, err := fsys.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		if number, ok := parseSegmentName(name); ok {
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}
