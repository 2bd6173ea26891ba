package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The files of an identity. The key is written once; the others with each certificate.
const (
	keyFile    = "key.pem"
	svidFile   = "svid.pem"
	bundleFile = "bundle.pem"

	maxIdentityFile = 1 << 20
	maxChain        = 18 // certificates of a chain, or roots of a bundle
	renewRetry      = 30 * time.Second
	minRenewPause   = time.Second
)

const (
	operatorPath = "/parley/operator/"
	agentPath    = "/parley/agent/"
)

// Identity is who a person or a program is to the cluster: a key, its certificate, and the roots by which agents are
// known. `parley operator add` makes one in a directory. It is the source of TLS settings, which take the certificate of
// the moment in each handshake:
//
//	id, err := client.LoadIdentity(dir)
//	c, err := client.New("https://10.0.0.7:8501", client.WithTLS(id.TLS()))
//	go id.Run(ctx, c.RenewIdentity) // a new certificate at half of each life
//
// A certificate that could not be renewed stays in use, and an agent ends an open connection with the certificate that
// opened it. Safe for concurrent use; several processes may share a directory.
type Identity struct {
	dir     string
	id      string
	td      string
	key     *ecdsa.PrivateKey
	current atomic.Pointer[credentials]
	renewed chan struct{} // capacity 1: a level
	lastErr atomic.Pointer[error]
	writing sync.Mutex // one renewal at a time; files are written under it, which is its purpose
}

// credentials belong together and never change.
type credentials struct {
	cert  *tls.Certificate // with Leaf
	roots *x509.CertPool
}

// SVIDAnswer is a certificate with its issuer, DER, leaf first, and the roots to trust.
type SVIDAnswer struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Role      string    `json:"role"`
	NotAfter  time.Time `json:"not_after"`
	Chain     [][]byte  `json:"chain"`
	BundleSeq uint64    `json:"bundle_seq"`
	Roots     [][]byte  `json:"roots"`
}

// NewIdentity makes a key for an operator in dir, which it makes if need be (0700), unless one is there: a request that
// was cut off is made again with the same key. It is usable after the first Take.
func NewIdentity(dir, trustDomain, name string) (*Identity, error) {
	if old, err := LoadIdentity(dir); err == nil {
		if want := "spiffe://" + trustDomain + operatorPath + name; old.id != want {
			return nil, fmt.Errorf("%s is the identity of %s, not of %s: choose another directory", dir, old.id, want)
		}
		return old, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, svidFile)); err == nil {
		return nil, fmt.Errorf("%s holds an identity that cannot be read: choose another directory, or remove its files", dir)
	}
	key, err := readKey(filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = writeNewKey(filepath.Join(dir, keyFile))
	}
	if err != nil {
		return nil, err
	}
	return &Identity{dir: dir, td: trustDomain, id: "spiffe://" + trustDomain + operatorPath + name, key: key, renewed: make(chan struct{}, 1)}, nil
}

// LoadIdentity reads the identity in a directory. One whose certificate has expired is loaded all the same: it can be
// renewed by way of an agent on this host.
func LoadIdentity(dir string) (*Identity, error) {
	key, err := readKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	i := &Identity{dir: dir, key: key, renewed: make(chan struct{}, 1)}
	chain, err := readCertificates(filepath.Join(dir, svidFile))
	if err != nil {
		return nil, err
	}
	roots, err := readCertificates(filepath.Join(dir, bundleFile))
	if err != nil {
		return nil, err
	}
	if i.td, i.id, err = operatorOf(chain[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, svidFile), err)
	}
	next, err := i.credentials(chain, roots, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	i.current.Store(next)
	return i, nil
}

// ID is the SPIFFE ID.
func (i *Identity) ID() string { return i.id }

// Name is the operator's.
func (i *Identity) Name() string {
	return strings.TrimPrefix(i.id, "spiffe://"+i.td+operatorPath)
}

// NotAfter is the end of the certificate's life; zero when there is none yet.
func (i *Identity) NotAfter() time.Time {
	if cur := i.current.Load(); cur != nil {
		return cur.cert.Leaf.NotAfter
	}
	return time.Time{}
}

// Err is why the last renewal by Run failed, nil while renewals work.
func (i *Identity) Err() error {
	if err := i.lastErr.Load(); err != nil {
		return *err
	}
	return nil
}

