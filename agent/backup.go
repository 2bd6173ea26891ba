package agent

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// BackupManifest is what a backup file says about itself, as JSON at its beginning. None of it is secret.
type BackupManifest struct {
	ClusterID      string         `json:"cluster_id"`
	TrustDomain    string         `json:"trust_domain"`
	Epoch          uint64         `json:"epoch"`
	EpochID        string         `json:"epoch_id"`
	Index          uint64         `json:"index"`
	Term           uint64         `json:"term"`
	Revision       uint64         `json:"revision"`
	Digest         string         `json:"digest"`   // of the whole state, hex
	TakenAt        time.Time      `json:"taken_at"` // by the clock of who took it
	HLC            string         `json:"hlc"`      // of the last entry in it
	Node           string         `json:"node"`     // who took it
	Version        string         `json:"version"`
	ClusterVersion uint32         `json:"cluster_version"`
	Rows           map[string]int `json:"rows"` // by table
}

// BackupReport is a backup file and what reading it showed. Expected is the digest that its manifest names, Digest
// that of the state which was restored from it in memory.
type BackupReport struct {
	File     string `json:"file"`
	OK       bool   `json:"ok"`
	Problem  string `json:"problem,omitempty"`
	Digest   string `json:"digest"`
	Expected string `json:"expected"`
	Bytes    int64  `json:"bytes"`
	Content  uint64 `json:"content_bytes"`

	Manifest *BackupManifest `json:"manifest,omitempty"`
}

// ErrBackupExists is returned, wrapped, instead of replacing a file.
var ErrBackupExists = errors.New("the file exists")

// errBackupSpace is returned, wrapped, by saveBackup when the file system of the backup is full.
var errBackupSpace = errors.New("no space")

func manifestOf(v *state.View, node, version string, now time.Time) BackupManifest {
	cluster, digest := v.Cluster(), v.Digest()
	m := BackupManifest{
		ClusterID: cluster.ID, TrustDomain: cluster.TrustDomain,
		Epoch: cluster.Epoch.Counter, EpochID: hex.EncodeToString(cluster.Epoch.ID[:]),
		Index: v.Index(), Term: v.Term(), Revision: v.Revision(), Digest: hex.EncodeToString(digest[:]),
		TakenAt: now.UTC(), HLC: v.Stamp().String(), Node: node, Version: version, ClusterVersion: cluster.Version,
		Rows: map[string]int{},
	}
	for t := state.Table(1); t.Valid(); t++ {
		if n := v.Rows(t); n > 0 {
			m.Rows[t.String()] = n
		}
	}
	return m
}

// writeBackup streams the state of v as a backup file. It leaves join tokens out: none counts after a restore, and until
// it ends whoever has the file could join with it.
func writeBackup(w io.Writer, v *state.View, node, version string, now time.Time) error {
	v = v.WithoutTokens()
	manifest, err := json.Marshal(manifestOf(v, node, version, now))
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	b, err := storage.NewBackupWriter(w, manifest)
	if err != nil {
		return err
	}
	if err := v.WriteSnapshot(b); err != nil {
		return err
	}
	return b.Close()
}

// readBackup restores a backup file into a state of its own and compares what came out with what the manifest says.
// The report is filled as far as it got.
func readBackup(r io.Reader) (report BackupReport, v *state.View, err error) {
	b, err := storage.OpenBackup(r)
	if err != nil {
		return report, nil, err
	}
	report.Manifest = new(BackupManifest)
	decoder := json.NewDecoder(bytes.NewReader(b.Manifest()))
	if err := decoder.Decode(report.Manifest); err != nil {
		return report, nil, fmt.Errorf("%w: its manifest: %w", storage.ErrBackup, err)
	}
	report.Expected = report.Manifest.Digest
	machine := state.NewMachine()
	err = machine.Restore(b)
	if err == nil { // the state ends with its own trailer: what is behind it in the file counts too
		_, err = io.Copy(io.Discard, b)
	}
	report.Content, _ = b.Bytes()
	if err != nil {
		return report, nil, err
	}
	v = machine.View()
	digest := v.Digest()
	report.Digest = hex.EncodeToString(digest[:])
	if err := sameState(manifestOf(v, "", "", time.Time{}), *report.Manifest); err != nil {
		return report, nil, err
	}
	report.OK = true
	return report, v, nil
}

