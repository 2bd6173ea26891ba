package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
)

// The apply journal says what the state machine was doing when the process ended: recover() does not see the end of a
// stack, of memory, or a map that two goroutines write. It is one page that is mapped into memory, so that a note costs
// a store or two and no system call. A process that dies leaves the page to the kernel, and the next one reads it. A
// machine that dies takes it along: then nothing is known, which the boot id in the header tells.
const (
	journalName  = "apply"
	journalBytes = pageBytes

	journalHeader = 128 // bytes under the checksum

	// Where the words stand that change while it runs. Each is written by one store of 8 bytes, and once more inverted,
	// so that a flipped bit does not pass for a word.
	journalInverted = 2048
	journalApplied  = 128 // index of the last entry that was applied in this life: it goes back when the log is replayed
	journalIndex    = 136 // the entry that is being applied
	journalTerm     = 144
	journalPlace    = 152 // 0: none is; else the command in it, counted from 1
	journalCause    = 160 // why this process is about to end itself
	journalHeld     = 168 // promised not to apply this entry or a later one; 0: nothing
	journalHolder   = 176 // the term of the leader that it was promised to
	journalHighest  = 184 // index of the last entry that was applied in any life

	journalTooHigh = 1 << 63 // no index, term or place gets there: such a word is damage
)

var journalMagic = []byte("PARLEYAJ")

// Causes are why a process ends itself while it applies.
const (
	CauseUnknown = 0 // it did not say: killed, or a fault that no program survives
	CausePanic   = 1
	CauseStalled = 2 // the command did not end
	CauseMemory  = 3 // the command took too much memory
)

// JournalCrash is an entry that was being applied when a process ended.
type JournalCrash struct {
	Index, Term uint64
	Place       int // of the command in the entry, from 0
	Times       int // in a row
	Cause       int // of the last time
}

// JournalFound is what the journal knew at the start.
type JournalFound struct {
	// Known says that everything up to Applied was applied, and nothing behind it in any life. If not, the machine went
	// down, or there was no journal: anything on the disk may have been applied, and Applied is what surely was. It stays
	// so over further starts, until all that was on the disk then is applied again.
	Known   bool
	Applied uint64
	Crash   *JournalCrash // nil if none
	Held    uint64        // promised not to apply from here on, 0 = nothing
	HeldBy  uint64        // to the leader of that term
}

// JournalOptions for OpenJournal. Boot tells one life of the machine from another; empty is a life of its own. Last is
// the last entry of the log, or of the snapshot behind it: no more can have been applied. Program tells one build of the
// program from another: what one has crashed on the next may try again.
type JournalOptions struct {
	FS        FS
	Dir       string
	ClusterID [16]byte
	RaftID    uint64
	Boot      string
	Program   string
	Last      uint64
}

// Journal is the apply journal of one Raft id. One goroutine applies; Held, Blame and Close are for others, one at a time.
type Journal struct {
	path string
	file File
	page mapped
	head journalHead
	high uint64 // what journalHighest says
}

// journalHead is what is written at the start and at the end only, and synced.
type journalHead struct {
	id    identity
	boot  hash
	clean bool // closed in order: the words hold whatever became of the machine
	crash JournalCrash
	doubt uint64 // everything up to here may have been applied in a life of which nothing is known

	program [16]byte // that wrote this
}

// mapped is a page in memory that the kernel writes.
type mapped interface {
	Bytes() []byte
	Close() error
}

// mapper is a File that can be mapped.
type mapper interface {
	Map(size int) (mapped, error)
}

