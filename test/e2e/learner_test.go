package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// largeValue is the size of the values that a large state is made of here.
const largeValue = 4096

// fillState writes so many MiB that hardly compress.
func fillState(t *testing.T, c *client.Client, mib int) {
	t.Helper()
	const batch = 128
	for from := 0; from < mib<<20/largeValue; from += batch {
		txn := client.Txn{Then: make([]client.Op, batch)}
		for i := range txn.Then {
			value := make([]byte, largeValue)
			for at := 0; at < largeValue; at += 8 {
				binary.BigEndian.PutUint64(value[at:], uint64((from+i)*largeValue+at)*0x9e3779b97f4a7c15)
			}
			txn.Then[i] = client.Op{Op: "put", Key: fmt.Sprintf("large/%07d", from+i), Value: value}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		answer, err := c.Txn(ctx, txn)
		cancel()
		if err != nil || !answer.Succeeded {
			t.Fatalf("fill: %v", err)
		}
	}
}

// TestLearnerCatchesUpUnderLoad: with a state of 100 MiB, or what PARLEY_TEST_STATE_MIB says, and writes that go on, a host
// without a log takes the place of a voter that died: it fetches a snapshot, catches up with what is written meanwhile, and
// votes. No acknowledged write is lost, and writes are acknowledged all the while. The control is the same host before.
func TestLearnerCatchesUpUnderLoad(t *testing.T) {
	mib := 100
	if raw := os.Getenv("PARLEY_TEST_STATE_MIB"); raw != "" {
		var err error
		if mib, err = strconv.Atoi(raw); err != nil {
			t.Fatalf("PARLEY_TEST_STATE_MIB=%q is no number of MiB", raw)
		}
	}
	l := startLab(t, lab.Options{Agents: 4, Core: true, ReplaceAfter: 3 * time.Second})
	clients := clientsOf(t, l)
	spare := agentInRole(t, clients, "none")
	lost := agentInRole(t, clients, "voter")
	fillState(t, clients[agentInRole(t, clients, "leader")], mib)
	votes := func(ctx context.Context) error {
		core, err := clients[spare].Core(ctx)
		if err == nil && !slices.ContainsFunc(core.Voters, func(m client.CoreMember) bool { return m.Name == spare && m.Healthy }) {
			err = fmt.Errorf("voters %+v, learners %+v", core.Voters, core.Learners)
		}
		return err
	}
	if votes(t.Context()) == nil {
		t.Fatalf("control: %s votes before anybody died", spare)
	}

	w := startWriters(t, l, 5*time.Millisecond)
	kill(t, l, lost)
	began := time.Now()
	before, _ := w.count()
	eventually(t, time.Minute+time.Duration(mib)*100*time.Millisecond, spare+" votes", votes)
	took := time.Since(began)
	acked, _ := w.count()
	t.Logf("%d MiB: %s votes %v after %s died, and %d writes were acknowledged meanwhile", mib, spare, took.Round(time.Millisecond), lost, acked-before)
	if acked == before {
		t.Error("no write was acknowledged meanwhile")
	}
	w.end()
	lostWrites, err := w.missing(t.Context(), clients[spare])
	if err != nil || len(lostWrites) > 0 {
		t.Errorf("%s lacks %d acknowledged writes: %v", spare, len(lostWrites), err)
	}
}
