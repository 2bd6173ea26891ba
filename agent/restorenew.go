package agent

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// NewHost is a host that no cluster knows, on which one begins again from a backup and the recovery key.
type NewHost struct {
	Name    string // of the node; one that the cluster never had, because its agents keep each name with its host key
	Zone    string
	Address string // of its mesh port, as others reach it: they learn it from what the root signs
	Key     *security.RecoveryKey
}

// founder is what OpenRestoreNew has prepared for the new host.
type founder struct {
	host *security.Host
	root *security.Root
	td   spiffeid.TrustDomain
	v    *state.View // of the backup
	now  time.Time
}

// OpenRestoreNew prepares a restore of file into the directory path, which belongs to no cluster yet. Close it.
func OpenRestoreNew(path, file string, h NewHost) (*Restore, error) {
	r, err := openRestoreNew(path, file, h, clock.System())
	return r, withOwnerHint(err, path)
}

func openRestoreNew(path, file string, h NewHost, now time.Time) (_ *Restore, err error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	dir, err := openDataDir(path)
	if err != nil {
		return nil, err
	}
	ids, err := dir.readCluster()
	switch {
	case err != nil:
		return nil, err
	case ids != nil:
		return nil, withHint(fmt.Errorf("%s belongs to cluster %s as node %q", path, ids.ClusterID, ids.Node),
			"a host that the cluster knows needs no recovery key: leave it out, or choose an empty --data-dir")
	}
	held, err := storage.LockDir(path)
	if err != nil {
		return nil, err
	}
	r := &Restore{rebirth: rebirth{dir: dir, held: held}}
	if err := r.prepareNew(file, h, now); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (h NewHost) check() error {
	if err := security.CheckNodeName(h.Name); err != nil {
		return err
	}
	if addr, err := netip.ParseAddrPort(h.Address); err != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() {
		return withHint(fmt.Errorf("the address %q of the new host cannot be reached by others", h.Address),
			"give the address of its mesh port, such as --advertise 10.0.0.7:8310")
	}
	return nil
}

func (r *Restore) prepareNew(file string, h NewHost, now time.Time) error {
	report, v, err := openBackup(storage.OS(), file)
	switch {
	case err != nil:
		return err
	case v == nil:
		return withHint(fmt.Errorf("%s is no intact backup: %s", file, report.Problem), "nothing was changed; take another backup: parley snapshot verify FILE")
	}
	root, err := openByRecoveryKey(v, h.Key)
	if err != nil {
		return err
	}
	if n, taken := v.Node(h.Name); taken {
		return withHint(fmt.Errorf("the name %q belongs to another host of the cluster, with another host key", n.Name),
			"nothing was changed; choose a --name that no agent of the cluster has had")
	}
	td, err := spiffeid.TrustDomainFromString(v.Cluster().TrustDomain)
	if err != nil {
		return err
	}
	host, err := security.NewHost()
	if err != nil {
		return err
	}
	sealed, err := security.SealRoot(root, host.SealKey(), security.SealInfo{ClusterID: v.Cluster().ID, Node: h.Name})
	if err != nil {
		return err
	}
	r.founder = &founder{host: host, root: root, td: td, v: v, now: now}
	r.ids = clusterIDs{ClusterID: v.Cluster().ID, TrustDomain: td.Name(), Node: h.Name, Zone: h.Zone}
	machine, err := state.Recover(v, state.RecoverOptions{
		Node: h.Name, EpochID: mustID(randomID()), At: stampOf(now), EventID: mustID(randomID()), Backup: true,
		Message: fmt.Sprintf("restored with the recovery key from a backup of %s at index %d of epoch %d", report.Manifest.TakenAt.Format(time.RFC3339),
			report.Manifest.Index, report.Manifest.Epoch),
		Founder: &state.Node{
			Name: h.Name, UID: host.UID(), HostKey: host.HostKey(), SealKey: host.SealKey(), Zone: h.Zone, Address: h.Address,
		},
		Sealed: sealed,
		Sign:   func(signed []byte) ([]byte, error) { return root.SignStatement(epochPurpose, signed) },
	})
	if err != nil {
		return err
	}
	r.view = machine.View()
	r.describe(file, report, v, nil, now)
	return nil
}

// openByRecoveryKey opens the root that a backup holds sealed for the recovery key.
func openByRecoveryKey(v *state.View, key *security.RecoveryKey) (*security.Root, error) {
	sealed, ok := v.Recovery()
	if !ok {
		return nil, withHint(errors.New("the backup holds no root for a recovery key: the cluster had none when it was taken"),
			"nothing was changed; "+restoreHosts(v))
	}
	cert, err := rootCert(v)
	if err != nil {
		return nil, err
	}
	if string(sealed.SealKey) != string(key.Recipient()) {
		return nil, withHint(fmt.Errorf("the root is sealed for another recovery key, whose public half is %s", hex.EncodeToString(sealed.SealKey)),
			"nothing was changed; find that key, or "+restoreHosts(v))
	}
	return withAbove(v, v.Authority().Signing)(key.OpenRoot(sealed.Sealed, cert, v.Cluster().ID))
}

// restoreHosts says where a backup can be restored without a recovery key.
func restoreHosts(v *state.View) string {
	var able []string
	for _, n := range v.Nodes() {
		if mayRestore(v, n) == nil {
			able = append(able, n.Name)
		}
	}
	return "the backup can be restored on: " + cmp.Or(strings.Join(able, ", "), "no host, take another backup")
}

// settle writes the identity of the new host, before the log that it is to lead.
func (f *founder) settle(dir string, ids clusterIDs) error {
	bundle := f.v.Bundle()
	err := security.AdoptIdentity(dir, security.FounderOptions{
		ClusterID: ids.ClusterID, TrustDomain: f.td, Node: ids.Node, Host: f.host, Root: f.root,
		BundleSequence: bundle.Sequence, Roots: bundle.Roots, Now: f.now,
	})
	if errors.Is(err, security.ErrIdentityExists) {
		return withHint(err, "choose an empty --data-dir; one that never belonged to a cluster is empty again without its directory identity")
	}
	return err
}

// doNew makes the directory one of the new host. cluster.toml comes last; what a failed attempt left is taken back.
func (r *Restore) doNew() error {
	if err := r.founder.settle(r.dir.path, r.ids); err != nil {
		return err
	}
	if err := r.do(); err != nil {
		return errors.Join(err, r.dir.dropLog(), os.RemoveAll(r.dir.join("identity")))
	}
	return nil
}
