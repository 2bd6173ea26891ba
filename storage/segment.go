package storage

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// DefaultSegmentBytes is the size of a segment unless LogOptions says otherwise.
	DefaultSegmentBytes = 64 << 20

	minSegmentBytes = 4 * pageBytes // two headers, two frames
	maxSegmentBytes = 1 << 30

	// maxSpares bounds the prepared segments kept; what compaction frees beyond it is removed.
	maxSpares = 2

	zeroBytes     = 1 << 20 // written at a time when a segment is made
	zeroSyncBytes = 8 << 20 // synced at a time, so that appends do not wait behind 64 MiB
)

const (
	segmentSuffix = ".wal"
	sparePrefix   = "spare-"
)

// segment is a file of the log, oldest first in Log.segments.
type segment struct {
	segmentHeader
	path string
}

// activeSegment is the segment that is being written.
type activeSegment struct {
	segment
	file   File
	offset int64 // where the next frame goes
}

// room returns how many bytes fit before the header copy at the end.
func (a *activeSegment) room() int64 { return a.size - pageBytes - a.offset }

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// parseSegmentName returns the number in a segment's name, false for other files.
func parseSegmentName(name string) (uint64, bool) {
	digits, found := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, found && err == nil && segmentName(number) == name
}

// spares makes, keeps and reuses segment files of one size whose blocks are allocated. Its own lock
// is in Log.mu: the list is there.
type spares struct {
	fs   FS
	dir  string // wal/
	size int64
}

// make zero-fills a new spare. It gives up between writes when ctx ends.
func (s *spares) make(ctx context.Context, number uint64) (path string, err error) {
	path = filepath.Join(s.dir, fmt.Sprintf("%s%016x", sparePrefix, number))
	tmp := path + TmpSuffix
	if op, err := s.fill(ctx, tmp); err != nil {
		_ = s.fs.Remove(tmp) // best effort: OpenLog removes it too
		return "", classify(op, tmp, err)
	}
	if err := s.fs.Rename(tmp, path); err != nil {
		_ = s.fs.Remove(tmp)
		return "", classify("rename", tmp, err)
	}
	return path, nil
}

// zeros is never written, and so takes no memory of its own.
var zeros [zeroBytes]byte

// fill writes zeros, so that later frames go to blocks that exist and were written: that needs no
// space and is twice as fast to sync as blocks that were only reserved.
func (s *spares) fill(ctx context.Context, path string) (op string, err error) {
	f, err := s.fs.Create(path, filePerm)
	if err != nil {
		return "create", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			op, err = "close", closeErr
		}
	}()
	for offset := int64(0); offset < s.size; offset += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return "fill", err
		}
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), s.size-offset)], offset); err != nil {
			return "write", err
		}
		if written := offset + int64(len(zeros)); written%zeroSyncBytes == 0 || written >= s.size {
			if err := f.Sync(); err != nil {
				return "sync", err
			}
		}
	}
	return "", nil
}

// activate turns a spare into the segment that h describes: headers first, durable, then the name.
// Until the rename the file is still a spare, whatever is in it.
func (s *spares) activate(spare string, h segmentHeader) (*activeSegment, error) {
	path := filepath.Join(s.dir, segmentName(h.number))
	f, err := s.fs.Open(spare)
	if err != nil {
		return nil, classify("open", spare, err)
	}
	if err := s.install(f, spare, path, h); err != nil {
		_ = f.Close() // the first error is the one to report
		return nil, err
	}
	return &activeSegment{segment: segment{h, path}, file: f, offset: pageBytes}, nil
}

func (s *spares) install(f File, spare, path string, h segmentHeader) error {
	page := h.encode()
	for _, offset := range []int64{0, h.size - pageBytes} {
		if _, err := f.WriteAt(page, offset); err != nil {
			return classify("write", spare, err)
		}
	}
	if err := f.Sync(); err != nil {
		return classify("sync", spare, err)
	}
	if err := s.fs.Rename(spare, path); err != nil {
		return classify("rename", spare, err)
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return classify("sync", s.dir, err)
	}
	return nil
}

// newSalt is random, so that no user can store bytes that look like a frame of a future segment.
func newSalt() (salt [8]byte) {
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	return salt
}
