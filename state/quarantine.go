package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

const (
	// MaxQuarantined is how many quarantined commands are remembered; the one that stands first in the log goes first.
	MaxQuarantined = 256

	// QuarantineRefusal is for how long, in milliseconds, the same command is refused by whoever is to propose it.
	QuarantineRefusal = 24 * 60 * 60 * 1000
)

// A Guard accompanies one entry while it is applied.
type Guard struct {
	// Quarantined are the places of commands, ascending, that are not to be run: replicas crash on them. They change
	// nothing, and their answer is CodeQuarantined.
	Quarantined []int
	// Step is called before each command is decoded and before it is run, so that somebody knows where a crash was.
	// Nil = nobody wants to.
	Step func(place int)
}

func (g Guard) step(place int) {
	if g.Step != nil {
		g.Step(place)
	}
}

func (g Guard) skips(place int) bool {
	for _, p := range g.Quarantined {
		if p == place {
			return true
		}
	}
	return false
}

// Quarantined is a command that was not run, because replicas crash on it.
type Quarantined struct {
	Index   uint64
	Place   int
	At      clock.Stamp // of its entry
	Kind    string      // of the command
	Command [32]byte    // SHA-256 of its bytes
	content [contentBytes]byte
}

// quarantinable says which kinds may be left out. The others change who may do what, what the core is, or how commands
// are read: a replica that cannot apply one of those is fenced instead.
var quarantinable = [kindEnd]bool{
	kindPut: true, kindDelete: true, kindDeletePrefix: true, kindTxn: true, kindKVUndo: true, kindKVPurge: true, kindProbe: true, kindEventAppend: true, kindWriteCanary: true,
	kindSessionCreate: true, kindSessionDestroy: true, kindLock: true, kindUnlock: true,
	kindCatalogRegister: true, kindCatalogDeregister: true,
}

// Quarantinable reports whether an encoded command may ever be left out. Core, identity, denial and version commands
// never are, nor what this binary does not know. It reads no more than the kind: the rest may be what replicas crash on.
func Quarantinable(command []byte) bool {
	r := &reader{b: command}
	k := r.uvarint()
	if mutant.On(mutant.QuarantineDenial) {
		return true
	}
	return r.err == nil && k < uint64(kindEnd) && quarantinable[k]
}

// leaveOut answers a command without running it, and remembers that: as the answer to its request, and in the list.
func (a *applying) leaveOut(command []byte) []byte {
	res := refuse(CodeQuarantined, "replicas crashed on this command, at index %d: it was not done, and will not be", a.index)
	res.Revision = a.s.at.Revision
	content, answer := hashContent(command), []byte(nil)
	if id := RequestOf(command); id != ([16]byte{}) {
		answer = a.remember(id, content, res)
	} else {
		answer = EncodeResult(res)
	}
	q := Quarantined{Command: sha256.Sum256(command), content: content, At: a.at, Kind: kindName(command)}
	a.s.apply(Change{Table: TableQuarantine, Key: requestKey(a.index, a.place), Row: encodeQuarantined(q), Revision: a.s.at.Revision})
	if a.s.tables[TableQuarantine].rows > MaxQuarantined {
		oldest := ""
		a.s.scan(TableQuarantine, "", "", func(r *record) bool { oldest = r.key; return false })
		a.s.apply(Change{Table: TableQuarantine, Key: oldest, Revision: a.s.at.Revision})
	}
	return answer
}

func kindName(command []byte) string {
	r := &reader{b: command}
	if k := r.uvarint(); r.err == nil && k > 0 && k < uint64(kindEnd) {
		return kinds[k].name
	}
	return ""
}

// Quarantined reports whether the command at that place in the log was left out.
func (m *Machine) Quarantined(index uint64, place int) bool {
	_, ok := m.s.get(TableQuarantine, requestKey(index, uint32(place))) //nolint:gosec // a place in an entry
	return ok
}

// Quarantined lists the commands that were left out, in the order of the log.
func (v *View) Quarantined() (list []Quarantined) {
	v.s.scan(TableQuarantine, "", "", func(r *record) bool {
		q := must(decodeQuarantined(r.row))
		q.Index, q.Place = binary.BigEndian.Uint64([]byte(r.key)), int(binary.BigEndian.Uint32([]byte(r.key[8:])))
		list = append(list, q)
		return true
	})
	return list
}

// RefusedAs returns the quarantined command that says the same as an encoded one, whoever asked for it, if that is less
// than QuarantineRefusal ago.
func (v *View) RefusedAs(command []byte, now clock.Stamp) (q Quarantined, refused bool) {
	if v.s.tables[TableQuarantine].rows == 0 {
		return Quarantined{}, false // nearly always
	}
	content := hashContent(command)
	for _, q := range v.Quarantined() {
		if q.content == content && now < q.At+QuarantineRefusal<<16 {
			return q, true
		}
	}
	return Quarantined{}, false
}

func encodeQuarantined(q Quarantined) []byte {
	b := append(newRow(96), q.Command[:]...)
	b = append(b, q.content[:]...)
	b = binary.AppendUvarint(b, uint64(q.At))
	return appendString(b, q.Kind)
}

func decodeQuarantined(row []byte) (Quarantined, error) {
	r := openRow(row)
	q := Quarantined{Command: r.fixed32("command"), content: r.fixed16("content"), At: clock.Stamp(r.uvarint()), Kind: r.string(MaxNameBytes, "kind")}
	return q, r.done()
}

func checkQuarantineRow(key string, row []byte) error {
	if len(key) != 12 {
		return fmt.Errorf("%w: place of a quarantined command of %d bytes", ErrMalformed, len(key))
	}
	_, err := decodeQuarantined(row)
	return err
}
