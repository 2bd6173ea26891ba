package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

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
	dir    *dataDir
	held   interface{ Close() error }
	ids    clusterIDs
	view   *state.View // recovered

	before func() error // tests: a crash before a step
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
	Aside         string    `json:"aside"`           // where the log of before is
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
	dir := &dataDir{path: path, fs: storage.OS()}
	ids, err := dir.readCluster()
	switch {
	case err != nil:
		return nil, err
	case ids == nil:
		return nil, withHint(fmt.Errorf("%s belongs to no cluster", path),
			"a backup is restored on a host that was a core member when it was taken, with its own keys: name its directory with --data-dir")
	}
	if err := checkOwner(path); err != nil {
		return nil, err
	}
	held, err := storage.LockDir(path)
	if errors.Is(err, storage.ErrLocked) {
		return nil, withHint(err, "stop the agent first; all agents of the core have to be stopped for a restore")
	} else if err != nil {
		return nil, err
	}
	r := &Restore{dir: dir, held: held, ids: *ids}
	if err := r.prepare(file, now); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return r, nil
}

// Close gives the directory back.
func (r *Restore) Close() error { return r.held.Close() }

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
	if err := r.checkHost(v, known); err != nil {
		return err
	}
	mark, err := r.dir.clockMark()
	if err != nil {
		return err
	}
	machine, err := state.Recover(v, state.RecoverOptions{
		Node: r.ids.Node, EpochID: mustID(randomID()), At: max(stampOf(now), mark+1), Above: max(r.ids.RaftID, r.ids.PastRaftID),
		Known: known, Backup: true, EventID: mustID(randomID()),
		Message: fmt.Sprintf("restored from a backup of %s at index %d of epoch %d", report.Manifest.TakenAt.Format(time.RFC3339),
			report.Manifest.Index, report.Manifest.Epoch),
	})
	if err != nil {
		return err
	}
	r.view = machine.View()
	r.describe(file, report, v, known, now)
	return nil
}

// publicCopy is what this host last knew of the public state of the same cluster, nil if nothing.
func (r *Restore) publicCopy() *state.View {
	known := loadCopy(r.dir, zap.NewNop())
	if known.Index() == 0 || known.Cluster().ID != r.ids.ClusterID {
		return nil
	}
	return known
}

// checkHost refuses a host that could not be the core: it must be a node of the backup, with this directory's keys, and
// able to open the root. What the later copy says of the node counts more than the backup.
func (r *Restore) checkHost(v, known *state.View) error {
	var able []string
	for _, n := range v.Nodes() {
		if mayRestore(v, n) == nil {
			able = append(able, n.Name)
		}
	}
	hint := "nothing was changed; the backup can be restored on: " + cmp.Or(strings.Join(able, ", "), "no host, take another backup")
	n, ok := v.Node(r.ids.Node)
	if !ok {
		return withHint(fmt.Errorf("the backup has no node %q, which %s belongs to", r.ids.Node, r.dir.path), hint)
	}
	if err := mayRestore(v, n); err != nil {
		return withHint(err, hint)
	}
	if known != nil {
		if later, ok := known.Node(n.Name); ok && later.Left {
			return withHint(fmt.Errorf("the node %q has left the cluster since the backup", n.Name), hint)
		}
	}
	host, err := security.LoadHost(r.dir.path)
	if err != nil {
		return identityError(fmt.Errorf("load the host's keys: %w", err), r.ids.Node)
	}
	if !bytes.Equal(host.HostKey(), n.HostKey) || !bytes.Equal(host.SealKey(), n.SealKey) {
		return withHint(fmt.Errorf("the backup knows the node %q with other host keys than those in %s", n.Name, r.dir.path), hint)
	}
	return nil
}

func (r *Restore) describe(file string, report BackupReport, v, known *state.View, now time.Time) {
	digest := r.view.Digest()
	r.Report = RestoreReport{
		File: file, DataDir: r.dir.path, Node: r.ids.Node, TrustDomain: r.ids.TrustDomain, ClusterID: r.ids.ClusterID,
		TakenAt: report.Manifest.TakenAt, BackupIndex: v.Index(), Index: r.view.Index(), Epoch: r.view.Cluster().Epoch.Counter,
		RaftID: fmt.Sprintf("%x", r.raftID()), Keys: v.Rows(state.TableKV),
		SessionsEnded: v.Rows(state.TableSession), NodesKept: []string{}, OtherMembers: []string{},
		Aside: r.asidePath(now), Digest: fmt.Sprintf("%x", digest),
	}
	if known != nil {
		r.Report.LastIndexHere = known.Index()
		for _, n := range known.Nodes() {
			if old, ok := v.Node(n.Name); !ok || !bytes.Equal(state.EncodeNode(old), state.EncodeNode(n)) {
				r.Report.NodesKept = append(r.Report.NodesKept, n.Name)
			}
		}
	}
	others := map[string]bool{}
	for _, view := range []*state.View{v, known} {
		if view == nil {
			continue
		}
		for _, m := range view.Core() {
			if m.Node != r.ids.Node && !others[m.Node] {
				others[m.Node] = true
				r.Report.OtherMembers = append(r.Report.OtherMembers, m.Node)
			}
		}
	}
	slices.Sort(r.Report.OtherMembers)
}

