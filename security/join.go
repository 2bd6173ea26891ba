package security

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/transport"
)

// MaxJoinAddrs is how many addresses a join tries in each round.
const MaxJoinAddrs = 64

// JoinOptions is what a new host needs to enter a cluster.
type JoinOptions struct {
	Token   Token
	Addrs   []string // mesh addresses (addr:port) of agents of the cluster, tried in this order
	Host    *Host
	Node    string
	Zone    string
	Address string // this host's own mesh address
	Dir     string // the data directory: the identity is left there
	TTL     time.Duration
	Now     func() time.Time
	// External is this host's identity by an authority outside of the cluster, which certifies the cluster's agents. nil: the
	// cluster does.
	External *External

	// Dial opens the TCP connection; nil: net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// RetryMin and RetryMax bound the pause between rounds; 0: 500 ms and 15 s.
	RetryMin, RetryMax time.Duration
	Log                *zap.Logger // nil: silent
}

// errWrongRoot is why one address was not trusted; see verifyCluster.
var errWrongRoot = errors.New("the agent there shows no root that the token names, so nothing was sent to it")

// Join enters the cluster of o.Token and leaves certificate and bundle in o.Dir, where NewSource
// finds them. Before it sends anything to an address it verifies there, by the root hashes of the
// token, that an agent of the cluster answers.
//
// What may pass (no answer, no leader, a busy cluster) is tried again, with growing and jittered
// pauses, until ctx ends; each attempt uses the same leaf key, so that an answer that was lost is
// given again. What cannot pass is returned at once as a *JoinError.
func Join(ctx context.Context, o JoinOptions) (*JoinResponse, error) {
	if err := o.prepare(); err != nil {
		return nil, err
	}
	key, err := LeafKey(o.Dir)
	if err != nil {
		return nil, err
	}
	var resp *JoinResponse
	err = o.insist(ctx, func(ctx context.Context, addr string) (err error) {
		resp, err = o.attempt(ctx, addr, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, o.keep(resp, key)
}

// insist tries the addresses in rounds until attempt succeeds at one, the cluster refuses for good, or ctx ends.
func (o *JoinOptions) insist(ctx context.Context, attempt func(ctx context.Context, addr string) error) error {
	for failures := 1; ; failures++ {
		err := o.round(ctx, attempt)
		if err == nil {
			return nil
		}
		var refused *JoinError
		if errors.As(err, &refused) && refused.Permanent() {
			return err
		}
		pause := jitter(backoff(failures, o.RetryMin, o.RetryMax))
		fields := []zap.Field{zap.Int("count", failures), zap.Duration("duration", pause), zap.Error(err)}
		if refused != nil {
			fields = append(fields, zap.String("hint", refused.Hint))
		}
		o.Log.Warn("not joined yet, trying again", fields...)
		if sleep(ctx, pause) != nil {
			return fmt.Errorf("join: %w: %w", ctx.Err(), err)
		}
	}
}

// prepare fills in defaults and refuses what no cluster could admit.
func (o *JoinOptions) prepare() error {
	o.defaults()
	if err := o.Token.check(); err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	if err := CheckNodeName(o.Node); err != nil {
		return err
	}
	if o.Token.Node != "" && o.Token.Node != o.Node {
		return NewJoinError(JoinNodeBound, fmt.Sprintf("the token is for node %s, this one is %s", o.Token.Node, o.Node))
	}
	return o.checkAddrs()
}

func (o *JoinOptions) defaults() {
	o.Log = orNop(o.Log)
	if o.RetryMin == 0 {
		o.RetryMin = 500 * time.Millisecond
	}
	if o.RetryMax == 0 {
		o.RetryMax = 15 * time.Second
	}
	if o.TTL == 0 {
		o.TTL = DefaultLeafTTL
	}
}

func (o *JoinOptions) checkAddrs() error {
	if len(o.Addrs) == 0 || len(o.Addrs) > MaxJoinAddrs {
		return fmt.Errorf("join: %d addresses, want 1 to %d: name agents of the cluster with --join", len(o.Addrs), MaxJoinAddrs)
	}
	return nil
}

// round tries each address once. A refusal by the cluster ends it; an address that does not belong
// to the cluster is a refusal only when all of them are like that.
func (o *JoinOptions) round(ctx context.Context, attempt func(ctx context.Context, addr string) error) error {
	var last error
	wrong := 0
	for _, addr := range o.Addrs {
		err := attempt(ctx, addr)
		if err == nil {
			return nil
		}
		last = fmt.Errorf("%s: %w", addr, err)
		var refused *JoinError
		switch {
		case errors.As(err, &refused) && refused.Permanent():
			return last
		case errors.Is(err, errWrongRoot):
			wrong++
			o.Log.Warn("address is not of the cluster that is looked for", zap.String("addr", addr), zap.Error(err))
		}
	}
	if wrong == len(o.Addrs) {
		return fmt.Errorf("%w (%w)", NewJoinError(JoinRootMismatch, "no address belongs to the cluster of the token"), last)
	}
	return last
}

// attempt does one exchange with the agent at addr.
func (o *JoinOptions) attempt(ctx context.Context, addr string, key *ecdsa.PrivateKey) (*JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinDeadline)
	defer cancel()
	td, err := spiffeid.TrustDomainFromString(o.Token.TrustDomain)
	if err != nil {
		return nil, err
	}
	leaf, err := NewLeafRequest(o.Host, o.Node, td, &key.PublicKey, o.Now().Add(o.TTL))
	if err != nil {
		return nil, err
	}
	req, err := newJoinRequest(o, leaf)
	if err != nil {
		return nil, err
	}
	data, err := exchange(ctx, o.Dial, addr, o.clientTLS(td), req)
	if err != nil {
		return nil, err
	}
	return o.accept(td, data, key, req)
}

// exchange sends req to addr once the handshake has verified who is there, and returns the answer.
func exchange(ctx context.Context, dial func(context.Context, string) (net.Conn, error), addr string, settings *tls.Config, req any) ([]byte, error) {
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	raw, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer raw.Close() //nolint:errcheck // the answer has been read, or will not be
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := tls.Client(raw, settings)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := writeFrame(conn, req); err != nil {
		return nil, err
	}
	data, err := readFrame(conn)
	if err != nil {
		return nil, fmt.Errorf("wait for the answer: %w", err)
	}
	return data, nil
}

// clientTLS verifies the other side by the token alone and shows nothing.
func (o *JoinOptions) clientTLS(td spiffeid.TrustDomain) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{transport.ALPNJoin},
		InsecureSkipVerify: true, // host names mean nothing here: VerifyConnection judges
		Time:               o.Now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != transport.ALPNJoin {
				return ErrNoALPN
			}
			return o.verifyCluster(td, cs.PeerCertificates)
		},
	}
}

