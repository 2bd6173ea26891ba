package workload

import (
	"context"
	"maps"
	"slices"
	"testing"

	envoytls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretapi "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// federated is a host that knows the bundles of two other trust domains, and who asks it.
type federated struct {
	t          *testing.T
	source     *fakeSource
	one, two   *fakeSource
	connection *grpc.ClientConn
}

func newFederated(t *testing.T) *federated {
	f := &federated{t: t, source: newFakeSource(t, testTD)}
	f.one = newFakeSource(t, spiffeid.RequireTrustDomainFromString("one.example"))
	f.two = newFakeSource(t, spiffeid.RequireTrustDomainFromString("two.example"))
	f.source.federate(f.one.bundles.Own, f.two.bundles.Own)
	_, path := serve(t, f.source)
	f.connection = dial(t, path)
	return f
}

// entry is one that federates with these.
func (f *federated) entry(id string, with ...*fakeSource) entry {
	e := entry{id: id, want: []Selector{ownUID()}}
	for _, other := range with {
		e.with = append(e.with, other.td)
	}
	return e
}

// token is one that a trust domain gave to a program of its own.
func (f *federated) token(s *fakeSource) string {
	f.t.Helper()
	id := "spiffe://" + s.td.Name() + "/svc/caller"
	s.entitle(entry{id: id, want: []Selector{"uid:7"}})
	token, err := s.MintJWT(context.Background(), []Selector{"uid:7"}, spiffeid.RequireFromString(id), []string{"web"})
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// seen is which trust domains one process learns of, by each way that there is.
func (f *federated) seen() map[string][]string {
	f.t.Helper()
	client, out := api.NewSpiffeWorkloadAPIClient(f.connection), make(map[string][]string)
	svids, err := client.FetchX509SVID(asked(f.t), &api.X509SVIDRequest{})
	if err != nil {
		f.t.Fatal(err)
	}
	out["X.509-SVIDs"] = slices.Sorted(maps.Keys(receive(f.t, svids).GetFederatedBundles()))
	roots, err := client.FetchX509Bundles(asked(f.t), &api.X509BundlesRequest{})
	if err != nil {
		f.t.Fatal(err)
	}
	out["X.509 bundles"] = others(maps.Keys(receive(f.t, roots).GetBundles()))
	keys, err := client.FetchJWTBundles(asked(f.t), &api.JWTBundlesRequest{})
	if err != nil {
		f.t.Fatal(err)
	}
	out["JWT bundles"] = others(maps.Keys(receive(f.t, keys).GetBundles()))
	for _, s := range []*fakeSource{f.one, f.two} {
		if _, err := client.ValidateJWTSVID(asked(f.t), &api.ValidateJWTSVIDRequest{Audience: "web", Svid: f.token(s)}); err == nil {
			out["tokens"] = append(out["tokens"], s.td.IDString())
		} else {
			wantCode(f.t, "a token of "+s.td.Name(), err, codes.InvalidArgument)
		}
	}
	out["secrets"], out["ALL"] = f.secrets()
	return out
}

// secrets is the same by Envoy's secret discovery: by name, and in the secret that has all.
func (f *federated) secrets() (named, all []string) {
	f.t.Helper()
	client := secretapi.NewSecretDiscoveryServiceClient(f.connection)
	r, err := client.FetchSecrets(asked(f.t), &discovery.DiscoveryRequest{ResourceNames: []string{ownRoots, f.one.td.IDString(), f.two.td.IDString(), allRoots}})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range secretsOf(f.t, r.GetResources()...) {
		switch s.GetName() {
		case ownRoots:
		case allRoots:
			config := &envoytls.SPIFFECertValidatorConfig{}
			if err := s.GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(config); err != nil {
				f.t.Fatal(err)
			}
			for _, td := range config.GetTrustDomains() {
				if td.GetName() != testTD.Name() {
					all = append(all, "spiffe://"+td.GetName())
				}
			}
		default:
			named = append(named, s.GetName())
		}
	}
	return named, all
}

func others(names func(yield func(string) bool)) []string {
	return slices.DeleteFunc(slices.Sorted(names), func(name string) bool { return name == testTD.IDString() })
}

// TestEntriesDecideWithWhomToFederate: of the bundles that the host has a program gets those that its entries name, by the Workload
// API, by Envoy's secret discovery, and when it has tokens judged. Those of several entries come together, and a change is
// pushed. A program whose entry names none gets none; the control is the one whose entries name both.
func TestEntriesDecideWithWhomToFederate(t *testing.T) {
	f := newFederated(t)
	one, two := f.one.td.IDString(), f.two.td.IDString()
	for what, c := range map[string]struct {
		entries []entry
		want    []string
	}{
		"none":                {[]entry{f.entry(webID)}, nil},
		"one of them":         {[]entry{f.entry(webID, f.one)}, []string{one}},
		"both, control":       {[]entry{f.entry(webID, f.one, f.two)}, []string{one, two}},
		"by two entries":      {[]entry{f.entry(webID, f.two), f.entry(webID+"-2", f.one)}, []string{one, two}},
		"one that is unknown": {[]entry{f.entry(webID, f.one, newFakeSource(t, spiffeid.RequireTrustDomainFromString("three.example")))}, []string{one}},
		"another program's":   {[]entry{f.entry(webID), {id: webID + "-3", want: []Selector{"uid:4711"}, with: []spiffeid.TrustDomain{f.two.td}}}, nil},
	} {
		f.source.entitle(c.entries...)
		for way, got := range f.seen() {
			if !slices.Equal(got, c.want) {
				t.Errorf("%s, by %s: got %v, want %v", what, way, got, c.want)
			}
		}
	}
	f.source.entitle(f.entry(webID))
	stream, err := api.NewSpiffeWorkloadAPIClient(f.connection).FetchX509SVID(asked(t), &api.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := receive(t, stream).GetFederatedBundles(); len(got) != 0 {
		t.Errorf("at first: %v", got)
	}
	f.source.entitle(f.entry(webID, f.one))
	if got := receive(t, stream).GetFederatedBundles(); len(got) != 1 || got[one] == nil {
		t.Errorf("after the entry was changed: %v", got)
	}
}

// TestTokensForWhoHasNoEntry: a process without an entry has tokens of the own trust domain judged, and no others.
func TestTokensForWhoHasNoEntry(t *testing.T) {
	f := newFederated(t)
	f.source.entitle()
	client := api.NewSpiffeWorkloadAPIClient(f.connection)
	own, foreign := f.token(f.source), f.token(f.one)
	if _, err := client.ValidateJWTSVID(asked(t), &api.ValidateJWTSVIDRequest{Audience: "web", Svid: own}); err != nil {
		t.Errorf("a token of the own trust domain: %v", err)
	}
	_, err := client.ValidateJWTSVID(asked(t), &api.ValidateJWTSVIDRequest{Audience: "web", Svid: foreign})
	wantCode(t, "a token of another trust domain", err, codes.InvalidArgument)
	f.source.entitle(f.entry(webID, f.one))
	if _, err := client.ValidateJWTSVID(asked(t), &api.ValidateJWTSVIDRequest{Audience: "web", Svid: foreign}); err != nil {
		t.Errorf("control, with an entry that names it: %v", err)
	}
}
