package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
)

// ErrNotSaved is wrapped by SetLeaf and SetBundle when the new value is in use but could not be
// written to disk, for example because the disk is full. The next start begins with the old one.
var ErrNotSaved = errors.New("in use, but not saved")

// ErrExternal refuses what only a cluster does whose own authority makes the certificates of its agents.
var ErrExternal = errors.New("agents of this cluster have their certificates by the Workload API of their hosts (identity.source), not by the cluster")

// SourceOptions is what a Source needs.
type SourceOptions struct {
	Dir         string // the data directory
	TrustDomain spiffeid.TrustDomain
	Node        string
	Host        *Host
	Now         func() time.Time
	// HostKeyOf returns the host key (SPKI DER) that the applied state pins for a node. It is asked
	// in every handshake and must not block. nil: none is known.
	HostKeyOf func(node string) (spki []byte, ok bool)
	// Denied tells whether an identity was evicted. It is asked in every handshake and must not
	// block. nil: nobody was.
	Denied func(spiffeid.ID) bool
	// CertDenied tells whether an identity, or the certificate that is shown for it, is denied. It is asked in every handshake and
	// must not block. nil: none is.
	CertDenied func(id spiffeid.ID, leaf *x509.Certificate) bool
	// IssuerDenied tells whether what a core member signed with an intermediate of that time counts no more, because the
	// member was evicted. It is asked in every handshake and must not block. nil: never.
	IssuerDenied func(node string, issued time.Time) bool
	// OperatorKey returns the SHA-256 of the key (SPKI DER) that the applied state binds to an operator's name. It is
	// asked in every handshake of one and must not block. nil: there are no operators.
	OperatorKey func(name string) (hash [32]byte, ok bool)
	// External is this agent's first identity by an authority outside of the cluster; SetExternal brings the next ones. nil:
	// the cluster's own authority makes the certificates of agents, and the data directory has this agent's.
	External *External
	Log      *zap.Logger // nil: silent
}

// Source is this agent's identity and what it trusts: the certificate with its key, and the bundle of
// roots. Handshakes read both through atomic pointers, so that SetLeaf and SetBundle take effect at
// the next handshake and leave open connections alone. Safe for concurrent use.
type Source struct {
	dir       string
	td        spiffeid.TrustDomain
	node      string
	id        spiffeid.ID
	host      *Host
	now       func() time.Time
	hostKeyOf func(string) ([]byte, bool)
	denied    func(spiffeid.ID) bool
	log       *zap.Logger

	operatorKey  func(string) ([32]byte, bool)
	issuerDenied func(string, time.Time) bool
	certDenied   func(spiffeid.ID, *x509.Certificate) bool

	external bool                       // agents have their certificates by an authority outside of the cluster
	agents   atomic.Pointer[agentTrust] // that authority's roots; nil exactly when there is none

	leaf    atomic.Pointer[tls.Certificate] // with Leaf set; never nil
	bundle  atomic.Pointer[bundle]          // never nil
	changed chan struct{}                   // capacity 1: a level, see Changed

	// writing orders the two Set methods, so that the files hold what is in use. Files are written
	// under it, which is its purpose; no reader and no handshake takes it.
	writing sync.Mutex
}

// NewSource loads the identity that InitIdentity or Join left in o.Dir. The error is fs.ErrNotExist
// when there is none. An expired certificate is loaded all the same: renewal will say so.
func NewSource(o SourceOptions) (*Source, error) {
	id, err := AgentID(o.TrustDomain, o.Node)
	if err != nil {
		return nil, err
	}
	s := &Source{
		dir: o.Dir, td: o.TrustDomain, node: o.Node, id: id, host: o.Host, now: o.Now,
		hostKeyOf: o.HostKeyOf, denied: o.Denied, operatorKey: o.OperatorKey, issuerDenied: o.IssuerDenied, log: orNop(o.Log), changed: make(chan struct{}, 1),
		external: o.External != nil, certDenied: o.CertDenied,
	}
	b, err := loadBundle(o.Dir, o.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("load trust bundle: %w", err)
	}
	s.bundle.Store(b)
	if o.External != nil {
		return s, s.SetExternal(*o.External)
	}
	key, ders, certs, err := leafFiles(o.Dir).load()
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	if got, err := idOf(certs[0]); err != nil || got != id {
		return nil, fmt.Errorf("%s is the certificate of %q, not of %s: is this the data directory of another agent?",
			identityPath(o.Dir, leafFile), got, id)
	}
	s.leaf.Store(&tls.Certificate{Certificate: ders, PrivateKey: key, Leaf: certs[0]})
	if now := o.Now(); now.After(certs[0].NotAfter) {
		s.log.Warn("own certificate has expired, peers refuse it until it is renewed",
			zap.Stringer("spiffe_id", id), zap.Duration("duration", now.Sub(certs[0].NotAfter)))
	}
	return s, nil
}