// sameState compares what a state is with what a manifest says.
func sameState(is, says BackupManifest) error {
	switch {
	case is.Digest != says.Digest:
		return fmt.Errorf("%w: the digest of the restored state is %s, the manifest says %s", storage.ErrBackup, is.Digest, says.Digest)
	case is.ClusterID != says.ClusterID || is.TrustDomain != says.TrustDomain || is.Epoch != says.Epoch || is.EpochID != says.EpochID:
		return fmt.Errorf("%w: it holds cluster %s of %s in epoch %d, the manifest says %s of %s in %d", storage.ErrBackup,
			is.ClusterID, is.TrustDomain, is.Epoch, says.ClusterID, says.TrustDomain, says.Epoch)
	case is.Index != says.Index || is.Term != says.Term || is.Revision != says.Revision:
		return fmt.Errorf("%w: it holds index %d, the manifest says %d", storage.ErrBackup, is.Index, says.Index)
	}
	return nil
}

// SaveBackup writes what fetch streams to path, mode 0600, restores it in memory, and gives it its name only when the
// digest is right. An existing regular file is replaced only if asked for, and stays when anything fails. Until then the
// content is in path.tmp, which must not exist before: whoever put it there could read what is written into it.
func SaveBackup(path string, overwrite bool, fetch func(io.Writer) error) (BackupReport, error) {
	switch info, err := os.Lstat(path); {
	case err != nil:
	case !info.Mode().IsRegular():
		return BackupReport{}, withHint(fmt.Errorf("%s is not a regular file", path), "name a file that is to be made")
	case !overwrite:
		return BackupReport{}, withHint(fmt.Errorf("%s: %w", path, ErrBackupExists), "choose another name, or say --overwrite")
	}
	if err := claimTmp(path); err != nil {
		return BackupReport{}, err
	}
	return saveBackup(storage.OS(), path, fetch)
}

// claimTmp makes the file that the backup is written to.
func claimTmp(path string) error {
	tmp := path + storage.TmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return withHint(fmt.Errorf("%s: %w", tmp, ErrBackupExists), "a save writes there now, or one was killed: then remove that file")
	case errors.Is(err, fs.ErrNotExist):
		return withHint(err, "make the directory first, or choose another place")
	case err != nil:
		return withHint(err, "choose a place that this user can write")
	}
	return f.Close()
}

func saveBackup(fsys storage.FS, path string, fetch func(io.Writer) error) (report BackupReport, err error) {
	size := int64(0)
	err = storage.WriteStreamAtomic(fsys, path, 0o600, fetch, func(r io.Reader) error {
		counted := &countingReader{r: r}
		var err error
		report, _, err = readBackup(counted)
		size = counted.n
		return err
	})
	report.File, report.Bytes = path, size
	if errors.Is(err, storage.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// ErrNoSpace speaks of the data directory.
		err = withHint(fmt.Errorf("%w for %s, nothing was left there", errBackupSpace, path), "free space there, or choose another place")
	}
	return report, err
}

type countingReader struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// VerifyBackup restores the file in memory. What is wrong with the file is in the report; the error is about reading it.
func VerifyBackup(path string) (BackupReport, error) {
	report, _, err := openBackup(storage.OS(), path)
	return report, err
}

