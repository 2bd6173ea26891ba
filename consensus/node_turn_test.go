package consensus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// resting waits until the loop of every node sleeps and its core is at rest.
func (m *mesh) resting(t *testing.T) {
	t.Helper()
	for range 200 {
		time.Sleep(10 * time.Millisecond) // virtual
		synctest.Wait()
		rests := true
		for _, s := range m.nodes {
			s.turns.Lock()
			rests = rests && s.core.calm()
			s.turns.Unlock()
		}
		if rests {
			return
		}
	}
	t.Fatal("no rest in 2 s")
}

// silent is for how many ticks a node's raft has not heard its leader.
func (s *shell) silent() int {
	s.turns.Lock()
	defer s.turns.Unlock()
	return s.core.lease.silent
}

// beatOf is what the leader's next heartbeat to a node says.
func (m *mesh) beatOf(l *shell, to uint64) inbound {
	st := l.Status()
	return inbound{messages: []*raftpb.Message{{Type: raftpb.MsgHeartbeat.Enum(), From: new(l.id), To: new(to), Term: new(st.Term), Commit: new(uint64(0))}}}
}

// A frame that comes to a core at rest is handled by the goroutine that has read it, before it reads on; in every other case
// it is for the loop, and nothing of it was handled.
func TestReaderTakesTheTurnAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		l := m.leader()
		f := m.nodes[l.id%3+1]
		m.resting(t)
		for f.silent() == 0 { // not just now: the ticks of a follower pass when something wakes it
			time.Sleep(10 * time.Millisecond)
			f.turns.Lock()
			f.wake(f.turns.sleep, false)
			f.turns.sleep.set()
			f.turns.Unlock()
		}
		refused := func(why string) {
			t.Helper()
			if before := f.silent(); f.takeTurn(m.beatOf(l, f.id)) || f.silent() != before {
				t.Errorf("%s, and a reader took the turn", why)
			}
		}
		f.turns.Lock()
		if f.takeTurn(m.beatOf(l, f.id)) {
			t.Error("the loop had the turn, and a reader took it")
		}
		f.turns.Unlock()
		f.turns.queued.Add(1)
		refused("a frame before was on its way to the loop")
		f.turns.queued.Add(-1)
		f.turns.Lock()
		f.core.reads.waiting = []*request{{reply: func(outcome) {}}}
		f.turns.Unlock()
		refused("a read waited")
		f.turns.Lock()
		f.core.reads.waiting = nil
		f.turns.Unlock()
		if !f.takeTurn(m.beatOf(l, f.id)) || f.silent() != 0 {
			t.Errorf("at rest, and the heartbeat was not handled: silent for %d ticks", f.silent())
		}
		mustPropose(t, l, "k=v") // and all goes on
		if err := f.stop(); err != nil {
			t.Error(err)
		}
		refused("the loop had ended")
	})
}

// A core that panics in a reader's turn ends the node as one that panics in the loop.
func TestReaderTurnPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		l := m.leader()
		f := m.nodes[l.id%3+1]
		m.resting(t)
		f.turns.Lock()
		f.core.rn = nil
		f.turns.Unlock()
		if !f.takeTurn(m.beatOf(l, f.id)) {
			t.Fatal("the turn was not taken")
		}
		var p *PanicError
		if err := <-f.ended; !errors.As(err, &p) {
			t.Errorf("Run returned %v", err)
		}
		f.ended <- nil // for who stops it
		if f.takeTurn(m.beatOf(l, f.id)) {
			t.Error("a reader takes turns of a core that is broken")
		}
	})
}
