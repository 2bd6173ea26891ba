package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// rebirth makes the data directory of a stopped agent begin with the state of a new epoch, as a core of one: the half
// that a restore from a backup and a recovery from a survivor's log share. The directory's lock is held until Close.
type rebirth struct {
	dir   *dataDir
	held  io.Closer
	ids   clusterIDs
	known state.Epoch // the newest that was proven to this host
	view  *state.View // that the new epoch begins with
	aside string      // where the log of before goes

	before func() error // tests: a crash before a step
}

// openRebirth takes the directory of a stopped agent. stranger is the hint for a directory of no cluster.
func openRebirth(path, stranger string) (rebirth, error) {
	dir := &dataDir{path: path, fs: storage.OS()}
	ids, err := dir.readCluster()
	switch {
	case err != nil:
		return rebirth{}, err
	case ids == nil:
		return rebirth{}, withHint(fmt.Errorf("%s belongs to no cluster", path), stranger)
	}
	if err := checkOwner(path); err != nil {
		return rebirth{}, err
	}
	held, err := storage.LockDir(path)
	if errors.Is(err, storage.ErrLocked) {
		return rebirth{}, withHint(err, "stop the agent first; all agents of the core have to be stopped for a new epoch")
	} else if err != nil {
		return rebirth{}, err
	}
	r := rebirth{dir: dir, held: held, ids: *ids}
	proven, err := dir.readEpoch()
	if err != nil {
		return rebirth{}, errors.Join(withHint(err, "if the file is damaged and no other agent of the cluster is left that knows of a recovery, move it away"), held.Close())
	}
	if proven != nil {
		r.known = proven.epoch
	}
	return r, nil
}

// recovery are the options that both ways to begin an epoch share. The host signs that it does.
func (r *rebirth) recovery(host *security.Host, now time.Time, known *state.View) (state.RecoverOptions, error) {
	mark, err := r.dir.clockMark()
	return state.RecoverOptions{
		Node: r.ids.Node, EpochID: mustID(randomID()), At: max(stampOf(now), mark+1), Above: max(r.ids.RaftID, r.ids.PastRaftID),
		Known: known, KnownEpoch: r.known, EventID: mustID(randomID()),
		Sign: func(signed []byte) ([]byte, error) { return host.SignStatement(epochPurpose, signed) },
	}, err
}

// Close gives the directory back.
func (r *rebirth) Close() error { return r.held.Close() }

// publicCopy is what this host last knew of the public state of the same cluster, nil if nothing.
func (r *rebirth) publicCopy() *state.View {
	known := loadCopy(r.dir, zap.NewNop())
	if known.Index() == 0 || known.Cluster().ID != r.ids.ClusterID {
		return nil
	}
	return known
}

// otherMembers are those of the core in either view beside this node, sorted.
func (r *rebirth) otherMembers(views ...*state.View) []string {
	out := []string{}
	for _, view := range views {
		if view == nil {
			continue
		}
		for _, m := range view.Core() {
			if m.Node != r.ids.Node && !slices.Contains(out, m.Node) {
				out = append(out, m.Node)
			}
		}
	}
	slices.Sort(out)
	return out
}

// asidePath is a directory that does not exist yet.
func (r *rebirth) asidePath(prefix string, now time.Time) string {
	first := r.dir.join(prefix + now.UTC().Format(backupTime))
	path := first
	for i := 2; ; i++ {
		if _, err := os.Lstat(path); err != nil {
			return path
		}
		path = fmt.Sprintf("%s-%d", first, i)
	}
}

// raftID is the id of the new core's only member.
func (r *rebirth) raftID() uint64 { return r.view.Core()[0].RaftID }

// stagingDir is where the new log is made, so that a full disk, or a crash, leaves the old one where it is.
const stagingDir = "restore.tmp"