// asidePath is a directory that does not exist yet.
func (r *Restore) asidePath(now time.Time) string {
	first := r.dir.join("before-restore-" + now.UTC().Format(backupTime))
	path := first
	for i := 2; ; i++ {
		if _, err := os.Lstat(path); err != nil {
			return path
		}
		path = fmt.Sprintf("%s-%d", first, i)
	}
}

// raftID is the id of the new core's only member.
func (r *Restore) raftID() uint64 { return r.view.Core()[0].RaftID }

// restoreParts are what a core member's log and state are in, the anchor last: without it nothing counts.
var restoreParts = []string{walDir, snapDir, "anchor", "apply"}

// stagingDir is where the new log is made, so that a full disk, or a crash, leaves the old one where it is.
const stagingDir = "restore.tmp"

// Do makes the directory begin with the restored state. The log of before is moved to Report.Aside, nothing is deleted.
// cluster.toml comes last: after a crash in between the agent refuses to start, by the Raft id, until the restore is done
// again.
func (r *Restore) Do() error { return withOwnerHint(r.do(), r.dir.path) }

func (r *Restore) do() error {
	staging := r.dir.join(stagingDir)
	err := r.steps(
		func() error { return os.RemoveAll(staging) }, // what an interrupted restore left
		func() error { return os.Mkdir(staging, 0o700) },
		func() error { return r.stage(staging) },
	)
	if err != nil {
		return errors.Join(fmt.Errorf("make the new log: %w", err), os.RemoveAll(staging))
	}
	if err := r.exchange(staging); err != nil {
		return withHint(err, "run the same restore again; the log of before is in "+r.Report.Aside+" or still in place")
	}
	ids := r.ids
	ids.PastRaftID = max(ids.PastRaftID, ids.RaftID)
	ids.RaftID = r.raftID()
	return r.steps(func() error { return r.dir.writeCluster(ids) }, func() error { return os.RemoveAll(staging) })
}

// steps does one after the other until one fails.
func (r *Restore) steps(steps ...func() error) error {
	for _, step := range steps {
		if r.before != nil {
			if err := r.before(); err != nil {
				return err
			}
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// stage writes the restored state as the first snapshot of a new log, and reads it back.
func (r *Restore) stage(path string) error {
	dir := &dataDir{path: path, fs: r.dir.fs}
	st, err := openStore(dir, r.ids.ClusterID, r.raftID(), storage.DefaultSegmentBytes>>20, zap.NewNop())
	if err != nil {
		return err
	}
	if err := beginLog(st, r.view, r.raftID()); err != nil {
		return errors.Join(err, st.close())
	}
	return st.close()
}

// beginLog makes v the first snapshot of an empty log, with one voter.
func beginLog(st *store, v *state.View, raftID uint64) error {
	meta := storage.SnapshotMeta{Index: v.Index(), Term: v.Term(), ConfState: &raftpb.ConfState{Voters: []uint64{raftID}}}
	if _, err := st.snapshots.Save(meta, v.WriteSnapshot); err != nil {
		return fmt.Errorf("write the first snapshot: %w", err)
	}
	term, commit := v.Term(), v.Index()
	if err := st.log.Reset(v.Index(), v.Term(), meta.Chain, &raftpb.HardState{Term: &term, Commit: &commit}); err != nil {
		return fmt.Errorf("start the log: %w", err)
	}
	return nil
}

// exchange moves the old log aside and the new one into its place.
func (r *Restore) exchange(staging string) error {
	aside := r.Report.Aside
	steps := []func() error{func() error { return os.MkdirAll(aside, 0o700) }}
	for _, name := range restoreParts {
		steps = append(steps, func() error {
			err := os.Rename(r.dir.join(name), filepath.Join(aside, name))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	steps = append(steps, func() error { return r.dir.fs.SyncDir(aside) }, func() error { return r.dir.fs.SyncDir(r.dir.path) })
	for _, name := range restoreParts {
		steps = append(steps, func() error { return os.Rename(filepath.Join(staging, name), r.dir.join(name)) })
	}
	steps = append(steps, func() error { return r.dir.fs.SyncDir(r.dir.path) })
	if err := r.steps(steps...); err != nil {
		return fmt.Errorf("put the new log in the place of the old one: %w", err)
	}
	return nil
}
