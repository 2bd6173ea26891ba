package state

import (
	"errors"
	"fmt"
	"io"

	"github.com/parley-mesh/parley/clock"
)

// Machine is the replicated state and belongs to one goroutine. The zero value is not usable.
type Machine struct {
	s    *store
	view *View // of s, once somebody asked for it
	book *requestBook

	decoded []decodedCommand // room for those of the next entry
	like    Envelope         // who asked last
	journal journal          // room for that of the next command
}

// maxScratch is for how many commands room is kept.
const maxScratch = 1 << 12

// decodedCommand is a command of an entry; damaged says why it is none.
type decodedCommand struct {
	Envelope
	damaged error
}

// NewMachine returns an empty state at index 0, to be filled by Restore or Apply.
func NewMachine() *Machine { return &Machine{s: newStore(AllClasses)} }

// View returns the state as of the last Apply.
func (m *Machine) View() *View {
	if m.view == nil {
		m.view = &View{m.s} // each Apply works on a copy
	}
	return m.view
}

// Apply performs the commands of one Raft entry and returns their encoded results in order; an
// entry without commands only moves the index. It reads no clock: at is the leader's stamp.
//
// With an error (*UnknownCommandError, or an index that is not the next) nothing of the entry has
// happened: the machine is where it was, and must not be given later entries. The same holds if
// Apply panics: it works on a copy and takes it over at the end. A command that was damaged before
// it was proposed is answered with CodeInvalid, on every replica alike.
//
// The index may jump ahead, as Raft does not hand out its own entries to some users; it never goes
// back. The rows in touched are those of the state: do not change them.
func (m *Machine) Apply(index, term uint64, at clock.Stamp, commands [][]byte) (
	results [][]byte, touched Touched, err error) {

	return m.ApplyGuarded(index, term, at, commands, Guard{})
}

// ApplyGuarded is Apply under a guard.
func (m *Machine) ApplyGuarded(index, term uint64, at clock.Stamp, commands [][]byte, g Guard) (
	results [][]byte, touched Touched, err error) {

	if index <= m.s.at.Index {
		return nil, Touched{}, fmt.Errorf("apply index %d: already at %d", index, m.s.at.Index)
	}
	decoded := append(m.decoded[:0], make([]decodedCommand, len(commands))...)
	if m.decoded = decoded; len(commands) > maxScratch {
		m.decoded = nil
	}
	defer clear(decoded)
	for i, command := range commands {
		if g.step(i); g.skips(i) {
			continue
		}
		e, err := decodeLike(command, &m.like)
		if err != nil {
			var unknown *UnknownCommandError
			if errors.As(err, &unknown) {
				return nil, Touched{}, fmt.Errorf("apply index %d, command %d: %w", index, i, unknown)
			}
		}
		decoded[i] = decodedCommand{e, err}
		m.like.Caller, m.like.Via = e.Caller, e.Via
	}

	if m.book == nil || m.book.amid {
		m.book = newRequestBook(m.s)
	}
	m.book.amid = true
	a := &applying{s: m.s.edit(), index: index, term: term, at: at, book: m.book, journal: m.journal[:0], room: roomFor(decoded)}
	if len(commands) > 0 {
		a.changes = make([]Change, 0, len(commands)) // most change one row
	}
	from := a.s.at
	results = make([][]byte, len(commands))
	for i := range decoded {
		e := &decoded[i]
		a.place, a.caller = uint32(i), e.Caller //nolint:gosec // an entry holds far fewer commands
		if g.step(i); g.skips(i) {
			results[i] = a.leaveOut(commands[i])
			continue
		}
		poisoned(e.Command)
		results[i] = a.once(e.Envelope, commands[i], e.damaged)
	}
	a.forgetRequests()
	a.compactHistory(from)
	a.s.at.Index, a.s.at.Term = index, term
	if at != 0 {
		a.s.at.Stamp = at
	}
	a.s.settle()
	m.s, m.view = a.s, nil
	m.book.amid = false
	if m.journal = a.journal; cap(m.journal) > maxScratch {
		m.journal = nil
	}
	return results, Touched{Changes: a.changes}, nil
}

// Restore replaces the whole state by a snapshot of all classes. With an error the machine is
// unchanged.
func (m *Machine) Restore(r io.Reader) error { return m.RestoreBeside(r, inTurn) }

// RestoreBeside is Restore with a part of the work, about half, done by beside.
func (m *Machine) RestoreBeside(r io.Reader, beside Beside) error { return m.restore(r, beside, false) }

// RestoreVerified is RestoreBeside of bytes that were verified already, and right before they are read: their checksum is not
// made once more. The digest of the state is, of all rows. What nothing but the checksum covers is the stamp of the last entry.
func (m *Machine) RestoreVerified(r io.Reader, beside Beside) error {
	return m.restore(r, beside, true)
}

func (m *Machine) restore(r io.Reader, beside Beside, trusted bool) error {
	l := newLoader(AllClasses)
	l.beside, l.trusted = beside, trusted
	s, err := l.readSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	m.s, m.view, m.book = s, nil, nil
	return nil
}

// Adopt makes the state that another machine was restored to this one's. The other must not be used any more.
func (m *Machine) Adopt(restored *Machine) {
	m.s, m.view, m.book = restored.s, nil, nil
	restored.s, restored.view, restored.book = nil, nil, nil
}

// applying is one entry being applied, to a copy of the machine's store.
type applying struct {
	s       *store
	index   uint64
	term    uint64
	at      clock.Stamp
	place   uint32 // of the command being run, in the entry
	caller  string // who asked for it
	changes []Change
	journal journal

	book *requestBook
	room requestRoom
}

// run does one command as one step of the revision, if it changes anything.
func (a *applying) run(c Command, damaged error) Result {
	before := len(a.changes)
	res := a.do(c, damaged)
	if len(a.changes) > before {
		a.limitTombstones()
		a.s.at.Revision++
	}
	res.Revision = a.s.at.Revision
	return res
}

func (a *applying) do(c Command, damaged error) Result {
	if damaged != nil {
		return refuse(CodeInvalid, "%v", damaged)
	}
	if err := c.check(); err != nil {
		return refuse(CodeInvalid, "%v", err)
	}
	return c.apply(a)
}

// revision is that of the command being run.
func (a *applying) revision() uint64 { return a.s.at.Revision + 1 }

// set stores a row, or deletes it when row is nil, and notes the change.
func (a *applying) set(t Table, key string, row []byte) {
	c := Change{Class: t.Class(), Table: t, Key: key, Row: row, Revision: a.revision()}
	a.s.apply(c)
	a.changes = append(a.changes, c)
}

func (a *applying) setNode(n Node)       { a.set(TableNode, n.Name, EncodeNode(n)) }
func (a *applying) setToken(t Token)     { a.set(TableToken, t.ID, encodeToken(t)) }
func (a *applying) setCluster(c Cluster) { a.set(TableCluster, "", encodeCluster(c)) }
func (a *applying) setCore(c CoreMember) { a.set(TableCore, coreKey(c.RaftID), encodeCore(c)) }
