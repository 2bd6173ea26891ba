package agent

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// identityRig is a source of identities over a state machine and an issuer of its own, without a cluster.
type identityRig struct {
	*identities
	t       *testing.T
	machine *state.Machine
	gen     *security.Genesis
	offset  atomic.Int64 // how far the rig's clock is ahead
	issued  atomic.Int64
	refuse  atomic.Pointer[error] // what the issuer says instead
	hold    chan struct{}         // nil, or the issuer waits for it to be closed
}

func newIdentityRig(t *testing.T) *identityRig {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString("agent.test")
	gen, err := security.InitIdentity(t.TempDir(), td, "a1", security.InitKeys{}, clock.System())
	if err != nil {
		t.Fatal(err)
	}
	g := &identityRig{t: t, gen: gen}
	g.machine = state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("0", 32), TrustDomain: td.Name(), EpochID: [16]byte{1},
		Node:   state.Node{Name: "a1", HostKey: gen.Host.HostKey(), SealKey: gen.Host.SealKey()},
		Sealed: []byte("s"), Bundle: state.Bundle{Sequence: 1, Roots: gen.Roots}, At: clock.Stamp(clock.System().UnixMilli()) << 16,
	})
	hub := watch.NewHub(g.machine.View())
	now := func() time.Time { return clock.System().Add(time.Duration(g.offset.Load())) }
	g.identities = newIdentities(identitiesOptions{
		node: "a1", td: td, hub: hub, denials: newDenials("a1", strings.Repeat("0", 32), hub.View, now, zap.NewNop()), ready: func() bool { return true }, log: zap.NewNop(),
		now:      now,
		ownRoots: func() (uint64, [][]byte) { return 1, gen.Roots },
		mint: func(_ context.Context, r tokenRequest) (string, error) {
			return r.Entry + " for " + strings.Join(r.Audience, ","), nil
		},
		issue: g.sign,
	})
	g.denials.wake = g.hurry
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.hub.Run(ctx) })
	running.Go(func() { _ = g.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return g
}

func (g *identityRig) sign(ctx context.Context, r security.WorkloadRequest) ([][]byte, error) {
	if g.hold != nil {
		select {
		case <-g.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if why := g.refuse.Load(); why != nil {
		return nil, *why
	}
	g.issued.Add(1)
	e, ok := g.hub.View().Entry(r.Entry)
	if !ok {
		return nil, errors.New("no such entry")
	}
	return g.gen.Authority.SignWorkload(r, "a1", spiffeid.RequireFromString(e.SPIFFEID), time.Duration(e.TTL())*time.Second, g.now())
}

func (g *identityRig) apply(commands ...state.Command) {
	g.t.Helper()
	encoded := make([][]byte, len(commands))
	for i, c := range commands {
		b, err := state.Encode(state.Envelope{Command: c, Caller: "test"}, state.Version)
		if err != nil {
			g.t.Fatal(err)
		}
		encoded[i] = b
	}
	at := g.machine.View().Position()
	results, touched, err := g.machine.Apply(at.Index+1, 1, at.Stamp+1<<16, encoded)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, raw := range results {
		if r, err := state.DecodeResult(raw); err != nil || r.Code != state.CodeOK {
			g.t.Fatalf("%+v, %v", r, err)
		}
	}
	g.hub.Publish(g.machine.View(), touched)
}

func testEntryOf(name string, selectors ...string) state.Entry {
	return state.Entry{Name: name, SPIFFEID: "spiffe://agent.test/svc/" + name, Selectors: selectors}
}

func pathsOf(all []workload.Identity) (out []string) {
	for _, i := range all {
		out = append(out, i.ID.Path())
	}
	return out
}

func closed(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nobody was told", what)
	}
}

func open(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
		t.Errorf("%s: somebody was told", what)
	default:
	}
}

// TestIdentitiesFollowEntries: what is found decides what is given, all selectors of an entry have to hold, and whoever
// waits is told of what concerns him.
func TestIdentitiesFollowEntries(t *testing.T) {
	g := newIdentityRig(t)
	selectors := []workload.Selector{"uid:1", "path:/usr/bin/web", "gid:1"}
	_, changed, err := g.Identities(t.Context(), selectors)
	if !errors.Is(err, workload.ErrNoIdentity) {
		t.Fatalf("without entries: %v", err)
	}
	g.apply(
		state.EntrySet{Entry: testEntryOf("web", "path:/usr/bin/web", "uid:1")}, state.EntrySet{Entry: testEntryOf("any", "uid:1")},
		state.EntrySet{Entry: testEntryOf("db", "path:/usr/bin/db", "uid:1")}, state.EntrySet{Entry: testEntryOf("other", "uid:2")},
	)
	closed(t, "entries", changed)
	all, changed, err := g.Identities(t.Context(), selectors)
	if err != nil || !slices.Equal(pathsOf(all), []string{"/svc/any", "/svc/web"}) {
		t.Fatalf("%v, %v", pathsOf(all), err)
	}
	if key := all[0].Key.Public(); !all[0].Chain[0].PublicKey.(*ecdsa.PublicKey).Equal(key) {
		t.Error("the certificate is for another key")
	}
	open(t, "nothing changed", changed)
	again, _, err := g.Identities(t.Context(), selectors)
	if err != nil || again[0].Chain[0] != all[0].Chain[0] || g.issued.Load() != 2 {
		t.Errorf("asked again: %v, %d certificates", err, g.issued.Load())
	}
	replaced := testEntryOf("any", "uid:1")
	replaced.SPIFFEID = "spiffe://agent.test/svc/renamed"
	g.apply(state.EntrySet{Entry: replaced, Replace: true}, state.EntryDelete{Name: "web"})
	closed(t, "a replacement", changed)
	all, changed, err = g.Identities(t.Context(), selectors)
	if err != nil || !slices.Equal(pathsOf(all), []string{"/svc/renamed"}) {
		t.Fatalf("%v, %v", pathsOf(all), err)
	}
	g.apply(state.EntryDelete{Name: "any"})
	closed(t, "a removal", changed)
	if all, _, err := g.Identities(t.Context(), selectors); !errors.Is(err, workload.ErrNoIdentity) {
		t.Errorf("after its removal: %v, %v", pathsOf(all), err)
	}
	if left := len(g.inUse()); left != 0 {
		t.Errorf("%d identities are held for nobody", left)
	}
}

// TestIdentitiesAreRenewed: at half of its life a certificate is renewed while somebody asks for it, and those who wait are
// told; one that nobody asks for is dropped; one that cannot be renewed stays until it ends, and not longer.
func TestIdentitiesAreRenewed(t *testing.T) {
	g := newIdentityRig(t)
	e := testEntryOf("web", "uid:1")
	e.TTLSeconds = 600
	g.apply(state.EntrySet{Entry: e})
	first, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if err != nil {
		t.Fatal(err)
	}
	g.forward(10 * time.Minute * 56 / 100)
	closed(t, "a renewal", changed)
	second, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if err != nil || second[0].Chain[0].Equal(first[0].Chain[0]) || g.issued.Load() != 2 {
		t.Fatalf("renewed: %v, %d certificates", err, g.issued.Load())
	}
	why := errors.New("no core member is there")
	g.refuse.Store(&why)
	g.forward(10 * time.Minute * 56 / 100)
	g.settle(func() bool { return g.failing("web") })
	third, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if err != nil || !third[0].Chain[0].Equal(second[0].Chain[0]) {
		t.Errorf("a failed renewal took the certificate away: %v", err)
	}
	open(t, "a failed renewal", changed)
	g.forward(5 * time.Minute)
	all, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if !errors.Is(err, workload.ErrNotReady) || !errors.Is(err, why) || len(all) > 0 {
		t.Errorf("expired: %v, %v", pathsOf(all), err)
	}
	g.refuse.Store(nil)
	g.forward(2 * time.Minute)
	closed(t, "a core member that is back", changed)
	if _, changed, err = g.Identities(t.Context(), []workload.Selector{"uid:1"}); err != nil {
		t.Fatal(err)
	}
	g.forward(6 * time.Minute)
	closed(t, "one more renewal", changed) // and nobody asks again
	g.forward(6 * time.Minute)
	g.settle(func() bool { return len(g.inUse()) == 0 })
}

func (g *identityRig) forward(d time.Duration) {
	g.offset.Add(int64(d))
	g.hurry()
}

func (g *identityRig) settle(done func() bool) {
	g.t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Fatal("it does not come about")
}

func (g *identityRig) failing(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.mu.held[name]
	return h != nil && h.err != nil
}

// TestIdentitiesAskOnce: many who ask at once share one certificate, and one that gives up does not take it from the others.
func TestIdentitiesAskOnce(t *testing.T) {
	g := newIdentityRig(t)
	g.hold = make(chan struct{})
	g.apply(state.EntrySet{Entry: testEntryOf("web", "uid:1")})
	hasty, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, _, err := g.Identities(hasty, []workload.Selector{"uid:1"})
		gaveUp <- err
	}()
	g.settle(func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		h := g.mu.held["web"]
		return h != nil && h.making != nil
	})
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			if all, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1"}); err != nil || len(all) != 1 {
				t.Errorf("%v, %v", pathsOf(all), err)
			}
		})
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	close(g.hold)
	waiting.Wait()
	if n := g.issued.Load(); n != 1 {
		t.Errorf("%d certificates for one entry", n)
	}
}

