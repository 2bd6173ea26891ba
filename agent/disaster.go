package agent

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// maxSurvivorFile and maxSurvivors bound what a recovery reads of other survivors.
const (
	maxSurvivorFile = 64 << 10
	maxSurvivors    = 16
)

// SurvivorReport is what is left on the disk of one member of the core, read while its agent is stopped.
type SurvivorReport struct {
	Node          string   `json:"node"`
	ClusterID     string   `json:"cluster_id"`
	TrustDomain   string   `json:"trust_domain"`
	Epoch         uint64   `json:"epoch"`
	EpochID       string   `json:"epoch_id"`
	RaftID        string   `json:"raft_id"`
	LastTerm      uint64   `json:"last_term"`
	LastIndex     uint64   `json:"last_index"`
	CommitIndex   uint64   `json:"commit_index"` // all up to it were committed; of those after it nobody here can say
	Chain         string   `json:"chain"`        // of the last entry: equal chains are equal histories
	Voters        []string `json:"voters"`       // Raft ids after the last entry
	SnapshotIndex uint64   `json:"snapshot_index"`
	InDoubt       string   `json:"in_doubt"` // why the log may have held more than it does; empty if nothing says so
}

func (s SurvivorReport) survivor() state.Survivor {
	return state.Survivor{Node: s.Node, LastTerm: s.LastTerm, LastIndex: s.LastIndex}
}

// RecoveryReport is what a recovery does, or did.
type RecoveryReport struct {
	Survivor     SurvivorReport   `json:"survivor"` // this one
	Peers        []SurvivorReport `json:"peers"`
	DataDir      string           `json:"data_dir"`
	Node         string           `json:"node"`
	TrustDomain  string           `json:"trust_domain"`
	ClusterID    string           `json:"cluster_id"`
	Index        uint64           `json:"index"`
	Epoch        uint64           `json:"epoch"` // the new one
	RaftID       string           `json:"raft_id"`
	Keys         int              `json:"keys"`
	UnprovenFrom uint64           `json:"unproven_from"` // entries kept of which this log cannot prove that they were committed; 0: none
	UnprovenTo   uint64           `json:"unproven_to"`
	MissingLogs  []string         `json:"missing_logs"` // voters, by Raft id, of which neither the log nor a file was seen
	MayBeLost    bool             `json:"may_be_lost"`  // a majority without this log may have acknowledged writes after its end
	SeenIndex    uint64           `json:"seen_index"`   // of the public copy on this host
	OtherMembers []string         `json:"other_members"`
	Aside        string           `json:"aside"`
	DryRun       bool             `json:"dry_run"`
	Digest       string           `json:"digest"`
}

// Recovery makes the log of one survivor the beginning of a new epoch. OpenRecovery checks and changes nothing of what
// the log says; Do writes.
type Recovery struct {
	Report RecoveryReport
	rebirth
	last *state.View // after the last entry of the log
}

const damagedBaseHint = "nothing was changed; a damaged log is no base for a new epoch: recover on another survivor, or restore a backup"

const strangerHint = "name with --data-dir the directory of a member of the core whose disk is left"

