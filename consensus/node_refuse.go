package consensus

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// refusalPause is the time between two log lines about refused peer messages: a hostile peer must
// not fill the disk.
const refusalPause = time.Second

// refusals logs refused messages, counting those in between. Owned by one goroutine.
type refusals struct {
	last  time.Time
	count int
}

func (r *refusals) log(log *zap.Logger, m *raftpb.Message, err error) {
	r.count++
	now := time.Now() // paces log lines only
	if now.Sub(r.last) < refusalPause {
		return
	}
	log.Warn("peer message refused", zap.Uint64("peer", m.GetFrom()), zap.Error(err), zap.Int("count", r.count))
	r.last, r.count = now, 0
}