// OpenJournal reads the journal of a Raft id and begins this life's part of it.
func OpenJournal(o JournalOptions) (*Journal, JournalFound, error) {
	path := filepath.Join(o.Dir, journalName)
	id := identity{o.ClusterID, o.RaftID}
	content, err := ReadFile(o.FS, path, journalBytes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, JournalFound{}, classify("read", path, err)
	}
	head := journalHead{id: id, boot: journalBoot(o.Boot), program: journalProgram(o.Program)}
	found := JournalFound{}
	if old, err := decodeJournal(content); err == nil && old.id == id {
		found, head.crash = old.read(content, head.boot, o.Boot != "")
		head.doubt = old.doubt
		if crash := found.Crash; crash != nil && old.program != head.program {
			crash.Times, crash.Cause = 1, CauseUnknown
			head.crash = *crash
		}
	} else {
		content = make([]byte, journalBytes)
		if err := WriteFileAtomic(o.FS, path, content, filePerm); err != nil {
			return nil, JournalFound{}, classify("write", path, err)
		}
	}
	switch {
	case found.Known && found.Applied >= head.doubt:
		head.doubt = 0
	case found.Known:
		found.Known = false
	default:
		head.doubt = max(head.doubt, o.Last)
		if found.Applied > o.Last { // the log lost what was applied: its end bounds nothing
			head.doubt = max(head.doubt, found.Applied+1)
		}
	}
	j, err := startJournal(o.FS, path, head, found)
	return j, found, err
}

// EndedApplying reports whether the process before ended while it applied a command, as far as the journal knows. It changes
// nothing.
func EndedApplying(o JournalOptions) bool {
	content, err := ReadFile(o.FS, filepath.Join(o.Dir, journalName), journalBytes)
	if err != nil {
		return false
	}
	old, err := decodeJournal(content)
	if err != nil || old.id != (identity{o.ClusterID, o.RaftID}) || order.Uint64(content[journalPlace:]) == 0 {
		return false
	}
	found, _ := old.read(content, journalBoot(o.Boot), o.Boot != "")
	return found.Known
}

// read takes the words of an earlier life, and the crash to be remembered.
func (h journalHead) read(content []byte, boot hash, comparable bool) (found JournalFound, crash JournalCrash) {
	intact := true
	word := func(at int) uint64 {
		w := order.Uint64(content[at:])
		intact = intact && order.Uint64(content[at+journalInverted:]) == ^w && w < journalTooHigh
		return w
	}
	applied, highest, held, holder := word(journalApplied), word(journalHighest), word(journalHeld), word(journalHolder)
	found.Known = intact && (h.clean || comparable && h.boot == boot)
	if h.crash.Times > 0 {
		crash = h.crash
	}
	if !found.Known {
		if order.Uint64(content[journalHighest+journalInverted:]) == ^highest && highest < journalTooHigh {
			found.Applied = highest // the page as the kernel wrote it last, some time before the end
		}
		if crash.Times > 0 {
			found.Crash = &crash
		}
		return found, crash
	}
	found.Applied, found.Held, found.HeldBy = max(applied, highest), held, holder
	place, cause := word(journalPlace), word(journalCause)
	now := JournalCrash{Index: word(journalIndex), Term: word(journalTerm), Place: int(place - 1), Times: 1, Cause: int(cause & 0xff)} //nolint:gosec // checked below
	if place > 0 && place <= 1<<20 && intact {
		if now.Index == crash.Index && now.Term == crash.Term && now.Place == crash.Place {
			now.Times += crash.Times
		}
		crash = now
	}
	if crash.Times > 0 && crash.Index <= applied {
		crash = JournalCrash{}
	}
	if crash.Times > 0 {
		found.Crash = &crash
	}
	return found, crash
}

func startJournal(fsys FS, path string, head journalHead, found JournalFound) (*Journal, error) {
	file, err := fsys.Open(path)
	if err != nil {
		return nil, classify("open", path, err)
	}
	j := &Journal{path: path, file: file, head: head, high: found.Applied}
	content := append(head.encode(), make([]byte, journalBytes-journalHeader)...)
	for at, word := range map[int]uint64{
		journalApplied: 0, journalHighest: found.Applied, journalIndex: 0, journalTerm: 0, journalPlace: 0, journalCause: 0,
		journalHeld: found.Held, journalHolder: found.HeldBy,
	} {
		putWord(content, at, word)
	}
	_, err = file.WriteAt(content, 0)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		j.page, err = mapPage(file)
	}
	if err != nil {
		_ = file.Close()
		return nil, classify("write", path, err)
	}
	return j, nil
}

