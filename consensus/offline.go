package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/parley-mesh/parley/clock"
)

// History is what the disk of a stopped member holds, all of it: the entries of which it cannot know whether they
// were committed as well.
type History struct {
	Snapshot            *SnapshotRef    // nil if there is none
	Entries             []*raftpb.Entry // those behind the snapshot
	LastTerm, LastIndex uint64          // of the last entry, or of the snapshot
	Commit              uint64          // the member knows that all up to it were committed
	Voters              []uint64        // after the last entry
}

// Offline reads what OpenLog and the newest snapshot hold as a start of the member would, and starts nothing.
func Offline(r Recovered) (History, error) {
	log, _, err := recoverLog(r)
	if err != nil {
		return History{}, err
	}
	h := History{LastIndex: log.last(), Commit: max(log.hard.GetCommit(), log.snap.Index)}
	if h.LastTerm, err = log.Term(h.LastIndex); err != nil {
		return History{}, fmt.Errorf("term of the last entry %d: %w", h.LastIndex, err)
	}
	conf := &raftpb.ConfState{}
	if log.snap.Index > 0 {
		h.Snapshot, conf = r.Snapshot, log.snap.ConfState
	}
	if h.LastIndex > log.snap.Index {
		h.Entries = log.entries[log.snap.Index-log.offset:]
	}
	h.Voters, err = votersAfter(conf, h.Entries)
	return h, err
}

// votersAfter applies the changes of the core in entries to conf.
func votersAfter(conf *raftpb.ConfState, entries []*raftpb.Entry) ([]uint64, error) {
	trk := tracker.MakeProgressTracker(maxInflightMsgs, maxInflightBytes)
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: trk}, conf)
	if err != nil {
		return nil, fmt.Errorf("configuration %v: %w", conf, err)
	}
	for _, e := range entries {
		cc, ok, err := decodeConfChange(e)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		trk.Config, trk.Progress = cfg, progress
		changer := confchange.Changer{Tracker: trk, LastIndex: e.GetIndex()}
		switch auto, joint := cc.EnterJoint(); {
		case cc.LeaveJoint():
			cfg, progress, err = changer.LeaveJoint()
		case joint:
			cfg, progress, err = changer.EnterJoint(auto, cc.GetChanges()...)
		default:
			cfg, progress, err = changer.Simple(cc.GetChanges()...)
		}
		if err != nil {
			return nil, fmt.Errorf("change of the core in entry %d: %w", e.GetIndex(), err)
		}
	}
	return cfg.Voters[0].Slice(), nil
}

// Commands returns what an entry asks of the state machine: nothing, for an entry of the core's own.
func Commands(e *raftpb.Entry) (clock.Stamp, [][]byte, error) {
	if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 || isCheckpoint(e) {
		return 0, nil, nil
	}
	stamp, commands, err := decodeBatch(e.GetData())
	if err != nil {
		return 0, nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
	}
	return stamp, commands, nil
}
