package workload

import (
	"maps"
	"slices"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wildcard subscribes to all secrets; so does a first request without a name.
const wildcard = "*"

// DeltaSecrets answers with the secrets that are new to the proxy, and with the names of those that are gone.
func (s *secretServer) DeltaSecrets(
	stream grpc.BidiStreamingServer[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse],
) error {
	sub := newDelta()
	return exchange(stream.Context(), s.server, stream.Recv, func(r *discovery.DeltaDiscoveryRequest) (bool, error) {
		if e := r.GetErrorDetail(); e != nil {
			s.server.log.Warn("a proxy rejected its secrets", zap.String("reason", quoted(e.GetMessage())))
		}
		return sub.take(r)
	}, func(h held) error {
		r, err := sub.respond(h)
		if err != nil || r == nil {
			return err
		}
		return stream.Send(r)
	})
}

// deltaSubscription is what one delta stream asked for and was told.
type deltaSubscription struct {
	begun  bool
	all    bool
	names  map[string]bool
	known  map[string]string // version of each secret that the proxy has, or was sent; "" is one that it was told is gone
	owed   map[string]bool   // subscribed since the last answer: an answer is due even if the proxy has it
	nonces uint64
}

func newDelta() *deltaSubscription {
	return &deltaSubscription{names: make(map[string]bool), known: make(map[string]string), owed: make(map[string]bool)}
}

// take reads a request and says whether it needs an answer at once. Acknowledgements and rejections need none: what was
// rejected is sent again when it has changed.
func (s *deltaSubscription) take(r *discovery.DeltaDiscoveryRequest) (due bool, err error) {
	if t := r.GetTypeUrl(); t != "" && t != secretType {
		return false, status.Errorf(codes.InvalidArgument, "only %s is served here, not %s", secretType, quoted(t))
	}
	subscribe, wild := withoutWildcard(r.GetResourceNamesSubscribe())
	if err := checkSecretNames(subscribe); err != nil {
		return false, status.Error(codes.InvalidArgument, err.Error())
	}
	if !s.begun {
		s.begun, due = true, true
		wild = wild || len(r.GetResourceNamesSubscribe()) == 0
		for name, version := range r.GetInitialResourceVersions() {
			if len(s.known) < maxSecrets {
				s.known[name] = version
			}
		}
	}
	if wild {
		s.all, due = true, true
	}
	for _, name := range subscribe {
		s.names[name], s.owed[name], due = true, true, true
	}
	unsubscribe, wild := withoutWildcard(r.GetResourceNamesUnsubscribe())
	s.all = s.all && !wild
	for _, name := range unsubscribe {
		delete(s.names, name)
		delete(s.owed, name)
		if !s.all {
			delete(s.known, name)
		}
	}
	if len(s.names) > maxSecrets {
		return false, status.Errorf(codes.InvalidArgument, "at most %d secrets can be asked for on one stream", maxSecrets)
	}
	return due, nil
}

func withoutWildcard(names []string) (rest []string, found bool) {
	rest = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == wildcard })
	return rest, len(rest) != len(names)
}

// respond returns the next answer, nil if there is nothing to say.
func (s *deltaSubscription) respond(h held) (*discovery.DeltaDiscoveryResponse, error) {
	names := slices.Collect(maps.Keys(s.names))
	if s.all {
		names = append(names, h.secretNames()...)
	}
	secrets, err := h.secretsFor(names, false)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	r := &discovery.DeltaDiscoveryResponse{TypeUrl: secretType}
	present := make(map[string]bool, len(secrets))
	for _, secret := range secrets {
		present[secret.name] = true
		if s.known[secret.name] == secret.version && !s.owed[secret.name] {
			continue
		}
		s.known[secret.name] = secret.version
		r.Resources = append(r.Resources, &discovery.Resource{Name: secret.name, Version: secret.version, Resource: secret.body})
	}
	r.RemovedResources = s.removed(present)
	first := s.nonces == 0
	clear(s.owed)
	if len(r.GetResources()) == 0 && len(r.GetRemovedResources()) == 0 && !first {
		return nil, nil
	}
	s.nonces++
	r.Nonce = strconv.FormatUint(s.nonces, 10)
	return r, nil
}

// removed are the names that the proxy waits for or has, and that are not there; each is told once.
func (s *deltaSubscription) removed(present map[string]bool) (gone []string) {
	for name := range s.names {
		if version, told := s.known[name]; !present[name] && (!told || version != "" || s.owed[name]) {
			gone = append(gone, name)
			s.known[name] = ""
		}
	}
	for name, version := range s.known {
		if !present[name] && !s.names[name] {
			if version != "" {
				gone = append(gone, name)
			}
			delete(s.known, name)
		}
	}
	slices.Sort(gone)
	return gone
}
