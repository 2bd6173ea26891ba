package state

import (
	"encoding/binary"

	"github.com/parley-mesh/parley/mutant"
)

// KVUndo takes back the write of a key that made the revision: the key gets the value and flags that it had before, or is
// deleted if there was none. It must be the last write of the key, deletions included; a refusal says by which revision it
// was changed since. Holder and count of its lock stay, as with a Put. The result's Number is the revision of the version
// that the key has again, 0 if it is deleted.
type KVUndo struct {
	Key      string
	Revision uint64
}

// KVPurge forgets what a key was before. What it is stays. The result's Number is how many versions were forgotten.
type KVPurge struct{ Key string }

func (KVUndo) kind() kind  { return kindKVUndo }
func (KVPurge) kind() kind { return kindKVPurge }

func (c KVUndo) append(b []byte) []byte {
	return binary.AppendUvarint(appendString(b, c.Key), c.Revision)
}

func readKVUndo(r *reader) Command {
	return KVUndo{Key: r.string(MaxKeyBytes, "key"), Revision: r.uvarint()}
}

func (c KVPurge) append(b []byte) []byte { return appendString(b, c.Key) }

func readKVPurge(r *reader) Command { return KVPurge{Key: r.string(MaxKeyBytes, "key")} }

func (c KVUndo) check() error  { return CheckKey(c.Key) }
func (c KVPurge) check() error { return CheckKey(c.Key) }

func (c KVUndo) apply(a *applying) Result {
	head, ok := a.s.head(c.Key)
	if !ok {
		return refuse(CodeNotFound, "nothing to undo: there is no key %q, and no trace of one", c.Key)
	}
	now := versionOf(c.Key, head)
	if now.ModRevision != c.Revision && !mutant.On(mutant.CASIgnored) {
		return refuseUndo(c, now)
	}
	was, known := a.s.before(now)
	switch {
	case !known:
		return refuse(CodeNotFound, "the history of %q begins at revision %d: what was before is not kept any more", c.Key, now.ModRevision)
	case was.Version > 0:
		a.put(Put{Key: c.Key, Value: was.Value, Flags: was.Flags}, alive(now))
		return number(was.ModRevision)
	case now.Version == 0:
		return refuse(CodeConflict, "nothing to undo: the key %q was deleted before revision %d as well", c.Key, c.Revision)
	}
	a.deleteKey(c.Key)
	return number(0)
}

// alive is the version as put takes it: there is none after a deletion.
func alive(kv KV) KV {
	if kv.Version == 0 {
		return KV{}
	}
	return kv
}

func refuseUndo(c KVUndo, now KV) Result {
	what := "changed"
	if now.Version == 0 {
		what = "deleted"
	}
	if now.ModRevision > c.Revision {
		return refuse(CodeConflict, "the key %q was %s since, by revision %d: undo that one first, or put the value that you want",
			c.Key, what, now.ModRevision)
	}
	return refuse(CodeConflict, "the key %q is at revision %d: revision %d is none of its writes", c.Key, now.ModRevision, c.Revision)
}

func (c KVPurge) apply(a *applying) Result {
	var gone []string
	versions := uint64(0)
	a.s.scan(TableHistory, "", "", func(r *record) bool { // the chain may have lost its head with an old tombstone
		if r.key[8:] == c.Key {
			gone = append(gone, r.key)
			if r.revision > 0 {
				versions++
			}
		}
		return true
	})
	for _, key := range gone {
		a.s.remove(TableHistory, key)
	}
	if head, ok := a.s.head(c.Key); ok && len(gone) > 0 {
		a.s.set(TableHistory, historyKey(head.revision, c.Key), 0, nil)
	}
	return number(versions)
}

// purgeAll forgets the history of all keys.
func (a *applying) purgeAll() {
	for _, t := range []Table{TableHistory, TableHistoryMark, TableHistorySweep} {
		var keys []string
		a.s.scan(t, "", "", func(r *record) bool {
			keys = append(keys, r.key)
			return true
		})
		for _, key := range keys {
			a.s.remove(t, key)
		}
	}
}
