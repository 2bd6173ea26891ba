package state

import "github.com/parley-mesh/parley/clock"

// A View is the whole state as of one index. It never changes and is safe for any goroutine.
// A View outside the core lacks the classes that its agent is not sent; see Holds.
type View struct{ s *store }

// Index is the Raft index of the last entry applied.
func (v *View) Index() uint64 { return v.s.at.Index }

// Term is the term of the last entry applied.
func (v *View) Term() uint64 { return v.s.at.Term }

// Stamp is the leader's clock at the last entry that carried one.
func (v *View) Stamp() clock.Stamp { return v.s.at.Stamp }

// Revision counts the commands that changed something.
func (v *View) Revision() uint64 { return v.s.at.Revision }

// Position returns the four above together.
func (v *View) Position() Position { return v.s.at }

// Holds reports whether the View carries the rows of class c.
func (v *View) Holds(c Class) bool { return v.s.classes.Has(c) }

// Classes returns the classes that the View carries.
func (v *View) Classes() ClassSet { return v.s.classes }

// Digest covers every row, and the revision. Replicas at the same index have the same digest.
func (v *View) Digest() [32]byte { return v.s.digestOf(AllClasses) }

// DigestOf covers the rows of the set's classes, and the revision. It is equal on the core and on
// a follower that is sent those classes, at the same revision.
func (v *View) DigestOf(set ClassSet) [32]byte { return v.s.digestOf(set) }

// ClassDigest covers the rows of one class. It does not move with changes to other classes.
func (v *View) ClassDigest(c Class) [32]byte { return v.s.classDigest(c) }

// Buckets returns the sum of the row hashes in each bucket. It looks at every row, as BucketRows does.
func (v *View) Buckets() *[DigestBuckets][32]byte {
	sums := new([DigestBuckets]sum)
	v.s.tree.scan(func(r *record) bool {
		sums[bucketOf(r.table, r.key)].add(&r.hash)
		return true
	})
	out := new([DigestBuckets][32]byte)
	for i := range sums {
		sums[i].append(out[i][:0])
	}
	return out
}

// TableRevision is the revision of the last change to t, deletions included; 0 if there was none.
func (v *View) TableRevision(t Table) uint64 {
	if !t.Valid() {
		return 0
	}
	return v.s.tables[t].revision
}

// Rows counts the rows of t.
func (v *View) Rows(t Table) int {
	if !t.Valid() {
		return 0
	}
	return v.s.tables[t].rows
}

// RowRevision is the revision that last changed the row of t under key. When there is no such row
// it is the lowest revision that is certainly not before its deletion: the tombstone's or the
// floor for a key, the table's for other tables; 0 if it never existed.
func (v *View) RowRevision(t Table, key string) uint64 {
	if r, ok := v.s.get(t, key); ok {
		return r.revision
	}
	if t != TableKV {
		return v.TableRevision(t)
	}
	if r, ok := v.s.get(TableTombstone, key); ok {
		return r.revision
	}
	return v.s.floor()
}

// Node returns the node of that name, left ones included.
func (v *View) Node(name string) (Node, bool) { return v.s.node(name) }

// Nodes returns all nodes by name, left ones included.
func (v *View) Nodes() []Node {
	return rows(v.s, TableNode, func(r *record) (Node, error) { return DecodeNode(r.row) })
}

// Token returns the token with that id.
func (v *View) Token(id string) (Token, bool) { return v.s.token(id) }

// Tokens returns all tokens by id: expired ones for a day, revoked ones until they expire.
func (v *View) Tokens() []Token {
	return rows(v.s, TableToken, func(r *record) (Token, error) { return decodeToken(r.row) })
}

// Core returns the core members whose Raft id is not retired, by id.
func (v *View) Core() []CoreMember { return v.s.core(false) }

// CoreByID returns the member with that Raft id, retired or not.
func (v *View) CoreByID(raftID uint64) (CoreMember, bool) { return v.s.coreByID(raftID) }

// RaftIDRetired reports whether a Raft id was given to a node and taken back for good. Ids are given in
// ascending order and old retired ones are forgotten, so one that was given and has no row is retired.
func (v *View) RaftIDRetired(raftID uint64) bool {
	if m, ok := v.CoreByID(raftID); ok {
		return m.Retired
	}
	return raftID != 0 && raftID < v.Cluster().NextRaftID
}

// Cluster returns the row about the whole; the zero value before a follower has its snapshot.
func (v *View) Cluster() Cluster { return v.s.cluster() }

// Bundle returns the trust bundle.
func (v *View) Bundle() Bundle {
	r, ok := v.s.get(TableBundle, "")
	if !ok {
		return Bundle{}
	}
	return must(decodeBundle(r.row))
}

// Seal returns the root key sealed to that node.
func (v *View) Seal(node string) (Seal, bool) {
	r, ok := v.s.get(TableSeal, node)
	if !ok {
		return Seal{}, false
	}
	return must(decodeSeal(r.row)), true
}

// rows decodes all rows of a table, in order.
func rows[T any](s *store, t Table, decode func(*record) (T, error)) []T {
	out := make([]T, 0, s.tables[t].rows)
	s.scan(t, "", "", func(r *record) bool {
		out = append(out, must(decode(r)))
		return true
	})
	return out
}

func (s *store) node(name string) (Node, bool) {
	r, ok := s.get(TableNode, name)
	if !ok {
		return Node{}, false
	}
	return must(DecodeNode(r.row)), true
}

func (s *store) token(id string) (Token, bool) {
	r, ok := s.get(TableToken, id)
	if !ok {
		return Token{}, false
	}
	return must(decodeToken(r.row)), true
}

func (s *store) cluster() Cluster {
	r, ok := s.get(TableCluster, "")
	if !ok {
		return Cluster{}
	}
	return must(decodeCluster(r.row))
}

func (s *store) coreByID(raftID uint64) (CoreMember, bool) {
	r, ok := s.get(TableCore, coreKey(raftID))
	if !ok {
		return CoreMember{}, false
	}
	return must(decodeCore(r.row)), true
}

func (s *store) core(retired bool) []CoreMember {
	var out []CoreMember
	s.scan(TableCore, "", "", func(r *record) bool {
		if c := must(decodeCore(r.row)); c.Retired == retired {
			out = append(out, c)
		}
		return true
	})
	return out
}
