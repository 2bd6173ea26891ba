package security

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Genesis is the identity of a new cluster and of its first agent, for the cluster's first state.
type Genesis struct {
	ClusterID      string // 16 random bytes as 32 hex digits
	ID             spiffeid.ID
	Host           *Host
	Authority      *Authority
	BundleSequence uint64
	Roots          [][]byte // DER
	Sealed         []byte   // the root's key, sealed for this host; belongs into the state of core members only
	SealedTo       []byte   // the public key that it is sealed to
	Recovery       []byte   // the same, sealed for the recovery key; empty when there is none
}

// InitKeys say to which keys InitIdentity seals the root. The zero value is the file key of the host alone.
type InitKeys struct {
	// Recovery is the public half of the recovery key. Without one the root is lost with the last host of the core.
	Recovery []byte
	// Store is where this host's own key is; Kind "" is KeyStoreFile.
	Store KeyStoreOptions
	// External: an authority outside of the cluster certifies its agents, so the first one gets no certificate here.
	External bool
}

// InitIdentity makes a new cluster's root and cluster id, and in the data directory dir the first
// agent's host keys, issuer, certificate and bundle. It refuses with ErrIdentityExists when the
// directory has a host key; one whose init was cut off before that is overwritten.
//
// The root's key is dropped on return: the sealed copies in Genesis are the only ones, and are lost with
// it if the caller does not keep it.
func InitIdentity(dir string, td spiffeid.TrustDomain, node string, keys InitKeys, now time.Time) (*Genesis, error) {
	id, err := AgentID(td, node)
	if err != nil {
		return nil, err
	}
	if err := refuseExisting(dir); err != nil {
		return nil, err
	}
	var cluster [clusterIDBytes]byte
	if _, err := rand.Read(cluster[:]); err != nil {
		return nil, fmt.Errorf("make cluster id: %w", err)
	}
	host, err := newHost()
	if err != nil {
		return nil, err
	}
	root, err := NewRoot(td, now)
	if err != nil {
		return nil, err
	}
	g := &Genesis{
		ClusterID: hex.EncodeToString(cluster[:]), ID: id, Host: host,
		BundleSequence: 1, Roots: [][]byte{root.Cert.Raw},
	}
	if err := g.seal(dir, root, node, keys); err != nil {
		return nil, err
	}
	if g.Authority, err = NewAuthority(root, td, node, dir, now); err != nil {
		return nil, err
	}
	if err := g.saveBundle(dir, td); err != nil {
		return nil, err
	}
	if !keys.External {
		if err := g.firstLeaf(dir, td, node, now); err != nil {
			return nil, err
		}
	}
	return g, host.save(dir)
}

// seal seals the root for the first host and for the recovery key.
func (g *Genesis) seal(dir string, root *Root, node string, keys InitKeys) error {
	store, err := NewKeyStore(dir, g.Host, keys.Store)
	if err != nil {
		return err
	}
	if g.SealedTo, err = store.Recipient(); err != nil {
		return err
	}
	if err := store.Adopt(g.SealedTo); err != nil {
		return err
	}
	if g.Sealed, err = SealRoot(root, g.SealedTo, SealInfo{ClusterID: g.ClusterID, Node: node}); err != nil {
		return err
	}
	if keys.Recovery != nil {
		g.Recovery, err = SealRoot(root, keys.Recovery, SealInfo{ClusterID: g.ClusterID, Node: RecoveryName})
	}
	return err
}

// FounderOptions is what AdoptIdentity needs: a host that comes to lead a cluster that is there already.
type FounderOptions struct {
	ClusterID      string
	TrustDomain    spiffeid.TrustDomain
	Node           string
	Host           *Host // of NewHost, in no file yet
	Root           *Root
	BundleSequence uint64
	Roots          [][]byte // DER
	Now            time.Time
	External       bool // as in InitKeys
}

// AdoptIdentity is InitIdentity with the root and the cluster of before: it makes issuer, certificate and bundle of a host
// that leads anew, and writes all of them with the host's keys. It refuses with ErrIdentityExists.
func AdoptIdentity(dir string, o FounderOptions) error {
	if err := refuseExisting(dir); err != nil {
		return err
	}
	id, err := AgentID(o.TrustDomain, o.Node)
	if err != nil {
		return err
	}
	g := &Genesis{ClusterID: o.ClusterID, ID: id, Host: o.Host, BundleSequence: o.BundleSequence, Roots: o.Roots}
	if g.Authority, err = NewAuthority(o.Root, o.TrustDomain, o.Node, dir, o.Now); err != nil {
		return err
	}
	if err := g.saveBundle(dir, o.TrustDomain); err != nil {
		return err
	}
	if !o.External {
		if err := g.firstLeaf(dir, o.TrustDomain, o.Node, o.Now); err != nil {
			return err
		}
	}
	return o.Host.save(dir)
}

func (g *Genesis) firstLeaf(dir string, td spiffeid.TrustDomain, node string, now time.Time) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	req, err := NewLeafRequest(g.Host, node, td, &key.PublicKey, now.Add(DefaultLeafTTL))
	if err != nil {
		return err
	}
	chain, err := g.Authority.SignAgent(req, now)
	if err != nil {
		return err
	}
	return leafFiles(dir).save(key, nil, chain)
}

func (g *Genesis) saveBundle(dir string, td spiffeid.TrustDomain) error {
	b, err := newBundle(td, g.BundleSequence, g.Roots)
	if err != nil {
		return err
	}
	return b.save(dir)
}
