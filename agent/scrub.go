package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/storage"
)

const (
	// scrubEvery is how long damage on the disk can go unseen. The first scrub is soon after the start,
	// so that there is an answer at all.
	scrubEvery = 24 * time.Hour
	scrubFirst = time.Minute
	scrubStale = scrubEvery + 2*time.Hour // a result older than this is none

	// scrubRate is what the daily scrub reads in a second: nothing waits for it.
	scrubRate = 8 << 20
)

// scrubber verifies this agent's log and snapshots while they are in use, one scrub at a time.
type scrubber struct {
	core *coreRunner
	dir  *dataDir
	id   [16]byte
	log  *zap.Logger

	report func(kind, subject, message string) // to the timeline
	healed atomic.Uint64                       // files of snapshots put right since the start

	found chan struct{}            // capacity 1: a scrub that was asked for found damage
	turn  chan struct{}            // one place
	last  atomic.Pointer[scrubbed] // nil before the first, and after one that could not read
}

// scrubbed is a finished scrub: what it found in which node's files, and when (boottime).
type scrubbed struct {
	report storage.ScrubReport
	node   *coreNode // nil outside the core
	at     time.Duration
}

func newScrubber(core *coreRunner, dir *dataDir, clusterID string, log *zap.Logger, report func(kind, subject, message string)) *scrubber {
	return &scrubber{core: core, dir: dir, id: mustID(clusterID), log: log, report: report, found: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// run scrubs once a day until ctx ends.
func (s *scrubber) run(ctx context.Context) error {
	timer := time.NewTimer(scrubFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.found:
			s.afterScrub(ctx)
			continue
		case <-s.damaged():
		}
		if _, err := s.scrub(ctx, scrubRate); err != nil && ctx.Err() == nil {
			s.log.Warn("log and snapshots were not scrubbed", zap.Error(err))
		}
		s.afterScrub(ctx)
		timer.Reset(scrubEvery)
	}
}

// damaged signals that a read of the running node's snapshots found damage.
func (s *scrubber) damaged() <-chan struct{} {
	if n := s.core.current.Load(); n != nil {
		return n.store.snapshots.Damaged()
	}
	return nil
}

// afterScrub has what the scrub found put right, and looks whether it is.
func (s *scrubber) afterScrub(ctx context.Context) {
	last, n := s.last.Load(), s.core.current.Load()
	if last == nil || n == nil || last.node != n || last.report.Errors == 0 {
		return
	}
	before := s.healed.Load()
	s.mend(ctx, n)
	if !s.mendLog(ctx, n, last.report.Problems) && s.healed.Load() == before || ctx.Err() != nil {
		return
	}
	if _, err := s.scrub(ctx, scrubRate); err != nil && ctx.Err() == nil {
		s.log.Warn("log and snapshots were not scrubbed again", zap.Error(err))
	}
}

// mendLog has a damaged log written anew, and a damaged slot of the anchor. It reports whether anything was done, and
// returns when the node runs again.
func (s *scrubber) mendLog(ctx context.Context, n *coreNode, problems []storage.ScrubProblem) bool {
	at := slices.IndexFunc(problems, func(p storage.ScrubProblem) bool { return filepath.Dir(p.File) == s.dir.join(walDir) })
	if at < 0 {
		if !slices.ContainsFunc(problems, func(p storage.ScrubProblem) bool { return p.File == s.dir.join("anchor") }) {
			return false
		}
		if err := n.store.log.RewriteAnchor(); err != nil {
			s.log.Error("the damaged anchor was not written again", zap.Error(err))
			return false
		}
		s.healed.Add(1)
		s.report(api.EventDamage, s.core.ids.Node, "a slot of the log's anchor was damaged")
		s.report(api.EventHealed, s.core.ids.Node, "the log's anchor was written again")
		return true
	}
	if err := s.core.healRunning(ctx, n, problems[at]); err != nil {
		s.log.Error("the damaged log was not healed", zap.Error(err))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, mendWait)
	defer cancel()
	for now := s.core.current.Load(); now == nil || now == n; now = s.core.current.Load() {
		if pause(ctx, mendLook); ctx.Err() != nil {
			return false
		}
	}
	return true
}

// scrub reads at most rate bytes a second. It is refused while another one runs.
func (s *scrubber) scrub(ctx context.Context, rate int64) (storage.ScrubReport, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	default:
		return storage.ScrubReport{}, api.Errorf(api.CodeBusy, "a scrub is running already").
			WithHint("wait for it to end; the agent runs one each day by itself")
	}
	n := s.core.current.Load()
	if n == nil { // outside the core there is neither log nor snapshot
		s.last.Store(&scrubbed{at: clock.Boottime()})
		return storage.ScrubReport{}, nil
	}
	report, err := storage.Scrub(ctx, storage.ScrubOptions{
		FS: s.dir.fs, Dir: s.dir.path, ClusterID: s.id, RaftID: n.raftID,
		Log: n.store.log, Snapshots: n.store.snapshots, BytesPerSecond: rate,
	})
	if s.core.current.Load() != n { // its files may have been deleted meanwhile
		return storage.ScrubReport{}, api.Errorf(api.CodeUnavailable, "this agent left or entered the core during the scrub")
	}
	if err != nil {
		s.last.Store(nil) // an old good result says nothing about files that cannot be read now
		return storage.ScrubReport{}, err
	}
	s.last.Store(&scrubbed{report, n, clock.Boottime()})
	if report.Errors > 0 {
		first := report.Problems[0]
		s.log.Error("damage found in log or snapshots", zap.Int("count", report.Errors), zap.String("path", first.File),
			zap.Int64("offset", first.Offset), zap.String("reason", first.Message))
	}
	return report, nil
}

