package agent

import (
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
)

// Without a leader the margin is below 0, however many voters are healthy. Before, a script that waited for a margin
// of 1 went on while nobody could write.
func TestMarginWithoutLeader(t *testing.T) {
	view, alive := testMachine().View(), map[string]bool{"a1": true}
	for _, test := range []struct {
		leader uint64
		alive  map[string]bool
		want   int
	}{
		{1, alive, 0}, {0, alive, -1}, {0, nil, -1},
	} {
		got := coreStatusOf(consensus.Status{ID: 1, Leader: test.leader, Voters: []uint64{1}}, view, test.alive)
		if got.Margin != test.want || (got.Leader == nil) != (test.leader == 0) {
			t.Errorf("leader %d, alive %v: got margin %d, leader %v, want %d", test.leader, test.alive, got.Margin, got.Leader, test.want)
		}
	}
	now, leader := time.Unix(1, 0), "a1"
	r := remoteCore{now: func() time.Time { return now }}
	if got := r.get(); got.Margin != -1 || got.Leader != nil {
		t.Errorf("nothing was heard of the core: margin %d, leader %v", got.Margin, got.Leader)
	}
	r.last.Store(&remoteAnswer{status: api.CoreStatus{Leader: &leader, Margin: 1}, at: now})
	if got := r.get(); got.Margin != 1 || got.Leader == nil {
		t.Errorf("control: margin %d, leader %v", got.Margin, got.Leader)
	}
	now = now.Add(remoteCoreStale + 1)
	if got := r.get(); got.Margin != -1 || got.Leader != nil {
		t.Errorf("the last word is old: margin %d, leader %v", got.Margin, got.Leader)
	}
}
