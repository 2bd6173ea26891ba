package agent

import (
	"sync"
	"time"

	"github.com/parley-mesh/parley/membership"
)

// maxSeenStarts is how many starts of one member are remembered: far more than make an alert.
const maxSeenStarts = 16

// startTracker counts the starts of other agents by what gossip shows: the incarnation epoch in a member's
// signed record grows by one with each start, so this works when the agent itself does not live long enough
// to say anything. A host that takes the name of another begins anew: neither its count nor the starts of the other
// are its own. Its size is bounded by the number of members, and maxSeenStarts for each.
type startTracker struct {
	mu struct {
		sync.Mutex
		nodes map[string]seenStarts
	}
}

type seenStarts struct {
	host  membership.HostID
	epoch uint64
	at    []seenStart
}

// seenStart is the start that led to an epoch. At is the boottime of this host when it was seen.
type seenStart struct {
	epoch uint64
	at    time.Duration
}

// observe takes in what gossip holds at now. Members that gossip has forgotten are forgotten.
func (t *startTracker) observe(members []membership.Member, now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := make(map[string]seenStarts, len(members))
	for _, m := range members {
		was, known := t.mu.nodes[m.Name]
		if !known || was.host != m.Host {
			was = seenStarts{host: m.Host, epoch: m.Epoch} // what came before we looked is not known
		}
		nodes[m.Name] = was.next(m.Epoch, now)
	}
	t.mu.nodes = nodes
}

// next is s with the starts that lead to epoch: more than one, if they came faster than gossip. A lower epoch is
// that of a host which has lost its count.
func (s seenStarts) next(epoch uint64, now time.Duration) seenStarts {
	for ; s.epoch < epoch; s.epoch++ {
		if epoch-s.epoch > maxSeenStarts {
			s.epoch = epoch - maxSeenStarts
		}
		s.at = append(s.at, seenStart{s.epoch + 1, now})
	}
	s.epoch = epoch
	if extra := len(s.at) - maxSeenStarts; extra > 0 {
		s.at = append([]seenStart(nil), s.at[extra:]...)
	}
	return s
}

func (s seenStarts) within(now time.Duration) (n int) {
	for _, start := range s.at {
		if now-start.at < startsWindow {
			n++
		}
	}
	return n
}

// of counts the starts of one member that were seen in the last ten minutes.
func (t *startTracker) of(node string, now time.Duration) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.nodes[node].within(now)
}

// most is the largest count of any member.
func (t *startTracker) most(now time.Duration) (most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.mu.nodes {
		most = max(most, s.within(now))
	}
	return most
}

// recent are the epochs that began in the last ten minutes, by member; those without are left out.
func (t *startTracker) recent(now time.Duration) map[string][]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	recent := make(map[string][]uint64)
	for name, s := range t.mu.nodes {
		for _, start := range s.at {
			if now-start.at < startsWindow {
				recent[name] = append(recent[name], start.epoch)
			}
		}
	}
	return recent
}
