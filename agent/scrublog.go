package agent

import (
	"context"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/storage"
)

// maxLogHeals is how often the log is written anew after one scrub: a disk that damages it again and again is for people.
const maxLogHeals = 2

// mendLog has a damaged log written anew, and a damaged slot of the anchor. It returns when
// the node runs again.
func (s *scrubber) mendLog(ctx context.Context, n *coreNode, problems []storage.ScrubProblem) {
	at := slices.IndexFunc(problems, func(p storage.ScrubProblem) bool { return filepath.Dir(p.File) == s.dir.join(walDir) })
	if at < 0 {
		if !slices.ContainsFunc(problems, func(p storage.ScrubProblem) bool { return p.File == s.dir.join("anchor") }) {
			return
		}
		if err := n.store.log.RewriteAnchor(); err != nil {
			s.log.Error("the damaged anchor was not written again", zap.Error(err))
			return
		}
		s.healed.Add(1)
		s.report(api.EventDamage, s.core.self, "a slot of the log's anchor was damaged")
		s.report(api.EventHealed, s.core.self, "the log's anchor was written again")
		return
	}
	if err := s.core.healRunning(ctx, n, problems[at]); err != nil {
		s.log.Error("the damaged log was not healed", zap.Error(err))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mendWait)
	defer cancel()
	for now := s.core.current.Load(); now == nil || now == n; now = s.core.current.Load() {
		if pause(ctx, mendLook); ctx.Err() != nil {
			return
		}
	}
}
