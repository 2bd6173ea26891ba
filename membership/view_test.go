package membership

import (
	"testing"
	"time"
)

// NextChange wakes every reader at a change, and none when what gossip shows is the same.
func TestNextChangeWakesEveryReader(t *testing.T) {
	v := newView(time.Now)
	alive := []Member{{Name: "a1", State: StateAlive}}
	v.update(alive)
	first, second := v.nextChange(), v.nextChange()
	v.update(alive)
	if closed(first) || closed(second) {
		t.Error("woken without a change")
	}
	v.update([]Member{{Name: "a1", State: StateSuspect}})
	if !closed(first) || !closed(second) {
		t.Error("a change did not wake both readers")
	}
	if closed(v.nextChange()) {
		t.Error("the next channel is closed before the next change")
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
