//go:build mutants

package consensus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/mutant"
)

// saves keeps what recorders give away.
type saves struct {
	sync.Mutex
	reasons    []string
	recordings [][]byte
}

func (s *saves) save(reason string, recording []byte) {
	s.Lock()
	defer s.Unlock()
	s.reasons, s.recordings = append(s.reasons, reason), append(s.recordings, recording)
}

// loadUntil has eight clients write to three members, until a recorder gives something away or every client has made its writes.
func loadUntil(t *testing.T, writes int) (*saves, uint64) {
	found, violations := &saves{}, uint64(0)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		record := func(o *Options) {
			o.Record = RecordOptions{Bytes: 1 << 20, Build: "test", Save: found.save}
			o.MaxBatchCommands = 3 // many entries
			o.MaxInflightBatches = 4
		}
		for id := uint64(1); id <= 3; id++ {
			m.add(id, record, 1, 2, 3)
		}
		l := m.leader()
		var clients sync.WaitGroup
		for client := range 8 {
			clients.Go(func() {
				for i := range writes {
					found.Lock()
					done := len(found.reasons) > 0
					found.Unlock()
					if done {
						return
					}
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					_, _ = l.Propose(ctx, fmt.Appendf(nil, "secret%d=hunter2-%d", client, i))
					cancel()
				}
			})
		}
		clients.Wait()
		for _, n := range m.nodes {
			for _, v := range n.Status().Violations {
				violations += v.Count
			}
		}
		m.stopAll()
	})
	return found, violations
}

// TestMutantRareMisorder: a mistake that shows once in a while, under load, and never the same way twice, is caught by an
// invariant, and what led to it is on record: it replays a hundred times of a hundred, to the same event.
func TestMutantRareMisorder(t *testing.T) {
	if found, violations := loadUntil(t, 200); len(found.reasons) != 0 || violations != 0 {
		t.Fatalf("control: %v, %d violations", found.reasons, violations)
	}
	mutant.Plant(mutant.RareMisorder)
	defer mutant.Plant("")
	found, violations := loadUntil(t, 20_000)
	if violations == 0 {
		t.Fatal("rare-misorder is not found")
	}
	caught := 0
	for i, reason := range found.reasons {
		if reason != "invariant "+InvariantApplyInOrder {
			continue
		}
		caught++
		var first Replayed
		for n := range 100 {
			got, err := Replay(found.recordings[i], "test")
			if err != nil || got.Differs() != nil || got.Violations == 0 || got.First.Invariant != InvariantApplyInOrder {
				t.Fatalf("replay %d: %+v, %v, %v", n, got, err, got.Differs())
			}
			if n > 0 && (*got.First != *first.First || got.Events != first.Events || got.Violations != first.Violations) {
				t.Fatalf("replay %d: %+v, then %+v", n, *first.First, *got.First)
			}
			first = got
		}
		t.Logf("%d events, %d turns, %d violations, first: %+v", first.Events, first.Turns, first.Violations, *first.First)
	}
	if caught == 0 {
		t.Errorf("nothing was recorded: %v", found.reasons)
	}
	// Without the mistake the same events bring no violation: the program differs from the one that was recorded.
	mutant.Plant("")
	if got, err := Replay(found.recordings[0], "test"); err != nil || got.Violations != 0 || got.Differs() == nil {
		t.Errorf("with the plant off: %+v, %v", got, err)
	}
}
