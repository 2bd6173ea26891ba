//go:build mutants

package state

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

// killed plants a mistake and wants holds to become false by it.
func killed(t *testing.T, name mutant.Name, holds func() bool) {
	t.Helper()
	if !holds() {
		t.Fatal("it does not hold without the mistake")
	}
	mutant.Plant(name)
	defer mutant.Plant("")
	if holds() {
		t.Errorf("%s is not found", name)
	}
}

// A retry is told the first answer, also after a snapshot, unless a mistake is planted.
func TestRequestMutants(t *testing.T) {
	holds := func() bool {
		m := testGenesis()
		request, c := id(m.View().Index(), 1), Put{Key: "k", Compare: ptr(0)}
		first := doOnce(t, m, request, c)
		do(t, m, Put{Key: "k", Value: []byte("in between")}, CodeOK)
		m = restored(t, m)
		digest := m.View().Digest()
		return reflect.DeepEqual(first, doOnce(t, m, request, c)) && m.View().Digest() == digest
	}
	killed(t, mutant.DedupLost, holds)
	killed(t, mutant.DedupWrongResult, holds)
	killed(t, mutant.SnapshotWithoutDedup, holds)
}

// A compare-and-set that lost, and the order of those who hold a lock.
func TestKeyMutants(t *testing.T) {
	killed(t, mutant.CASIgnored, func() bool {
		m := testGenesis()
		res, _ := apply(t, m, stampAt(1), Put{Key: "k"}, Put{Key: "k", Compare: ptr(0)})
		return res[1].Code == CodeConflict
	})
	killed(t, mutant.FencingNotMonotone, func() bool {
		m := testGenesis()
		var last uint64
		for i := range 3 {
			s := testSession(i + 1)
			s.LockDelay = 0
			do(t, m, SessionCreate{s}, CodeOK)
			token := do(t, m, Lock{Key: "k", Session: s.ID.String()}, CodeOK).Number()
			if token <= last {
				return false
			}
			last = token
			do(t, m, SessionDestroy{ID: s.ID, Reason: ReasonAsked}, CodeOK)
		}
		return true
	})
}

// Two states that differ in one row have different digests.
func TestDigestMutants(t *testing.T) {
	killed(t, mutant.DigestSkipsRow, func() bool {
		for i := range 20 {
			one, other := testGenesis(), testGenesis()
			do(t, one, Put{Key: fmt.Sprint(i), Value: []byte("a")}, CodeOK)
			do(t, other, Put{Key: fmt.Sprint(i), Value: []byte("b")}, CodeOK)
			if one.View().Digest() == other.View().Digest() {
				return false
			}
		}
		return true
	})
}
