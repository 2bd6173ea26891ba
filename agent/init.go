package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// InitOptions describe a new cluster and its first agent.
type InitOptions struct {
	DataDir     string
	TrustDomain string // SPIFFE trust domain, such as prod.example
	Name        string // this agent's node name
	Zone        string // failure zone, may be empty
	Address     string // mesh address of this agent as others reach it, host:port; may be empty
	SegmentMiB  int    // size of the first segment of the log; 0 is the storage's default
	// NodeID is what this agent's node is known by to clients; zero for the one that is made from its host key. Only the
	// founder has a choice: nobody else is there yet whose id it could take.
	NodeID [16]byte
	// RecoveryRecipient is the public half of the recovery key, for who has made that already; nil: Init makes the key, and
	// the result is the only place where it is. NoRecovery: there is none, and without a host of the core no root either.
	RecoveryRecipient []byte
	NoRecovery        bool
	// Keys says where this host's key is to which the root is sealed; the zero value is a file.
	Keys security.KeyStoreOptions
	// IdentitySource is identity.source of the cluster's agents; empty is the built-in one.
	IdentitySource string
	Log            *zap.Logger
}

// InitResult is what there is to know about the new cluster. RecoveryKey alone is secret.
type InitResult struct {
	ClusterID   string
	TrustDomain string
	Node        string
	SPIFFEID    string
	RootHash    string // SHA-256 of the root certificate, hex
	RecoveryKey []byte // PEM; nil when it was not made here
}

// firstRaftID is the id of the agent that founds a cluster.
const firstRaftID = 1

// Init makes a new cluster in an empty data directory: cluster id, root, this agent's keys and
// identity, and the log's first snapshot, which makes it the only voter. It refuses a directory that
// already belongs to a cluster. cluster.toml is written last: without it an interrupted Init does not
// count. One that fails takes back what it made; after a crash the directory has to be removed.
func Init(_ context.Context, o InitOptions) (InitResult, error) {
	made, err := initialize(o)
	return made, withOwnerHint(err, o.DataDir)
}

func initialize(o InitOptions) (InitResult, error) {
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil {
		return InitResult{}, withHint(fmt.Errorf("trust domain %q: %w", o.TrustDomain, err),
			"use a lower-case name such as prod.example, in letters, digits, dots, dashes and underscores")
	}
	if err := checkInit(td, o); err != nil {
		return InitResult{}, err
	}
	dir, err := openDataDir(o.DataDir)
	if err != nil {
		return InitResult{}, err
	}
	held, err := dir.lock()
	if err != nil {
		return InitResult{}, err
	}
	defer held.Close() //nolint:errcheck // the lock ends with the process at the latest
	ids, err := dir.readCluster()
	if err != nil {
		return InitResult{}, err
	}
	if ids != nil {
		return InitResult{}, withHint(
			fmt.Errorf("%s already belongs to cluster %s as node %q", o.DataDir, ids.ClusterID, ids.Node),
			"start it with 'parley agent', or choose an empty --data-dir for a new cluster")
	}
	made, err := found(dir, td, o)
	if err != nil {
		return InitResult{}, unfound(dir, err)
	}
	return made, nil
}

// checkInit refuses, before anything is written, what could not begin a cluster.
func checkInit(td spiffeid.TrustDomain, o InitOptions) error {
	switch {
	case o.NoRecovery && o.RecoveryRecipient != nil:
		return withHint(errors.New("a recovery recipient and no recovery key exclude each other"), "leave one of the two out")
	case len(td.Name()) > state.MaxTrustBytes:
		return withHint(fmt.Errorf("the trust domain has %d bytes, more than %d", len(td.Name()), state.MaxTrustBytes),
			"it stands in every identity: choose a short one, such as prod.example")
	case len(o.Zone) > state.MaxZoneBytes:
		return fmt.Errorf("the zone has %d bytes, more than %d", len(o.Zone), state.MaxZoneBytes)
	case len(o.Address) > state.MaxAddressBytes:
		return fmt.Errorf("the address has %d bytes, more than %d", len(o.Address), state.MaxAddressBytes)
	}
	return security.CheckNodeName(o.Name)
}

