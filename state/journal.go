package state

// A mark is where a command began that may find out late that it cannot go on. What it has done until then is in the
// journal, and is taken back from there: a copy of the store would do as well, and make the rest of the command copy every
// node that it writes to a second time.
type mark struct {
	before  store
	changes int
}

// journal is what happened to the rows, in order.
type journal []journaled

// journaled is a row that was put, removed (now is nil) or replaced.
type journaled struct{ before, now *record }

// mark begins a journal. There is one at a time: no command contains another that can be undone.
func (a *applying) mark() mark {
	to := mark{*a.s, len(a.changes)}
	a.s.journal = &a.journal
	a.journal = a.journal[:0]
	return to
}

// done ends the journal; with undo everything since the mark is taken back.
func (a *applying) done(since mark, undo bool) {
	a.s.journal = nil
	if undo {
		a.undo(since)
	}
	clear(a.journal)
}

func (a *applying) undo(to mark) {
	tree := &a.s.tree
	for i := len(a.journal) - 1; i >= 0; i-- {
		if one := a.journal[i]; one.before != nil {
			tree.set(one.before)
		} else {
			tree.remove(one.now.table, one.now.key)
		}
	}
	to.before.tree = *tree
	*a.s = to.before
	clear(a.changes[to.changes:])
	a.changes = a.changes[:to.changes]
}

// note keeps what happened to a row, for as long as somebody may want it undone.
func (s *store) note(before, now *record) {
	if s.journal != nil {
		*s.journal = append(*s.journal, journaled{before, now})
	}
}