// Renewed receives after the certificate changed: look again. One reader; several changes may give one signal.
func (i *Identity) Renewed() <-chan struct{} { return i.renewed }

// Request is the certificate request for the key (PKCS #10, DER). It names the operator, and is no secret.
func (i *Identity) Request() ([]byte, error) {
	u, err := url.Parse(i.id)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, i.key)
}

// TLS returns settings for dialling any agent of the trust domain: TLS 1.3, the certificate of the moment, no session
// that is resumed, and one of protos ("http/1.1" when none is named) that the agent must agree to. The other end must be
// an agent, by a chain to a root of the bundle.
func (i *Identity) TLS(protos ...string) *tls.Config {
	if len(protos) == 0 {
		protos = []string{"http/1.1"}
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		NextProtos:             slices.Clone(protos),
		InsecureSkipVerify:     true, // host names mean nothing here: VerifyConnection judges
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cur := i.current.Load()
			if cur == nil {
				return nil, errNoCertificate
			}
			return cur.cert, nil
		},
		VerifyConnection: i.verifyAgent,
	}
}

var errNoCertificate = errors.New("this identity has no certificate yet")

// verifyAgent wants an agent of our trust domain at the other end.
func (i *Identity) verifyAgent(cs tls.ConnectionState) error {
	cur := i.current.Load()
	switch {
	case cur == nil:
		return errNoCertificate
	case cs.NegotiatedProtocol == "": // crypto/tls has seen to it that it is one of ours
		return errors.New("the server agrees to no protocol: it is no agent's https or mesh port")
	case cs.DidResume:
		return errors.New("the server resumed a session")
	case len(cs.PeerCertificates) == 0 || len(cs.PeerCertificates) > maxChain:
		return fmt.Errorf("the server showed %d certificates", len(cs.PeerCertificates))
	}
	leaf := cs.PeerCertificates[0]
	td, path, err := spiffeOf(leaf)
	if err != nil {
		return fmt.Errorf("the server's certificate: %w", err)
	}
	if td != i.td {
		return fmt.Errorf("the server is of trust domain %s, not %s", td, i.td)
	}
	if node, ok := strings.CutPrefix(path, agentPath); !ok || !validName(node) {
		return fmt.Errorf("the server is spiffe://%s%s, which is no agent", td, path)
	}
	return verifyChain(cs.PeerCertificates, cur.roots, x509.ExtKeyUsageServerAuth, time.Now())
}

