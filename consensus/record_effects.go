package consensus

import (
	"go.etcd.io/raft/v3/raftpb"
)

// sum is a hash of effects, the same in every process. What is in commands does not count, nor what the owner gets to know
// only afterwards.
type sum uint64

func (s *sum) add(values ...uint64) {
	for _, v := range values {
		h := (uint64(*s) ^ v) * 0x9e3779b97f4a7c15
		*s = sum(h ^ h>>29)
	}
}

func (s *sum) bytes(b []byte) {
	s.add(uint64(len(b)))
	for _, c := range b {
		*s = (*s ^ sum(c)) * 0x100000001b3
	}
}

func (s *sum) text(t string) {
	s.add(uint64(len(t)))
	for i := range len(t) {
		*s = (*s ^ sum(t[i])) * 0x100000001b3
	}
}

func (s *sum) flag(b bool) {
	if b {
		s.add(3)
	} else {
		s.add(5)
	}
}

func (s *sum) error(err error) {
	s.flag(err != nil)
	if err != nil {
		s.text(err.Error())
	}
}

func (s *sum) entries(list []*raftpb.Entry) {
	s.add(uint64(len(list)))
	for _, e := range list {
		s.add(e.GetIndex(), e.GetTerm(), uint64(e.GetType()), uint64(len(e.GetData()))) //nolint:gosec // not negative
		if dataKind(e) == dataWhole {
			s.bytes(e.GetData())
		}
	}
}

func (s *sum) messages(list []*raftpb.Message) {
	s.add(uint64(len(list)))
	for _, m := range list {
		s.add(uint64(m.GetType()), m.GetTo(), m.GetFrom(), m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(), m.GetVote(), //nolint:gosec // not negative
			m.GetRejectHint(), m.GetSnapshot().GetMetadata().GetIndex())
		s.flag(m.GetReject())
		s.bytes(m.GetContext())
		s.entries(m.GetEntries())
	}
}

func (s *sum) hard(h *raftpb.HardState) {
	s.flag(h != nil)
	s.add(h.GetTerm(), h.GetVote(), h.GetCommit())
}

func (s *sum) ref(r *SnapshotRef) {
	s.flag(r != nil)
	if r != nil {
		s.add(r.Index, r.Term)
	}
}

// sumEffects hashes what a turn asked for; 0 if that is nothing.
func sumEffects(e *effects) uint64 {
	if e.nothing() {
		return 0
	}
	s := sum(1)
	for _, t := range e.appends {
		s.entries(t.entries)
		s.hard(t.hard)
		s.ref(t.snapshot)
		s.messages(t.local)
		s.messages(t.remote)
		s.flag(t.sync)
	}
	for _, t := range e.applies {
		s.task(t)
	}
	s.messages(e.messages)
	for _, a := range e.answers {
		s.add(a.to.serial, a.index, a.done.Index, a.done.Term, uint64(a.done.Stamp))
		s.error(a.err)
	}
	s.lists(e)
	s.flag(e.routes)
	s.flag(e.settled)
	s.flag(e.changed)
	s.add(e.compact)
	return max(1, uint64(s))
}

func (e *effects) nothing() bool {
	return len(e.appends)+len(e.applies)+len(e.messages)+len(e.answers)+len(e.installs)+len(e.saves)+len(e.reports)+len(e.notes)+
		len(e.resumes)+len(e.holds)+len(e.passes)+len(e.violations) == 0 && !e.routes && !e.settled && !e.changed && e.compact == 0
}

func (s *sum) task(t *applyTask) {
	s.entries(t.entries)
	s.ref(t.restore)
	s.add(t.index, t.term)
	s.flag(t.capture)
	s.flag(t.proof)
	for i := range t.entries {
		for _, place := range t.skip(i) {
			s.add(uint64(place)) //nolint:gosec // a place
		}
		if b := t.batches[i]; b != nil {
			s.add(b.index, uint64(len(b.requests)))
		}
	}
}

// lists are the effects that are rare.
func (s *sum) lists(e *effects) {
	for _, t := range e.installs {
		s.add(t.from)
		s.ref(&t.ref)
	}
	for _, t := range e.saves {
		s.ref(&t.ref)
	}
	for _, r := range e.reports {
		s.add(r.to, r.index)
		s.flag(r.ok)
	}
	for _, n := range e.notes {
		s.add(n.peer, uint64(n.kind))
		s.bytes(n.body)
	}
	for _, r := range e.resumes {
		s.add(r.index, uint64(len(r.skip)))
	}
	for _, h := range e.holds {
		s.add(h.index, h.term)
	}
	for _, p := range e.passes {
		s.add(p.origin, p.final, p.life, p.finalLife, p.seq, uint64(len(p.raw)))
	}
	for _, v := range e.violations {
		s.text(v.Invariant)
		s.text(v.Detail)
		s.add(v.Count)
	}
}
