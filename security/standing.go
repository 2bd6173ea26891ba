package security

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// Standing judges a connection whose handshake one of this source's configurations has verified, for as long as it is
// open. Its Check fails as soon as the name is bound to another host, the node left, or the bundle lost its root. That the
// certificate ends meanwhile is no reason: the peer has renewed it, and no connection is dropped for that; if it could
// not, because nobody signs for a while, cutting it off would make an outage of it.
//
// An operator's connection ends as soon as its name is bound to another key or to none, and with its certificate. Where
// an agent hears nothing of a removal, because it is cut off from the core, that is what ends it: nobody renews an
// operator there.
func (s *Source) Standing(cs tls.ConnectionState) transport.Standing {
	peer, err := s.Identify(cs)
	if err == nil && peer.Operator != "" {
		return s.operatorStanding(cs, peer.ID, peer.Operator)
	}
	if err != nil || peer.Node == "" {
		return transport.Standing{Check: func() error { return err }}
	}
	t := &standing{source: s, cs: cs, id: peer.ID, node: peer.Node, until: cs.PeerCertificates[0].NotAfter}
	for _, c := range cs.PeerCertificates {
		if c.NotAfter.Before(t.until) {
			t.until = c.NotAfter
		}
	}
	return transport.Standing{Check: t.check}
}

// standing remembers what the last whole check went by, so that the many after it are cheap.
type standing struct {
	source *Source
	cs     tls.ConnectionState
	id     spiffeid.ID
	node   string
	until  time.Time // the chain's end, by which it is judged from then on

	mu      sync.Mutex // one check at a time; the source is asked under it, which never waits
	checked bool
	hostKey []byte         // by which the host's signature was checked, nil if none was known
	roots   *x509.CertPool // to which the chain was checked
}

func (t *standing) check() error {
	v := t.source.verifier()
	key, _ := t.source.hostKey(t.node)
	roots := v.agentRoots()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.checked && bytes.Equal(key, t.hostKey) && roots == t.roots && (v.denied == nil || !v.denied(t.id)) && !v.isDenied(t.id, t.cs.PeerCertificates[0]) {
		return nil
	}
	if v.now.After(t.until) {
		v.now = t.until
	}
	if _, err := v.peer(t.cs.PeerCertificates, t.node); err != nil {
		return err
	}
	t.checked, t.hostKey, t.roots = true, key, roots
	return nil
}

// hostKey is the host key that the applied state pins for a node, if one is known.
func (s *Source) hostKey(node string) ([]byte, bool) {
	if s.hostKeyOf == nil {
		return nil, false
	}
	return s.hostKeyOf(node)
}

// operatorStanding remembers the bundle that the chain was checked to; the binding is looked up each time.
func (s *Source) operatorStanding(cs tls.ConnectionState, id spiffeid.ID, name string) transport.Standing {
	var checked atomic.Pointer[bundle]
	return transport.Standing{Check: func() error {
		v, roots := s.verifier(), s.bundle.Load()
		leaf := cs.PeerCertificates[0]
		if checked.Load() == roots && !v.now.After(leaf.NotAfter) && v.bound(leaf, name) == nil && !v.isDenied(id, leaf) {
			return nil
		}
		if _, err := v.operator(cs.PeerCertificates); err != nil {
			return err
		}
		checked.Store(roots)
		return nil
	}}
}