// TestIdentitiesRefuseWrongCertificates: what a core member signs has to be what was asked for.
func TestIdentitiesRefuseWrongCertificates(t *testing.T) {
	g := newIdentityRig(t)
	g.apply(state.EntrySet{Entry: testEntryOf("web", "uid:1")}, state.EntrySet{Entry: testEntryOf("db", "uid:2")})
	right := g.issue
	g.issue = func(ctx context.Context, r security.WorkloadRequest) ([][]byte, error) {
		key, err := security.NewWorkloadKey()
		if err != nil {
			return nil, err
		}
		other, err := security.NewWorkloadRequest("a1", r.Entry, key)
		if err != nil {
			return nil, err
		}
		return right(ctx, other)
	}
	if all, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1"}); !errors.Is(err, workload.ErrNotReady) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("%v, %v", pathsOf(all), err)
	}
}

// TestIdentitiesAreBounded reaches the limits of what is held, and of who waits for what.
func TestIdentitiesAreBounded(t *testing.T) {
	g := newIdentityRig(t)
	g.apply(state.EntrySet{Entry: testEntryOf("web", "uid:1")})
	g.mu.Lock()
	g.refresh()
	for i := range maxHeld {
		name := fmt.Sprintf("x%d", i)
		g.mu.held[name] = &heldIdentity{entry: testEntryOf(name, "uid:3")}
	}
	g.mu.Unlock()
	if _, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1"}); !errors.Is(err, errTooManyHeld) {
		t.Errorf("one too many: %v", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.mu.held)
	first := g.channel([]state.Entry{testEntryOf("first", "uid:1")})
	for i := range maxWaiting {
		g.channel([]state.Entry{testEntryOf(fmt.Sprintf("w%d", i), "uid:1")})
	}
	closed(t, "the limit", first)
	if n := len(g.mu.waiting); n > maxWaiting {
		t.Errorf("%d sets are waited for", n)
	}
}

