package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

var testTrust = spiffeid.RequireTrustDomainFromString("agent.test")

// TestProofs: a learner is asked until it has shown that it opens the root, then once a day. A no after a yes counts at
// once, and again only after a yes in between; silence counts as neither.
func TestProofs(t *testing.T) {
	no, silent := &transport.Error{Code: codeUnopened}, errors.New("no answer")
	p := proofs{of: map[uint64]proof{}}
	now := time.Hour
	for i, step := range []struct {
		err         error
		after       time.Duration
		fell, ready bool
		failing     int64
		wait        time.Duration
	}{
		{silent, 0, false, false, 0, 0},
		{no, 0, false, false, 0, 0},
		{nil, 0, false, true, 0, proveEvery},
		{silent, proveEvery, false, true, 0, proveRetry},
		{nil, proveRetry, false, true, 0, proveEvery},
		{no, proveEvery, true, false, 1, proveRetry},
		{errBadProof, proveRetry, false, false, 1, proveRetry},
		{silent, proveRetry, false, false, 1, proveRetry},
		{nil, proveRetry, false, true, 0, proveEvery},
		{errBadProof, proveEvery, true, false, 1, proveRetry},
	} {
		now += step.after
		if !p.due(7, now) {
			t.Errorf("step %d: it is not asked", i)
		}
		if fell := p.note(7, step.err, now); fell != step.fell || p.ready(7) != step.ready || p.failing.Load() != step.failing {
			t.Errorf("step %d: fell %v, ready %v, %d failing", i, fell, p.ready(7), p.failing.Load())
		}
		if wait := p.of[7].next - now; max(wait, 0) != step.wait {
			t.Errorf("step %d: asked again after %s, want %s", i, wait, step.wait)
		}
	}
	p.keep(func(id uint64) bool { return id != 7 })
	if len(p.of) != 0 || p.failing.Load() != 0 {
		t.Errorf("who left the core is remembered: %v", p.of)
	}
}

// TestLostSealKeyIsTold: a member that could open the root, and whose seal key is another one a day later, is told of at
// once. Before that, the control, all is well.
func TestLostSealKeyIsTold(t *testing.T) {
	dir := t.TempDir()
	g, err := security.InitIdentity(dir, testTrust, "a1", security.InitKeys{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := state.Genesis(state.GenesisOptions{
		ClusterID: g.ClusterID, TrustDomain: testTrust.Name(), EpochID: [16]byte{1}, At: 1 << 40,
		Node:   state.Node{Name: "a1", UID: g.Host.UID(), HostKey: g.Host.HostKey(), SealKey: g.Host.SealKey()},
		Bundle: state.Bundle{Sequence: 1, Roots: g.Roots}, Sealed: g.Sealed,
	})
	a := &Agent{hub: watch.NewHub(m.View()), host: g.Host, keys: fileKeys(t, g.Host), log: zap.NewNop(), ids: clusterIDs{ClusterID: g.ClusterID, Node: "a1"}}
	var told []string
	c := &controller{
		self: "a1", log: zap.NewNop(), issuer: newIssuer(a, testTrust), willing: map[string]willingness{}, proofs: proofs{of: map[uint64]proof{}},
		report: func(kind, subject, _ string) { told = append(told, kind+" "+subject) },
		call:   func(context.Context, string, string, []byte) ([]byte, error) { return nil, errors.New("nobody else") },
	}
	look := func() {
		c.hear(t.Context(), []consensus.PlanMember{{Node: "a1", RaftID: 1, Alive: true}}, consensus.Status{})
	}
	if look(); !c.proofs.ready(1) || len(told) != 0 {
		t.Fatalf("control: ready %v, told %v", c.proofs.ready(1), told)
	}
	if a.host, err = security.CreateHost(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	a.keys = fileKeys(t, a.host)
	if look(); len(told) != 0 {
		t.Errorf("it was asked before the day was over: %v", told)
	}
	c.proofs.of[1] = proof{proven: true} // a day later
	if look(); c.proofs.ready(1) || c.proofs.failing.Load() != 1 || len(told) != 1 || told[0] != api.EventUnopened+" a1" {
		t.Errorf("ready %v, failing %d, told %v", c.proofs.ready(1), c.proofs.failing.Load(), told)
	}
}

// fileKeys is the store of a host that has no TPM.
func fileKeys(t *testing.T, host *security.Host) *security.KeyStore {
	t.Helper()
	keys, err := security.NewKeyStore(t.TempDir(), host, security.KeyStoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
