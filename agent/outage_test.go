package agent

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/slo"
	"github.com/parley-mesh/parley/security"
)

// TestUsedLinks: every link of every chain counts once, the root that it leads to with it; what ends first is found
// wherever it is, and how fresh things are is judged by what this host renews alone.
func TestUsedLinks(t *testing.T) {
	td, now := spiffeid.RequireTrustDomainFromString("agent.test"), clock.System()
	gen, err := security.InitIdentity(t.TempDir(), td, "a1", security.InitKeys{}, now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := security.NewWorkloadKey()
	if err != nil {
		t.Fatal(err)
	}
	req, err := security.NewWorkloadRequest("a1", "web", key)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(der []byte) *x509.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	signed := func(ttl time.Duration) []*x509.Certificate {
		chain, err := gen.Authority.SignWorkload(req, "a1", spiffeid.RequireFromPath(td, "/svc/web"), ttl, now)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{parse(chain[0]), parse(chain[1])}
	}
	stranger, err := security.NewRoot(td, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := []*x509.Certificate{stranger.Cert, parse(gen.Roots[0])}
	long, short := usedChain{of: ofAgent, certs: signed(6 * time.Hour)}, usedChain{of: ofWorkload, hint: "h", certs: signed(time.Minute)}
	links := usedLinks([]usedChain{long, short}, roots, now)
	if len(links) != 4 { // two leaves, their issuer and its root, and not the stranger
		t.Fatalf("%d links: %+v", len(links), links)
	}
	first := firstToEnd(links)
	if first.Of != ofWorkload || first.Link != linkLeaf || first.Hint != "h" || first.SPIFFEID != "spiffe://agent.test/svc/web" {
		t.Errorf("first ends %+v", first)
	}
	if fresh := leastFresh(links); fresh < 0.97 {
		t.Errorf("new ones are %g fresh", fresh)
	}
	later := usedLinks([]usedChain{long, short}, roots, now.Add(45*time.Second))
	if fresh := leastFresh(later); fresh < 0.2 || fresh > 0.27 {
		t.Errorf("a minute's after 45 s is %g fresh", fresh)
	}
	// The issuer ends before the leaf: it is what ends first, and no reason to call the leaf old.
	old := usedLinks([]usedChain{long}, roots, gen.Authority.NotAfter().Add(-time.Hour))
	for i := range old {
		if old[i].Link == linkLeaf {
			old[i].NotAfter, old[i].Remaining = gen.Authority.NotAfter().Add(time.Hour), 0.9
		}
	}
	if first := firstToEnd(old); first.Link != linkIssuer || leastFresh(old) != 0.9 {
		t.Errorf("first ends %+v, %g fresh", first, leastFresh(old))
	}
	own := usedLinks([]usedChain{{of: ofCore, certs: []*x509.Certificate{gen.Authority.Chain()[0]}}}, roots, gen.Authority.NotAfter().Add(-time.Hour))
	if leastFresh(own) > 0.1 || own[0].Of != ofCore || own[0].Link != linkIssuer {
		t.Errorf("this core member's own issuer: %+v, %g fresh", own, leastFresh(own))
	}
	if firstToEnd(nil) != nil || len(usedLinks(nil, roots, now)) != 0 {
		t.Error("nothing in use ends")
	}
}

// TestCountFresh: a minute is good if everything had a third of its life left at its end.
func TestCountFresh(t *testing.T) {
	objective := slo.Objectives()[2]
	w := &watcher{fresh: slo.NewCounter(objective)}
	look := func(seconds int, least float64) {
		w.countFresh(time.Duration(seconds)*time.Second, ops.Readings{ops.IdentityLeast: least})
	}
	look(1, 0.5)
	look(30, 0.1) // not at the end of a minute
	look(61, 0.5)
	look(121, 0.3)
	w.countFresh(500*time.Second, ops.Readings{}) // no data is not good
	look(600, 0.5)
	good, bad := w.fresh.Totals()
	if objective.Name != slo.CertificateFreshness || good != 2 || bad != 1 {
		t.Errorf("%s: %d good, %d bad", objective.Name, good, bad)
	}
}

// TestExplain: what holds is told apart from what does not, and the list of the latter is bounded.
func TestExplain(t *testing.T) {
	near := []nearness{{entry: testEntryOf("held", "uid:1")}}
	for range api.MaxNearest + 3 {
		near = append(near, nearness{entry: testEntryOf("not", "uid:2"), lines: []string{"it wants uid:2, and found was uid:1"}})
	}
	e := explain(7, []string{"uid:1"}, near)
	if e.PID != 7 || len(e.Entries) != 1 || e.Entries[0].Name != "held" || len(e.Nearest) != api.MaxNearest || len(e.Nearest[0].Differences) != 1 {
		t.Errorf("%+v", e)
	}
}
