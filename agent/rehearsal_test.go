package agent

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// The rehearsal runs ten years of rotations on a virtual clock: the real planner, the real commands on the real state
// machine, and agents reduced to what matters of them: what they know, which roots they trust, and which root their
// certificates chain to. Agents crash for up to 20 h, are cut off for up to 60 h, their clocks are wrong by up to 90 s, and
// the lead changes with all that.

const (
	rehearsalStep = 30 * time.Minute // half of a leaf's life
	rehearsalLeaf = time.Hour
)

// rehearsed is one agent.
type rehearsed struct {
	name         string
	core         bool
	down, cut    time.Time // until when
	skew         time.Duration
	view         *state.View // what it knows
	trust        map[state.RootHash]bool
	leaf, issuer rehearsedCert
}

// rehearsedCert is a certificate: the root that it chains to, and its life.
type rehearsedCert struct {
	root              state.RootHash
	notBefore, notEnd time.Time
}

func (c rehearsedCert) validAt(t time.Time) bool { return !t.Before(c.notBefore) && !t.After(c.notEnd) }

type rehearsal struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Time
	machine *state.Machine
	index   uint64
	agents  []*rehearsed
	roots   map[state.RootHash]security.RootLife
	leader  *rehearsed
	reports map[string]security.TrustReport
	plan    func(security.RotationInput) security.RotationStep
	done    map[security.RotationKind]int
	outages []string
}

func newRehearsal(t *testing.T, seed uint64, plan func(security.RotationInput) security.RotationStep) *rehearsal {
	t.Helper()
	r := &rehearsal{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0), index: 1, //nolint:gosec // a seed replays
		roots: map[state.RootHash]security.RootLife{}, plan: plan, done: map[security.RotationKind]int{},
	}
	root := r.newRoot()
	r.machine = state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("0", 32), TrustDomain: testTrust.Name(), EpochID: [16]byte{1}, At: stampOf(r.now),
		Node:   state.Node{Name: "c1", HostKey: []byte("c1"), SealKey: make([]byte, state.SealKeyBytes)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{root}}, Sealed: []byte("s"),
	})
	for i, name := range []string{"c1", "c2", "c3", "m1", "m2"} {
		a := &rehearsed{name: name, core: i < 3, skew: time.Duration(r.rnd.Int64N(int64(3*time.Minute))) - 90*time.Second}
		r.learn(a)
		r.agents = append(r.agents, a)
	}
	return r
}

func (r *rehearsal) newRoot() []byte {
	root, err := security.NewRoot(testTrust, r.now)
	if err != nil {
		r.t.Fatal(err)
	}
	hash := security.RootHash(root.Cert.Raw)
	r.roots[hash] = security.RootLife{Hash: hash, NotBefore: root.Cert.NotBefore, NotAfter: root.Cert.NotAfter}
	return root.Cert.Raw
}

// learn gives an agent what the state says now.
func (r *rehearsal) learn(a *rehearsed) {
	if a.view == r.machine.View() {
		return
	}
	a.view, a.trust = r.machine.View(), map[state.RootHash]bool{}
	for _, der := range a.view.Bundle().Roots {
		a.trust[security.RootHash(der)] = true
	}
}

func (r *rehearsal) up(a *rehearsed) bool      { return !r.now.Before(a.down) }
func (r *rehearsal) reaches(a *rehearsed) bool { return r.up(a) && !r.now.Before(a.cut) }

// step is half an hour.
func (r *rehearsal) step() {
	r.now = r.now.Add(rehearsalStep)
	for _, a := range r.agents {
		switch {
		case r.rnd.IntN(600) == 0:
			a.down = r.now.Add(time.Duration(r.rnd.Int64N(int64(20 * time.Hour))))
		case r.rnd.IntN(900) == 0:
			a.cut = r.now.Add(time.Duration(r.rnd.Int64N(int64(60 * time.Hour))))
		}
	}
	r.elect()
	for _, a := range r.agents {
		if r.leader != nil && r.reaches(a) && (a == r.leader || r.rnd.IntN(3) > 0) && r.talk(a, r.leader) {
			r.learn(a)
		}
		if r.up(a) {
			r.certify(a)
		}
	}
	r.rotate()
	r.judge()
}

