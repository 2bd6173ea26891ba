package agent

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
)

// errEpochPassed ends a node whose cluster has gone on in a new epoch without it.
var errEpochPassed = errors.New("the cluster has begun a new epoch without this member")

// overtaken reports whether the Raft id of this directory is of an epoch that has passed.
func (c *coreRunner) overtaken() bool {
	return c.ids.RaftID != 0 && c.epochs.passed(c.ids.raftEpoch())
}

// leaveEpoch gives up a Raft id whose epoch has passed. Nothing runs under it any more. Its log may hold what the
// cluster has lost, so it is kept aside, for people, and nothing removes it. The steps are such that a crash between any
// two is repaired by the next start, which finds the proven epoch and does them again: first the proof is on disk, then
// the log moves, and cluster.toml forgets the id last. After that the directory is one of an agent outside the core.
func (c *coreRunner) leaveEpoch() error {
	raftID, old := c.ids.RaftID, c.ids.raftEpoch()
	aside := c.dir.join(fmt.Sprintf("before-epoch-%d-%x", old.Counter+1, raftID))
	c.views.toStream()
	ids := c.ids
	ids.RaftID, ids.RaftEpoch, ids.PastRaftID = 0, "", max(ids.PastRaftID, raftID)
	steps := append([]func() error{c.epochs.persist}, c.dir.keepLog(aside)...)
	steps = append(steps, func() error { return c.dir.writeCluster(ids) })
	for _, step := range steps {
		if c.beforeStep != nil {
			if err := c.beforeStep(); err != nil {
				return err
			}
		}
		if err := step(); err != nil {
			return withHint(fmt.Errorf("keep the log of epoch %d in %s: %w", old.Counter, aside, err),
				"the cluster goes on without this agent; put right what the error says and start it again")
		}
	}
	c.ids, c.damage, c.lost, c.booted = ids, nil, nil, nil
	c.room.has(false)
	c.endFencing()
	c.log.Warn("the log of an epoch that has passed is kept aside, and this agent follows the new core", zap.Uint64("raft_id", raftID), zap.String("path", aside))
	c.leftEpoch = fmt.Sprintf("the cluster was recovered without this member: its log of epoch %d, under Raft id %x, is in %s", old.Counter, raftID, aside)
	return nil
}

// tellLeft reports, once the timeline is there, that an epoch was left.
func (c *coreRunner) tellLeft() {
	if c.leftEpoch != "" {
		c.report(api.EventEpoch, c.self, truncate(c.leftEpoch))
		c.leftEpoch = ""
	}
}
