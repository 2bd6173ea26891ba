package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/security"
)

const webID = "spiffe://test.example/svc/web"

func web() entry {
	return entry{id: webID, hint: "main", want: []Selector{ownUID()}, with: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("other.example")}}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: got %v (%v), want %v", what, status.Code(err), err, want)
	}
}

// Each call says exactly what the standard wants it to say to a process without the header, without an identity, and while
// the agent starts.
func TestCodes(t *testing.T) {
	source := newFakeSource(t, testTD)
	_, path := serve(t, source)
	client := api.NewSpiffeWorkloadAPIClient(dial(t, path))
	calls := map[string]func(context.Context) error{
		"FetchX509SVID": func(ctx context.Context) error {
			stream, err := client.FetchX509SVID(ctx, &api.X509SVIDRequest{})
			return first(stream, err)
		},
		"FetchX509Bundles": func(ctx context.Context) error {
			stream, err := client.FetchX509Bundles(ctx, &api.X509BundlesRequest{})
			return first(stream, err)
		},
		"FetchJWTBundles": func(ctx context.Context) error {
			stream, err := client.FetchJWTBundles(ctx, &api.JWTBundlesRequest{})
			return first(stream, err)
		},
		"FetchJWTSVID": func(ctx context.Context) error {
			_, err := client.FetchJWTSVID(ctx, &api.JWTSVIDRequest{Audience: []string{"a"}})
			return err
		},
	}
	for name, call := range calls {
		wantCode(t, name+" without the header", call(metadata.NewOutgoingContext(asked(t), nil)), codes.InvalidArgument)
		wantCode(t, name+" with another header", call(metadata.NewOutgoingContext(asked(t), metadata.Pairs(securityHeader, "yes"))), codes.InvalidArgument)
		wantCode(t, name+" without an identity", call(asked(t)), codes.PermissionDenied)
	}
	source.change(func() { source.notReady = true })
	for name, call := range calls {
		wantCode(t, name+" while the agent starts", call(asked(t)), codes.Unavailable)
	}
	_, err := client.ValidateJWTSVID(asked(t), &api.ValidateJWTSVIDRequest{Audience: "a", Svid: "x"})
	wantCode(t, "ValidateJWTSVID while the agent starts", err, codes.Unavailable)
	source.change(func() { source.notReady = false })
	source.entitle(web())
	for name, call := range calls {
		wantCode(t, name+" with an identity", call(asked(t)), codes.OK)
	}
	stream, err := client.FetchWITSVID(asked(t), &api.WITSVIDRequest{})
	wantCode(t, "FetchWITSVID", first(stream, err), codes.Unimplemented)
	wits, err := client.FetchWITBundles(asked(t), &api.WITBundlesRequest{})
	wantCode(t, "FetchWITBundles", first(wits, err), codes.Unimplemented)
}

// first is how a stream's first message comes.
func first[T any](stream interface{ Recv() (T, error) }, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// What a JWT call may ask for is limited, and malformed identities are refused.
func TestJWTArguments(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web())
	_, path := serve(t, source)
	client := api.NewSpiffeWorkloadAPIClient(dial(t, path))
	many := make([]string, security.MaxAudiences+1)
	for i := range many {
		many[i] = "a"
	}
	for name, r := range map[string]*api.JWTSVIDRequest{
		"no audience":     {},
		"empty audience":  {Audience: []string{""}},
		"many audiences":  {Audience: many},
		"a long audience": {Audience: []string{strings.Repeat("a", security.MaxAudienceBytes+1)}},
		"a line break":    {Audience: []string{"a\nb"}},
		"a long id":       {Audience: []string{"a"}, SpiffeId: "spiffe://test.example/" + strings.Repeat("a", maxIDBytes)},
		"no SPIFFE ID":    {Audience: []string{"a"}, SpiffeId: "web"},
	} {
		_, err := client.FetchJWTSVID(asked(t), r)
		wantCode(t, name, err, codes.InvalidArgument)
	}
	_, err := client.FetchJWTSVID(asked(t), &api.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: webID + "/other"})
	wantCode(t, "somebody else's identity", err, codes.PermissionDenied)
	for name, r := range map[string]*api.ValidateJWTSVIDRequest{
		"no audience":  {Svid: "x"},
		"no token":     {Audience: "a"},
		"a long token": {Audience: "a", Svid: strings.Repeat("x", maxTokenBytes+1)},
		"no JWT":       {Audience: "a", Svid: "x.y.z"},
	} {
		_, err := client.ValidateJWTSVID(asked(t), r)
		wantCode(t, name, err, codes.InvalidArgument)
	}
	_, err = client.FetchJWTSVID(asked(t), &api.JWTSVIDRequest{Audience: []string{strings.Repeat("a", maxRequestBytes)}})
	wantCode(t, "a message over the limit", err, codes.ResourceExhausted)
}

