package agent

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// Names inside a data directory. ARCHITECTURE.md lists what each holds.
const (
	clusterFile     = "cluster.toml"
	walDir          = "wal"
	snapDir         = "snap"
	viewDir         = "view"
	clockFile       = "clock"
	incarnationFile = "incarnation"
	adminSocket     = "admin.sock"
)

// clusterIDs is cluster.toml: which cluster this directory belongs to, and as whom. It is written by
// Init or by the first successful join; only the Raft ids change afterwards.
type clusterIDs struct {
	ClusterID   string `toml:"cluster_id"`
	TrustDomain string `toml:"trust_domain"`
	Node        string `toml:"node"`
	Zone        string `toml:"zone"`
	// RaftID is the id under which this directory's log was written, 0 while the agent is not a core
	// member. An id is never reused: leaving the core and coming back gives a new one.
	RaftID uint64 `toml:"raft_id"`
	// RaftEpoch is the epoch of the cluster in which that id was given. A recovery retires all ids, so no id has two.
	RaftEpoch string `toml:"raft_epoch"`
	// PastRaftID is the highest id that this directory has given up. No id up to it is run again,
	// whatever an old View says: its log is gone, and it would vote as if it had never acknowledged anything.
	PastRaftID uint64 `toml:"past_raft_id"`
	// IdentitySource is identity.source of the cluster, empty for the built-in one. It never changes.
	IdentitySource string `toml:"identity_source,omitempty"`
}

// dataDir is an agent's directory. Its methods touch only the small files; log, snapshots and keys
// belong to their packages.
type dataDir struct {
	path string
	fs   storage.FS
	// fatal ends the process after a failed sync; nil leaves that to who gets the error.
	fatal func(error)
}

// checked passes on the error of a write, and ends the process when a sync failed: what is on disk is unknown, and
// whoever would try again and succeed would prove nothing.
func (d *dataDir) checked(err error) error {
	if d.fatal != nil && isFatal(err) {
		d.fatal(err)
	}
	return err
}

func openDataDir(path string) (*dataDir, error) {
	if err := checkLength(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, withHint(fmt.Errorf("create data directory: %w", err),
			"choose a directory that this user can write with --data-dir")
	}
	if err := checkOwner(path); err != nil {
		return nil, err
	}
	return &dataDir{path: path, fs: storage.OS()}, nil
}

func (d *dataDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// readCluster returns nil without an error when the directory belongs to no cluster yet.
func (d *dataDir) readCluster() (*clusterIDs, error) {
	raw, err := os.ReadFile(d.join(clusterFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", clusterFile, err)
	}
	var ids clusterIDs
	err = toml.Unmarshal(raw, &ids)
	if err == nil {
		err = ids.check()
	}
	if err != nil {
		return nil, withHint(fmt.Errorf("parse %s: %w", d.join(clusterFile), err),
			"the file is written by parley alone; restore it from a copy of this host, or join again with an empty data directory")
	}
	return &ids, nil
}

// check refuses what no agent wrote: the rest of the program takes these values as they are.
func (ids clusterIDs) check() error {
	if id, err := hex.DecodeString(ids.ClusterID); err != nil || len(id) != 16 {
		return fmt.Errorf("cluster_id %q is not 32 hex digits", ids.ClusterID)
	}
	if _, err := spiffeid.TrustDomainFromString(ids.TrustDomain); err != nil {
		return fmt.Errorf("trust_domain %q: %w", ids.TrustDomain, err)
	}
	if ids.RaftEpoch != "" {
		if _, err := state.ParseEpoch(ids.RaftEpoch); err != nil {
			return fmt.Errorf("raft_epoch: %w", err)
		}
	}
	return security.CheckNodeName(ids.Node)
}

// raftEpoch is RaftEpoch, the zero epoch while there is no Raft id.
func (ids clusterIDs) raftEpoch() state.Epoch {
	e, err := state.ParseEpoch(ids.RaftEpoch)
	if err != nil {
		return state.Epoch{} // check has refused all others
	}
	return e
}

func (d *dataDir) writeCluster(ids clusterIDs) error {
	var b bytes.Buffer
	b.WriteString("# Written by parley. Which cluster this directory belongs to; do not edit.\n")
	if err := toml.NewEncoder(&b).Encode(ids); err != nil {
		return fmt.Errorf("encode %s: %w", clusterFile, err)
	}
	return d.write(clusterFile, b.Bytes())
}

func (d *dataDir) write(name string, data []byte) error {
	if err := storage.WriteFileAtomic(d.fs, d.join(name), data, 0o600); err != nil {
		return d.checked(fmt.Errorf("write %s: %w", name, err))
	}
	return nil
}

// nextIncarnation counts the starts of this directory, so that each start's gossip record supersedes
// the one before it without asking the core.
func (d *dataDir) nextIncarnation() (uint64, error) {
	n, err := d.readNumber(incarnationFile)
	if err != nil {
		return 0, err
	}
	n++
	return n, d.write(incarnationFile, []byte(strconv.FormatUint(n, 10)+"\n"))
}

// clockMark reads the hybrid clock's persisted high-water mark, 0 if there is none.
func (d *dataDir) clockMark() (clock.Stamp, error) {
	n, err := d.readNumber(clockFile)
	return clock.Stamp(n), err
}

func (d *dataDir) saveClockMark(s clock.Stamp) error {
	return d.write(clockFile, []byte(strconv.FormatUint(uint64(s), 10)+"\n"))
}

func (d *dataDir) readNumber(name string) (uint64, error) {
	raw, err := os.ReadFile(d.join(name))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err == nil && n == math.MaxUint64 {
		err = errors.New("nothing comes after 2^64-1") // and what was counted on would begin at 0 again
	}
	if err != nil {
		return 0, withHint(fmt.Errorf("%s does not hold a number: %w", d.join(name), err),
			"the file is damaged; write into it a number a little larger than every earlier one, or join again with an empty data directory")
	}
	return n, nil
}

// lock keeps a second agent off this directory for as long as the returned closer is open.
func (d *dataDir) lock() (io.Closer, error) {
	c, err := storage.LockDir(d.path)
	if errors.Is(err, storage.ErrLocked) {
		return nil, withHint(err, "stop that agent first, or give this one its own --data-dir")
	}
	return c, err
}

// hasLog says whether the directory holds any log segment.
func (d *dataDir) hasLog() (bool, error) {
	entries, err := os.ReadDir(d.join(walDir))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return len(entries) > 0, err
}

// logParts are what a core member's log and state are in, the anchor last: without it nothing counts.
var logParts = []string{walDir, snapDir, "anchor", "apply"}

// keepLog moves log and snapshots to a directory aside, in steps that can be repeated after a crash between any two.
func (d *dataDir) keepLog(aside string) (steps []func() error) {
	steps = append(steps, func() error { return os.MkdirAll(aside, 0o700) })
	for _, name := range logParts {
		steps = append(steps, func() error {
			err := os.Rename(d.join(name), filepath.Join(aside, name))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	return append(steps, func() error { return d.fs.SyncDir(aside) }, func() error { return d.fs.SyncDir(d.path) })
}

// dropLog removes log and snapshots of a Raft id that has left the core for good.
func (d *dataDir) dropLog() error {
	for _, name := range logParts {
		if err := os.RemoveAll(d.join(name)); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}
