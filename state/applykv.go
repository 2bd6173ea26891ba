package state

import (
	"bytes"
	"cmp"
	"slices"
)

func (c Put) apply(a *applying) Result {
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
	a.set(TableKV, c.Key, nil)
	return Result{}
}

// compare reports whether the key has the mod revision that the command asks for.
func (a *applying) compare(key string, old KV, exists bool, want *uint64) (Result, bool) {
	switch {
	case want == nil || *want == old.ModRevision:
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
		a.set(TableKV, key, nil)
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

func (c Txn) apply(a *applying) Result {
	answer := TxnAnswer{Succeeded: c.holds(a), Failed: -1}
	ops := c.Then
	if !answer.Succeeded {
		ops = c.Else
	}
	start := a.mark()
	var res Result
	budget := MaxTxnAnswer
	for i, op := range ops {
		var out OpResult
		out, res = op.apply(a)
		budget -= len(out.KV.Value) + len(out.KV.Key)
		if res.Code == CodeOK && budget < 0 {
			res = refuse(CodeLimit, "the rows asked for are over %d bytes: get fewer at once", MaxTxnAnswer)
		}
		if res.Code != CodeOK {
			a.undo(start)
			answer.Failed, answer.Results = i, nil
			break
		}
		answer.Results = append(answer.Results, out)
	}
	res.Body = encodeTxnAnswer(answer)
	return res
}

func (c Txn) holds(a *applying) bool {
	for _, compare := range c.Compare {
		if !compare.holds(a) {
			return false
		}
	}
	return true
}

func (c Compare) holds(a *applying) bool {
	kv, exists := a.s.kv(c.Key)
	var order int
	switch c.Target {
	case TargetValue:
		if !exists {
			return c.Relation == NotEqual
		}
		order = bytes.Compare(kv.Value, c.Value)
	case TargetCreateRevision:
		order = cmp.Compare(kv.CreateRevision, c.Number)
	case TargetVersion:
		order = cmp.Compare(kv.Version, c.Number)
	default:
		order = cmp.Compare(kv.ModRevision, c.Number)
	}
	switch c.Relation {
	case Equal:
		return order == 0
	case NotEqual:
		return order != 0
	case Less:
		return order < 0
	}
	return order > 0
}

// apply does one op. A put answers with the row but not the value, which the caller has.
func (op Op) apply(a *applying) (OpResult, Result) {
	old, exists := a.s.kv(op.Key)
	switch op.Kind {
	case OpGet:
		return OpResult{Found: exists, KV: old}, Result{}
	case OpDeletePrefix:
		n, ok := a.deletePrefix(op.Key)
		if !ok {
			return OpResult{}, refuseDeletePrefix(op.Key)
		}
		return OpResult{Deleted: uint64(n)}, Result{}
	}
	if res, ok := a.compare(op.Key, old, exists, op.Compare); !ok {
		return OpResult{}, res
	}
	if op.Kind == OpPut {
		kv := a.put(Put{Key: op.Key, Value: op.Value, Flags: op.Flags}, old)
		kv.Value = nil
		return OpResult{Found: true, KV: kv}, Result{}
	}
	if !exists {
		return OpResult{}, Result{}
	}
	a.set(TableKV, op.Key, nil)
	return OpResult{Deleted: 1}, Result{}
}
