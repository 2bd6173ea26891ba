package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"

	envoytls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretapi "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

func sdsClient(t *testing.T) (*fakeSource, secretapi.SecretDiscoveryServiceClient) {
	t.Helper()
	source := newFakeSource(t, testTD)
	source.entitle(web())
	source.federate(newFakeSource(t, spiffeid.RequireTrustDomainFromString("other.example")).bundles.Own)
	_, path := serve(t, source)
	return source, secretapi.NewSecretDiscoveryServiceClient(dial(t, path))
}

func secretsOf(t *testing.T, bodies ...*anypb.Any) (secrets []*envoytls.Secret) {
	t.Helper()
	for _, body := range bodies {
		secret := &envoytls.Secret{}
		if err := body.UnmarshalTo(secret); err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret)
	}
	return secrets
}

// The names of secrets: an identity or default for the certificate, ROOTCA, a trust domain or ALL for what peers are checked
// by. A proxy that names nothing gets everything.
func TestSecretNames(t *testing.T) {
	_, client := sdsClient(t)
	domains := func(s *envoytls.Secret) (names []string) {
		config := &envoytls.SPIFFECertValidatorConfig{}
		custom := s.GetValidationContext().GetCustomValidatorConfig()
		if custom.GetName() != "envoy.tls.cert_validator.spiffe" {
			t.Errorf("%s is checked by %q", s.GetName(), custom.GetName())
		}
		if err := custom.GetTypedConfig().UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		for _, td := range config.GetTrustDomains() {
			if !x509.NewCertPool().AppendCertsFromPEM(td.GetTrustBundle().GetInlineBytes()) {
				t.Errorf("%s: the bundle of %s has no certificate", s.GetName(), td.GetName())
			}
			names = append(names, td.GetName())
		}
		return names
	}
	for name, want := range map[string][]string{
		webID: nil, "default": nil, "ROOTCA": {"test.example"}, "ALL": {"test.example", "other.example"},
		"spiffe://test.example": {"test.example"}, "spiffe://other.example": {"other.example"},
	} {
		r, err := client.FetchSecrets(context.Background(), &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{name}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := secretsOf(t, r.GetResources()...)
		if len(got) != 1 || got[0].GetName() != name {
			t.Fatalf("%s: got %v", name, got)
		}
		if want != nil {
			if names := domains(got[0]); !slices.Equal(names, want) {
				t.Errorf("%s: got %q, want %q", name, names, want)
			}
			continue
		}
		c := got[0].GetTlsCertificate()
		pair, err := tls.X509KeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
		if err != nil || pair.Leaf.URIs[0].String() != webID {
			t.Errorf("%s: got %v, %v", name, pair.Leaf, err)
		}
	}
	r, err := client.FetchSecrets(context.Background(), &discovery.DiscoveryRequest{})
	if err != nil || len(r.GetResources()) != 6 {
		t.Errorf("without names: got %d secrets, %v", len(r.GetResources()), err)
	}
	for name, want := range map[string]codes.Code{
		"spiffe://test.example/svc/other": codes.PermissionDenied, "spiffe://third.example": codes.PermissionDenied,
		"web": codes.InvalidArgument, "rootca": codes.InvalidArgument,
	} {
		_, err := client.FetchSecrets(context.Background(), &discovery.DiscoveryRequest{ResourceNames: []string{name}})
		wantCode(t, name, err, want)
	}
	_, err = client.FetchSecrets(context.Background(), &discovery.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	wantCode(t, "another type", err, codes.InvalidArgument)
	_, err = client.FetchSecrets(context.Background(), &discovery.DiscoveryRequest{ResourceNames: slices.Repeat([]string{"ALL"}, maxSecrets+1)})
	wantCode(t, "too many names", err, codes.InvalidArgument)
}

// An acknowledgement and a rejection are answered by nothing, a changed list of names at once, a stale nonce never; a rotation
// is pushed with a new version and nonce.
func TestStreamSecrets(t *testing.T) {
	source, client := sdsClient(t)
	stream, err := client.StreamSecrets(asked(t))
	if err != nil {
		t.Fatal(err)
	}
	say := func(r *discovery.DiscoveryRequest) {
		t.Helper()
		r.TypeUrl = secretType
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	say(&discovery.DiscoveryRequest{ResourceNames: []string{webID}})
	one := receive(t, stream)
	if one.GetTypeUrl() != secretType || one.GetNonce() == "" || one.GetVersionInfo() == "" || len(one.GetResources()) != 1 {
		t.Fatalf("got %d secrets, version %q, nonce %q", len(one.GetResources()), one.GetVersionInfo(), one.GetNonce())
	}
	ack := func(r *discovery.DiscoveryResponse, names ...string) *discovery.DiscoveryRequest {
		return &discovery.DiscoveryRequest{VersionInfo: r.GetVersionInfo(), ResponseNonce: r.GetNonce(), ResourceNames: names}
	}
	say(ack(one, webID))
	source.change(func() {}) // the same content: nothing is sent
	source.rotate()
	two := receive(t, stream)
	if two.GetVersionInfo() == one.GetVersionInfo() || two.GetNonce() == one.GetNonce() {
		t.Errorf("the rotation came as version %q with nonce %q, as before", two.GetVersionInfo(), two.GetNonce())
	}
	say(ack(one, webID, "ALL")) // about an answer that is not the last: not answered
	rejection := ack(one, webID)
	rejection.ResponseNonce, rejection.ErrorDetail = two.GetNonce(), &rpcstatus.Status{Code: 13, Message: "no"}
	say(rejection)
	say(ack(two, webID, "ROOTCA"))
	three := receive(t, stream)
	if got := secretsOf(t, three.GetResources()...); len(got) != 2 || got[0].GetName() != "ROOTCA" || got[1].GetName() != webID {
		t.Fatalf("after a longer list of names: got %v", got)
	}
	say(ack(three, "ROOTCA", webID)) // the same names in another order: not answered
	source.rotate()
	four := receive(t, stream)
	if four.GetNonce() == three.GetNonce() || len(four.GetResources()) != 2 {
		t.Errorf("got %d secrets with nonce %q", len(four.GetResources()), four.GetNonce())
	}
	source.entitle()
	_, err = stream.Recv()
	wantCode(t, "the entry is gone", err, codes.PermissionDenied)

	again, err := client.StreamSecrets(asked(t))
	if err != nil {
		t.Fatal(err)
	}
	source.entitle(web())
	reconnect := &discovery.DiscoveryRequest{VersionInfo: four.GetVersionInfo(), ResourceNames: []string{"ROOTCA", webID}}
	if err := again.Send(reconnect); err != nil {
		t.Fatal(err)
	}
	if five := receive(t, again); five.GetVersionInfo() != four.GetVersionInfo() {
		t.Errorf("the same content has version %q on a new stream, %q before", five.GetVersionInfo(), four.GetVersionInfo())
	}
}

// A delta stream tells only what is new or gone, and a reconnecting proxy nothing that it has.
func TestDeltaSecrets(t *testing.T) {
	source, client := sdsClient(t)
	stream, err := client.DeltaSecrets(asked(t))
	if err != nil {
		t.Fatal(err)
	}
	say := func(r *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	other := "spiffe://test.example/svc/other"
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{webID, "ROOTCA", other}})
	one := receive(t, stream)
	if len(one.GetResources()) != 2 || !slices.Equal(one.GetRemovedResources(), []string{other}) {
		t.Fatalf("got %d secrets, removed %q", len(one.GetResources()), one.GetRemovedResources())
	}
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: one.GetNonce()})
	source.rotate()
	two := receive(t, stream)
	if len(two.GetResources()) != 1 || two.GetResources()[0].GetName() != webID || len(two.GetRemovedResources()) != 0 {
		t.Errorf("after a rotation: got %v, removed %q", two.GetResources(), two.GetRemovedResources())
	}
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: two.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: "no"}})
	source.entitle(web(), entry{id: other, want: []Selector{ownUID()}})
	three := receive(t, stream)
	if len(three.GetResources()) != 1 || three.GetResources()[0].GetName() != other {
		t.Errorf("after the entry appeared: got %v", three.GetResources())
	}
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: three.GetNonce(), ResourceNamesUnsubscribe: []string{webID}})
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"ROOTCA"}}) // again: answered again
	four := receive(t, stream)
	if len(four.GetResources()) != 1 || four.GetResources()[0].GetName() != "ROOTCA" {
		t.Errorf("after a second subscription: got %v", four.GetResources())
	}
	source.entitle(web())
	five := receive(t, stream)
	if len(five.GetResources()) != 0 || !slices.Equal(five.GetRemovedResources(), []string{other}) {
		t.Errorf("after the entry is gone: got %v, removed %q", five.GetResources(), five.GetRemovedResources())
	}

	again, err := client.DeltaSecrets(asked(t))
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]string{"gone": "1"}
	for _, r := range one.GetResources() {
		has[r.GetName()] = r.GetVersion()
	}
	if err := again.Send(&discovery.DeltaDiscoveryRequest{InitialResourceVersions: has}); err != nil {
		t.Fatal(err)
	}
	six := receive(t, again)
	names := []string{}
	for _, r := range six.GetResources() {
		names = append(names, r.GetName())
	}
	// All of it is subscribed; ROOTCA is as before, the certificate is not.
	if slices.Contains(names, "ROOTCA") || !slices.Contains(names, webID) || !slices.Contains(names, "ALL") {
		t.Errorf("after a reconnect: got %q", names)
	}
	if !slices.Equal(six.GetRemovedResources(), []string{"gone"}) {
		t.Errorf("after a reconnect: removed %q", six.GetRemovedResources())
	}
}
