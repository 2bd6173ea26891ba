// Package workload serves identities to the programs of a host: the SPIFFE Workload API and Envoy's secret discovery, and the
// attestation that says who is asking. Where the identities come from is for the caller to say, by a Source.
package workload

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Selector is one thing that attestation found out about a process, as KIND:VALUE: uid:1000, gid:1000, group:27,
// unit:web.service, cgroup:/system.slice/web.service, path:/usr/bin/web, sha256:HEX.
type Selector string

var (
	// ErrNoIdentity says that no entry holds for what attestation found: PermissionDenied on the wire.
	ErrNoIdentity = errors.New("no identity is registered for this process")
	// ErrDenied says that entries hold, but that the identities which they give are denied: PermissionDenied as well.
	ErrDenied = errors.New("the identity of this process is denied")
	// ErrNotReady says that this agent has no identity of its own, or no state yet: Unavailable on the wire.
	ErrNotReady = errors.New("this agent is starting and knows no identities yet")
)

// Identity is what an entry gives to a process for which all of the entry's selectors were found. It is current: its
// certificate is renewed before it expires, which the channel beside it tells.
type Identity struct {
	ID    spiffeid.ID
	Hint  string
	Chain []*x509.Certificate // the leaf first, without the root
	Key   crypto.Signer
}

// Bundles are what this host knows: the bundle of its own trust domain, which every program with an identity gets, and those that
// it is federated with, of which a program gets those that its entries name.
type Bundles struct {
	Own       *spiffebundle.Bundle
	Federated map[spiffeid.TrustDomain]*spiffebundle.Bundle
}

// Source is where identities come from. Its methods may be called by many goroutines. A channel that they return is closed
// when asking again may give something else.
type Source interface {
	// Identities returns what a process gets for which these selectors were found, at least one, by SPIFFE ID and hint in
	// order. Errors: ErrNoIdentity, ErrDenied, ErrNotReady, or that of ctx. The channel is there with the first two as well.
	Identities(ctx context.Context, found []Selector) ([]Identity, <-chan struct{}, error)
	// FederatesWith returns the other trust domains that the entries of such a process name: their bundles it gets, and no
	// others. It asks for no certificate. What it gives changes no later than the channel of Identities tells.
	FederatesWith(found []Selector) []spiffeid.TrustDomain
	// Bundles returns the bundles. Errors: ErrNotReady.
	Bundles() (Bundles, <-chan struct{}, error)
	// MintJWT signs a JWT-SVID for an identity that Identities gives for these selectors. Errors: ErrNoIdentity, ErrDenied,
	// ErrNotReady, or that of ctx.
	MintJWT(ctx context.Context, found []Selector, id spiffeid.ID, audience []string) (token string, err error)
}
