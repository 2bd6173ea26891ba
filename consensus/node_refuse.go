package consensus

import (
	"sync"
	"time"

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
	r.line(log, tick, m.GetFrom(), err)
}

func (r *refusals) note(log *zap.Logger, tick uint64, n note, err error) {
	r.line(log, tick, n.peer, err)
}

func (r *refusals) line(log *zap.Logger, tick, peer uint64, err error) {
	r.count++
	if tick < r.next {
		return
	}
	log.Warn("peer message refused", zap.Uint64("peer", peer), zap.Error(err), zap.Int("count", r.count))
	r.next, r.count = tick+refusalPause, 0
}

// closingPause is between two log lines about connections that were ended for what a peer sent: it
// connects again within 50 ms, and would fill the disk.
const closingPause = time.Second

// closings logs why inbound connections ended, counting those in between.
type closings struct {
	mu struct {
		sync.Mutex // not held while logging
		next       time.Time
		count      int
	}
}

func (c *closings) log(log *zap.Logger, node string, err error) {
	c.mu.Lock()
	c.mu.count++
	now, count := time.Now(), c.mu.count
	due := !now.Before(c.mu.next)
	if due {
		c.mu.next, c.mu.count = now.Add(closingPause), 0
	}
	c.mu.Unlock()
	if due {
		log.Warn("raft connection closed", zap.String("node", node), zap.Error(err), zap.Int("count", count))
	}
}