// elect keeps the leader while it reaches a majority of the core, else takes another one, who knows nothing of the agents.
func (r *rehearsal) elect() {
	var able []*rehearsed
	for _, a := range r.agents {
		if a.core && r.reaches(a) {
			able = append(able, a)
		}
	}
	was := r.leader
	if len(able) < 2 {
		r.leader = nil
	} else if r.leader == nil || !r.reaches(r.leader) {
		r.leader = able[r.rnd.IntN(len(able))]
	}
	if r.leader != was {
		r.reports = map[string]security.TrustReport{}
	}
}

// talk reports whether an agent accepts whom it asks: by its own bundle, whatever it is told.
func (r *rehearsal) talk(a, other *rehearsed) bool {
	return a == other || other.leaf.root == (state.RootHash{}) || a.trust[other.leaf.root]
}

// certify renews what is over half of its life, and the issuer when its own View names another root. A core member that is
// cut off opens the root by what it knows, and goes on signing.
func (r *rehearsal) certify(a *rehearsed) {
	const issuerLife = security.IssuerTTL
	if signing := a.view.Authority().Signing; a.core && (a.issuer.root != signing || r.now.After(a.issuer.notEnd.Add(-issuerLife/2))) {
		a.issuer = rehearsedCert{signing, r.now.Add(-security.Backdate), r.now.Add(issuerLife)}
	}
	if r.now.Before(a.leaf.notEnd.Add(-rehearsalLeaf / 2)) {
		return
	}
	for _, by := range r.agents {
		connected := by == a || r.reaches(a) && r.reaches(by) && r.talk(a, by)
		if by.core && connected && by.issuer.validAt(r.now) {
			if by.view.Index() > a.view.Index() { // the answer brings the issuer's bundle
				a.view, a.trust = by.view, by.trust
			}
			if a.trust[by.issuer.root] {
				a.leaf = rehearsedCert{by.issuer.root, r.now.Add(-security.Backdate), r.now.Add(rehearsalLeaf)}
				return
			}
		}
	}
}

// rotate is the leader's part.
func (r *rehearsal) rotate() {
	if r.leader == nil {
		return
	}
	var names []string
	for _, a := range r.agents {
		names = append(names, a.name)
		if !r.reaches(a) || !r.talk(r.leader, a) {
			continue
		}
		report := security.TrustReport{Heard: true}
		for root := range a.trust {
			report.Holds = append(report.Holds, root)
		}
		for _, c := range []rehearsedCert{a.leaf, a.issuer} {
			if c.root != (state.RootHash{}) {
				report.Chains = append(report.Chains, c.root)
			}
		}
		r.reports[a.name] = report
	}
	v := r.machine.View()
	in := r.input(v, names)
	step := r.plan(in)
	var cmd state.Command
	switch step.Kind {
	case security.RotationPrepare:
		cmd = state.RootPrepare{Root: r.newRoot(), Seals: []state.Seal{{Node: "c1", Sealed: []byte("s")}}}
	case security.RotationActivate:
		cmd = state.RootActivate{Root: step.Root}
	case security.RotationRetire:
		cmd = state.RootRetire{Root: step.Root}
	default:
		return
	}
	r.done[step.Kind]++
	raw, err := state.Encode(state.Envelope{Caller: "c1", Via: "c1", Command: cmd}, state.Version)
	if err != nil {
		r.t.Fatal(err)
	}
	r.index++
	results, _, err := r.machine.Apply(r.index, 1, stampOf(r.now), [][]byte{raw})
	if err != nil {
		r.t.Fatal(err)
	}
	if result, err := state.DecodeResult(results[0]); err != nil || result.Code != state.CodeOK {
		r.t.Fatalf("%s at %s: %+v, %v", step.Kind, r.now, result, err)
	}
	r.learn(r.leader)
}

