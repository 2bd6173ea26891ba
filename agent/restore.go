package agent

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// Restore is one restore of a backup into the data directory of one host, which has to have been a core member of the
// same cluster when the backup was taken. OpenRestore checks all there is to check and changes nothing; Do makes the
// directory begin a new epoch with this host as a core of one. The directory's lock is held in between.
type Restore struct {
	Report RestoreReport
	rebirth
	founder *founder // nil: this host was of the cluster before
}

// RestoreReport is what a restore does, or did.
type RestoreReport struct {
	File          string    `json:"file"`
	DataDir       string    `json:"data_dir"`
	Node          string    `json:"node"`
	TrustDomain   string    `json:"trust_domain"`
	ClusterID     string    `json:"cluster_id"`
	TakenAt       time.Time `json:"taken_at"`
	BackupIndex   uint64    `json:"backup_index"`
	Index         uint64    `json:"index"`
	Epoch         uint64    `json:"epoch"` // the new one
	RaftID        string    `json:"raft_id"`
	Keys          int       `json:"keys"`
	SessionsEnded int       `json:"sessions_ended"`
	NodesKept     []string  `json:"nodes_kept"`      // whose rows are newer in this host's public copy than in the backup
	OtherMembers  []string  `json:"other_members"`   // of the core in the backup, which have to begin with an empty log
	Aside         string    `json:"aside"`           // where the log of before is; empty on a host that had none
	LastIndexHere uint64    `json:"last_index_here"` // of the public copy on this host; what is between is lost
	DryRun        bool      `json:"dry_run"`
	Digest        string    `json:"digest"` // of the state that the new epoch begins with
}

// OpenRestore prepares a restore of file into the data directory path. Close it.
func OpenRestore(path, file string) (*Restore, error) {
	r, err := openRestore(path, file, clock.System())
	return r, withOwnerHint(err, path)
}

func openRestore(path, file string, now time.Time) (_ *Restore, err error) {
	born, err := openRebirth(path, "a backup is restored on a host that was a core member when it was taken, with its own keys: name its directory with --data-dir; "+
		"on a host that is new nothing opens the root but the recovery key: --recovery-key FILE, with --name and --advertise")
	if err != nil {
		return nil, err
	}
	r := &Restore{rebirth: born}
	if err := r.prepare(file, now); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Do makes the directory begin with the restored state; see rebirth.do. It may be run again after it was cut.
func (r *Restore) Do() error {
	if r.founder != nil {
		return withOwnerHint(r.doNew(), r.dir.path)
	}
	return withOwnerHint(r.do(), r.dir.path)
}

// prepare verifies the file, and makes the state that the new epoch begins with.
func (r *Restore) prepare(file string, now time.Time) error {
	report, v, err := openBackup(storage.OS(), file)
	switch {
	case err != nil:
		return err
	case v == nil:
		return withHint(fmt.Errorf("%s is no intact backup: %s", file, report.Problem), "nothing was changed; take another backup: parley snapshot verify FILE")
	case report.Manifest.ClusterID != r.ids.ClusterID:
		return withHint(fmt.Errorf("%s is a backup of cluster %s (%s), %s belongs to cluster %s (%s)", file, report.Manifest.ClusterID,
			report.Manifest.TrustDomain, r.dir.path, r.ids.ClusterID, r.ids.TrustDomain), "nothing was changed; choose a backup of this cluster")
	}
	known := r.publicCopy()
	host, err := r.checkHost(v, known)
	if err != nil {
		return err
	}
	o, err := r.recovery(host, now, known)
	if err != nil {
		return err
	}
	o.Backup = true
	o.Message = fmt.Sprintf("restored from a backup of %s at index %d of epoch %d", report.Manifest.TakenAt.Format(time.RFC3339),
		report.Manifest.Index, report.Manifest.Epoch)
	machine, err := state.Recover(v, o)
	if err != nil {
		return err
	}
	r.view = machine.View()
	r.describe(file, report, v, known, now)
	return nil
}

// checkHost refuses a host that could not be the core: it must be a node of the backup, with this directory's keys, and
// able to open the root. What the later copy says of the node counts more than the backup. It returns the host's keys.
func (r *Restore) checkHost(v, known *state.View) (*security.Host, error) {
	hint := "nothing was changed; " + restoreHosts(v)
	if _, ok := v.Recovery(); ok {
		hint += "; elsewhere it takes the recovery key and an empty --data-dir"
	}
	n, ok := v.Node(r.ids.Node)
	if !ok {
		return nil, withHint(fmt.Errorf("the backup has no node %q, which %s belongs to", r.ids.Node, r.dir.path), hint)
	}
	if err := mayRestore(v, n); err != nil {
		return nil, withHint(err, hint)
	}
	if known != nil {
		if later, ok := known.Node(n.Name); ok && later.Left {
			return nil, withHint(fmt.Errorf("the node %q has left the cluster since the backup", n.Name), hint)
		}
	}
	host, err := security.LoadHost(r.dir.path)
	if err != nil {
		return nil, identityError(fmt.Errorf("load the host's keys: %w", err), r.ids.Node)
	}
	if !bytes.Equal(host.HostKey(), n.HostKey) || !bytes.Equal(host.SealKey(), n.SealKey) {
		return nil, withHint(fmt.Errorf("the backup knows the node %q with other host keys than those in %s", n.Name, r.dir.path), hint)
	}
	return host, nil
}

func (r *Restore) describe(file string, report BackupReport, v, known *state.View, now time.Time) {
	digest := r.view.Digest()
	r.aside = r.asidePath("before-restore-", now)
	r.Report = RestoreReport{
		File: file, DataDir: r.dir.path, Node: r.ids.Node, TrustDomain: r.ids.TrustDomain, ClusterID: r.ids.ClusterID,
		TakenAt: report.Manifest.TakenAt, BackupIndex: v.Index(), Index: r.view.Index(), Epoch: r.view.Cluster().Epoch.Counter,
		RaftID: fmt.Sprintf("%x", r.raftID()), Keys: v.Rows(state.TableKV),
		SessionsEnded: v.Rows(state.TableSession), NodesKept: []string{}, OtherMembers: []string{},
		Digest: fmt.Sprintf("%x", digest),
	}
	if r.founder == nil {
		r.Report.Aside = r.aside
	}
	if known != nil {
		r.Report.LastIndexHere = known.Index()
		for _, n := range known.Nodes() {
			if old, ok := v.Node(n.Name); !ok || !bytes.Equal(state.EncodeNode(old), state.EncodeNode(n)) {
				r.Report.NodesKept = append(r.Report.NodesKept, n.Name)
			}
		}
	}
	r.Report.OtherMembers = r.otherMembers(v, known)
}
