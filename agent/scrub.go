package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodScrub = "storage.scrub"

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
	if n := s.core.running(); n != nil {
		return n.store.snapshots.Damaged()
	}
	return nil
}

// afterScrub has what the scrub found put right, and looks whether it is, for as long as that changes something.
func (s *scrubber) afterScrub(ctx context.Context) {
	for logs := 0; ctx.Err() == nil; {
		last, n := s.last.Load(), s.core.current.Load()
		if last == nil || n == nil || last.node != n || last.report.Errors == 0 {
			return
		}
		before := s.healedSoFar()
		s.mend(ctx, n)
		if logs++; logs <= maxLogHeals {
			s.mendLog(ctx, n, last.report.Problems)
		}
		if s.healedSoFar() == before {
			return
		}
		if _, err := s.scrub(ctx, scrubRate); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("log and snapshots were not scrubbed again", zap.Error(err))
			}
			return
		}
	}
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
	n := s.core.running()
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
func (s *scrubber) healedFiles() (float64, bool) { return float64(s.healedSoFar()), true }

// apiScrub is scrub for the API: of this agent, or, by its own role, of another one.
func (a *Agent) apiScrub(ctx context.Context, node string, rate int64) (api.ScrubReport, error) {
	if node != "" && node != a.ids.Node {
		return a.scrubOf(ctx, node, rate)
	}
	report, err := a.scrubber.scrub(ctx, rate)
	if report.Errors > 0 {
		select {
		case a.scrubber.found <- struct{}{}: // it is put right after the answer
		default:
		}
	}
	out := scrubShape(report)
	out.Healed = a.scrubber.healedSoFar()
	return out, err
}

// healedSoFar counts what was put right since the start: files of snapshots, slots of the anchor, logs.
func (s *scrubber) healedSoFar() uint64 {
	return s.healed.Load() + s.core.repairs.Load()
}

// scrubOf asks another agent.
func (a *Agent) scrubOf(ctx context.Context, node string, rate int64) (out api.ScrubReport, err error) {
	if row, ok := a.hub.View().Node(node); !ok || row.Left {
		return out, api.Errorf(api.CodeNotFound, "there is no agent %q", node).WithHint("list the agents: parley members")
	}
	answer, err := a.call(ctx, node, methodScrub, binary.BigEndian.AppendUint64(nil, uint64(rate))) //nolint:gosec // not negative
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fmt.Errorf("the answer of %s: %w", node, err)
	}
	return out, nil
}

// serveScrub scrubs for another agent, if the cluster gave that one the role for it.
func (a *Agent) serveScrub(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	if !policy.Allowed(a.roleOf(peer.Node), policy.StorageScrub) {
		return nil, &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf("the agent %s may not have the files of others scrubbed", peer.Node)}
	}
	if len(body) != 8 || body[0] > 0x7f {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a scrub is asked for by a rate of 8 bytes"}
	}
	report, err := a.apiScrub(ctx, "", int64(binary.BigEndian.Uint64(body))) //nolint:gosec // checked
	if err != nil {
		return nil, toWire(err)
	}
	return json.Marshal(report)
}

func scrubShape(r storage.ScrubReport) api.ScrubReport {
	out := api.ScrubReport{Errors: r.Errors, Disagree: r.Disagree, Segments: r.Segments, Entries: r.Entries, Snapshots: r.Snapshots, Bytes: r.Bytes}
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
