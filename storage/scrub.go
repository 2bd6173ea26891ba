package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// maxScrubProblems bounds what a report lists; Errors counts all.
	maxScrubProblems = 100

	// scrubReadBytes is read at a time, and so the burst of a limited scrub.
	scrubReadBytes = 256 << 10
)

// ScrubOptions says what Scrub verifies. FS, Dir and ClusterID are required.
type ScrubOptions struct {
	FS        FS
	Dir       string // the data directory
	ClusterID [16]byte
	RaftID    uint64 // 0: this agent is outside the core and has no log

	// Log and Snapshots are those of this process, in use. Without them nobody may have the directory
	// open: take LockDir first.
	Log       *Log
	Snapshots *Snapshots

	// BytesPerSecond limits the reading; 0 does not. Half of what the disk reads is felt by the log,
	// a tenth is not.
	BytesPerSecond int64
}

// ScrubReport is what Scrub read, and what was wrong with it.
type ScrubReport struct {
	Errors    int // problems found; Problems lists the first 100
	Disagree  int // of them: CRC or zstd's checksum right and SHA-256 wrong, or the reverse: no flipped bit does that
	Segments  int
	Entries   uint64
	Snapshots int
	Bytes     int64
	Problems  []ScrubProblem
}

// ScrubProblem is one place that is not what was written there.
type ScrubProblem struct {
	File    string
	Offset  int64 // in File; 0 where a checksum covers the whole of it
	Message string
}

// Scrub reads the whole log, the anchor and all snapshots, and verifies every checksum and hash in
// them. It changes nothing and repairs nothing: it finds what a read would find, before the copies on
// other hosts are gone as well. Beside a running Log it verifies what was written when it began,
// takes no turn for longer than a copy of a few numbers, and passes over files that are recycled
// meanwhile. A torn tail after a crash is no problem: OpenLog cuts it.
//
// The error is of ctx, or of reading that is not about the content (no permission).
func Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	if o.FS == nil || o.Dir == "" {
		return ScrubReport{}, errors.New("scrub: FS and Dir are required")
	}
	s := &scrubber{o: o, chainer: newChainer()}
	if o.RaftID != 0 {
		if err := s.scrubLog(ctx); err != nil {
			return s.report, err
		}
	}
	return s.report, s.scrubSnapshots(ctx)
}

// scrubber is one run of Scrub.
type scrubber struct {
	o       ScrubOptions
	chainer *chainer
	report  ScrubReport
}

// add takes over what was found in one file.
func (s *scrubber) add(found []ScrubProblem) {
	s.report.Errors += len(found)
	room := maxScrubProblems - len(s.report.Problems)
	s.report.Problems = append(s.report.Problems, found[:min(len(found), room)]...)
}

// problem makes one of err. What is no statement about the content is returned as an error instead.
func (s *scrubber) problem(path string, offset int64, err error) ([]ScrubProblem, error) {
	var damage *DamageError
	var foreign *ForeignError
	err = readError(path, err, hintLog)
	switch {
	case errors.As(err, &damage):
		return []ScrubProblem{{damage.Path, max(damage.Offset, offset), damage.Detail}}, nil
	case errors.As(err, &foreign):
		return []ScrubProblem{{foreign.Path, offset, foreign.Error()}}, nil
	}
	return nil, fmt.Errorf("scrub %s: %w", path, err)
}

// readFile is ReadFile at the limited rate.
func (s *scrubber) readFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	data, err := ReadFile(s.o.FS, path, limit)
	if err != nil {
		return nil, err
	}
	return data, s.pace(ctx, len(data))
}

// pace waits for as long as reading n bytes may take, and counts them.
func (s *scrubber) pace(ctx context.Context, n int) error {
	s.report.Bytes += int64(n)
	if s.o.BytesPerSecond <= 0 {
		return ctx.Err()
	}
	return pause(ctx, time.Duration(float64(n)/float64(s.o.BytesPerSecond)*float64(time.Second)))
}

// pacedReader reads a file in order at the limited rate.
type pacedReader struct {
	scrubber *scrubber
	ctx      context.Context //nolint:containedctx // io.Reader has no place for it; lives within one call
	from     io.Reader
}

// Read implements io.Reader.
func (r pacedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if paceErr := r.scrubber.pace(r.ctx, n); paceErr != nil {
		return n, paceErr
	}
	return n, err
}
