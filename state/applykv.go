package state

import (
	"cmp"
	"slices"

	"github.com/parley-mesh/parley/mutant"
)

func (c Put) apply(a *applying) Result {
	if c.Compare == nil { // nothing keeps it from being written
		old, _ := a.s.kvToPut(c.Key)
		a.put(c, old)
		return Result{}
	}
	old, exists := a.s.kv(c.Key)
	if res, ok := a.compare(c.Key, old, exists, c.Compare); !ok {
		return res
	}
	a.put(c, old)
	return Result{}
}

// put writes the key; old is its row so far, the zero value if there is none. A lock's holder and
// count stay with the key.
func (a *applying) put(c Put, old KV) KV {
	kv := KV{
		Key: c.Key, Value: c.Value, Flags: c.Flags,
		CreateRevision: cmp.Or(old.CreateRevision, a.revision()),
		ModRevision:    a.revision(),
		Version:        old.Version + 1,
		ModifiedAt:     a.at,
		Session:        old.Session, LockIndex: old.LockIndex,
	}
	a.set(TableKV, c.Key, encodeKV(kv))
	return kv
}

func (c Delete) apply(a *applying) Result {
	old, exists := a.s.kv(c.Key)
	if res, ok := a.compare(c.Key, old, exists, c.Compare); !ok {
		return res
	}
	if !exists {
		return refuse(CodeNotFound, "there is no key %q", c.Key)
	}
	a.deleteKey(c.Key)
	return Result{}
}

// compare reports whether the key has the mod revision that the command asks for.
func (a *applying) compare(key string, old KV, exists bool, want *uint64) (Result, bool) {
	switch {
	case want == nil || *want == old.ModRevision || mutant.On(mutant.CASIgnored):
		return Result{}, true
	case !exists:
		return refuse(CodeConflict, "there is no key %q: it cannot be at revision %d", key, *want), false
	case *want == 0:
		return refuse(CodeConflict, "the key %q exists, at revision %d", key, old.ModRevision), false
	}
	return refuse(CodeConflict, "the key %q is at revision %d, not %d",
		key, old.ModRevision, *want), false
}

func (c DeletePrefix) apply(a *applying) Result {
	n, ok := a.deletePrefix(c.Prefix)
	if !ok {
		return refuseDeletePrefix(c.Prefix)
	}
	return number(uint64(n))
}

func refuseDeletePrefix(prefix string) Result {
	return refuse(CodeLimit, "more than %d keys begin with %q: delete them in parts, by longer prefixes",
		MaxDeletePrefix, prefix)
}

// deletePrefix returns how many keys it deleted, or false and did nothing.
func (a *applying) deletePrefix(prefix string) (int, bool) {
	var keys []string
	a.s.scan(TableKV, prefix, "", func(r *record) bool {
		keys = append(keys, r.key)
		return len(keys) <= MaxDeletePrefix
	})
	if len(keys) > MaxDeletePrefix {
		return 0, false
	}
	for _, key := range keys {
		a.deleteKey(key)
	}
	return len(keys), true
}

// limitTombstones forgets all but about the newest half when there are too many. Tombstones of one
// revision go together, so that one number, the floor, says which are gone.
func (a *applying) limitTombstones() {
	if a.s.tables[TableTombstone].rows <= MaxTombstones {
		return
	}
	var revisions []uint64
	a.s.scan(TableTombstone, "", "", func(r *record) bool {
		revisions = append(revisions, r.revision)
		return true
	})
	slices.Sort(revisions)
	floor := revisions[len(revisions)-MaxTombstones/2-1]
	a.set(TableFloor, "", encodeFloor(floor))
}