// Inspect reads what the stopped member in the data directory path holds.
func Inspect(path string) (SurvivorReport, error) {
	r := &Recovery{}
	report, err := func() (_ SurvivorReport, err error) {
		if r.rebirth, err = openRebirth(path, strangerHint); err != nil {
			return SurvivorReport{}, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		return r.inspect()
	}()
	return report, withOwnerHint(err, path)
}

// OpenRecovery prepares a recovery from the log in the data directory path; peers are files that Inspect wrote of other
// survivors. Close it.
func OpenRecovery(path string, peers []string) (*Recovery, error) {
	r, err := openRecovery(path, peers, clock.System())
	return r, withOwnerHint(err, path)
}

func openRecovery(path string, peers []string, now time.Time) (*Recovery, error) {
	born, err := openRebirth(path, strangerHint)
	if err != nil {
		return nil, err
	}
	r := &Recovery{rebirth: born}
	if err := r.prepare(peers, now); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Do makes the directory begin the new epoch; see rebirth.do. It may be run again after it was cut.
func (r *Recovery) Do() error { return withOwnerHint(r.do(), r.dir.path) }

// inspect replays the whole log, entries that may not be committed included.
func (r *Recovery) inspect() (_ SurvivorReport, err error) {
	if err := r.takeBack(); err != nil {
		return SurvivorReport{}, err
	}
	has, err := r.dir.hasLog()
	if err == nil && (r.ids.RaftID == 0 || !has) {
		err = withHint(fmt.Errorf("%s holds no log: %s was outside the core", r.dir.path, r.ids.Node), strangerHint)
	}
	if err != nil {
		return SurvivorReport{}, err
	}
	st, err := openStore(r.dir, r.ids.ClusterID, r.ids.RaftID, storage.DefaultSegmentBytes>>20, zap.NewNop())
	if err != nil {
		return SurvivorReport{}, withHint(err, damagedBaseHint)
	}
	defer func() { err = errors.Join(err, st.close()) }()
	h, err := consensus.Offline(st.recoveredState())
	if err == nil {
		r.last, err = replay(st, h)
	}
	if err != nil {
		return SurvivorReport{}, withHint(err, damagedBaseHint)
	}
	out := SurvivorReport{
		Node: r.ids.Node, ClusterID: r.ids.ClusterID, TrustDomain: r.ids.TrustDomain, RaftID: fmt.Sprintf("%x", r.ids.RaftID),
		LastTerm: h.LastTerm, LastIndex: h.LastIndex, CommitIndex: h.Commit, Voters: []string{}, InDoubt: st.recovered.InDoubt,
	}
	epoch := r.last.Cluster().Epoch
	out.Epoch, out.EpochID = epoch.Counter, hex.EncodeToString(epoch.ID[:])
	if h.Snapshot != nil {
		out.SnapshotIndex, out.Chain = h.Snapshot.Index, hex.EncodeToString(h.Snapshot.Chain[:])
	}
	if chain, ok := st.log.Chain(h.LastIndex); ok {
		out.Chain = hex.EncodeToString(chain[:])
	}
	slices.Sort(h.Voters)
	for _, id := range h.Voters {
		out.Voters = append(out.Voters, fmt.Sprintf("%x", id))
	}
	return out, nil
}

// replay applies the entries behind the snapshot to it.
func replay(st *store, h consensus.History) (*state.View, error) {
	machine := state.NewMachine()
	if h.Snapshot != nil {
		src, err := st.snapshots.Open(h.Snapshot.Manifest)
		if err != nil {
			return nil, fmt.Errorf("open snapshot at %d: %w", h.Snapshot.Index, err)
		}
		if err := errors.Join(machine.Restore(src), src.Close()); err != nil {
			return nil, fmt.Errorf("snapshot at %d: %w", h.Snapshot.Index, err)
		}
	}
	for _, e := range h.Entries {
		stamp, commands, err := consensus.Commands(e)
		if err == nil {
			_, _, err = machine.Apply(e.GetIndex(), e.GetTerm(), stamp, commands)
		}
		if err != nil {
			return nil, fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
	}
	return machine.View(), nil
}

func (r *Recovery) prepare(files []string, now time.Time) error {
	own, err := r.inspect()
	if err != nil {
		return err
	}
	peers, err := readSurvivors(files)
	if err != nil {
		return err
	}
	if err := checkSurvivors(own, peers); err != nil {
		return err
	}
	known := r.publicCopy()
	host, err := r.checkNode(known)
	if err != nil {
		return err
	}
	o, err := r.recovery(host, now, known)
	if err != nil {
		return err
	}
	o.Message = fmt.Sprintf("the quorum was lost: recovered from the log of %s, which ends at term %d, index %d of epoch %d", own.Node,
		own.LastTerm, own.LastIndex, own.Epoch)
	machine, err := state.Recover(r.last, o)
	if err != nil {
		return err
	}
	r.view = machine.View()
	r.aside = r.asidePath("before-recover-", now)
	r.describe(own, peers, known)
	return nil
}

// checkNode refuses a host that could not be the core, and returns its keys.
func (r *Recovery) checkNode(known *state.View) (*security.Host, error) {
	n, ok := r.last.Node(r.ids.Node)
	if !ok {
		return nil, fmt.Errorf("the log has no node %q, which %s belongs to", r.ids.Node, r.dir.path)
	}
	newest := r.known.Counter
	if known != nil {
		newest = max(newest, known.Cluster().Epoch.Counter)
	}
	if newest > r.last.Cluster().Epoch.Counter {
		return nil, withHint(fmt.Errorf("this host knows of epoch %d, and its log is of epoch %d", newest, r.last.Cluster().Epoch.Counter),
			"nothing was changed; the cluster has gone on without this log: recover on a member of the newer epoch")
	}
	if known != nil {
		if later, ok := known.Node(n.Name); ok && later.Left {
			return nil, fmt.Errorf("the node %q has left the cluster", n.Name)
		}
	}
	host, err := security.LoadHost(r.dir.path)
	if err != nil {
		return nil, identityError(fmt.Errorf("load the host's keys: %w", err), r.ids.Node)
	}
	if !bytes.Equal(host.HostKey(), n.HostKey) || !bytes.Equal(host.SealKey(), n.SealKey) {
		return nil, fmt.Errorf("the log knows the node %q with other host keys than those in %s", n.Name, r.dir.path)
	}
	return host, nil
}

// readSurvivors reads what Inspect wrote on other hosts.
func readSurvivors(files []string) ([]SurvivorReport, error) {
	if len(files) > maxSurvivors {
		return nil, fmt.Errorf("%d files of survivors, at most %d: a core has no more members", len(files), maxSurvivors)
	}
	out := []SurvivorReport{}
	for _, file := range files {
		raw, err := storage.ReadFile(storage.OS(), file, maxSurvivorFile)
		if errors.Is(err, os.ErrNotExist) {
			return nil, withHint(err, "make it on the host of that survivor: parley disaster inspect --data-dir D -o json > FILE")
		}
		var s SurvivorReport
		if err == nil {
			err = json.Unmarshal(raw, &s)
		}
		if err == nil && (s.Node == "" || s.ClusterID == "" || s.LastTerm == 0 || s.LastIndex == 0) {
			err = errors.New("it names no node, cluster, term or index")
		}
		if err == nil {
			err = security.CheckNodeName(s.Node) // it is printed
		}
		if err != nil {
			return nil, withHint(fmt.Errorf("%s is not the report of a survivor: %w", file, err),
				"make it on the host of that survivor: parley disaster inspect --data-dir D -o json > FILE")
		}
		out = append(out, s)
	}
	return out, nil
}

// checkSurvivors refuses a recovery from own when another survivor is the better base, or cannot be compared.
func checkSurvivors(own SurvivorReport, peers []SurvivorReport) error {
	best := own
	for i, p := range peers {
		same := func(o SurvivorReport) bool { return o.Node == p.Node || o.RaftID == p.RaftID }
		switch {
		case p.ClusterID != own.ClusterID:
			return withHint(fmt.Errorf("the report of %s is of cluster %s, this is %s", p.Node, p.ClusterID, own.ClusterID), "nothing was changed; leave that file out")
		case same(own) || slices.ContainsFunc(peers[:i], same):
			return withHint(fmt.Errorf("there are two reports of %s", p.Node), "nothing was changed; give one --peer file for each other survivor")
		case p.Epoch > own.Epoch:
			return withHint(fmt.Errorf("%s is in epoch %d, this log is of epoch %d", p.Node, p.Epoch, own.Epoch),
				"nothing was changed; the cluster has gone on without this log: recover on "+p.Node)
		case p.Epoch < own.Epoch:
			continue // of a history that ended before
		case p.EpochID != own.EpochID:
			return withHint(fmt.Errorf("%s is in another epoch %d than this host: the cluster was recovered twice", p.Node, p.Epoch),
				"nothing was changed; decide which of the two goes on, and leave the file of the other out")
		}
		if best.survivor().Before(p.survivor()) {
			best = p
		}
	}
	if best.Node == own.Node {
		return nil
	}
	return withHint(fmt.Errorf("the log of %s ends at term %d, index %d, that of this host at term %d, index %d: it may hold acknowledged writes that are not here",
		best.Node, best.LastTerm, best.LastIndex, own.LastTerm, own.LastIndex), "nothing was changed; recover on "+best.Node)
}

func (r *Recovery) describe(own SurvivorReport, peers []SurvivorReport, known *state.View) {
	digest := r.view.Digest()
	r.Report = RecoveryReport{
		Survivor: own, Peers: peers, DataDir: r.dir.path, Node: own.Node, TrustDomain: own.TrustDomain, ClusterID: own.ClusterID,
		Index: r.view.Index(), Epoch: r.view.Cluster().Epoch.Counter, RaftID: fmt.Sprintf("%x", r.raftID()), Keys: r.view.Rows(state.TableKV),
		MissingLogs: missingLogs(own, peers), OtherMembers: r.otherMembers(r.last, known), Aside: r.aside, Digest: fmt.Sprintf("%x", digest),
	}
	if own.CommitIndex < own.LastIndex {
		r.Report.UnprovenFrom, r.Report.UnprovenTo = own.CommitIndex+1, own.LastIndex
	}
	// What was acknowledged is on a majority, so some log that was seen holds it unless a majority was not seen.
	r.Report.MayBeLost = 2*len(r.Report.MissingLogs) > len(own.Voters) || own.InDoubt != ""
	if known != nil {
		r.Report.SeenIndex = known.Index()
		r.Report.MayBeLost = r.Report.MayBeLost || known.Index() > own.LastIndex
	}
}

// missingLogs are the voters of which no log was seen.
func missingLogs(own SurvivorReport, peers []SurvivorReport) []string {
	out := []string{}
	for _, id := range own.Voters {
		seen := func(p SurvivorReport) bool { return p.RaftID == id && p.Epoch == own.Epoch }
		if own.RaftID != id && !slices.ContainsFunc(peers, seen) {
			out = append(out, id)
		}
	}
	return out
}

// Unproven says in a sentence what cannot be proven of the recovered history.
func (r RecoveryReport) Unproven() string {
	var parts []string
	if r.UnprovenFrom > 0 {
		parts = append(parts, fmt.Sprintf("entries %d to %d are kept, and it cannot be proven that they were committed", r.UnprovenFrom, r.UnprovenTo))
	}
	if r.MayBeLost {
		parts = append(parts, fmt.Sprintf("writes acknowledged after index %d may be lost", r.Survivor.LastIndex))
	}
	if len(parts) == 0 {
		return "nothing: every acknowledged write is in this log"
	}
	return strings.Join(parts, "; ")
}
