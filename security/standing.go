package security

import (
	"bytes"
	"crypto/tls"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// Standing judges a connection whose handshake one of this source's configurations has verified, for as long as it is
// open. Its Check fails as soon as the name is bound to another host, the node left, or the bundle lost its root. That the
// certificate ends meanwhile is no reason: the peer has renewed it, and no connection is dropped for that; if it could
// not, because nobody signs for a while, cutting it off would make an outage of it.
func (s *Source) Standing(cs tls.ConnectionState) transport.Standing {
	peer, err := s.Identify(cs)
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
	hostKey []byte  // by which the host's signature was checked, nil if none was known
	bundle  *bundle // to which the chain was checked
}

func (t *standing) check() error {
	v := t.source.verifier()
	key, _ := t.source.hostKey(t.node)
	roots := t.source.bundle.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.checked && bytes.Equal(key, t.hostKey) && roots == t.bundle && (v.denied == nil || !v.denied(t.id)) {
		return nil
	}
	if v.now.After(t.until) {
		v.now = t.until
	}
	if _, err := v.peer(t.cs.PeerCertificates, t.node); err != nil {
		return err
	}
	t.checked, t.hostKey, t.bundle = true, key, roots
	return nil
}

// hostKey is the host key that the applied state pins for a node, if one is known.
func (s *Source) hostKey(node string) ([]byte, bool) {
	if s.hostKeyOf == nil {
		return nil, false
	}
	return s.hostKeyOf(node)
}