func verifyChain(certs []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if certs[0].IsCA || certs[0].KeyUsage != x509.KeyUsageDigitalSignature {
		return errors.New("the certificate is not one for a connection")
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// spiffeOf parses the one URI of a certificate, strictly: what two readers could read differently is no SPIFFE ID.
func spiffeOf(c *x509.Certificate) (td, path string, err error) {
	if len(c.URIs) != 1 {
		return "", "", fmt.Errorf("%d URIs, want one SPIFFE ID", len(c.URIs))
	}
	u := c.URIs[0]
	if u.Scheme != "spiffe" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "" ||
		u.Host == "" || strings.Trim(u.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return "", "", fmt.Errorf("%.200q is no SPIFFE ID", u)
	}
	return u.Host, u.Path, nil
}

func operatorOf(c *x509.Certificate) (td, id string, err error) {
	td, path, err := spiffeOf(c)
	if err != nil {
		return "", "", err
	}
	if name, ok := strings.CutPrefix(path, operatorPath); !ok || !validName(name) {
		return "", "", fmt.Errorf("spiffe://%s%s is no operator", td, path)
	}
	return td, "spiffe://" + td + path, nil
}

// validName goes by the rules of the cluster for names.
func validName(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == "" && !strings.ContainsAny(name[:1], "._-")
}

// credentials checks that a chain is ours, for our key, below the roots; at a time, or with the zero time whenever it
// was valid.
func (i *Identity) credentials(chain, roots []*x509.Certificate, now time.Time) (*credentials, error) {
	leaf := chain[0]
	if _, id, err := operatorOf(leaf); err != nil || id != i.id {
		return nil, fmt.Errorf("the certificate is %.200q's, not %s's", id, i.id)
	}
	if !i.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		if len(root.URIs) != 1 || root.URIs[0].String() != "spiffe://"+i.td || !root.IsCA {
			return nil, fmt.Errorf("the bundle holds a certificate that is no root of %s", i.td)
		}
		pool.AddCert(root)
	}
	if now.IsZero() {
		now = leaf.NotAfter
	}
	if err := verifyChain(chain, pool, x509.ExtKeyUsageClientAuth, now); err != nil {
		return nil, fmt.Errorf("the certificate: %w", err)
	}
	ders := make([][]byte, len(chain))
	for n, c := range chain {
		ders[n] = c.Raw
	}
	return &credentials{cert: &tls.Certificate{Certificate: ders, PrivateKey: i.key, Leaf: leaf}, roots: pool}, nil
}

// Take puts a new certificate and bundle into use and on disk, after it has checked that they are this identity's. With
// an error the old ones stay in use, unless it is ErrNotSaved.
func (i *Identity) Take(answer SVIDAnswer) error {
	i.writing.Lock()
	defer i.writing.Unlock()
	return i.take(answer)
}

// ErrNotSaved is wrapped by Take when the new certificate is in use and could not be written.
var ErrNotSaved = errors.New("in use, but not saved")

func (i *Identity) take(answer SVIDAnswer) error {
	chain, err := parseAll(answer.Chain)
	if err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	roots, err := parseAll(answer.Roots)
	if err != nil {
		return fmt.Errorf("new bundle: %w", err)
	}
	next, err := i.credentials(chain, roots, time.Now())
	if err != nil {
		return err
	}
	i.use(next)
	// The bundle first: it may be needed for the certificate, never the other way round.
	err = errors.Join(writePEM(filepath.Join(i.dir, bundleFile), roots), writePEM(filepath.Join(i.dir, svidFile), chain))
	if err != nil {
		return fmt.Errorf("new certificate: %w: %w", ErrNotSaved, err)
	}
	return nil
}

func (i *Identity) use(next *credentials) {
	i.current.Store(next)
	select {
	case i.renewed <- struct{}{}:
	default: // a signal is waiting already
	}
}

// Renew gets a new certificate now: from the directory, if another process has put a younger one there, else by ask.
func (i *Identity) Renew(ctx context.Context, ask func(ctx context.Context, csr []byte) (SVIDAnswer, error)) error {
	i.writing.Lock()
	defer i.writing.Unlock()
	if i.adopt() {
		return nil
	}
	csr, err := i.Request()
	if err != nil {
		return err
	}
	answer, err := ask(ctx, csr)
	if err != nil {
		return err
	}
	return i.take(answer)
}

// adopt uses what another process has renewed, if half of its life is still left.
func (i *Identity) adopt() bool {
	other, err := LoadIdentity(i.dir)
	if err != nil || other.id != i.id || !other.key.Equal(i.key) || !other.NotAfter().After(i.NotAfter()) || other.Due(time.Now()) {
		return false
	}
	i.use(other.current.Load())
	return true
}

// Due reports whether half of the certificate's life is over, or there is none.
func (i *Identity) Due(now time.Time) bool { return !now.Before(i.half()) }

func (i *Identity) half() time.Time {
	cur := i.current.Load()
	if cur == nil {
		return time.Time{}
	}
	leaf := cur.cert.Leaf
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
}

// Run renews at half of each life until ctx ends, and returns its error. ask is Client.RenewIdentity of a Client that
// uses this identity, or of one that reaches an agent on this host. After a failure it asks again every half minute, and
// Err says why; the certificate stays in use for as long as it lasts.
func (i *Identity) Run(ctx context.Context, ask func(ctx context.Context, csr []byte) (SVIDAnswer, error)) error {
	timer := time.NewTimer(max(time.Until(i.half()), 0))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		err := i.Renew(ctx, ask)
		pause := max(time.Until(i.half()), minRenewPause)
		if err != nil && !errors.Is(err, ErrNotSaved) {
			pause = renewRetry
		}
		if err != nil {
			i.lastErr.Store(&err)
		} else {
			i.lastErr.Store(nil)
		}
		timer.Reset(pause)
	}
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, fmt.Errorf("%d certificates, want 1 to %d", len(ders), maxChain)
	}
	certs := make([]*x509.Certificate, len(ders))
	for n, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs[n] = c
	}
	return certs, nil
}

// writeNewKey makes a key, or takes that of another process that has made one at the same time: what the cluster binds has to be
// the key that stays.
func writeNewKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	err = makeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if errors.Is(err, fs.ErrExist) {
		return readKey(path)
	}
	return key, err
}