func leafFiles(dir string) keyAndChain {
	return keyAndChain{keyPath: identityPath(dir, leafKeyFile), certPath: identityPath(dir, leafFile)}
}

// ID is this agent's SPIFFE ID.
func (s *Source) ID() spiffeid.ID { return s.id }

// Leaf is the certificate in use. It must not be changed.
func (s *Source) Leaf() *x509.Certificate { return s.leaf.Load().Leaf }

// NotAfter is the end of life of the certificate in use.
func (s *Source) NotAfter() time.Time { return s.Leaf().NotAfter }

// Bundle returns the sequence number and the roots (DER) in use. They must not be changed.
func (s *Source) Bundle() (sequence uint64, roots [][]byte) {
	b := s.bundle.Load()
	return b.sequence, b.ders
}

// Changed receives after the certificate or the bundle changed: look again. One reader; several
// changes may give one signal.
func (s *Source) Changed() <-chan struct{} { return s.changed }

func (s *Source) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // a signal is waiting already
	}
}

// SetLeaf puts a new certificate (DER, leaf first) with its key into use and on disk. It must be this
// agent's, for this key, and verify as a peer would verify it; otherwise the old one stays and the
// error says why. ErrNotSaved means that it is in use all the same.
func (s *Source) SetLeaf(chain [][]byte, key *ecdsa.PrivateKey) error {
	if s.external {
		return ErrExternal
	}
	cert, err := s.checkLeaf(chain, key)
	if err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	old, _ := s.leaf.Swap(cert).PrivateKey.(*ecdsa.PrivateKey)
	s.signal()
	if err := leafFiles(s.dir).save(key, old, chain); err != nil {
		return fmt.Errorf("new certificate: %w: %w", ErrNotSaved, err)
	}
	return nil
}

func (s *Source) checkLeaf(chain [][]byte, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	certs, err := parseCerts(chain)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("it is for another key")
	}
	v := s.verifier()
	v.hostKeyOf = func(string) ([]byte, bool) { return s.host.HostKey(), true }
	if _, err := v.peer(certs, s.node); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: certs[0]}, nil
}

// SetBundle puts the roots (DER) of a bundle into use and on disk. A sequence number that is older
// than the one in use is refused with ErrBundleOlder, the same one is accepted without effect.
// ErrNotSaved means that it is in use all the same.
//
// The identity issue puts its gate here: which sequence every live agent holds decides when a new
// root may sign.
func (s *Source) SetBundle(sequence uint64, roots [][]byte) error {
	next, err := newBundle(s.td, sequence, roots)
	if err != nil {
		return fmt.Errorf("new trust bundle: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	cur := s.bundle.Load()
	switch {
	case sequence < cur.sequence:
		return fmt.Errorf("new trust bundle %d, in use %d: %w", sequence, cur.sequence, ErrBundleOlder)
	case sequence == cur.sequence && !cur.same(next):
		return fmt.Errorf("two trust bundles with sequence %d: a core member answers from another history: compare the digests in `parley status -o json` of all core members", sequence)
	case sequence == cur.sequence:
		return nil
	}
	s.bundle.Store(next)
	s.signal()
	if err := next.save(s.dir); err != nil {
		return fmt.Errorf("new trust bundle: %w: %w", ErrNotSaved, err)
	}
	return nil
}

// verifier is the judge of this moment.
func (s *Source) verifier() verifier {
	return verifier{
		td: s.td, roots: s.bundle.Load().pool, now: s.now(),
		hostKeyOf: s.hostKeyOf, denied: s.denied, operatorKey: s.operatorKey, issuerDenied: s.issuerDenied, agents: s.agents.Load(), certDenied: s.certDenied,
	}
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// equalDERs compares two lists of certificates.
func equalDERs(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
