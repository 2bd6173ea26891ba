//go:build mutants

package watch

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
	"github.com/parley-mesh/parley/state"
)

// TestMutantWatchDropsEvent: what follows a revision is all there, unless the mistake is planted.
func TestMutantWatchDropsEvent(t *testing.T) {
	var entries []entry
	for revision := uint64(1); revision <= 20; revision++ {
		c := state.Change{Class: state.ClassKV, Table: state.TableKV, Key: "k", Row: []byte{1}, Revision: revision}
		entries = append(entries, entry{changes: []state.Change{c}})
	}
	count := func() int { return len(filter(entries, 5, state.NewClassSet(state.ClassKV))) }
	if got := count(); got != 15 {
		t.Fatalf("without the mistake: %d changes", got)
	}
	mutant.Plant(mutant.WatchDropsEvent)
	defer mutant.Plant("")
	if count() == 15 {
		t.Error("it is not found")
	}
}