// verifyCluster wants an agent of td below one of the roots that the token names. The roots come with
// the chain; what makes one of them trusted is its hash. Where an authority outside certifies agents, its roots are
// known already, and the token proves the cluster in the answer.
func (o *JoinOptions) verifyCluster(td spiffeid.TrustDomain, certs []*x509.Certificate) error {
	if o.External != nil {
		return wrongRoot(verifyExternal(td, o.External.Roots, certs, o.Now()))
	}
	roots := x509.NewCertPool()
	found := false
	for _, c := range certs {
		if slices.Contains(o.Token.Roots, RootHash(c.Raw)) {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errWrongRoot
	}
	_, err := verifier{td: td, roots: roots, now: o.Now()}.peer(certs, "")
	return wrongRoot(err)
}

func wrongRoot(err error) error {
	if errors.Is(err, ErrUnknownRoot) {
		return fmt.Errorf("%w: %w", errWrongRoot, err)
	}
	return err
}

// accept reads the answer and checks that it is one for this host, made by the core. What connects a
// relay that lies about it to the joiner is only that it answers; another address may do better.
func (o *JoinOptions) accept(td spiffeid.TrustDomain, data []byte, key *ecdsa.PrivateKey, req JoinRequest) (*JoinResponse, error) {
	answer, err := decodeJoinAnswer(data)
	if err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, answer.Error.sanitized()
	}
	resp := answer.Response
	if resp.ClusterID != o.Token.ClusterID {
		return nil, NewJoinError(JoinForeign, fmt.Sprintf("the token is for cluster %s, the answer came from %s",
			o.Token.ClusterID, printable(resp.ClusterID, 64)))
	}
	if !resp.provedFor(req, o.Token.VerifyKey()) {
		return nil, errors.New("join answer: it was not made by the core of the token's cluster, or was changed on its way")
	}
	if !resp.Role.Valid() || len(resp.Members) > MaxJoinMembers {
		return nil, errors.New("join answer: no valid role, or too many members")
	}
	b, err := newBundle(td, resp.BundleSequence, resp.Roots)
	if err != nil {
		return nil, fmt.Errorf("join answer: trust bundle: %w", err)
	}
	if o.External != nil && len(resp.Chain) > 0 {
		return nil, errors.New("join answer: the cluster certifies its agents itself: set identity.source to built-in on this host")
	}
	if o.External != nil {
		return resp, nil
	}
	certs, err := parseCerts(resp.Chain)
	if err != nil {
		return nil, fmt.Errorf("join answer: chain: %w", err)
	}
	spki, err := publicKeyBytes(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(certs[0].RawSubjectPublicKeyInfo, spki) {
		return nil, errors.New("join answer: the certificate is for another key")
	}
	v := verifier{td: td, roots: b.pool, now: o.Now(), hostKeyOf: func(string) ([]byte, bool) { return o.Host.HostKey(), true }}
	if _, err := v.peer(certs, o.Node); err != nil {
		return nil, fmt.Errorf("join answer: chain: %w", err)
	}
	return resp, nil
}

// keep writes the certificate last: a directory with one has everything.
func (o *JoinOptions) keep(resp *JoinResponse, key *ecdsa.PrivateKey) error {
	b := bundle{sequence: resp.BundleSequence, ders: resp.Roots}
	if err := b.save(o.Dir); err != nil {
		return fmt.Errorf("joined, but: %w: free the disk and start again with the same token", err)
	}
	if o.External != nil {
		return nil
	}
	if err := leafFiles(o.Dir).save(key, nil, resp.Chain); err != nil {
		return fmt.Errorf("joined, but: %w: free the disk and start again with the same token", err)
	}
	return nil
}
