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
}

// InitIdentity makes a new cluster's root and cluster id, and in the data directory dir the first
// agent's host keys, issuer, certificate and bundle. It refuses with ErrIdentityExists when the
// directory has a host key; one whose init was cut off before that is overwritten.
//
// The root's key is dropped on return: the sealed copy in Genesis is the only one, and is lost with
// it if the caller does not keep it. A recovery key would be sealed for here as well.
func InitIdentity(dir string, td spiffeid.TrustDomain, node string, now time.Time) (*Genesis, error) {
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
	if g.Sealed, err = SealRoot(root, host.SealKey(), SealInfo{ClusterID: g.ClusterID, Node: node}); err != nil {
		return nil, err
	}
	if g.Authority, err = NewAuthority(root, td, node, dir, now); err != nil {
		return nil, err
	}
	if err := g.firstLeaf(dir, td, node, now); err != nil {
		return nil, err
	}
	return g, host.save(dir)
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
	b, err := newBundle(td, g.BundleSequence, g.Roots)
	if err != nil {
		return err
	}
	if err := b.save(dir); err != nil {
		return err
	}
	return leafFiles(dir).save(key, nil, chain)
}