// openBackup reads the whole file. The View is nil when something is wrong with it.
func openBackup(fsys storage.FS, path string) (report BackupReport, v *state.View, err error) {
	var problem error
	err = storage.ReadStream(fsys, path, func(r io.Reader, size int64) error {
		report, v, problem = readBackup(r)
		report.Bytes = size
		return nil
	})
	report.File = path
	if err != nil {
		return report, nil, withHint(fmt.Errorf("read backup: %w", err), "name a file that parley snapshot save, or a scheduled backup, wrote")
	}
	if problem != nil {
		report.Problem = problem.Error()
	}
	return report, v, nil
}

// BackupContents is what is in a backup file, without keys, values, tokens or sealed keys.
type BackupContents struct {
	BackupReport
	Nodes    []BackupNode `json:"nodes"`
	Core     []string     `json:"core"` // the members' nodes
	Roots    []string     `json:"roots"`
	KVBytes  int          `json:"kv_bytes"`
	Keys     int          `json:"keys"`
	Sessions int          `json:"sessions"`
	Services []string     `json:"services"`
}

// BackupNode is a node in a backup. Restore says whether the backup can be restored on it: it may be in the core and
// can open the root's key.
type BackupNode struct {
	Name    string `json:"name"`
	Zone    string `json:"zone"`
	Role    string `json:"role"`
	Left    bool   `json:"left"`
	Restore bool   `json:"restore"`
}

// maxListedServices bounds what inspect names.
const maxListedServices = 1000

// InspectBackup verifies a file and lists what is in it.
func InspectBackup(path string) (BackupContents, error) {
	report, v, err := openBackup(storage.OS(), path)
	out := BackupContents{BackupReport: report, Nodes: []BackupNode{}, Core: []string{}, Roots: []string{}, Services: []string{}}
	if err != nil || v == nil {
		return out, err
	}
	for _, n := range v.Nodes() {
		out.Nodes = append(out.Nodes, BackupNode{
			Name: n.Name, Zone: n.Zone, Role: string(n.EffectiveRole()), Left: n.Left, Restore: mayRestore(v, n) == nil,
		})
	}
	for _, m := range v.Core() {
		out.Core = append(out.Core, m.Node)
	}
	for _, root := range v.Bundle().Roots {
		hash := security.RootHash(root)
		out.Roots = append(out.Roots, hex.EncodeToString(hash[:]))
	}
	v.Scan("", func(kv state.KV) bool {
		out.KVBytes += len(kv.Key) + len(kv.Value)
		return true
	})
	out.Keys, out.Sessions = v.Rows(state.TableKV), v.Rows(state.TableSession)
	out.Services = serviceNames(v)
	return out, nil
}

func serviceNames(v *state.View) []string {
	names := map[string]bool{}
	v.Services(func(s state.CatalogService) bool {
		names[s.Name] = true
		return true
	})
	sorted := slices.Sorted(maps.Keys(names))
	return sorted[:min(len(sorted), maxListedServices)]
}

// mayRestore says why a backup cannot begin again on a node, nil if it can.
func mayRestore(v *state.View, n state.Node) error {
	_, sealed := v.Seal(n.Name)
	switch {
	case n.Left:
		return fmt.Errorf("the node %q has left the cluster", n.Name)
	case !n.CoreGrant:
		return fmt.Errorf("the node %q is not allowed in the core", n.Name)
	case !sealed:
		return fmt.Errorf("the backup holds no root key sealed to the node %q", n.Name)
	}
	return nil
}

// backupName is the name of a scheduled backup: it sorts by time, and says whose it is.
func backupName(m BackupManifest) string {
	return fmt.Sprintf("%s-%s-%s-%d%s", m.TrustDomain, m.Node, m.TakenAt.Format(backupTime), m.Index, backupSuffix)
}

const (
	backupTime   = "20060102T150405Z"
	backupSuffix = ".parley"
)

// writeSnapshot is the API's: one stream at a time, for each holds a View for as long as it is read.
func (a *Agent) writeSnapshot(v *state.View, w io.Writer) error {
	return writeBackup(w, v, a.ids.Node, a.opts.Version, clock.System())
}
