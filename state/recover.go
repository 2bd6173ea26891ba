package state

import (
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// What counts upwards jumps by these when a cluster goes on from an older state than others have seen,
// so that nothing that was given out between that state and the loss is given out a second time, and
// nobody who remembers a later number takes the new history for an old one. A revision stays below
// 2^53, where JSON numbers end, over 100,000 recoveries; a term below what a core takes from a peer.
const (
	RecoverRevisions = 1 << 36 // of index and revision
	RecoverTerms     = 1 << 20
	RecoverRaftIDs   = 1 << 20
)

// EventRecovered is the kind of the event that stands first in a recovered cluster's new history.
const EventRecovered = "recovered"

// RecoverOptions says how a state becomes the beginning of a new epoch.
type RecoverOptions struct {
	Node    string      // the only member of the new core: a live node with the core grant and the root sealed to it
	EpochID [16]byte    // drawn for this recovery
	At      clock.Stamp // of now; the state's own when that is later
	Above   uint64      // no Raft id up to this is given out
	// Known is a later copy of the public state, from the disk of an agent, nil if there is none. What
	// the cluster decided about its nodes and its roots since does not come undone.
	Known *View
	// KnownEpoch is the newest epoch that was proven to the node, which may be later than that of both.
	KnownEpoch Epoch
	// Backup says that the state may be much older than the last that the cluster did: no join token, no admission and
	// no session of it counts any more.
	Backup  bool
	EventID [16]byte
	Message string // of the event; one line
	// Founder is the host of Node when nobody knew it before, nil for a node of the state: who has a backup and the
	// recovery key begins anew on any host. Sealed is the root sealed to it, and Sign signs by a root.
	Founder *Node
	Sealed  []byte
	// Sign signs for the node by its host key. With it the state says, to whoever still lives in an older epoch, that
	// this one has begun; see EpochStatement.
	Sign func(signed []byte) (signature []byte, err error)
}

// Recover returns the state of v as the beginning of a new epoch, with a core of one. It is not a
// rewind: epoch, index, term, revision, Raft ids and lock indexes go on above all that v's cluster can
// have reached; every row gets the new revision, and every deletion is forgotten, so that whoever reads by
// revision reads again. v itself stays as it is.
func Recover(v *View, o RecoverOptions) (*Machine, error) {
	if err := o.check(v); err != nil {
		return nil, err
	}
	at := o.above(v)
	a := &applying{s: v.s.edit(), term: at.Term, at: at.Stamp, caller: o.Node}
	a.s.at = at
	a.s.at.Revision-- // changes are those of the next revision
	a.purgeAll()
	a.s.history = false // every row is written anew, and is no other version
	a.recoverRows(lockBase(o.before(v).Counter + 1))
	a.recoverNodes(v, o.Known)
	a.recoverOperators(v, o.Known, o.Backup)
	a.recoverDenials(o.Known)
	a.recoverDenies(v, o.Known)
	a.recoverGenerations(v, o.Known)
	a.admitFounder(o)
	a.abandonNext()
	a.recoverJWTKeys()
	statement := a.recoverCore(v, o)
	statement.Index, statement.Term = at.Index, at.Term
	if o.Sign != nil {
		if err := a.stateEpoch(statement, o.Sign); err != nil {
			return nil, fmt.Errorf("recover: %w", err)
		}
	}
	if o.Backup {
		a.voidTokens()
		a.voidAdmissions()
		a.endSessions()
	}
	event := EventAppend{ID: o.EventID, Node: o.Node, Kind: EventRecovered, Subject: o.Node, Message: o.Message, Origin: at.Stamp}
	if err := event.check(); err != nil {
		return nil, fmt.Errorf("recover: event: %w", err)
	}
	event.apply(a)
	a.limitTombstones()
	a.s.at, a.s.history = at, true
	return &Machine{s: a.s}, nil
}

func (o RecoverOptions) check(v *View) error {
	n, ok := v.Node(o.Node)
	_, sealed := v.Seal(o.Node)
	if o.Founder != nil {
		if err := o.checkFounder(v); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
		n, ok, sealed = *o.Founder, true, true
		n.CoreGrant = true
	}
	switch {
	case v.Classes() != AllClasses || v.Cluster().ID == "":
		return errors.New("recover: the state is not a whole cluster's")
	case !ok:
		return fmt.Errorf("recover: the state has no node %q", o.Node)
	case n.Left:
		return fmt.Errorf("recover: the node %q has left the cluster", o.Node)
	case !n.CoreGrant || !sealed:
		return fmt.Errorf("recover: the node %q is not allowed in the core, or the root is not sealed to it", o.Node)
	case o.Known != nil && o.Known.Cluster().ID != v.Cluster().ID:
		return fmt.Errorf("recover: the copy of the public state is of cluster %s, not %s", o.Known.Cluster().ID, v.Cluster().ID)
	case v.Index() >= 1<<62 || v.Revision() >= 1<<62 || v.Term() >= 1<<62:
		return errors.New("recover: the state's position is out of range")
	}
	if known, ok := o.known(); ok && known.Left {
		return fmt.Errorf("recover: the node %q has left the cluster, by a later copy of the public state", o.Node)
	}
	return nil
}

// checkFounder refuses a host that could not be told from one that the state knows.
func (o RecoverOptions) checkFounder(v *View) error {
	f := o.Founder
	if err := checkBinding(f.Name, f.HostKey, f.SealKey, f.Zone, f.Address); err != nil {
		return err
	}
	_, taken := v.Node(f.Name)
	switch {
	case f.Name != o.Node:
		return fmt.Errorf("the founder %q is not the node %q", f.Name, o.Node)
	case taken:
		return fmt.Errorf("the name %q belongs to another host: choose one that no node has had", f.Name)
	case v.Rows(TableNode) >= MaxNodes:
		return fmt.Errorf("there are %d nodes, the most that there can be", MaxNodes)
	}
	return CoreSeal{Node: f.Name, Sealed: o.Sealed}.check()
}

// admitFounder makes the founder a node that may lead.
func (a *applying) admitFounder(o RecoverOptions) {
	if o.Founder == nil {
		return
	}
	n := *o.Founder
	n.BindingEpoch, n.Role, n.CoreGrant, n.Left, n.JoinedAt = 1, policy.Operator, true, false, a.at
	a.setNode(n)
	a.set(TableSeal, n.Name, encodeSeal(Seal{Node: n.Name, Sealed: o.Sealed}))
}

// above is the position of the new history: beyond whichever is the later, the state or the copy.
func (o RecoverOptions) above(v *View) Position {
	at := v.Position()
	if o.Known != nil {
		later := o.Known.Position()
		at = Position{
			Index: max(at.Index, later.Index), Term: max(at.Term, later.Term),
			Revision: max(at.Revision, later.Revision), Stamp: max(at.Stamp, later.Stamp),
		}
	}
	return Position{
		Index: at.Index + RecoverRevisions, Term: at.Term + RecoverTerms, Revision: at.Revision + RecoverRevisions,
		Stamp: max(o.At, at.Stamp+1),
	}
}

// known is the node of the new core in the later copy.
func (o RecoverOptions) known() (Node, bool) {
	if o.Known == nil {
		return Node{}, false
	}
	return o.Known.Node(o.Node)
}

// recoverRows gives every row the new revision, and forgets what was deleted before: RowRevision of a
// missing key is then the floor, which is new as well.
func (a *applying) recoverRows(newLocks uint64) {
	var all []*record
	a.s.tree.scan(func(r *record) bool {
		all = append(all, r)
		return true
	})
	for _, r := range all {
		switch r.table {
		case TableTombstone, TableFloor:
		case TableRequest, TableQuarantine:
			a.set(r.table, r.key, nil)
		case TableKV:
			kv := must(decodeKV(r.key, r.revision, r.row))
			if kv.LockIndex > 0 {
				kv.LockIndex = newLocks + kv.LockIndex%epochLocks
			}
			a.set(TableKV, r.key, encodeKV(kv))
		default:
			a.set(r.table, r.key, r.row)
		}
	}
	a.set(TableFloor, "", encodeFloor(a.s.at.Revision+1))
	a.set(TableCatalogIndex, "", encodeFloor(a.s.at.Revision+1)) // the same for services
	a.set(TableRequest, floorKey, encodeFloor(a.s.at.Index))     // whose outcome is older, nobody knows
}

// recoverNodes takes over what a later copy of the public state says of nodes, roots and epochs: who left, whose
// key was replaced, what a role was lowered to, who joined.
func (a *applying) recoverNodes(v, known *View) {
	if known == nil {
		return
	}
	for _, n := range known.Nodes() {
		if known.RowRevision(TableNode, n.Name) > v.Revision() || known.Cluster().Epoch.Counter > v.Cluster().Epoch.Counter {
			a.setNode(n)
		}
	}
	for _, s := range known.EpochStatements() {
		a.set(TableEpoch, epochKey(s.Epoch.Counter), encodeEpochStatement(s))
	}
	theirs, ours := known.Bundle(), v.Bundle()
	if theirs.Sequence > ours.Sequence {
		a.set(TableBundle, "", encodeBundle(Bundle{Sequence: theirs.Sequence + 1, Roots: union(theirs.Roots, ours.Roots)}))
	}
}

// union lists the roots of both, at most MaxRoots, the newer ones first.
func union(newer, older [][]byte) [][]byte {
	var out [][]byte
	seen := map[string]bool{}
	for _, roots := range [][][]byte{newer, older} {
		for _, root := range roots {
			if !seen[string(root)] && len(out) < MaxRoots {
				seen[string(root)] = true
				out = append(out, root)
			}
		}
	}
	return out
}

// recoverCore begins the epoch, retires every Raft id, and gives a new one to the node. It returns what there is to say of
// the epoch.
func (a *applying) recoverCore(v *View, o RecoverOptions) EpochStatement {
	cluster := a.s.cluster()
	before := o.before(v)
	if o.Known != nil {
		theirs := o.Known.Cluster()
		cluster.NextRaftID = max(cluster.NextRaftID, theirs.NextRaftID)
	}
	cluster.Epoch = Epoch{Counter: before.Counter + 1, ID: o.EpochID}
	id := max(cluster.NextRaftID, o.Above+1) + RecoverRaftIDs
	cluster.NextRaftID = id + 1
	a.setCluster(cluster)
	for _, m := range v.Core() {
		a.retire(m)
	}
	a.setCore(CoreMember{RaftID: id, Node: o.Node})
	s := EpochStatement{ClusterID: cluster.ID, Epoch: cluster.Epoch, Before: before, Node: o.Node}
	if o.Founder != nil {
		s.HostKey, s.Address = o.Founder.HostKey, o.Founder.Address
	}
	return s
}

// before is the newest epoch that is known.
func (o RecoverOptions) before(v *View) Epoch {
	newest := v.Cluster().Epoch
	if o.Known != nil && o.Known.Cluster().Epoch.Counter > newest.Counter {
		newest = o.Known.Cluster().Epoch
	}
	if o.KnownEpoch.Counter > newest.Counter {
		newest = o.KnownEpoch
	}
	return newest
}

// WithoutTokens returns the state as a backup holds it: the same position, and no join token. A token's
// verification key is enough to join with, and none of them counts after a restore.
func (v *View) WithoutTokens() *View {
	if v.s.tables[TableToken].rows == 0 {
		return v
	}
	a := &applying{s: v.s.edit()}
	a.s.at.Revision-- // changes are those of the next revision
	a.voidTokens()
	a.s.at = v.s.at
	return &View{a.s}
}

func (a *applying) voidTokens() {
	for _, t := range rows(a.s, TableToken, func(r *record) (Token, error) { return decodeToken(r.row) }) {
		a.set(TableToken, t.ID, nil)
	}
}

// voidAdmissions ends all: which of them were ended since nobody knows.
func (a *applying) voidAdmissions() {
	for _, x := range rows(a.s, TableAdmission, func(r *record) (Admission, error) { return decodeAdmission(r.row) }) {
		a.set(TableAdmission, x.Name, nil)
	}
}

// endSessions ends all: whether they were renewed since nobody knows. Their keys stay, unlocked, even where
// the end of a session deletes them: what a backup holds is what it brings back.
func (a *applying) endSessions() {
	for _, s := range rows(a.s, TableSession, sessionOf) {
		s.Behavior = BehaviorRelease
		a.endSession(s)
	}
}
