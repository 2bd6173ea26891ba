package security

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/parley-mesh/parley/transport"
)

// baseTLS is what every TLS setting of the program starts from.
//
// Sessions are never resumed: a resumed handshake shows no certificate and skips
// VerifyPeerCertificate, which once let an evicted client in. VerifyConnection runs in every
// handshake; resumption is off on both sides besides, so that no identity outlives its certificate.
func (s *Source) baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.leaf.Load(), nil },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.leaf.Load(), nil },
		Time:                   s.now,
	}
}

// serverTLS wants a certificate of an agent, or of an operator where operators says so. A client that offers protocols
// must offer one of protos; one that offers none gets by, see meshTLS.
func (s *Source) serverTLS(operators func(alpn string) bool, protos ...string) *tls.Config {
	c := s.baseTLS()
	c.NextProtos = protos
	// The certificate is required here and verified in VerifyConnection: the library's own
	// verification knows host names, not SPIFFE IDs.
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if operators(cs.NegotiatedProtocol) {
			_, err := s.verifier().client(cs.PeerCertificates)
			return err
		}
		_, err := s.verifier().peer(cs.PeerCertificates, "")
		return err
	}
	return c
}

// Where operators are let in.
func nowhere(string) bool      { return false }
func everywhere(string) bool   { return true }
func overRPC(alpn string) bool { return alpn == transport.ALPNRPC }

// meshTLS is serverTLS for a port that dispatches by protocol: it refuses a client that offers none,
// which the library would let in.
func (s *Source) meshTLS(operators func(alpn string) bool, protos ...string) *tls.Config {
	c := s.serverTLS(operators, protos...)
	verify := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol == "" {
			return ErrNoALPN
		}
		return verify(cs)
	}
	return c
}

// ServerTLS is for the mesh's TCP port. It serves protos only, and wants an agent's certificate except
// for transport.ALPNJoin, where the peer has none yet, and transport.ALPNRekey, where its own has ended and is not asked
// for. A peer that offers one of the two beside any other protocol is judged as an agent. An operator's certificate opens transport.ALPNRPC and nothing else.
func (s *Source) ServerTLS(protos ...string) *tls.Config {
	mesh := slices.DeleteFunc(slices.Clone(protos), transport.Bare)
	agents := s.meshTLS(overRPC, mesh...)
	if len(mesh) == len(protos) {
		return agents
	}
	bare := make(map[string]*tls.Config, 2)
	if slices.Contains(protos, transport.ALPNJoin) {
		bare[transport.ALPNJoin] = s.joinServerTLS()
	}
	if slices.Contains(protos, transport.ALPNRekey) {
		bare[transport.ALPNRekey] = s.rekeyServerTLS()
	}
	agents.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) != 1 {
			return nil, nil // agents
		}
		return bare[hello.SupportedProtos[0]], nil // nil: agents
	}
	return agents
}

// QUICServerTLS is for the mesh's UDP port: an agent's certificate, always.
func (s *Source) QUICServerTLS(protos ...string) *tls.Config { return s.meshTLS(nowhere, protos...) }

// HTTPSTLS is for the https listener: mutual TLS with the certificate of an agent or an operator. API tokens and the
// identities of workloads come with a later issue.
func (s *Source) HTTPSTLS() *tls.Config { return s.serverTLS(everywhere, "h2", "http/1.1") }

// joinServerTLS asks the peer for nothing and shows the roots beside the chain: a joiner has only
// their hashes.
func (s *Source) joinServerTLS() *tls.Config {
	c := s.baseTLS()
	c.NextProtos = []string{transport.ALPNJoin}
	if s.external {
		return c // a joiner has the authority's roots from its own Workload API
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		withRoots := *s.leaf.Load()
		withRoots.Certificate = slices.Concat(withRoots.Certificate, s.bundle.Load().ders)
		return &withRoots, nil
	}
	return c
}

// rekeyServerTLS asks the peer for nothing: what proves a host whose certificate has ended is in its request. The host
// has the roots.
func (s *Source) rekeyServerTLS() *tls.Config {
	c := s.baseTLS()
	c.NextProtos = []string{transport.ALPNRekey}
	return c
}

// ClientTLS is for dialling node, or with "" any agent of the trust domain, over TCP or QUIC, for the
// one protocol alpn. A peer that speaks another one is refused.
func (s *Source) ClientTLS(node, alpn string) *tls.Config {
	c := s.baseTLS()
	c.NextProtos = []string{alpn}
	c.InsecureSkipVerify = true // host names mean nothing here: VerifyConnection judges
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != alpn {
			return ErrNoALPN
		}
		_, err := s.verifier().peer(cs.PeerCertificates, node)
		return err
	}
	return c
}

// Identify tells who is at the other end of a connection whose handshake one of this source's
// configurations has completed, and thereby verified. A joiner, or a host that rekeys, is the zero Peer.
func (s *Source) Identify(cs tls.ConnectionState) (transport.Peer, error) {
	if !cs.HandshakeComplete {
		return transport.Peer{}, errors.New("the handshake is not complete")
	}
	if len(cs.PeerCertificates) == 0 {
		if transport.Bare(cs.NegotiatedProtocol) {
			return transport.Peer{}, nil
		}
		return transport.Peer{}, ErrNoCertificate
	}
	id, err := idOf(cs.PeerCertificates[0])
	if err != nil {
		return transport.Peer{}, err
	}
	if id.TrustDomain() != s.td {
		return transport.Peer{}, fmt.Errorf("identify: %w", &TrustDomainError{Peer: id, Want: s.td})
	}
	if name, err := OperatorOf(id); err == nil {
		return transport.Peer{ID: id, Operator: name}, nil
	}
	node, err := NodeOf(id)
	if err != nil {
		return transport.Peer{}, err
	}
	return transport.Peer{ID: id, Node: node}, nil
}