// The first message comes at once with everything in it, and each change of identity or bundle is pushed with everything in
// it again. An identity that is taken away ends the stream.
func TestStreamPushesFullState(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web(), entry{id: webID + "-2", want: []Selector{ownUID()}})
	_, path := serve(t, source)
	stream, err := api.NewSpiffeWorkloadAPIClient(dial(t, path)).FetchX509SVID(asked(t), &api.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	one := receive(t, stream)
	if len(one.GetSvids()) != 2 || one.GetSvids()[0].GetHint() != "main" {
		t.Fatalf("got %d identities, hint %q", len(one.GetSvids()), one.GetSvids()[0].GetHint())
	}
	if _, err := x509svid.ParseRaw(one.GetSvids()[0].GetX509Svid(), one.GetSvids()[0].GetX509SvidKey()); err != nil {
		t.Fatal(err)
	}
	source.rotate()
	two := receive(t, stream)
	if len(two.GetSvids()) != 2 || bytes.Equal(two.GetSvids()[0].GetX509Svid(), one.GetSvids()[0].GetX509Svid()) {
		t.Error("the rotation pushed no new certificate, or not the full state")
	}
	source.change(func() {}) // nothing new: nothing is to be pushed before what follows
	other := newFakeSource(t, spiffeid.RequireTrustDomainFromString("other.example"))
	source.federate(other.bundles.Own)
	three := receive(t, stream)
	if !bytes.Equal(three.GetFederatedBundles()["spiffe://other.example"], other.ca.Raw) || len(three.GetSvids()) != 2 {
		t.Errorf("got federated bundles %v", three.GetFederatedBundles())
	}
	source.entitle()
	_, err = stream.Recv()
	wantCode(t, "the entry is gone", err, codes.PermissionDenied)
}

func receive[T any](t *testing.T, stream interface{ Recv() (T, error) }) T {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The client that SPIFFE's own authors wrote: sources that follow rotations, tokens that verify, the address from the
// environment.
func TestGoSPIFFEClient(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web())
	other := newFakeSource(t, spiffeid.RequireTrustDomainFromString("other.example"))
	source.federate(other.bundles.Own)
	_, path := serve(t, source)
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix://"+path)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	xs, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer xs.Close() //nolint:errcheck // a test's
	svid, err := xs.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID.String() != webID || svid.Hint != "main" {
		t.Errorf("got %s with hint %q", svid.ID, svid.Hint)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, xs); err != nil {
		t.Error(err)
	}
	for _, td := range []spiffeid.TrustDomain{testTD, other.td} {
		if _, err := xs.GetX509BundleForTrustDomain(td); err != nil {
			t.Error(err)
		}
	}
	updated := xs.Updated()
	source.rotate()
	select {
	case <-updated:
	case <-ctx.Done():
		t.Fatal("the rotation did not reach the source")
	}
	if now, err := xs.GetX509SVID(); err != nil || now.Certificates[0].Equal(svid.Certificates[0]) {
		t.Errorf("the certificate after the rotation is the old one (%v)", err)
	}

	js, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer js.Close() //nolint:errcheck // a test's
	token, err := js.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}})
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := jwtsvid.ParseAndValidate(token.Marshal(), js, []string{"cache"}); err != nil || parsed.ID.String() != webID {
		t.Errorf("got %v, %v", parsed, err)
	}
	validated, err := workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "db")
	if err != nil || validated.ID.String() != webID {
		t.Errorf("got %v, %v", validated, err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "another"); err == nil {
		t.Error("a token for db is valid for another audience")
	}
	tampered := token.Marshal()[:len(token.Marshal())-8] + "AAAAAAAA"
	if _, err := workloadapi.ValidateJWTSVID(ctx, tampered, "db"); err == nil {
		t.Error("a forged token is valid")
	}
	if set, err := workloadapi.FetchX509Bundles(ctx); err != nil || set.Len() != 2 {
		t.Errorf("got %v, %v", set, err)
	}
}

