package security

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What refuses a peer's certificate. They reach whoever dialled or accepted the connection; the peer
// learns only that its certificate is bad.
var (
	// ErrNoCertificate: the peer showed none.
	ErrNoCertificate error = &peerError{"peer sent no certificate", "an agent must join the cluster first",
		"the peer showed no certificate: every connection between agents needs one, and a new host joins with a token"}
	// ErrUnknownRoot: the chain ends at no root of the bundle.
	ErrUnknownRoot error = &peerError{"peer's certificate is not from this cluster's CA", "it belongs to another cluster, or its trust bundle is out of date",
		"the certificate was signed by a root that this cluster does not trust: the peer belongs to another cluster, or one side misses a rotation of the root"}
	// ErrNotLeaf: a certificate that may sign others was presented as the peer's own, or one
	// whose usage is not an agent's.
	ErrNotLeaf error = &peerError{"peer's certificate is not one of an agent", "something else than an agent dials the mesh port; see the error",
		"the certificate is not one of an agent"}
	// ErrDenied: SourceOptions.Denied said so.
	ErrDenied error = &peerError{"peer was evicted from the cluster", "stop it, or let it join again",
		"this identity was evicted from the cluster"}
	// ErrCertDenied: SourceOptions.CertDenied said so.
	ErrCertDenied error = &peerError{"peer's identity or certificate is denied", "parley deny list says by whom and why",
		"this identity, or this certificate of it, is denied"}
	// ErrIssuerDenied: SourceOptions.IssuerDenied said so of every core member that signed it.
	ErrIssuerDenied error = &peerError{"peer's certificate was signed by a core member that was evicted", "agents get another one within seconds; restart one that does not",
		"the certificate was signed by a core member that has been evicted since"}
	// ErrNoALPN: the peer offered no protocol that the port serves.
	ErrNoALPN error = &peerError{"peer names no protocol of ours", "it is not a Parley agent, or one of a version that shares no protocol with this one",
		"the peer offered no protocol of the mesh: it is not an agent, or one of an incompatible version"}
)

// peerError also says, in the words of transport's log, why a connection was refused.
type peerError struct{ reason, hint, text string }

func (e *peerError) Error() string { return e.text }

// Refusal is what transport.Mesh logs. The reasons are a fixed set.
func (e *peerError) Refusal() (reason, hint string) { return e.reason, e.hint }

// TrustDomainError refuses a certificate of another trust domain.
type TrustDomainError struct {
	Peer spiffeid.ID
	Want spiffeid.TrustDomain
}

func (e *TrustDomainError) Error() string {
	return fmt.Sprintf("the peer is %s, of trust domain %s, not %s: check the address and --trust-domain", e.Peer, e.Peer.TrustDomain(), e.Want)
}

// Refusal is what transport.Mesh logs.
func (e *TrustDomainError) Refusal() (reason, hint string) {
	return "peer is of another trust domain", "an agent of another cluster has this one's address"
}

// WrongNodeError refuses a peer that is an agent of the cluster, but not the one that was dialled.
type WrongNodeError struct {
	Got, Want string // node names
}

func (e *WrongNodeError) Error() string {
	return fmt.Sprintf("dialled node %s, but node %s answered: its address changed hands, the next member list corrects it", e.Want, e.Got)
}

// ValidityError refuses a certificate outside of its life.
type ValidityError struct {
	Kind                string // "certificate" or "issuer"
	NotBefore, NotAfter time.Time
	Now                 time.Time
}

// Expired tells whether the life is over, as opposed to not begun.
func (e *ValidityError) Expired() bool { return e.Now.After(e.NotAfter) }

func (e *ValidityError) Error() string {
	if e.Expired() {
		return fmt.Sprintf("the peer's %s expired %s ago (at %s): see why its renewal fails, or whether the clock here is ahead",
			e.Kind, e.Now.Sub(e.NotAfter).Round(time.Second), e.NotAfter.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("the peer's %s is valid only in %s (from %s): the clock here is behind, or the peer's issuer is ahead",
		e.Kind, e.NotBefore.Sub(e.Now).Round(time.Second), e.NotBefore.UTC().Format(time.RFC3339))
}

// Refusal is what transport.Mesh logs.
func (e *ValidityError) Refusal() (reason, hint string) {
	return "peer's certificate has expired or is not valid yet", "an agent that was off for long renews by its host key within seconds; if this goes on, compare the clocks and see its log"
}
