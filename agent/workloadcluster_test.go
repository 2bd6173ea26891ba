package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/transport"
)

// awaitIdentity asks as the Workload API does: once, and again whenever the channel says so.
func awaitIdentity(ctx context.Context, s workload.Source, selectors ...workload.Selector) ([]workload.Identity, error) {
	for {
		all, changed, err := s.Identities(ctx, selectors)
		if err == nil || changed == nil {
			return all, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// verifyIdentity has go-spiffe judge a certificate by the bundle that programs of the same host get.
func verifyIdentity(s workload.Source, i workload.Identity) error {
	bundles, _, err := s.Bundles()
	if err != nil {
		return err
	}
	id, _, err := x509svid.Verify(i.Chain, bundles.Own)
	if err == nil && id != i.ID {
		err = fmt.Errorf("it is %s, not %s", id, i.ID)
	}
	return err
}

// TestWorkloadsOfACluster: what is registered by way of one agent is had on every agent, in the core and outside, as a
// certificate and as a token that go-spiffe takes everywhere; an entry that is bound to one agent counts there alone, also
// by the word of the core members.
func TestWorkloadsOfACluster(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if _, err := agents[0].SetEntry(ctx, client.EntrySpec{Name: "web", Selectors: []string{"uid:7"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := agents[0].SetEntry(ctx, client.EntrySpec{Name: "one", Selectors: []string{"uid:8"}, Nodes: []string{"a4"}}); err != nil {
		t.Fatal(err)
	}
	web := spiffeid.RequireFromString("spiffe://agent.test/svc/web")
	for _, r := range agents {
		s := r.agent.identities
		all, err := awaitIdentity(ctx, s, "uid:7", "gid:7")
		if err != nil || len(all) != 1 || all[0].ID != web {
			t.Fatalf("%s: %v, %v", r.name, all, err)
		}
		for _, other := range agents {
			if err := verifyIdentity(other.agent.identities, all[0]); err != nil {
				t.Errorf("%s's, on %s: %v", r.name, other.name, err)
			}
		}
		var token string
		within(t, "a token on "+r.name, func(ctx context.Context) (err error) {
			token, err = s.MintJWT(ctx, []workload.Selector{"uid:7"}, web, []string{"db"})
			return err
		})
		within(t, "the token counts on a4", func(context.Context) error {
			bundles, _, err := agents[3].agent.identities.Bundles()
			if err != nil {
				return err
			}
			svid, err := jwtsvid.ParseAndValidate(token, bundles.Own, []string{"db"})
			if err == nil && svid.ID != web {
				err = fmt.Errorf("the token is of %s", svid.ID)
			}
			return err
		})
	}
	if _, err := awaitIdentity(ctx, agents[3].agent.identities, "uid:8"); err != nil {
		t.Errorf("bound to a4, on a4: %v", err)
	}
	if all, _, err := agents[1].agent.identities.Identities(ctx, []workload.Selector{"uid:8"}); !errors.Is(err, workload.ErrNoIdentity) {
		t.Errorf("bound to a4, on a2: %v, %v", all, err)
	}
	// A patched agent asks all the same: the core members say no.
	key, err := security.NewWorkloadKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		from     *running
		as, name string
	}{
		"an entry of others":  {agents[1], "a2", "one"},
		"in another's name":   {agents[1], "a4", "one"},
		"an entry of nobody":  {agents[3], "a4", "none"},
		"an agent's identity": {agents[3], "a4", "parley/agent/a1"},
	} {
		req, err := security.NewWorkloadRequest(c.as, c.name, key)
		if err != nil {
			t.Fatal(err)
		}
		var answer chainAnswer
		err = c.from.agent.workloads.ask(ctx, methodWorkload, req, &answer)
		var refused *transport.Error
		if !errors.As(err, &refused) || refused.Code != api.CodeDenied && refused.Code != api.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The agent's own report has both chains, and what ends first.
	report, err := agents[3].Identity(ctx)
	if err != nil || report.First == nil || report.OutageIn <= 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	var links []string
	for _, c := range report.Certificates {
		links = append(links, c.Of+" "+c.Link)
	}
	for _, want := range []string{"agent leaf", "agent issuer", "agent root", "workload leaf"} {
		if !slices.Contains(links, want) {
			t.Errorf("no %s among %v", want, links)
		}
	}
}

// TestWorkloadsOutliveTheQuorum: with the majority of the core gone for more than three lifetimes every certificate is
// renewed by the member that is left, none ends, and tokens are minted; a new registration is refused with the reason. The
// controls: past the island nothing is signed, and without any core member a certificate ends.
func TestWorkloadsOutliveTheQuorum(t *testing.T) {
	t.Parallel()
	const ttl = 10 * time.Second
	agents := startCluster(t, 0, 0, 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := agents[0].SetEntry(ctx, client.EntrySpec{Name: "web", Selectors: []string{"uid:7"}, TTLSeconds: uint64(ttl / time.Second)}); err != nil {
		t.Fatal(err)
	}
	web := spiffeid.RequireFromString("spiffe://agent.test/svc/web")
	left := []*running{agents[2], agents[3]} // a core member, and an agent outside the core
	for _, r := range left {
		if _, err := awaitIdentity(ctx, r.agent.identities, "uid:7"); err != nil {
			t.Fatal(err)
		}
		within(t, "a token on "+r.name, func(ctx context.Context) error {
			_, err := r.agent.identities.MintJWT(ctx, []workload.Selector{"uid:7"}, web, []string{"db"})
			return err
		})
	}
	within(t, "the member that stays has a key of tokens", func(context.Context) error {
		if left[0].agent.jwtSigner.signing.Load() == nil {
			return errors.New("not yet")
		}
		return nil
	})
	agents[0].stop()
	agents[1].stop()
	renewals := make(map[string]map[string]bool)
	for end := clock.Boottime() + 3*ttl + 2*time.Second; clock.Boottime() < end; time.Sleep(100 * time.Millisecond) {
		for _, r := range left {
			all, _, err := r.agent.identities.Identities(ctx, []workload.Selector{"uid:7"})
			if err == nil {
				err = verifyIdentity(r.agent.identities, all[0])
			}
			if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			if renewals[r.name] == nil {
				renewals[r.name] = make(map[string]bool)
			}
			renewals[r.name][all[0].Chain[0].SerialNumber.String()] = true
		}
	}
	for _, r := range left {
		if n := len(renewals[r.name]); n < 4 {
			t.Errorf("%s had %d certificates in three lifetimes", r.name, n)
		}
		if _, err := r.agent.identities.MintJWT(ctx, []workload.Selector{"uid:7"}, web, []string{"db"}); err != nil {
			t.Errorf("%s: a token: %v", r.name, err)
		}
		_, err := r.SetEntry(ctx, client.EntrySpec{Name: "new", Selectors: []string{"uid:9"}})
		if err == nil || !strings.Contains(err.Error(), "leader") {
			t.Errorf("%s: a new registration: %v", r.name, err)
		}
	}
	late := newWorkloadIssuer(left[0].agent)
	late.now = func() time.Time { return clock.System().Add(73 * time.Hour) }
	key, err := security.NewWorkloadKey()
	if err != nil {
		t.Fatal(err)
	}
	req, err := security.NewWorkloadRequest("a3", "web", key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.sign("a3", req); err == nil || !strings.Contains(err.Error(), "heard nothing of a majority") {
		t.Errorf("past the island: %v", err)
	}
	left[0].stop()
	within(t, "control: with nobody who signs the certificate ends", func(ctx context.Context) error {
		if all, _, err := left[1].agent.identities.Identities(ctx, []workload.Selector{"uid:7"}); !errors.Is(err, workload.ErrNotReady) {
			return fmt.Errorf("%v, %w", all, err)
		}
		return nil
	})
}

// TestRegistrationToIdentity measures from the write of an entry to the certificate in the hands of who waits for it, with
// a thousand entries: p99 is to be 50 ms, and a test on a busy machine asserts five times that.
func TestRegistrationToIdentity(t *testing.T) {
	const entries, samples, bound = 1000, 200, 250 * time.Millisecond
	a1 := start(t, single(t), 0)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for i := range entries {
		if _, err := a1.SetEntry(ctx, client.EntrySpec{Name: fmt.Sprintf("e%d", i), Selectors: []string{fmt.Sprintf("uid:%d", i+10_000)}}); err != nil {
			t.Fatal(err)
		}
	}
	took := make([]time.Duration, samples)
	for i := range samples {
		selector := fmt.Sprintf("uid:%d", i+1)
		_, changed, err := a1.agent.identities.Identities(ctx, []workload.Selector{workload.Selector(selector)})
		if !errors.Is(err, workload.ErrNoIdentity) {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			<-changed
			_, err := awaitIdentity(ctx, a1.agent.identities, workload.Selector(selector))
			got <- err
		}()
		began := clock.Boottime()
		if _, err := a1.SetEntry(ctx, client.EntrySpec{Name: fmt.Sprintf("s%d", i), Selectors: []string{selector}}); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		took[i] = clock.Boottime() - began
	}
	slices.Sort(took)
	p50, p99 := took[samples/2], took[samples*99/100]
	t.Logf("registration to identity at %d entries: p50 %s, p99 %s", entries, p50, p99)
	if p99 > bound {
		t.Errorf("p99 %s, want at most %s", p99, bound)
	}
}