// do makes the directory begin with the state of the new epoch. The log of before is moved to aside, nothing is deleted.
// cluster.toml comes last: after a crash in between the agent refuses to start, by the Raft id, until the command is run
// again.
func (r *rebirth) do() error {
	staging := r.dir.join(stagingDir)
	err := r.steps(
		func() error { return os.RemoveAll(staging) }, // what an interrupted run left
		func() error { return os.Mkdir(staging, 0o700) },
		func() error { return r.stage(staging) },
		func() error { return r.noteExchange(staging) },
	)
	if err != nil {
		return errors.Join(fmt.Errorf("make the new log: %w", err), os.RemoveAll(staging))
	}
	if err := r.exchange(staging); err != nil {
		return withHint(err, "run the same command again; the log of before is in "+r.aside+" or still in place")
	}
	ids := r.ids
	ids.PastRaftID = max(ids.PastRaftID, ids.RaftID)
	ids.RaftID, ids.RaftEpoch = r.raftID(), r.view.Cluster().Epoch.String()
	return r.steps(func() error { return r.dir.writeCluster(ids) }, func() error { return os.RemoveAll(staging) })
}

// steps does one after the other until one fails.
func (r *rebirth) steps(steps ...func() error) error {
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

// stage writes the state as the first snapshot of a new log, and reads it back.
func (r *rebirth) stage(path string) error {
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

// exchangeFile, in stagingDir, says that an exchange has begun: it is written before the first step of one.
const exchangeFile = "exchange"

// exchangeNote is what takes an exchange back that was cut.
type exchangeNote struct {
	Aside  string `json:"aside"`   // the directory's name
	Before uint64 `json:"before"`  // the Raft id that cluster.toml still has
	RaftID uint64 `json:"raft_id"` // and the one that it gets last
}

func (r *rebirth) noteExchange(staging string) error {
	raw, err := json.Marshal(exchangeNote{Aside: filepath.Base(r.aside), Before: r.ids.RaftID, RaftID: r.raftID()})
	if err != nil {
		return err
	}
	if err := storage.WriteFileAtomic(r.dir.fs, filepath.Join(staging, exchangeFile), raw, 0o600); err != nil {
		return err
	}
	return r.dir.fs.SyncDir(r.dir.path)
}

// takeBack puts the log of before in its place again, when an exchange was cut: whoever wants to read it could not find
// it. It does nothing when the exchange was completed, or when an agent has made a log of its own since. After a cut it may
// be run again.
func (r *rebirth) takeBack() error {
	staging := r.dir.join(stagingDir)
	raw, err := os.ReadFile(filepath.Join(staging, exchangeFile)) //nolint:gosec // in the data directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var note exchangeNote
	if err == nil {
		err = json.Unmarshal(raw, &note)
	}
	if err != nil {
		return fmt.Errorf("read what a cut exchange left in %s: %w", staging, err)
	}
	aside := r.dir.join(filepath.Base(note.Aside))
	exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	var parts []string
	for _, name := range logParts {
		if exists(filepath.Join(aside, name)) {
			parts = append(parts, name)
		}
		if exists(filepath.Join(aside, name)) && exists(r.dir.join(name)) && exists(filepath.Join(staging, name)) {
			return nil
		}
	}
	if note.Before != r.ids.RaftID || note.RaftID == r.ids.RaftID {
		return nil
	}
	var steps []func() error
	for _, name := range parts {
		if exists(r.dir.join(name)) { // the new one
			steps = append(steps, func() error { return os.Rename(r.dir.join(name), filepath.Join(staging, name)) })
		}
		steps = append(steps, func() error { return os.Rename(filepath.Join(aside, name), r.dir.join(name)) })
	}
	steps = append(steps, func() error { return r.dir.fs.SyncDir(r.dir.path) }, func() error { return os.RemoveAll(staging) })
	if err := r.steps(steps...); err != nil {
		return fmt.Errorf("take back what was cut before: %w", err)
	}
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// exchange moves the old log aside and the new one into its place.
func (r *rebirth) exchange(staging string) error {
	steps := r.dir.keepLog(r.aside)
	for _, name := range logParts {
		steps = append(steps, func() error {
			err := os.Rename(filepath.Join(staging, name), r.dir.join(name))
			if name == "apply" && errors.Is(err, fs.ErrNotExist) {
				return nil // the new log was applied by nobody yet
			}
			return err
		})
	}
	steps = append(steps, func() error { return r.dir.fs.SyncDir(r.dir.path) })
	if err := r.steps(steps...); err != nil {
		return fmt.Errorf("put the new log in the place of the old one: %w", err)
	}
	return nil
}