// A token of an identity that is denied is no good, and a process whose identity is denied is told so; the control is that nobody is.
func TestDeniedIdentity(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web())
	var denied atomic.Bool
	_, path := serve(t, source, func(s *Server) {
		s.denied = func(id spiffeid.ID) bool { return denied.Load() && id.String() == webID }
	})
	client := api.NewSpiffeWorkloadAPIClient(dial(t, path))
	token, err := client.FetchJWTSVID(asked(t), &api.JWTSVIDRequest{Audience: []string{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &api.ValidateJWTSVIDRequest{Audience: "db", Svid: token.GetSvids()[0].GetSvid()}
	_, err = client.ValidateJWTSVID(asked(t), r)
	wantCode(t, "control: a token", err, codes.OK)
	denied.Store(true)
	_, err = client.ValidateJWTSVID(asked(t), r)
	wantCode(t, "a denied token", err, codes.InvalidArgument)
	if got := refusal(fmt.Errorf("%w", ErrDenied)); status.Code(got) != codes.PermissionDenied || !strings.Contains(got.Error(), "is denied") {
		t.Errorf("a denied process: %v", got)
	}
}

// A user has so many calls and connections at a time and no more, and gets them back by ending some.
func TestLimitsOfAUser(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web())
	_, path := serve(t, source, func(s *Server) { s.limits = limits{conns: 8, userConns: 2, userCalls: 3} })
	ctx, cancel := context.WithCancel(asked(t))
	defer cancel()
	client := api.NewSpiffeWorkloadAPIClient(dial(t, path))
	for range 3 {
		stream, err := client.FetchX509SVID(ctx, &api.X509SVIDRequest{})
		if err := first(stream, err); err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.FetchJWTSVID(asked(t), &api.JWTSVIDRequest{Audience: []string{"a"}})
	wantCode(t, "the fourth call", err, codes.ResourceExhausted)
	second, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close() //nolint:errcheck // a test's
	third, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close() //nolint:errcheck // a test's
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := third.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the third connection of a user that may have two: got %d bytes, %v", n, err)
	}
	if third, err = net.Dial("unix", path); err != nil {
		t.Fatal(err)
	}
	_ = third.Close()
}

// The fetch of an identity that is cached: the whole call, attestation and challenge included.
func BenchmarkFetch(b *testing.B) {
	source := newFakeSource(b, testTD)
	source.entitle(web())
	_, path := serve(b, source)
	client := api.NewSpiffeWorkloadAPIClient(dial(b, path))
	ctx := metadata.AppendToOutgoingContext(context.Background(), securityHeader, "true")
	time.Sleep(settled) // this program may just have been built: until then it is hashed each time
	times := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		ctx, cancel := context.WithCancel(ctx)
		stream, err := client.FetchX509SVID(ctx, &api.X509SVIDRequest{})
		if err := first(stream, err); err != nil {
			b.Fatal(err)
		}
		cancel()
		times = append(times, time.Since(began))
	}
	report(b, times)
}

// From a rotation in the source until the client has the new certificate parsed.
func BenchmarkPush(b *testing.B) {
	source := newFakeSource(b, testTD)
	source.entitle(web())
	_, path := serve(b, source)
	ctx := b.Context()
	xs, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+path)))
	if err != nil {
		b.Fatal(err)
	}
	defer xs.Close() //nolint:errcheck // a test's
	times := make([]time.Duration, 0, b.N)
	for b.Loop() {
		updated := xs.Updated()
		began := time.Now()
		source.rotate()
		<-updated
		times = append(times, time.Since(began))
	}
	report(b, times)
}

func report(b *testing.B, times []time.Duration) {
	if len(times) == 0 {
		return
	}
	sorted := sortedTimes(times)
	b.ReportMetric(float64(sorted[len(sorted)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(sorted[len(sorted)*99/100].Microseconds()), "p99-us")
}
