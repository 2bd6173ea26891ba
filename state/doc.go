// Package state is the replicated state machine: key/value rows, sessions and their locks, a catalog of
// services and checks, nodes, join tokens, the core's members, sealed roots and the trust bundle, changed
// only by commands that Raft has ordered.
//
// A [Machine] belongs to one goroutine, which calls Apply for each committed entry and publishes
// the [View] that it then offers:
//
//	results, touched, err := m.Apply(entry.Index, entry.Term, stamp, commands)
//	hub.Publish(m.View(), touched)
//
// A View never changes, costs no lock, and may be read by any number of goroutines for as long as
// they like. [Encode] makes a command, [DecodeResult] reads its answer.
//
// The package is pure: it reads no clock, file, configuration or random number, starts no
// goroutine and never lets a map's order escape, so that every replica that applies the same
// entries holds the same bytes. [View.Digest] shows that it does.
//
// # Revisions
//
// The revision counts the commands that changed something, one step each; it is not the Raft
// index, which also counts elections and refused commands. Every row carries the revision that
// last changed it. A deleted key leaves a tombstone with the revision of its deletion, so that the
// revision of a prefix never goes back. Tombstones are bounded: beyond [MaxTombstones] the older
// half is forgotten, and the floor (the highest revision forgotten) takes their place in every
// answer that they could have influenced.
//
// # Rows, classes, digests
//
// All tables live in one copy-on-write B-tree of encoded rows. A [Change] is one row set or
// deleted; commands produce changes, and the same function applies them on a core member and on a
// [Follower] outside the core. A [Class] says who may hold a row: followers are sent the classes
// that they were promised and no other.
//
// # Versions
//
// A command's bytes begin with its kind and version. What a kind and version mean, limits
// included, is frozen once released: a different meaning is a new version. [Encode] refuses a kind
// that the cluster's version does not have yet, and an entry with a kind that this binary does not
// know stops Apply before anything of that entry has happened.
//
// A table that came later counts in snapshots and digests from its first row on. Until then binaries with it and without it
// take each other's snapshots and agree about the state.
package state
