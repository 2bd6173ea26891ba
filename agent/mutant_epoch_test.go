//go:build mutants

package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/mutant"
)

// A connection with a peer of an old epoch is refused, and the peer sent the proof, unless a mistake is planted.
func TestGreetingMutant(t *testing.T) {
	w := makeEpochs(t)
	holds := func() bool {
		old := epochsOf(t, w.first)
		_, byNewer, _ := meet(t, epochsOf(t, w.second), old, false)
		return byNewer != nil && old.passed(w.first.Cluster().Epoch)
	}
	if !holds() {
		t.Fatal("it does not hold without the mistake")
	}
	mutant.Plant(mutant.AcceptOldEpoch)
	defer mutant.Plant("")
	if holds() {
		t.Errorf("%s is not found", mutant.AcceptOldEpoch)
	}
}

// Whole agents: what TestEpochFence wants does not happen with the mistake planted. The old pair goes on, and acknowledges
// writes beside the recovered member, for several times as long as it takes to leave.
func TestEpochFenceMutant(t *testing.T) {
	mutant.Plant(mutant.AcceptOldEpoch)
	defer mutant.Plant("")
	pair, recovered, _ := recoverBeside(t)
	within(t, "the recovered one serves", func(ctx context.Context) error {
		_, err := recovered.Put(ctx, "new", []byte("v"), client.PutOptions{})
		return err
	})
	end := time.Now().Add(6 * time.Second)
	for n := 0; time.Now().Before(end); n++ {
		if _, err := pair[0].Put(t.Context(), fmt.Sprintf("old/%d", n), []byte("v"), client.PutOptions{}); err != nil {
			t.Fatalf("the old pair acknowledges no more: %v", err)
		}
	}
	for _, r := range pair {
		if e := r.agent.epochs.current(); e.Counter != 1 {
			t.Errorf("%s has learned of epoch %s", r.name, e)
		}
	}
}
