package state

import (
	"bytes"
	"cmp"
	"slices"
)

func (c Txn) apply(a *applying) Result {
	answer := TxnAnswer{Succeeded: c.holds(a)}
	ops := c.Then
	if !answer.Succeeded {
		ops = c.Else
	}
	start := a.mark()
	res := a.runOps(ops, &answer)
	a.done(start, len(answer.Errors) > 0)
	res.Body = encodeTxnAnswer(answer)
	return res
}

// runOps does the ops and returns the refusal of the first that cannot be done. It goes on behind it,
// so that all that stand in the way are named at once, except behind a limit: an op that ran into one
// has cost enough.
func (a *applying) runOps(ops []Op, answer *TxnAnswer) Result {
	var first Result
	budget := MaxTxnAnswer
	answer.Results = slices.Grow(answer.Results, len(ops))
	for i, op := range ops {
		out, res := op.apply(a)
		budget -= out.bytes()
		if res.Code == CodeOK && budget < 0 {
			res = refuse(CodeLimit, "the rows asked for are over %d bytes: get fewer at once", MaxTxnAnswer)
		}
		answer.Results = append(answer.Results, out)
		if res.Code == CodeOK {
			continue
		}
		if len(answer.Errors) == 0 {
			first = res
		}
		answer.Errors = append(answer.Errors, OpError{Op: i, Code: res.Code, Message: res.Message})
		if res.Code == CodeLimit {
			break
		}
	}
	if len(answer.Errors) > 0 {
		answer.Results = nil
	}
	return first
}

// readKinds are the ops that change nothing.
var readKinds = []OpKind{
	OpGet, OpGetTree, OpGetExisting, OpCheckRevision, OpCheckSession, OpCheckAbsent,
	OpNodeGet, OpServiceGet, OpCheckGet,
}

// OnlyRead reports whether the ops are such that a transaction takes and that change nothing.
func OnlyRead(ops []Op) bool {
	for _, op := range ops {
		if !slices.Contains(readKinds, op.Kind) {
			return false
		}
	}
	return Txn{Then: ops}.check() == nil
}

// ReadOps answers ops that change nothing as a transaction of them would, without one. It is false
// for others.
func (v *View) ReadOps(ops []Op) (TxnAnswer, bool) {
	if !OnlyRead(ops) {
		return TxnAnswer{}, false
	}
	answer := TxnAnswer{Succeeded: true}
	a := &applying{s: v.s} // read only: none of these ops writes to the store
	a.runOps(ops, &answer)
	return answer, true
}

// bytes is what the result counts against MaxTxnAnswer.
func (r OpResult) bytes() int {
	n := len(r.KV.Key) + len(r.KV.Value)
	for _, kv := range r.Tree {
		n += len(kv.Key) + len(kv.Value) + treeRowBytes
	}
	if r.Node != nil || r.Service != nil || r.Check != nil {
		n += len(r.appendCatalog(nil))
	}
	return n
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

// apply does one op. A write answers with the row but not the value, which the caller has.
func (op Op) apply(a *applying) (OpResult, Result) {
	if slices.Contains(catalogOps, op.Kind) {
		return op.applyCatalog(a)
	}
	switch op.Kind {
	case OpSessionDestroy:
		return op.destroySession(a)
	case OpLock:
		return written(a.lock(Lock{Key: op.Key, Value: op.Value, Flags: op.Flags, Session: op.Session}))
	case OpUnlock:
		return written(a.unlock(Unlock{Key: op.Key, Value: op.Value, Flags: op.Flags, Session: op.Session}))
	case OpGetTree:
		return op.getTree(a)
	case OpDeletePrefix:
		n, ok := a.deletePrefix(op.Key)
		if !ok {
			return OpResult{}, refuseDeletePrefix(op.Key)
		}
		return OpResult{Deleted: uint64(n)}, Result{}
	}
	old, exists := a.s.kv(op.Key)
	switch op.Kind {
	case OpGet:
		return OpResult{Found: exists, KV: old}, Result{}
	case OpGetExisting, OpCheckRevision, OpCheckSession, OpCheckAbsent:
		return op.look(a, old, exists)
	}
	if res, ok := a.compare(op.Key, old, exists, op.Compare); !ok {
		return OpResult{}, res
	}
	if op.Kind == OpPut {
		return written(a.put(Put{Key: op.Key, Value: op.Value, Flags: op.Flags}, old), Result{})
	}
	if !exists {
		return OpResult{}, Result{}
	}
	a.deleteKey(op.Key)
	return OpResult{Deleted: 1}, Result{}
}

// look does the ops that read a key and fail if it is not as they want it.
func (op Op) look(a *applying, old KV, exists bool) (OpResult, Result) {
	switch {
	case op.Kind == OpCheckAbsent && exists:
		return OpResult{}, refuse(CodeConflict, "the key %q exists", op.Key)
	case op.Kind == OpCheckAbsent:
		return OpResult{}, Result{}
	case !exists:
		return OpResult{}, refuse(CodeNotFound, "the key %q doesn't exist", op.Key)
	case op.Kind == OpGetExisting:
		return OpResult{Found: true, KV: old}, Result{}
	case op.Kind == OpCheckSession && old.Session != op.Session:
		return OpResult{}, refuse(CodeConflict, "the key %q is held by %q, not by session %q",
			op.Key, old.Session, op.Session)
	}
	if res, ok := a.compare(op.Key, old, exists, op.Compare); !ok {
		return OpResult{}, res
	}
	return written(old, Result{})
}

// written is the answer with a row, its value left out.
func written(kv KV, res Result) (OpResult, Result) {
	if res.Code != CodeOK {
		return OpResult{}, res
	}
	kv.Value = nil
	return OpResult{Found: true, KV: kv}, Result{}
}

func (op Op) getTree(a *applying) (out OpResult, res Result) {
	budget := MaxTxnAnswer
	a.s.scan(TableKV, op.Key, "", func(r *record) bool {
		kv := r.kv()
		out.Tree = append(out.Tree, kv)
		budget -= len(kv.Key) + len(kv.Value) + treeRowBytes
		return budget >= 0 // the transaction refuses what is over
	})
	return out, Result{}
}