// scrubErrors is the metric parley_storage_scrub_errors: problems in the last scrub. There is no figure before the first,
// after one that failed or is older than scrubStale, or of files that were given up with a Raft id.
func (s *scrubber) scrubErrors() (float64, bool) {
	if s.core.healing.Load() {
		return 1, true
	}
	last := s.last.Load()
	if last == nil || last.node != s.core.current.Load() || clock.Boottime()-last.at > scrubStale {
		return 0, false
	}
	return float64(last.report.Errors), true
}

// healedFiles is the metric parley_storage_healed_files.
func (s *scrubber) healedFiles() (float64, bool) { return float64(s.healed.Load()), true }

// apiScrub is scrub for the API.
func (a *Agent) apiScrub(ctx context.Context, rate int64) (api.ScrubReport, error) {
	report, err := a.scrubber.scrub(ctx, rate)
	if report.Errors > 0 {
		select {
		case a.scrubber.found <- struct{}{}: // it is put right after the answer
		default:
		}
	}
	return scrubShape(report), err
}

func scrubShape(r storage.ScrubReport) api.ScrubReport {
	out := api.ScrubReport{Errors: r.Errors, Segments: r.Segments, Entries: r.Entries, Snapshots: r.Snapshots, Bytes: r.Bytes}
	for _, p := range r.Problems {
		out.Problems = append(out.Problems, api.ScrubProblem(p))
	}
	return out
}

// ScrubOffline verifies the log and snapshots of an agent that does not run, which is also one that
// does not start. It takes the directory's lock for as long as it reads.
func ScrubOffline(ctx context.Context, path string, bytesPerSecond int64) (api.ScrubReport, error) {
	dir := &dataDir{path: path, fs: storage.OS()}
	ids, err := dir.readCluster()
	if err == nil && ids == nil {
		err = withHint(fmt.Errorf("%s belongs to no cluster: there is nothing to scrub", path), "name the agent's directory with --data-dir")
	}
	if err != nil {
		return api.ScrubReport{}, err
	}
	held, err := storage.LockDir(path)
	switch {
	case errors.Is(err, storage.ErrLocked):
		return api.ScrubReport{}, withHint(err, "the agent is running: ask it, by parley storage scrub without --offline")
	case errors.Is(err, os.ErrPermission):
		return api.ScrubReport{}, withHint(err, "run this as root or as the agent's user")
	case err != nil:
		return api.ScrubReport{}, err
	}
	defer held.Close() //nolint:errcheck // the lock ends with the process at the latest
	report, err := storage.Scrub(ctx, storage.ScrubOptions{
		FS: dir.fs, Dir: path, ClusterID: mustID(ids.ClusterID), RaftID: ids.RaftID, BytesPerSecond: bytesPerSecond,
	})
	return scrubShape(report), err
}
