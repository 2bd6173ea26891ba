package workload

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/parley-mesh/parley/security"
)

const (
	maxAudienceBytes = 2048 // of a token that is shown, which others may have made
	maxTokenBytes    = 16 << 10
)

// workloadServer is the SPIFFE Workload API. Calls that it does not have, those of the WIT profile, are unimplemented.
type workloadServer struct {
	api.UnimplementedSpiffeWorkloadAPIServer
	server *Server
}

// pushed is what streams have in common: the whole state at once, and again after each change of it. Who asks is proven anew
// each time: the process may have become another one.
func pushed[T proto.Message](ctx context.Context, s *Server, make func(held) (T, error), send func(T) error) error {
	var last []byte
	for first := true; ; first = false {
		h, _, err := s.identitiesOf(ctx)
		if err != nil {
			return err
		}
		message, err := make(h)
		if err != nil {
			return err
		}
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil {
			return status.Error(codes.Internal, "the answer cannot be encoded")
		}
		if first || !slices.Equal(last, encoded) {
			if err := send(message); err != nil {
				return err
			}
			last = encoded
		}
		if err := h.wait(ctx); err != nil {
			return err
		}
	}
}

func (w *workloadServer) FetchX509SVID(_ *api.X509SVIDRequest, stream grpc.ServerStreamingServer[api.X509SVIDResponse]) error {
	return pushed(stream.Context(), w.server, x509SVIDs, stream.Send)
}

func x509SVIDs(h held) (*api.X509SVIDResponse, error) {
	answer := &api.X509SVIDResponse{FederatedBundles: make(map[string][]byte, len(h.bundles.Federated))}
	own := authorities(h.bundles.Own)
	for _, identity := range h.identities {
		key, err := x509.MarshalPKCS8PrivateKey(identity.Key)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "the key of %s cannot be encoded", identity.ID)
		}
		answer.Svids = append(answer.Svids, &api.X509SVID{
			SpiffeId: identity.ID.String(), X509Svid: encode(identity.Chain), X509SvidKey: key, Bundle: own, Hint: identity.Hint,
		})
	}
	for td, bundle := range h.bundles.Federated {
		answer.FederatedBundles[td.IDString()] = authorities(bundle)
	}
	return answer, nil
}

func (w *workloadServer) FetchX509Bundles(_ *api.X509BundlesRequest, stream grpc.ServerStreamingServer[api.X509BundlesResponse]) error {
	return pushed(stream.Context(), w.server, func(h held) (*api.X509BundlesResponse, error) {
		answer := &api.X509BundlesResponse{Bundles: make(map[string][]byte)}
		for _, bundle := range h.bundles.all() {
			answer.Bundles[bundle.TrustDomain().IDString()] = authorities(bundle)
		}
		return answer, nil
	}, stream.Send)
}

func (w *workloadServer) FetchJWTBundles(_ *api.JWTBundlesRequest, stream grpc.ServerStreamingServer[api.JWTBundlesResponse]) error {
	return pushed(stream.Context(), w.server, func(h held) (*api.JWTBundlesResponse, error) {
		answer := &api.JWTBundlesResponse{Bundles: make(map[string][]byte)}
		for _, bundle := range h.bundles.all() {
			text, err := bundle.JWTBundle().Marshal()
			if err != nil {
				return nil, status.Errorf(codes.Internal, "the bundle of %s cannot be encoded", bundle.TrustDomain())
			}
			answer.Bundles[bundle.TrustDomain().IDString()] = text
		}
		return answer, nil
	}, stream.Send)
}

func (w *workloadServer) FetchJWTSVID(ctx context.Context, r *api.JWTSVIDRequest) (*api.JWTSVIDResponse, error) {
	wanted, err := checkJWTRequest(r)
	if err != nil {
		return nil, err
	}
	h, found, err := w.server.identitiesOf(ctx)
	if err != nil {
		return nil, err
	}
	answer := &api.JWTSVIDResponse{}
	for _, identity := range h.identities {
		if !wanted.IsZero() && identity.ID != wanted {
			continue
		}
		token, err := w.server.source.MintJWT(ctx, found, identity.ID, r.GetAudience())
		if err != nil {
			return nil, w.server.sourceFailed(err)
		}
		answer.Svids = append(answer.Svids, &api.JWTSVID{SpiffeId: identity.ID.String(), Svid: token, Hint: identity.Hint})
	}
	if len(answer.GetSvids()) == 0 {
		return nil, refusal(ErrNoIdentity)
	}
	return answer, nil
}