// unfound takes back what a failed attempt left, so that the next one finds the directory as it was. An
// identity that was there before is not ours to remove.
func unfound(dir *dataDir, err error) error {
	if errors.Is(err, security.ErrIdentityExists) {
		return withHint(err, "choose an empty --data-dir; one that never belonged to a cluster is empty again without its directory identity")
	}
	err = errors.Join(err, dir.dropLog(), os.RemoveAll(dir.join("identity")))
	if errors.Is(err, tpm.ErrUnavailable) {
		return withHint(err, "nothing was kept; name the TPM as identity.tpm and let this user open it, or set identity.key_store to file")
	}
	if errors.Is(err, storage.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return withHint(err, "nothing was kept; free at least 200 MiB for the data directory, then run parley init again")
	}
	return err
}

// found does the work of Init; cluster.toml comes last and makes it count.
func found(dir *dataDir, td spiffeid.TrustDomain, o InitOptions) (InitResult, error) {
	// What an interrupted Init left belongs to no cluster.
	if err := dir.dropLog(); err != nil {
		return InitResult{}, err
	}
	now := clock.System()
	recipient, recoveryKey, err := o.recovery()
	if err != nil {
		return InitResult{}, err
	}
	genesis, err := security.InitIdentity(dir.path, td, o.Name, security.InitKeys{Recovery: recipient, Store: o.Keys, External: o.IdentitySource == config.SourceWorkloadAPI}, now)
	if err != nil {
		return InitResult{}, fmt.Errorf("make the first identity: %w", err)
	}
	clusterID, uid := genesis.ClusterID, o.NodeID
	if uid == [16]byte{} {
		uid = genesis.Host.UID()
	}
	begin := state.GenesisOptions{
		ClusterID: clusterID, TrustDomain: td.Name(), EpochID: mustID(randomID()), At: stampOf(now),
		Node: state.Node{
			Name: o.Name, UID: uid, HostKey: genesis.Host.HostKey(), SealKey: genesis.Host.SealKey(),
			Zone: o.Zone, Address: o.Address,
		},
		Bundle: state.Bundle{Sequence: genesis.BundleSequence, Roots: genesis.Roots},
		Sealed: genesis.Sealed, SealedTo: genesis.SealedTo,
	}
	if recipient != nil {
		begin.Recovery = &state.Recovery{SealKey: recipient, Sealed: genesis.Recovery}
	}
	machine := state.Genesis(begin)
	if err := writeFirstSnapshot(dir, clusterID, o.SegmentMiB, machine.View()); err != nil {
		return InitResult{}, err
	}
	ids := clusterIDs{
		ClusterID: clusterID, TrustDomain: td.Name(), Node: o.Name, Zone: o.Zone, RaftID: firstRaftID,
		RaftEpoch: machine.View().Cluster().Epoch.String(), IdentitySource: kept(o.IdentitySource),
	}
	if err := dir.writeCluster(ids); err != nil {
		return InitResult{}, err
	}
	rootHash := security.RootHash(genesis.Roots[0])
	return InitResult{
		ClusterID: clusterID, TrustDomain: td.Name(), Node: o.Name,
		SPIFFEID: genesis.ID.String(), RootHash: hex.EncodeToString(rootHash[:]),
		RecoveryKey: recoveryKey,
	}, nil
}

// recovery returns to whom the root is sealed besides the host, nil for nobody, and the key if it is made here.
func (o InitOptions) recovery() (recipient, key []byte, err error) {
	if o.NoRecovery || o.RecoveryRecipient != nil {
		return o.RecoveryRecipient, nil, nil
	}
	made, err := security.NewRecoveryKey()
	if err != nil {
		return nil, nil, err
	}
	key, err = made.PEM()
	return made.Recipient(), key, err
}

// writeFirstSnapshot starts log and snapshots at index 1 with this agent as the only voter, so that
// a later member begins from a snapshot and never replays from the beginning.
func writeFirstSnapshot(dir *dataDir, clusterID string, segmentMiB int, v *state.View) error {
	store, err := openStore(dir, clusterID, firstRaftID, segmentMiB, zap.NewNop())
	if err != nil {
		return err
	}
	defer store.close()
	return beginLog(store, v, firstRaftID)
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

// mustID decodes an id that randomID made, or that cluster.toml holds and was checked.
func mustID(s string) (id [16]byte) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(id) {
		panic(fmt.Sprintf("id %q is not 32 hex digits", s))
	}
	copy(id[:], raw)
	return id
}

func stampOf(t time.Time) clock.Stamp { return clock.Stamp(uint64(t.UnixMilli()) << 16) }
