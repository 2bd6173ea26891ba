package sim

type opKind uint8

const (
	opGet opKind = iota
	opPut
	opCAS
	opDelete
	opUndo
)

// kvOp is what a client asked for; kvSeen what it was told. Values are unique, 0 is no key.
type kvOp struct {
	kind   opKind
	value  uint64
	expect uint64
}

type kvSeen struct {
	unknown  bool // it happened when it did, if at all
	conflict bool
	value    uint64
	revision uint64
}

// register is one key of the sequential specification. The revision of a write that nobody answered is not known
// until somebody reads the value; until then it is that of the write before.
type register struct {
	value    uint64
	before   uint64 // the value that an undo brings back
	revision uint64
	unsure   bool
}

func (r register) is(revision uint64) bool {
	if r.value == 0 {
		return revision == 0
	}
	return !r.unsure && r.revision == revision
}

// undoes reports whether the last write, or deletion, has that revision and something to go back to.
func (r register) undoes(revision uint64) bool {
	return !r.unsure && r.revision == revision && (r.value != 0 || r.before != 0)
}

// step says whether seen may be the answer to op, and what the key is then.
func (r register) step(op kvOp, seen kvSeen) (bool, register) {
	written := register{value: op.value, before: r.value, revision: seen.revision}
	if seen.unknown {
		written.revision, written.unsure = r.revision, true
	}
	newer := seen.unknown || seen.revision > r.revision
	switch op.kind {
	case opGet:
		switch {
		case seen.value != r.value:
			return false, r
		case r.value == 0:
			return true, r
		case r.unsure:
			return seen.revision > r.revision, register{value: r.value, before: r.before, revision: seen.revision}
		}
		return seen.revision == r.revision, r
	case opPut:
		return newer, written
	case opDelete:
		switch {
		case seen.conflict:
			return r.value == 0, r
		case seen.unknown && r.value == 0:
			return true, r
		}
		return r.value != 0 || seen.unknown, register{before: r.value, revision: max(r.revision, seen.revision), unsure: seen.unknown}
	case opUndo:
		written.value = r.before
		switch possible := r.undoes(op.expect); {
		case seen.conflict:
			return !possible, r
		case possible:
			return newer, written
		}
		return seen.unknown, r
	}
	switch {
	case seen.conflict:
		return !r.is(op.expect), r
	case r.is(op.expect):
		return newer, written
	}
	return seen.unknown, r
}

var registerModel = model[register, kvOp, kvSeen](register.step)
