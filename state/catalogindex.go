package state

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// A reader of one service, or of one node, is told a revision that moves with what it reads and with
// nothing else, and that never goes back. So each name of a service and each node that was ever
// written has a row in TableCatalogIndex, whose revision is that, and which stays when there is nothing
// left under the name. It also counts what there is, for the limits.
//
// Rows that count nothing are forgotten, the oldest of them, when there are too many rows. The
// floor (the highest revision forgotten, in the row with the empty key) then stands for all names that
// have no row: a name's revision may jump ahead by that, and never goes back.

// trace is what an index row counts: the instances of a service name, the services and checks of a
// node.
type trace struct{ services, checks int }

func serviceTrace(name string) string { return "s" + name }

func nodeTrace(node string) string { return "n" + node }

func encodeTrace(t trace) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(newRow(8), uint64(t.services)), uint64(t.checks))
}

func decodeTrace(row []byte) (trace, error) {
	r := openRow(row)
	t := trace{readInt(&r, "services"), readInt(&r, "checks")}
	return t, r.done()
}

func (s *store) trace(key string) trace {
	r, ok := s.get(TableCatalogIndex, key)
	if !ok {
		return trace{}
	}
	return must(decodeTrace(r.row))
}

// traceRevision is the revision of what the row stands for.
func (s *store) traceRevision(key string) uint64 {
	if r, ok := s.get(TableCatalogIndex, key); ok {
		return r.revision
	}
	return s.traceFloor()
}

// traceFloor is the highest revision of a forgotten row, 0 while none was forgotten.
func (s *store) traceFloor() uint64 {
	r, ok := s.get(TableCatalogIndex, "")
	if !ok {
		return 0
	}
	return must(decodeFloor(r.row))
}

// touch says that something changed under the key, and that it counts so much more. A command that
// touches a row often writes it once.
func (a *applying) touch(key string, services, checks int) {
	old, known := a.s.get(TableCatalogIndex, key)
	if known && services == 0 && checks == 0 && old.revision == a.revision() {
		return
	}
	t := a.s.trace(key)
	t.services, t.checks = max(0, t.services+services), max(0, t.checks+checks)
	a.set(TableCatalogIndex, key, encodeTrace(t))
	if !known && a.s.tables[TableCatalogIndex].rows > MaxCatalogTraces {
		a.forgetTraces()
	}
}

// touchServices touches the names of all services of a node: their readers are shown the node and its
// checks beside them.
func (a *applying) touchServices(node string) {
	var names []string
	a.s.scan(TableService, catalogKey(node, ""), "", func(r *record) bool {
		names = append(names, serviceNameOf(r.row))
		return true
	})
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		a.touch(serviceTrace(name), 0, 0)
	}
}

// maxForgotten is how many rows are forgotten together: so few that followers get them in one delta.
const maxForgotten = 1 << 11

// forgetTraces drops the oldest rows that count nothing, besides what this command wrote.
func (a *applying) forgetTraces() {
	type empty struct {
		key      string
		revision uint64
	}
	var all []empty
	a.s.scan(TableCatalogIndex, "", "", func(r *record) bool {
		if r.key != "" && r.revision < a.revision() && must(decodeTrace(r.row)) == (trace{}) {
			all = append(all, empty{r.key, r.revision})
		}
		return true
	})
	if len(all) == 0 {
		return
	}
	slices.SortStableFunc(all, func(x, y empty) int { return cmp.Compare(x.revision, y.revision) })
	all = all[:min(len(all), maxForgotten)]
	a.set(TableCatalogIndex, "", encodeFloor(max(a.s.traceFloor(), all[len(all)-1].revision)))
	for _, e := range all {
		a.set(TableCatalogIndex, e.key, nil)
	}
}