// checkJWTRequest returns the identity that a token is wanted for: the zero one stands for all.
func checkJWTRequest(r *api.JWTSVIDRequest) (spiffeid.ID, error) {
	if err := security.CheckAudience(r.GetAudience()); err != nil {
		return spiffeid.ID{}, status.Errorf(codes.InvalidArgument, "audience must be specified: %v", err)
	}
	if r.GetSpiffeId() == "" {
		return spiffeid.ID{}, nil
	}
	id, err := parseID(r.GetSpiffeId())
	if err != nil {
		return spiffeid.ID{}, status.Error(codes.InvalidArgument, "spiffe_id: "+err.Error())
	}
	return id, nil
}

// ValidateJWTSVID tells nothing but what public keys say, so it is for every process of the host. A process without an entry has the
// own trust domain's tokens judged, one with entries those of the trust domains too that they name.
func (w *workloadServer) ValidateJWTSVID(ctx context.Context, r *api.ValidateJWTSVIDRequest) (*api.ValidateJWTSVIDResponse, error) {
	switch {
	case r.GetAudience() == "" || len(r.GetAudience()) > maxAudienceBytes:
		return nil, status.Errorf(codes.InvalidArgument, "audience must be specified, with at most %d bytes", maxAudienceBytes)
	case r.GetSvid() == "" || len(r.GetSvid()) > maxTokenBytes:
		return nil, status.Errorf(codes.InvalidArgument, "svid must be specified, with at most %d bytes", maxTokenBytes)
	}
	found, err := w.server.prove(ctx)
	if err != nil {
		return nil, err
	}
	bundles, _, err := w.server.source.Bundles()
	if err != nil {
		return nil, w.server.sourceFailed(err)
	}
	return judgeToken(r.GetSvid(), r.GetAudience(), bundles.only(w.server.source.FederatesWith(found)), w.server.denied)
}

// judgeToken says what a token by one of these bundles holds, or that it is no good.
func judgeToken(svid, audience string, bundles Bundles, denied func(spiffeid.ID) bool) (*api.ValidateJWTSVIDResponse, error) {
	token, err := jwtsvid.ParseAndValidate(svid, spiffebundle.NewSet(bundles.all()...), []string{audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if denied(token.ID) {
		return nil, status.Errorf(codes.InvalidArgument, "the identity %s is denied", token.ID)
	}
	claims, err := structpb.NewStruct(token.Claims)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the token has claims that JSON does not have")
	}
	return &api.ValidateJWTSVIDResponse{SpiffeId: token.ID.String(), Claims: claims}, nil
}

// all returns the own bundle first, then the others by name.
func (b Bundles) all() []*spiffebundle.Bundle {
	list := []*spiffebundle.Bundle{b.Own}
	for _, bundle := range b.Federated {
		list = append(list, bundle)
	}
	slices.SortFunc(list[1:], func(x, y *spiffebundle.Bundle) int { return x.TrustDomain().Compare(y.TrustDomain()) })
	return list
}

func authorities(b *spiffebundle.Bundle) []byte { return encode(b.X509Authorities()) }

// encode is a list of certificates as the protocol has it: one behind the other.
func encode(certs []*x509.Certificate) (der []byte) {
	for _, c := range certs {
		der = append(der, c.Raw...)
	}
	return der
}

// maxIDBytes is the longest SPIFFE ID that the standard lets an implementation rely on.
const maxIDBytes = 2048

// parseID reads a SPIFFE ID that a process sent.
func parseID(text string) (spiffeid.ID, error) {
	if len(text) > maxIDBytes {
		return spiffeid.ID{}, fmt.Errorf("a SPIFFE ID has at most %d bytes", maxIDBytes)
	}
	return spiffeid.FromString(text)
}
