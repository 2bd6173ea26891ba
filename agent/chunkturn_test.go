package agent

import (
	"testing"
	"time"
)

// TestChunkTurns: one peer at a time fetches a snapshot; another has its turn once the first is silent for a while, and the
// first cannot take it back before the other is.
func TestChunkTurns(t *testing.T) {
	now := time.Duration(0)
	c := &chunkTurns{now: func() time.Duration { return now }}
	for _, step := range []struct {
		after time.Duration
		peer  string
		taken bool
	}{
		{0, "a2", true}, {0, "a3", false}, {chunkTurn - 1, "a2", true}, {chunkTurn - 1, "a3", false}, {1, "a3", true},
		{0, "a2", false}, {chunkTurn - 1, "a2", false}, {1, "a2", true}, {0, "a3", false}, {10 * chunkTurn, "a3", true},
	} {
		now += step.after
		if got := c.take(step.peer); got != step.taken {
			t.Errorf("at %s: %s has its turn: %v", now, step.peer, got)
		}
	}
}
