package state

import (
	"fmt"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// DefaultAutoGrants is how many joiners get the core grant unasked after the first agent, and
// DefaultCoreSize how many of the granted should vote.
const (
	DefaultAutoGrants = 3
	DefaultCoreSize   = 3
)

// GenesisOptions is what a new cluster begins with.
type GenesisOptions struct {
	ClusterID   string // 32 hex digits
	TrustDomain string
	EpochID     [16]byte
	Node        Node // the first agent: Name, UID, HostKey, SealKey, Zone and Address count
	Bundle      Bundle
	Sealed      []byte    // the root key sealed to the first agent
	SealedTo    []byte    // the key that it is sealed to, where that is in a TPM; empty: the one in Node
	Recovery    *Recovery // the same sealed to the recovery key, nil if there is none
	At          clock.Stamp
}

// Genesis returns a new cluster's state, at index 1, term 1 and revision 1: the first agent has
// the operator role, the core grant and Raft id 1. Options that cannot begin a cluster are a
// programmer error: CheckNodeName tells beforehand whether a name will do.
func Genesis(o GenesisOptions) *Machine {
	if err := o.check(); err != nil {
		panic(fmt.Sprintf("state: genesis: %v", err))
	}
	n := o.Node
	n.BindingEpoch, n.Role, n.CoreGrant, n.Left = 1, policy.Operator, true, false
	n.JoinedAt = o.At

	a := &applying{s: newStore(AllClasses), at: o.At}
	a.setCluster(Cluster{
		ID: o.ClusterID, TrustDomain: o.TrustDomain,
		Epoch:   Epoch{Counter: 1, ID: o.EpochID},
		Version: Version, NextRaftID: 2,
		CoreSize: DefaultCoreSize, AutoGrants: DefaultAutoGrants,
	})
	a.setNode(n)
	a.setCore(CoreMember{RaftID: 1, Node: n.Name})
	a.set(TableBundle, "", encodeBundle(o.Bundle))
	a.set(TableSeal, n.Name, encodeSeal(Seal{Node: n.Name, Sealed: o.Sealed}))
	if len(o.SealedTo) > 0 {
		a.setSealKey(n, o.SealedTo)
	}
	if o.Recovery != nil {
		a.set(TableRecovery, "", encodeRecovery(*o.Recovery))
	}
	a.s.at = Position{Index: 1, Term: 1, Stamp: o.At, Revision: 1}
	return &Machine{s: a.s}
}

func (o GenesisOptions) check() error {
	if !checkHex(o.ClusterID, 32) {
		return fmt.Errorf("cluster id %q is not made of 32 hex digits", o.ClusterID)
	}
	if o.TrustDomain == "" || len(o.TrustDomain) > MaxTrustBytes {
		return fmt.Errorf("trust domain %.80q has %d bytes", o.TrustDomain, len(o.TrustDomain))
	}
	n := o.Node
	if err := checkBinding(n.Name, n.HostKey, n.SealKey, n.Zone, n.Address); err != nil {
		return err
	}
	if err := checkBundle(o.Bundle); err != nil {
		return err
	}
	if o.Recovery != nil {
		if err := o.Recovery.check(); err != nil {
			return err
		}
	}
	if len(o.SealedTo) > 0 {
		return SealKeySet{Node: n.Name, Key: o.SealedTo, Sealed: o.Sealed}.check()
	}
	return CoreSeal{Node: n.Name, Sealed: o.Sealed}.check()
}
