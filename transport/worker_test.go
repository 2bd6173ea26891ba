package transport

import (
	"testing"
	"testing/synctest"
	"time"
)

// The worker that was busy last is taken first; one that nobody needed for a while is dismissed, and when none is left nobody
// looks any more. Those that are needed stay.
func TestWorkersAreDismissedWhenNobodyNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workers{}
		needed, spare := &worker{jobs: make(chan job, 1)}, &worker{jobs: make(chan job, 1)}
		w.rest(spare)
		w.rest(needed)
		for range 40 { // four seconds
			if got := w.take(); got != needed {
				t.Fatalf("took %p, want the one that was busy last, %p", got, needed)
			}
			w.rest(needed)
			time.Sleep(idleWorker / 10)
		}
		if !isClosed(spare.jobs) || isClosed(needed.jobs) {
			t.Errorf("dismissed: the spare one %v, the one that is needed %v", isClosed(spare.jobs), isClosed(needed.jobs))
		}
		time.Sleep(3 * idleWorker)
		if !isClosed(needed.jobs) || w.take() != nil || w.mu.look != nil {
			t.Errorf("dismissed at rest: %v, look %v", isClosed(needed.jobs), w.mu.look)
		}
	})
}

// When its connection ends no worker stays, neither one that is idle nor one that comes back later.
func TestWorkersEndWithTheConnection(t *testing.T) {
	w := &workers{}
	idle, busy := &worker{jobs: make(chan job, 1)}, &worker{jobs: make(chan job, 1)}
	w.rest(idle)
	w.end()
	if !isClosed(idle.jobs) || w.rest(busy) {
		t.Errorf("idle one dismissed: %v, busy one kept: %v", isClosed(idle.jobs), w.rest(busy))
	}
}

func isClosed(jobs chan job) bool {
	select {
	case _, open := <-jobs:
		return !open
	default:
		return false
	}
}
