package security

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
)

// HostIdentity is what a host can show of somebody else's authority. It prints as [redacted].
type HostIdentity struct {
	redacted
	kind     string
	evidence [][]byte
	sign     func(content []byte) ([]byte, error)
}

// AttestOptions is what a host needs to get a token by its certificate.
type AttestOptions struct {
	TrustDomain spiffeid.TrustDomain
	Roots       [][32]byte // hashes of roots of the cluster, 1 to MaxRoots; see ParseRootHash
	Identity    *HostIdentity
	Addrs       []string // mesh addresses (addr:port) of agents of the cluster, tried in this order
	Now         func() time.Time

	// Dial, RetryMin, RetryMax and Log are those of JoinOptions.
	Dial               func(ctx context.Context, addr string) (net.Conn, error)
	RetryMin, RetryMax time.Duration
	Log                *zap.Logger
}

// Attest gets a token for one join, for the name in the host's certificate. Before it sends anything to an address it verifies
// there, by the hashes of the roots, that an agent of the cluster answers; and the token must come from a core member. What may
// pass is tried again until ctx ends; what cannot is returned at once as a *JoinError.
func Attest(ctx context.Context, o AttestOptions) (Token, error) {
	j := JoinOptions{
		Token: Token{TrustDomain: o.TrustDomain.Name(), Roots: o.Roots}, Addrs: o.Addrs, Now: o.Now, Dial: o.Dial,
		RetryMin: o.RetryMin, RetryMax: o.RetryMax, Log: o.Log,
	}
	j.defaults()
	if len(o.Roots) == 0 || len(o.Roots) > MaxRoots {
		return Token{}, fmt.Errorf("join by a certificate: %d hashes of roots, want 1 to %d: parley ca status on an agent of the cluster prints them", len(o.Roots), MaxRoots)
	}
	if err := j.checkAddrs(); err != nil {
		return Token{}, err
	}
	var got Token
	err := j.insist(ctx, func(ctx context.Context, addr string) (err error) {
		got, err = o.attempt(ctx, &j, addr)
		return err
	})
	return got, err
}

// attempt does one exchange with the agent at addr.
func (o *AttestOptions) attempt(ctx context.Context, j *JoinOptions, addr string) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, joinDeadline)
	defer cancel()
	req, key, err := o.newRequest()
	if err != nil {
		return Token{}, err
	}
	data, err := exchange(ctx, o.Dial, addr, j.clientTLS(o.TrustDomain), req)
	if err != nil {
		return Token{}, err
	}
	answer, err := decodeAttestAnswer(data)
	if err != nil {
		return Token{}, err
	}
	if answer.Error != nil {
		return Token{}, answer.Error.sanitized()
	}
	return answer.Response.token(req, o.TrustDomain, o.Roots, key, o.Now())
}

// answerAttest returns what a host is told that shows a certificate, and why when that is a refusal.
func (s *JoinServer) answerAttest(ctx context.Context, data []byte) (attestAnswer, error) {
	r, err := DecodeAttestRequest(data)
	if err != nil {
		return attestAnswer{Error: NewJoinError(JoinInvalid, err.Error())}, err
	}
	if s.Attest == nil {
		err := NewJoinError(JoinUnavailable, "this agent admits nobody by a certificate")
		return attestAnswer{Error: err}, err
	}
	resp, err := s.Attest(ctx, r)
	if err == nil {
		return attestAnswer{Response: &resp}, nil
	}
	var refused *JoinError
	if !errors.As(err, &refused) {
		refused = NewJoinError(JoinUnavailable, "the cluster could not admit this host at the moment")
	}
	return attestAnswer{Error: refused}, err
}