// TestMintJWT: a token is for an identity that the process has, and the audience is checked before anybody is asked.
func TestMintJWT(t *testing.T) {
	g := newIdentityRig(t)
	g.apply(state.EntrySet{Entry: testEntryOf("web", "uid:1")})
	web, db := spiffeid.RequireFromString("spiffe://agent.test/svc/web"), spiffeid.RequireFromString("spiffe://agent.test/svc/db")
	if token, err := g.MintJWT(t.Context(), []workload.Selector{"uid:1"}, web, []string{"a", "b"}); err != nil || token != "web for a,b" {
		t.Errorf("%q, %v", token, err)
	}
	for _, c := range []struct {
		selector workload.Selector
		id       spiffeid.ID
	}{{"uid:2", web}, {"uid:1", db}} {
		if token, err := g.MintJWT(t.Context(), []workload.Selector{c.selector}, c.id, []string{"a"}); !errors.Is(err, workload.ErrNoIdentity) {
			t.Errorf("%v: %q, %v", c, token, err)
		}
	}
	if token, err := g.MintJWT(t.Context(), []workload.Selector{"uid:1"}, web, nil); err == nil {
		t.Errorf("for nobody: %q", token)
	}
}

// TestBundlesFollowTheState: a new key of tokens is in the bundle at once, and the sequence grows.
func TestBundlesFollowTheState(t *testing.T) {
	g := newIdentityRig(t)
	before, changed, err := g.Bundles()
	if err != nil || len(before.Own.X509Authorities()) != 1 || len(before.Own.JWTAuthorities()) != 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	key, err := security.NewJWTKeys(t.TempDir()).Make()
	if err != nil {
		t.Fatal(err)
	}
	ends := uint64(g.now().Add(time.Hour).Unix()) //nolint:gosec // after 1970
	g.apply(state.JWTKeyPublish{ID: key.ID(), Node: "a1", Key: key.Public(), NotAfter: ends})
	closed(t, "a key", changed)
	after, _, err := g.Bundles()
	seq1, _ := before.Own.SequenceNumber()
	seq2, _ := after.Own.SequenceNumber()
	if err != nil || len(after.Own.JWTAuthorities()) != 1 || seq2 <= seq1 {
		t.Errorf("%v, sequence %d after %d, %v", after.Own.JWTAuthorities(), seq2, seq1, err)
	}
}