// input is rotationInput without parsing the same certificates 175,000 times.
func (r *rehearsal) input(v *state.View, names []string) security.RotationInput {
	a := v.Authority()
	in := security.RotationInput{
		Now: r.now, Signing: a.Signing, Next: a.Next, Since: wallOf(a.Since), NextSince: wallOf(a.NextSince), Policy: security.DefaultRotationPolicy(),
	}
	for _, der := range v.Bundle().Roots {
		in.Roots = append(in.Roots, r.roots[security.RootHash(der)])
	}
	for _, name := range names {
		report := r.reports[name]
		report.Node = name
		in.Agents = append(in.Agents, report)
	}
	return in
}

// judge looks at every certificate with the eyes of every agent that runs, cut off or not: when the cut heals, the two have
// to accept each other, or neither learns anything any more.
func (r *rehearsal) judge() {
	for _, a := range r.agents {
		if !r.up(a) || a.leaf.root == (state.RootHash{}) {
			continue
		}
		for _, b := range r.agents {
			now := r.now.Add(b.skew)
			if !r.up(b) || !a.leaf.validAt(now) {
				continue
			}
			life := r.roots[a.leaf.root]
			if !b.trust[a.leaf.root] || now.Before(life.NotBefore) || now.After(life.NotAfter) {
				r.outages = append(r.outages, fmt.Sprintf("%s: %s does not accept the certificate of %s", r.now.UTC().Format(time.RFC3339), b.name, a.name))
			}
		}
		if r.leader != nil && r.reaches(a) && !r.talk(a, r.leader) {
			r.outages = append(r.outages, fmt.Sprintf("%s: %s cannot ask the core any more", r.now.UTC().Format(time.RFC3339), a.name))
		}
	}
}

// tenYears runs until then, or until something went wrong.
func (r *rehearsal) tenYears() *rehearsal {
	for end := r.now.Add(10 * 365 * 24 * time.Hour); r.now.Before(end) && len(r.outages) == 0; {
		r.step()
	}
	return r
}

// TestTenYearsOfRotations: no certificate that is valid is refused by any agent at any time, over ten years of rotations
// with crashes, cuts and wrong clocks.
func TestTenYearsOfRotations(t *testing.T) {
	for seed := range uint64(2) {
		r := newRehearsal(t, seed, security.PlanRotation).tenYears()
		if len(r.outages) > 0 {
			t.Errorf("seed %d: %s", seed, r.outages[0])
		}
		if n := r.done[security.RotationActivate]; n < 9 || r.done[security.RotationRetire] < n-1 {
			t.Errorf("seed %d: %v", seed, r.done)
		}
	}
}

// TestRotationNeedsItsGates is the control: without the first rule, or without the second, the rehearsal finds an outage
// with each seed.
func TestRotationNeedsItsGates(t *testing.T) {
	for what, plan := range map[string]func(security.RotationInput) security.RotationStep{
		"the next root signs at once": func(in security.RotationInput) security.RotationStep {
			in.Force = true
			return security.PlanRotation(in)
		},
		"the old root goes at once": func(in security.RotationInput) security.RotationStep {
			if in.Next == ([32]byte{}) {
				in.Agents, in.Policy.Overlap = nil, 0
			}
			return security.PlanRotation(in)
		},
	} {
		for seed := range uint64(3) {
			if r := newRehearsal(t, seed, plan).tenYears(); len(r.outages) == 0 {
				t.Errorf("%s, seed %d: nothing was found in %v", what, seed, r.done)
			} else {
				t.Logf("%s, seed %d: %s", what, seed, r.outages[0])
			}
		}
	}
}