// mapPage maps the file, or where files cannot be mapped writes each word.
func mapPage(file File) (mapped, error) {
	if m, ok := file.(mapper); ok {
		return m.Map(journalBytes)
	}
	return nil, errors.ErrUnsupported
}

func (j *Journal) put(at int, word uint64) {
	if j.page != nil {
		putWord(j.page.Bytes(), at, word)
	}
}

func putWord(page []byte, at int, word uint64) {
	order.PutUint64(page[at:], word)
	order.PutUint64(page[at+journalInverted:], ^word)
}

// Begin says that an entry is about to be applied.
func (j *Journal) Begin(index, term uint64) {
	j.put(journalPlace, 0)
	j.put(journalIndex, index)
	j.put(journalTerm, term)
	j.put(journalPlace, 1)
}

// Step says which command of it is next, from 0.
func (j *Journal) Step(place int) { j.put(journalPlace, uint64(place)+1) } //nolint:gosec // not negative

// Applied says that everything up to index is applied, before anybody can see it.
func (j *Journal) Applied(index uint64) {
	j.put(journalApplied, index)
	if index > j.high {
		j.high = index
		j.put(journalHighest, index)
	}
	j.put(journalPlace, 0)
	if j.head.crash.Times > 0 && index >= j.head.crash.Index {
		j.head.crash = JournalCrash{}
	}
}

// Blame says why this process ends, or stops applying, at the command under way.
func (j *Journal) Blame(cause int) { j.put(journalCause, uint64(cause)) } //nolint:gosec // a few constants

// Hold notes a promise not to apply an entry or a later one. 0 ends it.
func (j *Journal) Hold(index, term uint64) {
	j.put(journalHeld, 0)
	j.put(journalHolder, term)
	j.put(journalHeld, index)
}

// Close ends this life in order: what the journal says holds even if the machine goes down afterwards.
func (j *Journal) Close() error {
	if j.page == nil {
		return nil
	}
	j.head.clean = true
	copy(j.page.Bytes(), j.head.encode())
	err := errors.Join(j.page.Close(), j.file.Sync(), j.file.Close())
	j.page = nil
	return err
}

func journalBoot(id string) (h hash) {
	copy(h[:], id)
	return h
}

func journalProgram(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

func (h journalHead) encode() []byte {
	b := append(make([]byte, 0, journalHeader), journalMagic...)
	b = order.AppendUint32(b, 0)
	b = order.AppendUint32(b, formatVersion)
	b = append(b, h.id.cluster[:]...)
	b = order.AppendUint64(b, h.id.raft)
	b = append(b, h.boot[:]...)
	clean := uint64(0)
	if h.clean {
		clean = 1
	}
	for _, word := range []uint64{clean, h.crash.Index, h.crash.Term, uint64(h.crash.Place)<<32 | uint64(h.crash.Times)<<8 | uint64(h.crash.Cause), h.doubt} { //nolint:gosec // small
		b = order.AppendUint64(b, word)
	}
	b = append(b, h.program[:]...)
	order.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func decodeJournal(b []byte) (journalHead, error) {
	if len(b) < journalBytes || !bytes.Equal(b[:8], journalMagic) || order.Uint32(b[8:]) != crc32.Checksum(b[12:journalHeader], castagnoli) {
		return journalHead{}, errors.New("the journal is not intact")
	}
	c := cursor{b[12:]}
	if version := c.u32(); version != formatVersion {
		return journalHead{}, fmt.Errorf("%w (%d, not %d)", errFormat, version, formatVersion)
	}
	h := journalHead{id: identity{cluster: [16]byte(c.take(16)), raft: c.u64()}, boot: c.hash(), clean: c.u64() == 1}
	h.crash.Index, h.crash.Term = c.u64(), c.u64()
	packed := c.u64()
	h.crash.Place, h.crash.Times, h.crash.Cause = int(packed>>32), int(packed>>8&0xffffff), int(packed&0xff) //nolint:gosec // bounded
	h.doubt = c.u64()
	h.program = [16]byte(c.take(16))
	return h, nil
}
