package consensus

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// The library trusts its peers: it panics on a heartbeat response with a short or invented mark, a
// read index without entries, an empty proposal, a garbage change of the core, a commit beyond the
// log and entries with gaps, and it takes a storage response from the network. A peer has a
// certificate, but a certificate must not be enough to stop the others. So every message passes two
// checks: checkMessage, which needs nothing but the message and runs where the connection is read,
// and admit, which needs our state and runs in the loop. That the sender is who the message says
// is checked by the shell, which knows the certificate.

// checkMessage reports what is wrong with a message for self whatever the state of the log.
func checkMessage(self uint64, m *raftpb.Message) error {
	if m.GetTo() != self {
		return fmt.Errorf("message for %x, this is %x", m.GetTo(), self)
	}
	if f := m.GetFrom(); f == raft.None || f == self || raft.IsLocalMsgTarget(f) {
		return fmt.Errorf("message from %x", f)
	}
	if m.GetTerm() == 0 || m.GetVote() != 0 || len(m.GetResponses()) != 0 {
		return fmt.Errorf("%v with local fields", m.GetType())
	}
	if m.GetIndex() > 1<<62 || m.GetTerm() > 1<<62 {
		return fmt.Errorf("%v at index %d and term %d", m.GetType(), m.GetIndex(), m.GetTerm())
	}
	if len(m.GetEntries()) > 0 && m.GetType() != raftpb.MsgApp {
		return fmt.Errorf("%v with %d entries", m.GetType(), len(m.GetEntries()))
	}
	if !raft.IsEmptySnap(m.GetSnapshot()) && m.GetType() != raftpb.MsgSnap {
		return fmt.Errorf("%v with a snapshot", m.GetType())
	}
	return checkByType(m)
}

func checkByType(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n != readRoundContextLen {
			return fmt.Errorf("%v with a context of %d bytes", m.GetType(), n)
		}
		return nil
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if s := m.GetContext(); len(s) != 0 && string(s) != transferContext {
			return fmt.Errorf("%v with a context of %d bytes", m.GetType(), len(s))
		}
		return nil
	}
	if len(m.GetContext()) != 0 {
		return fmt.Errorf("%v with a context", m.GetType())
	}
	switch m.GetType() {
	case raftpb.MsgApp:
		return checkEntries(m)
	case raftpb.MsgSnap:
		return checkSnapshot(m)
	case raftpb.MsgAppResp:
		if m.GetReject() && m.GetRejectHint() > m.GetIndex() {
			return fmt.Errorf("append rejected at %d with hint %d", m.GetIndex(), m.GetRejectHint())
		}
		return nil
	case raftpb.MsgVoteResp, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return nil
	}
	// Reads and proposals of others come by rpc to their leader; all else is a node's own business.
	return fmt.Errorf("%v is not taken from peers", m.GetType())
}

// checkEntries wants consecutive entries behind Index, terms that never fall and never pass the
// message's, and changes of the core that decode.
func checkEntries(m *raftpb.Message) error {
	if len(m.GetEntries()) > maxMessageEntries {
		return fmt.Errorf("append of %d entries", len(m.GetEntries()))
	}
	if m.GetLogTerm() > m.GetTerm() {
		return fmt.Errorf("append of term %d behind term %d", m.GetTerm(), m.GetLogTerm())
	}
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		index++
		if e.GetIndex() != index {
			return fmt.Errorf("entry %d where %d belongs", e.GetIndex(), index)
		}
		if e.GetTerm() < max(term, 1) || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("entry %d of term %d after term %d in a message of term %d", index, e.GetTerm(), term, m.GetTerm())
		}
		term = e.GetTerm()
		if err := checkEntry(e); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
	}
	return nil
}

func checkEntry(e *raftpb.Entry) error {
	if e.GetType() == raftpb.EntryNormal {
		if len(e.GetData()) > maxBatchBytes {
			return fmt.Errorf("%d bytes", len(e.GetData()))
		}
		return nil
	}
	_, ok, err := decodeConfChange(e)
	if !ok {
		return fmt.Errorf("unknown type %d", e.GetType())
	}
	return err
}

func checkSnapshot(m *raftpb.Message) error {
	s := m.GetSnapshot()
	meta := s.GetMetadata()
	if meta.GetIndex() == 0 || meta.GetIndex() > 1<<62 || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm() {
		return fmt.Errorf("snapshot at index %d, term %d in a message of term %d", meta.GetIndex(), meta.GetTerm(), m.GetTerm())
	}
	if len(s.GetData()) > maxManifestBytes {
		return fmt.Errorf("snapshot manifest of %d bytes", len(s.GetData()))
	}
	return checkConfState(meta.GetConfState())
}

// checkConfState refuses a configuration that raft would panic on: it must survive being restored.
func checkConfState(cs *raftpb.ConfState) (err error) {
	if len(cs.GetVoters()) == 0 {
		return errors.New("configuration without voters")
	}
	for _, ids := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		for _, id := range ids {
			if id == raft.None || raft.IsLocalMsgTarget(id) {
				return fmt.Errorf("configuration with reserved id %d", id)
			}
		}
	}
	trk := tracker.MakeProgressTracker(1, 1)
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: trk, LastIndex: 1}, cs)
	if err != nil {
		return fmt.Errorf("configuration %v: %w", cs, err)
	}
	trk.Config, trk.Progress = cfg, progress
	if err := cs.Equivalent(trk.ConfState()); err != nil {
		return fmt.Errorf("configuration is inconsistent: %w", err)
	}
	return nil
}

// admit reports what is wrong with a checked message given what we hold. A message of an older
// term is left to raft, which ignores it or answers with the present term.
func (c *core) admit(m *raftpb.Message) error {
	if m.GetTerm() < c.term {
		return nil
	}
	if m.GetTerm()-c.term > maxTermJump {
		return fmt.Errorf("%v of term %d while ours is %d", m.GetType(), m.GetTerm(), c.term)
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		if m.GetCommit() > c.log.last() {
			return fmt.Errorf("heartbeat commits %d but the log ends at %d; if this node lost its log, rejoin it under a new id",
				m.GetCommit(), c.log.last())
		}
	case raftpb.MsgHeartbeatResp:
		if ctx := m.GetContext(); c.ours(m) && len(ctx) > 0 && readPosition(ctx) > c.issued {
			return fmt.Errorf("heartbeat response for read %d of %d", readPosition(ctx), c.issued)
		}
	case raftpb.MsgAppResp:
		if c.ours(m) && m.GetIndex() > c.log.last() {
			return fmt.Errorf("append acknowledged at %d but the log ends at %d", m.GetIndex(), c.log.last())
		}
	case raftpb.MsgTimeoutNow:
		if m.GetTerm() == c.term && m.GetFrom() != c.leader {
			return fmt.Errorf("told to take over by %x while %x leads", m.GetFrom(), c.leader)
		}
	case raftpb.MsgApp, raftpb.MsgSnap:
		if m.GetTerm() == c.term && c.leads() {
			return fmt.Errorf("%v from a second leader of term %d", m.GetType(), c.term)
		}
	}
	return nil
}

// ours reports whether the message answers the leadership that we hold.
func (c *core) ours(m *raftpb.Message) bool { return c.leads() && m.GetTerm() == c.term }
