package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The channels of callers are used again. One that gave up may be answered later, and a request may be answered twice by
// mistake: neither answer reaches somebody else.
func TestAnswersReachTheirOwnCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{done: make(chan struct{}), waits: newAppliedWaits(0)}
		inbox := make(chan *request, 2)
		late := errors.New("too late")
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			var caller sync.WaitGroup
			caller.Go(func() {
				var unknown *OutcomeUnknownError
				if o := n.ask(ctx, inbox, &asked{}); !errors.As(o.err, &unknown) {
					t.Errorf("a caller that gave up got %+v", o)
				}
			})
			gone := <-inbox
			gone.take()
			cancel()
			caller.Wait()
			gone.reply(outcome{err: late})
			for i := range uint64(2) {
				caller.Go(func() {
					if o := n.ask(t.Context(), inbox, &asked{request: request{target: i}}); o.index != i || o.err != nil {
						t.Errorf("asked for %d, got %+v", i, o)
					}
				})
			}
			var asked [2]*request
			for i := range asked {
				asked[i] = <-inbox
			}
			for _, r := range asked {
				r.reply(outcome{index: r.target})
				r.reply(outcome{err: late})
			}
			caller.Wait()
		}
	})
}

// told is what Begin has said, each time.
type told struct {
	mu   sync.Mutex
	done []Proposed
	errs []error
}

func (o *told) tell(p Proposed, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done, o.errs = append(o.done, p), append(o.errs, err)
}

// once returns what was said, which must be one thing.
func (o *told) once(t *testing.T) (Proposed, error) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.errs) != 1 {
		t.Fatalf("told %d times: %v", len(o.errs), o.errs)
	}
	return o.done[0], o.errs[0]
}

func (n *Node) withoutAnswer() (count int) {
	n.waits.mu.Lock()
	defer n.waits.mu.Unlock()
	for b := n.waits.mu.begun; b != nil; b = b.next {
		count++
	}
	return count
}

// What is begun is applied as what is proposed is, answered once, and kept no longer; to give it up afterwards changes nothing.
func TestBeginAnswersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		leader := m.leader()
		before := mustPropose(t, leader, "k=0")
		all := make([]told, 50)
		giveUps := make([]func(error), len(all))
		for i := range all {
			giveUps[i] = leader.Begin(fmt.Appendf(nil, "k%d=v", i), all[i].tell)
		}
		time.Sleep(time.Second)
		for i := range all {
			giveUps[i](context.Canceled)
			if p, err := all[i].once(t); err != nil || p.Index <= before.Index || p.Term != before.Term || len(p.Data) == 0 {
				t.Errorf("number %d: %+v, %v", i, p, err)
			}
		}
		if n := leader.withoutAnswer(); n != 0 {
			t.Errorf("%d are kept", n)
		}
		var notLeader *NotLeaderError
		var refused told
		for _, other := range m.nodes {
			if other != leader {
				other.Begin([]byte("k=1"), refused.tell)
				break
			}
		}
		time.Sleep(time.Second)
		if _, err := refused.once(t); !errors.As(err, &notLeader) {
			t.Errorf("a follower says %v", err)
		}
	})
}

// Who gives up before the loop has a command knows that nothing happened, and afterwards that something may have. An answer that
// comes then is told nobody.
func TestBegunIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{done: make(chan struct{}), waits: newAppliedWaits(0), proposals: make(chan *request, 3)}
		var early, late, waits, busy told
		n.Begin(nil, early.tell)(context.DeadlineExceeded)
		giveUp := n.Begin(nil, late.tell)
		n.Begin(nil, waits.tell)
		n.Begin(nil, busy.tell)
		if _, err := early.once(t); !errors.Is(err, ErrGivenUp) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up before: %v", err)
		}
		if r := <-n.proposals; r.take() {
			t.Error("the log takes what was given up")
		}
		if _, err := busy.once(t); !errors.Is(err, ErrBusy) {
			t.Errorf("without room: %v", err)
		}
		taken := <-n.proposals
		taken.take()
		giveUp(context.Canceled)
		taken.reply(outcome{done: Proposed{Index: 7}})
		var unknown *OutcomeUnknownError
		if _, err := late.once(t); !errors.As(err, &unknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("given up afterwards: %v", err)
		}
		if left := n.withoutAnswer(); left != 1 {
			t.Errorf("%d without an answer, want 1", left)
		}
	})
}

// A node that stops leaves nothing that was begun without an answer, before and afterwards.
func TestBegunEndsWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		leader := m.leader()
		m.mu.Lock()
		m.cut = map[uint64]bool{1: true, 2: true, 3: true}
		m.mu.Unlock()
		for _, s := range m.nodes {
			if s != leader {
				s.cancel() // nobody is left to commit
			}
		}
		synctest.Wait()
		var before, after told
		leader.Begin([]byte("k=v"), before.tell)
		synctest.Wait()
		if len(before.errs) != 0 {
			t.Fatalf("answered without a majority: %v", before.errs)
		}
		if err := leader.stop(); err != nil {
			t.Error(err)
		}
		if _, err := before.once(t); err == nil {
			t.Error("it was done without a majority")
		}
		leader.Begin([]byte("k=v"), after.tell)
		if _, err := after.once(t); !errors.Is(err, ErrStopped) {
			t.Errorf("begun after the end: %v", err)
		}
	})
}
