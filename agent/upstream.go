package agent

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/state"
)

// errNotCore refuses what only a core member can do, who seals and opens.
var errNotCore = api.Errorf(api.CodeUnavailable, "this agent is outside the core and holds no authority").
	WithHint("ask a core member: parley core list")

// withoutTPM says what to do about a TPM that does not answer, which is no mistake of this program.
func withoutTPM(err error) error {
	if !errors.Is(err, tpm.ErrUnavailable) {
		return err
	}
	return api.Errorf(api.CodeUnavailable, "%v", err).WithHint("let the agent open what identity.tpm names, or set identity.key_store to file and restart it")
}

// requestAuthority makes the request for an authority that another one signs. Its key stays on this host, sealed, until
// the chain is brought back.
func (a *Agent) requestAuthority() (api.CARequest, error) {
	if !a.views.ownLog() {
		return api.CARequest{}, errNotCore
	}
	key, err := a.keys.NewUpstreamKey(a.issuer.sealInfo(a.ids.Node))
	if err != nil {
		return api.CARequest{}, withoutTPM(err)
	}
	request, err := security.NewUpstreamRequest(a.issuer.td, key)
	return api.CARequest{Node: a.ids.Node, Request: string(request)}, err
}

// useAuthority brings an authority in that another one has signed: the next to sign, once everybody holds its root.
func (a *Agent) useAuthority(ctx context.Context, by string, chain []byte) (api.CAAuthority, error) {
	if !a.views.ownLog() {
		return api.CAAuthority{}, errNotCore
	}
	key, err := a.keys.UpstreamKey(a.issuer.sealInfo(a.ids.Node))
	if errors.Is(err, security.ErrNoRequest) {
		return api.CAAuthority{}, api.Errorf(api.CodeConflict, "%v", err).WithHint("bring the chain to the member whose parley ca csr was signed")
	}
	if err != nil {
		return api.CAAuthority{}, withoutTPM(err)
	}
	ders, err := security.CheckUpstream(a.issuer.td, key, chain, a.now())
	if err != nil {
		return api.CAAuthority{}, api.Errorf(api.CodeInvalid, "%v", err)
	}
	cert, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return api.CAAuthority{}, err
	}
	cmd := state.UpstreamPrepare{Chain: ders}
	cmd.Seals, cmd.RecoverySealed, err = a.issuer.sealForAll(a.hub.View(), &security.Root{Cert: cert, Key: key})
	if err != nil {
		return api.CAAuthority{}, err
	}
	if _, err := a.service.Execute(ctx, api.Internal(a.ids.Node), cmd); err != nil {
		return api.CAAuthority{}, err
	}
	if err := a.keys.DropUpstreamKey(); err != nil {
		a.log.Warn("the key of a request stays on the disk, sealed, and is of no use any more", zap.Error(err))
	}
	hash := security.RootHash(ders[0])
	a.tellTimeline(api.EventRoot, hex.EncodeToString(hash[:8]), truncate(fmt.Sprintf("prepare: an authority signed by %s, brought by %s", cert.Issuer, by)))
	return *caAuthorityOf(state.Upstream{Authority: hash, Chain: ders}), nil
}

// caAuthority describes an authority, nil for a root of the cluster's own.
func caAuthority(v *state.View, hash state.RootHash) *api.CAAuthority {
	u, ok := v.Upstream(hash)
	if !ok {
		return nil
	}
	return caAuthorityOf(u)
}

func caAuthorityOf(u state.Upstream) *api.CAAuthority {
	life := lifeOf(u)
	out := &api.CAAuthority{Hash: hex.EncodeToString(u.Authority[:]), NotBefore: life.NotBefore.UTC(), NotAfter: life.NotAfter.UTC()}
	if cert, err := x509.ParseCertificate(u.Chain[0]); err == nil {
		out.Subject, out.SignedBy = cert.Subject.String(), cert.Issuer.String()
	}
	return out
}
