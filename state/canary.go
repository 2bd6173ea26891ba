package state

import (
	"encoding/binary"

	"github.com/parley-mesh/parley/clock"
)

// MaxCanaries is how many rows of TableCanary are kept: one more, and the oldest goes. It is part of the meaning of
// version 1 of WriteCanary.
const MaxCanaries = 64

// WriteCanary adds a row that nobody needs. Whoever remembers one elsewhere than in the log can tell later whether what was
// acknowledged is still there.
type WriteCanary struct {
	Node string // that asks for it, the leader
}

// Canary is a row that WriteCanary made. No two are equal, and none changes.
type Canary struct {
	Index uint64 // of its entry in the log
	Place uint32 // in the entry
	At    clock.Stamp
	Epoch uint64 // the number of the cluster's at that time
	Node  string
}

func (WriteCanary) kind() kind { return kindWriteCanary }

func (c WriteCanary) check() error { return CheckNodeName(c.Node) }

func (c WriteCanary) append(b []byte) []byte { return appendString(b, c.Node) }

func readWriteCanary(r *reader) Command {
	return WriteCanary{Node: r.string(MaxNameBytes, "node name")}
}

func (c WriteCanary) apply(a *applying) Result {
	row := Canary{Index: a.index, Place: a.place, At: a.at, Epoch: a.s.cluster().Epoch.Counter, Node: c.Node}
	a.set(TableCanary, requestKey(row.Index, row.Place), encodeCanary(row))
	for a.s.tables[TableCanary].rows > MaxCanaries {
		oldest := ""
		a.s.scan(TableCanary, "", "", func(r *record) bool { oldest = r.key; return false })
		a.set(TableCanary, oldest, nil)
	}
	return number(row.Index)
}

func encodeCanary(c Canary) []byte {
	b := binary.AppendUvarint(newRow(48), c.Index)
	b = binary.AppendUvarint(b, uint64(c.Place))
	b = binary.AppendUvarint(b, uint64(c.At))
	b = binary.AppendUvarint(b, c.Epoch)
	return appendString(b, c.Node)
}

func decodeCanary(row []byte) (Canary, error) {
	r := openRow(row)
	c := Canary{Index: r.uvarint(), Place: uint32(readInt(&r, "place")), At: clock.Stamp(r.uvarint()), Epoch: r.uvarint()}
	c.Node = r.string(MaxNameBytes, "node name")
	return c, r.done()
}

// Canaries are the rows of TableCanary, oldest first, at most MaxCanaries.
func (v *View) Canaries() []Canary {
	return rows(v.s, TableCanary, func(r *record) (Canary, error) { return decodeCanary(r.row) })
}