// TestServiceEntries: an entry that wants a service counts while one is registered with this agent.
func TestServiceEntries(t *testing.T) {
	g := newIdentityRig(t)
	e := testEntryOf("web", "uid:1")
	e.Service = "web"
	g.apply(state.EntrySet{Entry: e})
	_, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if !errors.Is(err, workload.ErrNoIdentity) {
		t.Fatalf("before: %v", err)
	}
	g.apply(state.CatalogRegister{Name: "a1", Service: &state.CatalogService{Node: "a1", ID: "w", Name: "web"}})
	closed(t, "a registration", changed)
	all, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:1"})
	if err != nil || !slices.Equal(pathsOf(all), []string{"/svc/web"}) {
		t.Fatalf("%v, %v", pathsOf(all), err)
	}
	g.apply(state.CatalogDeregister{Node: "a1", Service: "w"})
	closed(t, "its end", changed)
	if _, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1"}); !errors.Is(err, workload.ErrNoIdentity) {
		t.Errorf("after: %v", err)
	}
}

// TestNearEntries: the nearest entry comes first, and each difference is a sentence.
func TestNearEntries(t *testing.T) {
	g := newIdentityRig(t)
	bound, wants := testEntryOf("bound", "uid:1"), testEntryOf("wants", "uid:1")
	bound.Nodes, wants.Service = []string{"a2", "a3"}, "web"
	g.apply(
		state.EntrySet{Entry: testEntryOf("far", "gid:9", "uid:9")}, state.EntrySet{Entry: testEntryOf("near", "path:/usr/bin/web", "uid:1")},
		state.EntrySet{Entry: testEntryOf("unit", "unit:web.service")}, state.EntrySet{Entry: bound}, state.EntrySet{Entry: wants},
	)
	var lines []string
	for _, n := range nearEntries(g.hub.View(), "a1", []string{"uid:1", "path:/usr/bin/nginx"}, g.denials.idUntil) {
		lines = append(lines, n.entry.Name+": "+strings.Join(n.lines, "; "))
	}
	want := []string{
		"bound: it is bound to a2, a3, and this agent is a1",
		"near: it wants path:/usr/bin/web, and found was path:/usr/bin/nginx",
		`wants: it wants the service "web" to be registered with this agent, and it is not`,
		"unit: it wants unit:web.service, and no unit was found",
		"far: it wants gid:9, and no gid was found; it wants uid:9, and found was uid:1",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// TestSigningTurns reaches both limits, and one agent that asks for much leaves room for others.
func TestSigningTurns(t *testing.T) {
	var turns signingTurns
	for range maxSigningFor {
		if err := turns.take("a2"); err != nil {
			t.Fatal(err)
		}
	}
	if turns.take("a2") == nil || turns.take("a3") != nil {
		t.Error("one agent's limit is not its own")
	}
	for i := range maxSigning - maxSigningFor - 1 {
		if err := turns.take(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if turns.take("late") == nil {
		t.Error("no limit in all")
	}
	turns.done("a2")
	if err := turns.take("late"); err != nil {
		t.Error(err)
	}
}

// TestIdentitiesFederate: a process gets the bundles that the entries which hold for it name, each once, without a certificate
// being asked for; a changed entry tells on the channel of the identities.
func TestIdentitiesFederate(t *testing.T) {
	g := newIdentityRig(t)
	with := func(name, selector string, domains ...string) state.EntrySet {
		e := testEntryOf(name, selector)
		e.FederatesWith = domains
		return state.EntrySet{Entry: e}
	}
	g.apply(with("web", "uid:1", "a.example", "b.example"), with("api", "uid:1", "b.example", "c.example"), with("db", "uid:2", "d.example"), with("plain", "uid:3"))
	domains := func(found ...workload.Selector) (out []string) {
		for _, td := range g.FederatesWith(found) {
			out = append(out, td.Name())
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		found workload.Selector
		want  []string
	}{{"uid:1", []string{"a.example", "b.example", "c.example"}}, {"uid:2", []string{"d.example"}}, {"uid:3", nil}, {"uid:4", nil}} {
		if got := domains(c.found); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.found, got, c.want)
		}
	}
	if n := g.issued.Load(); n != 0 {
		t.Errorf("%d certificates were issued", n)
	}
	_, changed, err := g.Identities(t.Context(), []workload.Selector{"uid:3"})
	if err != nil {
		t.Fatal(err)
	}
	next := with("plain", "uid:3", "e.example")
	next.Replace = true
	g.apply(next)
	closed(t, "a changed entry", changed)
	if got := domains("uid:3"); !slices.Equal(got, []string{"e.example"}) {
		t.Errorf("after the change: %v", got)
	}
}
