package watch

import "github.com/parley-mesh/parley/state"

// Selector names rows: the one under Key, or with Prefix all whose keys begin with it. Table zero
// means key/value. All means every change of any table; the other fields then do not count.
//
//	Selector{Key: "web/1"}                         one key
//	Selector{Key: "web/", Prefix: true}            a prefix
//	Selector{Table: state.TableNode, Prefix: true} a whole table
type Selector struct {
	Key    string
	Prefix bool
	Table  state.Table
	All    bool
}

func (s Selector) table() state.Table {
	if s.Table == 0 {
		return state.TableKV
	}
	return s.Table
}

// Changed returns the highest revision that may have changed what the selector names, 0 if nothing
// ever did. It is what Wait compares, and does not move with changes elsewhere.
func (s Selector) Changed(v *state.View) uint64 {
	switch {
	case s.All:
		return v.Revision()
	case !s.Prefix:
		return v.RowRevision(s.table(), s.Key)
	case s.table() == state.TableKV:
		return v.PrefixChanged(s.Key)
	}
	return v.TableRevision(s.table())
}
