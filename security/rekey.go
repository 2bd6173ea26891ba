package security

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/parley-mesh/parley/transport"
)

const (
	// MaxRekeyAddrs is how many addresses one renewal by host key tries.
	MaxRekeyAddrs = 64
	// maxRekeyRefusals is after how many final refusals it stops: one may come from a core member
	// that is behind, or from an agent that means harm; several are the cluster's word.
	maxRekeyRefusals = 3
	// rekeyDeadline is how long one address may take. It leaves time for others within renewTimeout.
	rekeyDeadline = 4 * time.Second
)

// RekeyOptions is what an agent needs to renew by its host key.
type RekeyOptions struct {
	Source    *Source
	ClusterID string
	Addrs     []string // mesh addresses (addr:port), the likeliest first
	// Dial opens the TCP connection; nil: net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Rekey asks the agents at o.Addrs, one after the other, for a certificate on the strength of the host
// key alone, and returns its chain (DER, leaf first). It is how an agent comes back whose certificate
// ended while it was off, which nobody accepts any more.
//
// Nothing is sent before the other side has shown a valid certificate of an agent below the roots of
// the agent's own bundle: the certificate here has expired, the trust has not. What comes back is no
// more than a chain; Source.SetLeaf judges it. In particular it brings no bundle, because any agent may
// be asked, and one that means harm could otherwise hand out roots of its own. The bundle comes with
// the next ordinary renewal, from a core member.
//
// The error is the most telling one: a *RekeyError if an agent answered.
func Rekey(ctx context.Context, o RekeyOptions, leaf LeafRequest) ([][]byte, error) {
	if len(o.Addrs) == 0 {
		return nil, errors.New("renew by host key: no address of another agent is known: name some with --join")
	}
	req, err := o.request(leaf)
	if err != nil {
		return nil, err
	}
	var told, last error
	refusals := 0
	for _, addr := range o.Addrs[:min(len(o.Addrs), MaxRekeyAddrs)] {
		chain, err := o.attempt(ctx, addr, req)
		if err == nil {
			return chain, nil
		}
		last = fmt.Errorf("renew by host key at %s: %w", addr, err)
		var refused *RekeyError
		if errors.As(err, &refused) {
			told = last
			if refused.Permanent() {
				refusals++
			}
		}
		if refusals == maxRekeyRefusals || ctx.Err() != nil {
			break
		}
	}
	if told != nil {
		return nil, told
	}
	return nil, last
}

// request signs the request once; each address gets the same.
func (o *RekeyOptions) request(leaf LeafRequest) (RekeyRequest, error) {
	last := o.Source.leaf.Load().Certificate
	r := RekeyRequest{
		Request: rekeyTag, Version: rekeyVersion, ClusterID: o.ClusterID, Leaf: leaf, Last: last[:min(len(last), maxLastCerts)],
	}
	sig, err := o.Source.host.Signer.Sign(rand.Reader, r.hostDigest(), crypto.SHA256)
	if err != nil {
		return RekeyRequest{}, fmt.Errorf("sign renewal with host key: %w", err)
	}
	r.HostProof = sig
	return r, nil
}

// attempt does one exchange with the agent at addr.
func (o *RekeyOptions) attempt(ctx context.Context, addr string, req RekeyRequest) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, rekeyDeadline)
	defer cancel()
	data, err := exchange(ctx, o.Dial, addr, o.Source.rekeyTLS(), req)
	if speaksNone(err) {
		return nil, fmt.Errorf("the agent there is older than %s, update it or name others with --join: %w", transport.ALPNRekey, err)
	}
	if err != nil {
		return nil, err
	}
	answer, err := decodeRekeyAnswer(data)
	if err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, answer.Error.sanitized()
	}
	certs, err := parseCerts(answer.Response.Chain)
	if err != nil {
		return nil, fmt.Errorf("renewal answer: %w", err)
	}
	// Looked at here, so that rubbish from one address leaves the others their turn.
	if !bytes.Equal(certs[0].RawSubjectPublicKeyInfo, req.Leaf.PublicKey) {
		return nil, errors.New("renewal answer: the certificate is for another key")
	}
	v := o.Source.verifier()
	v.hostKeyOf = func(string) ([]byte, bool) { return o.Source.host.HostKey(), true }
	if _, err := v.peer(certs, o.Source.node); err != nil {
		return nil, fmt.Errorf("renewal answer: %w", err)
	}
	return answer.Response.Chain, nil
}

// speaksNone tells whether the other side's alert says that it speaks none of the protocols that it was offered (RFC 7301,
// section 3.2). crypto/tls has no type for an alert that came over TCP.
func speaksNone(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "no application protocol")
}

// rekeyTLS judges the other side as every dial does, and shows nothing.
func (s *Source) rekeyTLS() *tls.Config {
	c := s.ClientTLS("", transport.ALPNRekey)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	return c
}
