package consensus

import (
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// refusalPause is the number of ticks between two log lines about refused peer messages: a hostile
// peer must not fill the disk.
const refusalPause = 20

// refusals logs refused messages, counting those in between. Owned by one goroutine.
type refusals struct {
	next  uint64 // tick of the next line
	count int
}

func (r *refusals) log(log *zap.Logger, tick uint64, m *raftpb.Message, err error) {
	r.count++
	if tick < r.next {
		return
	}
	log.Warn("peer message refused", zap.Uint64("peer", m.GetFrom()), zap.Error(err), zap.Int("count", r.count))
	r.next, r.count = tick+refusalPause, 0
}
