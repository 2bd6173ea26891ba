package state

import "fmt"

// A Class says who may hold a row. The change stream is filtered by it on the serving side.
type Class uint8

const (
	ClassPublic  Class = 1 + iota // every agent: cluster, nodes, operators, core members, bundle, timeline, catalog, canaries, entries, forks
	ClassKV                       // key/value and sessions: core members, and agents granted a prefix
	ClassCore                     // core members only: tokens, sealed root keys, generations
	ClassReplica                  // what the replicas of the log remember for themselves; in no change stream

	classCount = 4
)

// String returns the name used in logs and tests.
func (c Class) String() string {
	switch c {
	case ClassPublic:
		return "public"
	case ClassKV:
		return "kv"
	case ClassCore:
		return "core"
	case ClassReplica:
		return "replica"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Valid reports whether this binary knows the class.
func (c Class) Valid() bool { return c >= ClassPublic && c <= ClassReplica }

// A ClassSet is a set of classes, one bit each. The zero value is empty.
type ClassSet uint8

// AllClasses is what a core member holds.
const AllClasses = ClassSet(1<<ClassPublic | 1<<ClassKV | 1<<ClassCore | 1<<ClassReplica)

// NewClassSet returns the set of the given classes. An unknown class is a programmer error.
func NewClassSet(classes ...Class) ClassSet {
	var s ClassSet
	for _, c := range classes {
		if !c.Valid() {
			panic(fmt.Sprintf("state: no such class: %d", c))
		}
		s |= 1 << c
	}
	return s
}

// Has reports whether c is in the set.
func (s ClassSet) Has(c Class) bool { return s&(1<<c) != 0 }

// Valid reports whether the set is neither empty nor holds a class that this binary does not know.
func (s ClassSet) Valid() bool { return s != 0 && s&^AllClasses == 0 }

// A Table is one kind of row. The numbers are on the wire and on disk, and order a snapshot.
type Table uint8

const (
	TableCluster      Table = 1 + iota // one row: ids, epoch, version, counters
	TableNode                          // by name
	TableCore                          // Raft ids, by number
	TableBundle                        // one row: the trust bundle
	TableKV                            // by key
	TableTombstone                     // deleted keys; internal, follows TableKV
	TableFloor                         // one row: the highest forgotten tombstone; internal
	TableToken                         // by id
	TableSeal                          // the root key sealed to a core member, by node
	TableEvent                         // the timeline, in its order
	TableSession                       // by the 16 bytes of the id
	TableNodeSessions                  // how many sessions a node has; stays when it has none, for its revision
	TableHold                          // which keys a session holds, by session and key; follows TableKV
	TableDelay                         // until when a key cannot be acquired, by key
	TableDelayEnd                      // the same by end and key, to find those that are over
	TableCatalogNode                   // nodes without an agent, by name
	TableService                       // instances of services, by node and id
	TableServiceName                   // the same by name, node and id
	TableCheck                         // by node and id
	TableCatalogIndex                  // by service name and by node: what is left of them, and its revision
	TableSessionCheck                  // by node, check and session: who relies on what; without a check, who is bound to the node
	TableRequest                       // requests and their answers, by index and place in the entry; internal
	TableQuarantine                    // commands that were left out, by index and place in the entry; internal
	TableEpoch                         // how the cluster came into each epoch after the first, by its number
	TableCanary                        // rows that nobody needs, by index and place in the entry
	TableOperator                      // identities of people and programs, by name
	TableHistory                       // what keys were before, by the revision that ended it and key; internal, follows TableKV
	TableHistoryMark                   // up to which revision things were before an hour began; internal
	TableHistorySweep                  // one row, for a while: up to which revision history is being forgotten; internal
	TableRecovery                      // one row: the root key sealed to the recovery key
	TableAuthority                     // one row: which root signs, and where its replacement is
	TableNextSeal                      // the next root's key sealed to a core member, by node
	TableDenial                        // hosts that were evicted, by the hash of the host key
	TableEntry                         // which programs get which identity, by name
	TableJWTKey                        // public keys of tokens, by id
	TableSealKey                       // public keys in TPMs that the root is sealed to, by node
	TableUpstream                      // authorities that an authority above has signed, by hash
	TableAdmission                     // how hosts may join by a certificate of somebody else's, by name
	TableDeny                          // SPIFFE IDs and certificates that are denied, by mark
	TableGeneration                    // what is known of the secrets that a host has had, by node
	TableFork                          // nodes that were seen twice, by name

	tableEnd // one more than the last
)

// lastListed is the last of the tables that every snapshot lists and every digest covers, empty or not. Those behind it came
// later, and count from their first row on: until then a state is the same, with the same snapshot and the same digest, as
// for a binary that does not have them.
const lastListed = TableJWTKey

// tableClass and tableNames are indexed by Table.
var (
	tableClass = [tableEnd]Class{
		TableCluster: ClassPublic, TableNode: ClassPublic, TableCore: ClassPublic,
		TableBundle: ClassPublic, TableKV: ClassKV, TableTombstone: ClassKV,
		TableFloor: ClassKV, TableToken: ClassCore, TableSeal: ClassCore,
		TableEvent:   ClassPublic,
		TableSession: ClassKV, TableNodeSessions: ClassKV, TableHold: ClassKV,
		TableDelay: ClassKV, TableDelayEnd: ClassKV,
		TableCatalogNode: ClassPublic, TableService: ClassPublic, TableServiceName: ClassPublic,
		TableCheck: ClassPublic, TableCatalogIndex: ClassPublic, TableSessionCheck: ClassKV,
		TableRequest: ClassReplica, TableQuarantine: ClassReplica,
		TableEpoch: ClassPublic, TableCanary: ClassPublic, TableOperator: ClassPublic,
		TableHistory: ClassReplica, TableHistoryMark: ClassReplica, TableHistorySweep: ClassReplica,
		TableRecovery: ClassCore, TableAuthority: ClassPublic, TableNextSeal: ClassCore,
		TableDenial: ClassPublic,
		TableEntry:  ClassPublic, TableJWTKey: ClassPublic, TableSealKey: ClassPublic, TableUpstream: ClassPublic,
		TableAdmission: ClassPublic, TableDeny: ClassPublic, TableGeneration: ClassCore, TableFork: ClassPublic,
	}
	tableNames = [tableEnd]string{
		TableCluster: "cluster", TableNode: "node", TableCore: "core", TableBundle: "bundle",
		TableKV: "kv", TableTombstone: "tombstone", TableFloor: "floor", TableToken: "token",
		TableSeal: "seal", TableEvent: "event", TableSession: "session", TableNodeSessions: "node sessions", TableHold: "hold",
		TableDelay: "lock-delay", TableDelayEnd: "lock-delay end",
		TableCatalogNode: "catalog node", TableService: "service", TableServiceName: "service name",
		TableCheck: "check", TableCatalogIndex: "catalog index", TableSessionCheck: "session check",
		TableRequest: "request", TableQuarantine: "quarantine",
		TableEpoch: "epoch", TableCanary: "canary", TableOperator: "operator",
		TableHistory: "history", TableHistoryMark: "history mark", TableHistorySweep: "history sweep",
		TableRecovery: "recovery", TableAuthority: "authority", TableNextSeal: "next seal", TableDenial: "denial",
		TableEntry: "entry", TableJWTKey: "jwt key", TableSealKey: "seal key", TableUpstream: "upstream",
		TableAdmission: "admission", TableDeny: "deny", TableGeneration: "generation", TableFork: "fork",
	}
)

// Valid reports whether this binary knows the table.
func (t Table) Valid() bool { return t > 0 && t < tableEnd }

// Class returns the table's class, or 0 for a table that this binary does not know.
func (t Table) Class() Class {
	if !t.Valid() {
		return 0
	}
	return tableClass[t]
}

// String returns the name used in logs and tests.
func (t Table) String() string {
	if !t.Valid() {
		return fmt.Sprintf("table(%d)", uint8(t))
	}
	return tableNames[t]
}
