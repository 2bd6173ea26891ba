package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretapi "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// secretServer is Envoy's secret discovery, version 3.
type secretServer struct {
	secretapi.UnimplementedSecretDiscoveryServiceServer
	server *Server
}

// FetchSecrets answers once.
func (s *secretServer) FetchSecrets(ctx context.Context, r *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	sub := &subscription{}
	if _, err := sub.take(r); err != nil {
		return nil, err
	}
	h, _, err := s.server.identitiesOf(ctx)
	if err != nil {
		return nil, err
	}
	return sub.respond(h)
}

// StreamSecrets answers with the whole set of the secrets that the proxy asks for, and again when it changes.
func (s *secretServer) StreamSecrets(stream grpc.BidiStreamingServer[discovery.DiscoveryRequest, discovery.DiscoveryResponse]) error {
	sub := &subscription{}
	return exchange(stream.Context(), s.server, stream.Recv, func(r *discovery.DiscoveryRequest) (bool, error) {
		answer, err := sub.take(r)
		if sub.rejected != "" {
			s.server.log.Warn("a proxy rejected its secrets", zap.String("reason", sub.rejected))
		}
		return answer, err
	}, func(h held) error {
		r, err := sub.respond(h)
		if err != nil || r == nil {
			return err
		}
		return stream.Send(r)
	})
}

// exchange serves a stream of requests. take says whether a request needs an answer; answer is called then, and after each
// change once there was a request. Who asks is proven before each.
func exchange[R any](
	ctx context.Context, s *Server, receive func() (R, error), take func(R) (bool, error), answer func(held) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests, ended := make(chan R), make(chan error, 1)
	go func() { // ends with the stream, which does when this call returns
		for {
			r, err := receive()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	var changed [2]<-chan struct{} // nil before the first answer
	for {
		select {
		case r := <-requests:
			if due, err := take(r); err != nil {
				return err
			} else if !due {
				continue
			}
		case <-changed[0]:
		case <-changed[1]:
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		h, _, err := s.identitiesOf(ctx)
		if err != nil {
			return err
		}
		if err := answer(h); err != nil {
			return err
		}
		changed = h.changed
	}
}

// subscription is what one state-of-the-world stream asked for and was told.
type subscription struct {
	names    []string
	all      bool // asked for without a name
	fresh    bool // something was asked that needs an answer, whether or not the content is new
	nonces   uint64
	version  string // last sent
	rejected string // why the proxy did not take it, once
}

// take reads a request and says whether it needs an answer at once. A request is an acknowledgement, or a rejection, of the
// answer whose nonce it carries, and changes what is asked for at the same time.
func (s *subscription) take(r *discovery.DiscoveryRequest) (due bool, err error) {
	s.rejected = ""
	if t := r.GetTypeUrl(); t != "" && t != secretType {
		return false, status.Errorf(codes.InvalidArgument, "only %s is served here, not %s", secretType, quoted(t))
	}
	if err := checkSecretNames(r.GetResourceNames()); err != nil {
		return false, status.Error(codes.InvalidArgument, err.Error())
	}
	first := s.nonces == 0 && r.GetResponseNonce() == ""
	if !first && r.GetResponseNonce() != s.nonce() {
		return false, nil // about an answer that is not the last one any more: the acknowledgement of that will say the same
	}
	if e := r.GetErrorDetail(); e != nil {
		s.rejected = quoted(e.GetMessage())
	}
	same := sameNames(s.names, r.GetResourceNames())
	s.names, s.all = r.GetResourceNames(), len(r.GetResourceNames()) == 0
	if first || !same {
		s.fresh = true
	}
	return s.fresh, nil
}

func (s *subscription) nonce() string {
	if s.nonces == 0 {
		return ""
	}
	return strconv.FormatUint(s.nonces, 10)
}

// respond returns the next answer, nil if it would say what the last one did.
func (s *subscription) respond(h held) (*discovery.DiscoveryResponse, error) {
	secrets, err := h.secretsFor(s.names, s.all)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if len(secrets) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity of this process, and no bundle, has a name that was asked for")
	}
	r := &discovery.DiscoveryResponse{TypeUrl: secretType}
	sum := sha256.New()
	for _, secret := range secrets {
		_, _ = io.WriteString(sum, secret.version) // a hash takes everything
		r.Resources = append(r.Resources, secret.body)
	}
	r.VersionInfo = hex.EncodeToString(sum.Sum(nil)[:16])
	if r.GetVersionInfo() == s.version && !s.fresh {
		return nil, nil
	}
	s.nonces++
	s.version, s.fresh, r.Nonce = r.GetVersionInfo(), false, s.nonce()
	return r, nil
}

// sameNames compares what is asked for, in whatever order.
func sameNames(a, b []string) bool {
	set := make(map[string]bool, len(a))
	for _, name := range a {
		set[name] = true
	}
	for _, name := range b {
		if !set[name] {
			return false
		}
	}
	other := make(map[string]bool, len(b))
	for _, name := range b {
		other[name] = true
	}
	return len(set) == len(other)
}
