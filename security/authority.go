package security

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
)

// IssuerTTL is how long the intermediate of a core member is valid.
const IssuerTTL = 24 * time.Hour

// ErrIssuerExpired is returned by Authority.SignAgent when the intermediate ends before the leaf
// would: its own renewal has been failing for hours.
var ErrIssuerExpired = errors.New("this core member's issuer ends before the certificate would: ask another core member, and see why its renewal from the root fails")

// Authority signs agents' certificates on one core member with an intermediate of its own. The
// intermediate's key never leaves the host, so signing needs neither the root's key nor a write to
// the replicated state. Safe for concurrent use. It prints as [redacted].
type Authority struct {
	redacted
	td      spiffeid.TrustDomain
	node    string
	files   keyAndChain
	current atomic.Pointer[issuer]

	renewing sync.Mutex // orders renewals; files are written under it, and nobody who signs takes it
}

type issuer struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above [][]byte // DER: the certificates between it and the root of the bundle; none below a root of the cluster's own
}

// chain is what the owner of a leaf shows.
func (i *issuer) chain(leaf *x509.Certificate) [][]byte {
	return append([][]byte{leaf.Raw, i.cert.Raw}, i.above...)
}

func newAuthority(td spiffeid.TrustDomain, node, dir string) *Authority {
	return &Authority{td: td, node: node, files: keyAndChain{
		keyPath:  identityPath(dir, issuerKeyFile),
		certPath: identityPath(dir, issuerFile),
	}}
}

// NewAuthority makes the intermediate of a host that became a core member, signed by root, and keeps
// it in the data directory dir. The subject names the node, for whoever reads a chain.
func NewAuthority(root *Root, td spiffeid.TrustDomain, node, dir string, now time.Time) (*Authority, error) {
	a := newAuthority(td, node, dir)
	if err := a.Renew(root, now); err != nil {
		return nil, err
	}
	return a, nil
}

// LoadAuthority reads the intermediate in the data directory dir, valid or not. The error is
// fs.ErrNotExist when there is none.
func LoadAuthority(td spiffeid.TrustDomain, node, dir string) (*Authority, error) {
	a := newAuthority(td, node, dir)
	key, ders, certs, err := a.files.load()
	if err != nil {
		return nil, err
	}
	cert := certs[0]
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].String() != td.ID().String() {
		return nil, fmt.Errorf("%s is not an issuer of %s: remove it and %s, they are made again from the root",
			a.files.certPath, td, a.files.keyPath)
	}
	a.current.Store(&issuer{cert: cert, key: key, above: ders[1:]})
	return a, nil
}

// Renew replaces the intermediate by a new one with a new key. On an error the old one stays in use.
func (a *Authority) Renew(root *Root, now time.Time) error {
	a.renewing.Lock()
	defer a.renewing.Unlock()
	next, err := newIssuer(root, a.td, a.node, now)
	if err != nil {
		return fmt.Errorf("renew issuer: %w", err)
	}
	var old *ecdsa.PrivateKey
	if cur := a.current.Load(); cur != nil {
		old = cur.key
	}
	if err := a.files.save(next.key, old, append([][]byte{next.cert.Raw}, next.above...)); err != nil {
		return fmt.Errorf("renew issuer: %w", err)
	}
	a.current.Store(next)
	return nil
}

func newIssuer(root *Root, td spiffeid.TrustDomain, node string, now time.Time) (*issuer, error) {
	ttl := IssuerTTL
	if left := root.Cert.NotAfter.Sub(now); left < ttl {
		if root.Above == nil || left <= 0 {
			return nil, fmt.Errorf("the root ends at %s: rotate it", root.Cert.NotAfter.Format(time.RFC3339))
		}
		ttl = left // people may be late with the next one, and this one is good until then
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	tmpl, err := caTemplate(td, "parley issuer", &key.PublicKey, now, ttl)
	if err != nil {
		return nil, err
	}
	tmpl.MaxPathLenZero = true
	tmpl.Subject.OrganizationalUnit = []string{node}
	cert, err := sign(tmpl, root.Cert, &key.PublicKey, root.Key)
	if err != nil {
		return nil, err
	}
	return &issuer{cert: cert, key: key, above: root.Above}, nil
}

// NotAfter is the end of the intermediate's life.
func (a *Authority) NotAfter() time.Time { return a.current.Load().cert.NotAfter }

// SignAgent checks r, in particular the signature by r.HostKey, and returns the certificate and its
// intermediate as DER, leaf first. Whether r.HostKey is the key of r.Node, and whether that node may
// have a certificate at all, is for the caller to know. A refused end of life is a *LeafTimeError.
func (a *Authority) SignAgent(r LeafRequest, now time.Time) ([][]byte, error) {
	key, id, err := r.check(a.td, now)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %q: %w", r.Node, err)
	}
	by := a.current.Load()
	if r.NotAfter.After(by.cert.NotAfter) {
		return nil, fmt.Errorf("sign certificate of %q: %w", r.Node, ErrIssuerExpired)
	}
	ext, err := hostSignature{HostKeyHash: keyHash(r.HostKey), Signature: r.HostSignature}.extension()
	if err != nil {
		return nil, err
	}
	tmpl, err := agentProfile.template(id, key, now, r.NotAfter, ext)
	if err != nil {
		return nil, err
	}
	leaf, err := sign(tmpl, by.cert, key, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %q: %w", r.Node, err)
	}
	return by.chain(leaf), nil
}

// AuthorityRun is what Authority.Run needs.
type AuthorityRun struct {
	// Open returns the root for the moment of one signature: it opens the seal of the applied state.
	Open func() (*Root, error)
	Now  func() time.Time
	Log  *zap.Logger // nil: silent
}

// Run renews the intermediate at half of its life until ctx ends, and returns ctx.Err().
func (a *Authority) Run(ctx context.Context, o AuthorityRun) error {
	u := &upkeep{now: o.Now, log: orNop(o.Log).Named("issuer")}
	u.life = func() (time.Time, time.Time) {
		cert := a.current.Load().cert
		return cert.NotBefore.Add(Backdate), cert.NotAfter
	}
	u.renew = func(context.Context) error {
		root, err := o.Open()
		if err != nil {
			return err
		}
		return a.Renew(root, o.Now())
	}
	return u.run(ctx)
}
