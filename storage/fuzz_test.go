package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// written is a small log with a frame for each entry: what a fuzzed one may serve, or what is left of it.
type written struct {
	member
	header  segmentHeader
	segment []byte
	tip     tip
}

// writtenLog fills one segment of five pages: a header, three frames, a header.
func writtenLog(f testing.TB) *written {
	fsys := NewMem()
	log, _, err := OpenLog(writtenOptions(fsys))
	if err != nil {
		f.Fatal(err)
	}
	w := &written{member: member{chains: []hash{{}}}}
	for index := uint64(1); index <= 3; index++ {
		entry := newEntry(1, index, fmt.Appendf(nil, "value %d", index))
		if err := log.Append([]*raftpb.Entry{entry}, &raftpb.HardState{Term: new(uint64(1)), Vote: new(index), Commit: new(index - 1)}, true); err != nil {
			f.Fatal(err)
		}
		w.entries, w.chains = append(w.entries, entry), append(w.chains, log.tip.chain)
	}
	if w.segment, err = ReadFile(fsys, log.active.path, 1<<20); err != nil {
		f.Fatal(err)
	}
	w.header, w.tip = log.active.segmentHeader, log.tip
	return w
}

func writtenOptions(fsys FS) LogOptions {
	o := logOptions(fsys)
	o.SegmentBytes = minSegmentBytes + pageBytes
	return o
}

// disk has a segment and an anchor: the one that covers all frames, or the one from before the first.
func (w *written) disk(t *testing.T, segment []byte, anchored bool) *Mem {
	t.Helper()
	fsys := NewMem()
	mustNil(t, fsys.MkdirAll(filepath.Join(dataDir, "wal"), dirPerm))
	anchor := anchorState{id: w.header.id, generation: 2}
	if anchored {
		anchor.tip = w.tip
	}
	mustNil(t, writeAnchor(fsys, filepath.Join(dataDir, anchorName), anchor))
	mustNil(t, WriteFileAtomic(fsys, walPath(1), segment, filePerm))
	return fsys
}

// refused reports whether an error is one of those with which a log is refused, and nothing else.
func refused(err error) bool {
	var damage *DamageError
	var foreign *ForeignError
	return errors.As(err, &damage) || errors.As(err, &foreign) || errors.Is(err, errFormat)
}

// open fails unless the log is refused, or serves entries that were written, goes on, and is the same at its next
// start. With the anchor of the whole log nothing but the whole log is served.
func (w *written) open(t *testing.T, fsys *Mem, whole bool) (Recovered, error) {
	t.Helper()
	log, r, err := OpenLog(writtenOptions(fsys))
	if err != nil {
		if !refused(err) {
			t.Fatal(err)
		}
		return r, err
	}
	w.mustBeOurs(t, r)
	if whole && (r.FirstIndex != 1 || len(r.Entries) != len(w.entries) || r.HardState.GetVote() != 3) {
		t.Fatalf("the anchor covers 3 entries, served are %d from %d, voted for %d", len(r.Entries), r.FirstIndex, r.HardState.GetVote())
	}
	if r.LastIndex >= 1<<60 {
		return r, nil
	}
	err = log.Append([]*raftpb.Entry{newEntry(max(r.lastTerm(), 1), r.LastIndex+1, []byte("next"))}, nil, true)
	if errors.Is(err, errNumbers) && log.tip.seq == maxSeq-1 {
		return r, nil // nothing was acknowledged
	}
	mustNil(t, err)
	_, again, err := OpenLog(writtenOptions(fsys.Crash(KeepUnsynced, 1)))
	if err != nil || again.FirstIndex != r.FirstIndex || again.LastIndex != r.LastIndex+1 {
		t.Fatalf("at the next start: %v, entries %d to %d, want %d to %d", err, again.FirstIndex, again.LastIndex, r.FirstIndex, r.LastIndex+1)
	}
	again.Entries, again.LastIndex = again.Entries[:len(again.Entries)-1], again.LastIndex-1
	w.mustBeOurs(t, again)
	return r, nil
}

func (r Recovered) lastTerm() uint64 {
	if n := len(r.Entries); n > 0 {
		return r.Entries[n-1].GetTerm()
	}
	return r.PrevTerm
}

// mustBeOurs: the chain cannot be forged, so whatever a frame claims, an entry that is served was written.
func (w *written) mustBeOurs(t *testing.T, r Recovered) {
	t.Helper()
	if n := uint64(len(r.Entries)); r.LastIndex-r.FirstIndex+1 != n {
		t.Fatalf("%d entries from %d to %d", n, r.FirstIndex, r.LastIndex)
	}
	for _, e := range r.Entries {
		i := e.GetIndex()
		if i < 1 || i > uint64(len(w.entries)) || e.GetTerm() != 1 || !bytes.Equal(e.GetData(), w.entries[i-1].GetData()) {
			t.Fatalf("entry %d of term %d, %q, was never written", i, e.GetTerm(), e.GetData())
		}
	}
}

// openAndHeal opens it, and heals what was refused from a peer that has the entries. With genuine frames what is served
// is a beginning of what was written, and all of it if the anchor covers it. A header that is forged with its checksum
// may say with right that the log was cut.
func (w *written) openAndHeal(t *testing.T, segment []byte, anchored, genuine bool) {
	t.Helper()
	fsys := w.disk(t, segment, anchored)
	r, err := w.open(t, fsys, anchored && genuine)
	if err == nil {
		if genuine && r.FirstIndex != 1 {
			t.Fatalf("served from %d on: no beginning of what was written", r.FirstIndex)
		}
		return
	}
	fsys = w.disk(t, segment, anchored)
	s, err := w.heal(t, fsys)
	if err != nil {
		return // only forged checksums get here: what the log claims to end with nobody has
	}
	r, err = w.open(t, fsys, false)
	if err != nil || genuine && anchored && s.InDoubt == "" && r.LastIndex < 3 {
		t.Fatalf("after the repair: %v, entries to %d, in doubt %q", err, r.LastIndex, s.InDoubt)
	}
}

// FuzzFrame: any bytes after a right checksum decode without a panic, into entries that encode to
// the same bytes.
func FuzzFrame(f *testing.F) {
	data := writtenLog(f).segment
	f.Add(data[pageBytes+frameHeaderBytes:pageBytes+frameHeaderBytes+entryHeaderBytes+7], uint64(0), uint32(1))
	f.Add([]byte{}, uint64(1)<<63, ^uint32(0))
	f.Add(make([]byte, 3*entryHeaderBytes), ^uint64(0)-2, uint32(3))
	f.Fuzz(func(t *testing.T, payload []byte, prevIndex uint64, count uint32) {
		entries, err := decodeEntries(payload, prevIndex, count)
		if err != nil {
			return
		}
		var back []byte
		for i, entry := range entries {
			if entry.GetIndex() != prevIndex+1+uint64(i) {
				t.Fatalf("entry %d has index %d", i, entry.GetIndex())
			}
			back = appendEntry(back, entry)
		}
		if !bytes.Equal(back, payload) || uint32(len(entries)) != count {
			t.Fatalf("%d entries encode to %x, not %x", len(entries), back, payload)
		}
	})
}

// FuzzEntries: what a peer answers about a gap is refused, or encodes to the same bytes.
func FuzzEntries(f *testing.F) {
	w := writtenLog(f)
	f.Add(AppendEntries(nil, Point{Index: 1, Term: 1, Chain: w.chains[1]}, w.entries[1:]))
	f.Add(AppendEntries(nil, Point{}, nil))
	f.Add(append(make([]byte, entriesHeaderBytes-4), 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		prev, entries, err := DecodeEntries(b)
		if err == nil && !bytes.Equal(AppendEntries(nil, prev, entries), b) {
			t.Fatalf("%d entries after %d encode differently", len(entries), prev.Index)
		}
	})
}

// FuzzFrameHeader: headers with arbitrary fields and right checksums never break recovery, nor the repair of what it
// refuses; nothing is served that was not written.
func FuzzFrameHeader(f *testing.F) {
	w := writtenLog(f)
	second := w.segment[2*pageBytes : 2*pageBytes+frameHeaderBytes]
	for _, anchored := range []bool{true, false} {
		f.Add(second, []byte("payload"), anchored)
		f.Add(second, w.segment[2*pageBytes+frameHeaderBytes:][:entryHeaderBytes+7], anchored)
		empty := bytes.Clone(second) // ends the log before its first entry
		clear(empty[64:144])
		clear(empty[172:176])
		f.Add(empty, []byte(nil), anchored)
		reset := bytes.Clone(empty)
		reset[64], reset[72], reset[180] = 9, 1, byte(frameReset)
		f.Add(reset, []byte(nil), anchored)
	}
	f.Fuzz(func(t *testing.T, raw, payload []byte, anchored bool) {
		if len(raw) < frameHeaderBytes || len(payload) > 3000 {
			return
		}
		page := make([]byte, pageBytes)
		copy(page, raw[:frameHeaderBytes])
		copy(page[frameHeaderBytes:], payload)
		order.PutUint32(page, frameMagic)
		order.PutUint64(page[8:], w.header.number)
		order.PutUint32(page[168:], uint32(len(payload)))
		order.PutUint32(page[176:], saltedCRC(w.header.salt, payload))
		order.PutUint32(page[4:], saltedCRC(w.header.salt, page[8:frameHeaderBytes]))
		changed := bytes.Clone(w.segment)
		copy(changed[2*pageBytes:], page)
		w.openAndHeal(t, changed, anchored, false)
	})
}

// FuzzSegment: a segment with any bytes between its headers opens or is refused. What is served is a beginning of what
// was written; all of it, if the anchor covers it.
func FuzzSegment(f *testing.F) {
	w := writtenLog(f)
	inner := w.segment[pageBytes : len(w.segment)-pageBytes]
	flipped := bytes.Clone(inner)
	flipped[pageBytes+300] ^= 1
	for _, anchored := range []bool{true, false} {
		f.Add(inner, anchored)
		f.Add(inner[:2*pageBytes], anchored)
		f.Add(append(bytes.Clone(inner[:2*pageBytes]), make([]byte, pageBytes)...), anchored)
		f.Add(flipped, anchored)
		f.Add(append(bytes.Clone(inner[pageBytes:]), inner[:pageBytes]...), anchored)
	}
	f.Fuzz(func(t *testing.T, inner []byte, anchored bool) {
		changed := bytes.Clone(w.segment)
		copy(changed[pageBytes:len(changed)-pageBytes], inner)
		w.openAndHeal(t, changed, anchored, true)
	})
}

// FuzzSegmentHeader: any header page, with its checksum made right.
func FuzzSegmentHeader(f *testing.F) {
	w := writtenLog(f)
	f.Add(w.segment[:segmentHeaderBytes], true)
	f.Add(w.segment[:segmentHeaderBytes], false)
	f.Fuzz(func(t *testing.T, raw []byte, anchored bool) {
		if len(raw) < segmentHeaderBytes || len(raw) > pageBytes {
			return
		}
		changed, page := bytes.Clone(w.segment), bytes.Clone(raw)
		copy(page, segmentMagic)
		order.PutUint32(page[8:], crc32.Checksum(page[12:segmentHeaderBytes], castagnoli))
		copy(changed, page)
		copy(changed[len(changed)-pageBytes:], page)
		w.openAndHeal(t, changed, anchored, false)
	})
}

// A header forged with its checksum may say that any number of frames came before. Whatever Append acknowledges after it
// is there at the next start, and what has no room for that is refused: of 2^62 and more a start once served what the
// next one lost.
func TestFrameNumbersEnd(t *testing.T) {
	w := writtenLog(t)
	forged := func(seq uint64) *Mem {
		h, segment := w.header, bytes.Clone(w.segment)
		h.start.seq = seq
		for _, at := range []int{0, len(segment) - pageBytes} {
			copy(segment[at:], h.encode())
		}
		return w.disk(t, segment, false)
	}
	for _, seq := range []uint64{maxSeq, ^uint64(0)} {
		disk := forged(seq)
		if _, err := w.open(t, disk, false); err == nil {
			t.Errorf("a segment after frame %d was opened", seq)
		}
		if report := mustScrub(t, scrubOptions(disk)); report.Errors == 0 {
			t.Errorf("a segment after frame %d: the scrub found nothing", seq)
		}
	}
	for seq, room := range map[uint64]uint64{maxSeq - 1: 0, maxSeq - 2: 1} {
		disk := forged(seq)
		log, _, err := OpenLog(writtenOptions(disk))
		mustNil(t, err)
		for index := uint64(1); index <= room; index++ {
			mustNil(t, log.Append([]*raftpb.Entry{newEntry(1, index, nil)}, nil, true))
		}
		var fatal *FatalError
		if err := log.Append([]*raftpb.Entry{newEntry(1, room+1, nil)}, nil, true); !errors.Is(err, errNumbers) || !errors.As(err, &fatal) {
			t.Errorf("after frame %d: %v, want that no number is left", seq+room, err)
		}
		if _, r, err := OpenLog(writtenOptions(disk.Crash(KeepUnsynced, 1))); err != nil || r.LastIndex != room {
			t.Errorf("after frame %d, at the next start: %v, entries to %d, want %d", seq, err, r.LastIndex, room)
		}
	}
	if _, err := w.heal(t, forged(maxSeq-repairSeqs)); !errors.Is(err, ErrNotSalvaged) {
		t.Errorf("a repair without room above: %v, want ErrNotSalvaged", err)
	}
	disk := forged(maxSeq - repairSeqs - 1)
	if _, err := w.heal(t, disk); err != nil {
		t.Errorf("a repair with room above: %v", err)
	}
	if _, err := w.open(t, disk, false); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// slot makes an anchor's slot of any bytes, with a right checksum.
func slot(raw []byte) []byte {
	b := make([]byte, anchorSlotBytes)
	copy(b, raw)
	copy(b, anchorMagic)
	order.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

// FuzzAnchor: whatever the anchor's slots say, right checksums or not, the log is refused or served whole; and what is
// said of the anchor is what its slot says.
func FuzzAnchor(f *testing.F) {
	w := writtenLog(f)
	say := func(generation uint64, doubt bool, edit func(*tip)) []byte {
		a := anchorState{id: w.header.id, generation: generation, doubt: doubt, tip: w.tip}
		edit(&a.tip)
		return a.encode()
	}
	whole := say(4, false, func(*tip) {})
	f.Add(whole, say(3, false, func(t *tip) { *t = tip{} }), true)
	f.Add(say(4, true, func(t *tip) { t.seq, t.index = 9, 9 }), whole, true)
	f.Add(say(^uint64(0), false, func(t *tip) { t.frame[0] ^= 1 }), []byte("torn"), true)
	f.Add(whole[:100], whole[1:], false)
	f.Fuzz(func(t *testing.T, even, odd []byte, right bool) {
		fsys := w.disk(t, w.segment, false)
		content := make([]byte, anchorBytes)
		for at, raw := range map[int][]byte{0: odd, pageBytes: even} {
			if right {
				raw = slot(raw)
			}
			copy(content[at:at+anchorSlotBytes], raw)
		}
		mustNil(t, WriteFileAtomic(fsys, filepath.Join(dataDir, anchorName), content, filePerm))
		a, err := decodeAnchor(content)
		if err == nil {
			back, err := decodeAnchor(a.encode())
			if err != nil || back != a {
				t.Fatalf("%+v encodes to %+v, %v", a, back, err)
			}
		}
		log, r, err := OpenLog(writtenOptions(fsys))
		if err != nil {
			if !refused(err) {
				t.Fatal(err)
			}
			return
		}
		w.mustBeOurs(t, r)
		if len(r.Entries) != len(w.entries) || log.tip != w.tip {
			t.Fatalf("%d entries served of a log that is intact", len(r.Entries))
		}
	})
}

// FuzzRepair: any record of a repair, with right checksums, is refused or carried out in bounded time; whatever is served
// then was written.
func FuzzRepair(f *testing.F) {
	w := writtenLog(f)
	for _, r := range []repairRecord{
		{first: 1, count: 1},
		{first: 2, count: 1, keep: []uint64{1}},
		{first: 2, count: 1 << 40},
		{first: ^uint64(0), count: 2},
	} {
		r.anchor = anchorState{id: w.header.id, generation: 6, tip: w.tip}
		f.Add(r.encode(), true)
		f.Add(r.encode(), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, right bool) {
		record := bytes.Clone(raw)
		if right && len(record) >= 12+anchorSlotBytes {
			copy(record, repairMagic)
			copy(record[len(record)-anchorSlotBytes:], slot(record[len(record)-anchorSlotBytes:]))
			order.PutUint32(record[8:], crc32.Checksum(record[12:], castagnoli))
		}
		if r, err := decodeRepair(record); err == nil && right && !bytes.Equal(r.encode()[12:40+8*len(r.keep)], record[12:40+8*len(r.keep)]) {
			t.Fatalf("%+v encodes differently", r)
		}
		fsys := w.disk(t, w.segment, true)
		mustNil(t, WriteFileAtomic(fsys, filepath.Join(dataDir, "wal", repairName), record, filePerm))
		if _, err := w.open(t, fsys, false); err != nil {
			if left, err := ReadFile(fsys, walPath(1), 1<<20); err != nil || !bytes.Equal(left, w.segment) {
				t.Fatalf("the record is refused, and the log that it was to replace is changed: %v", err)
			}
		}
	})
}

// FuzzJournal: any apply journal is read or begun anew. What it says is bounded, and is said again at the next start.
func FuzzJournal(f *testing.F) {
	for _, crash := range []JournalCrash{{}, {Index: 4, Term: 1, Place: 2, Times: 3, Cause: CauseStalled}} {
		page := append(journalHead{id: identity{[16]byte{1}, 7}, boot: journalBoot("boot"), crash: crash}.encode(), make([]byte, journalBytes-journalHeader)...)
		for at, word := range map[int]uint64{journalApplied: 3, journalIndex: 4, journalTerm: 1, journalPlace: 3, journalCause: 1, journalHeld: 8, journalHolder: 2} {
			putWord(page, at, word)
		}
		f.Add(page, true)
		f.Add(page[:journalHeader], false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, right bool) {
		page := bytes.Clone(raw)
		if right {
			page = make([]byte, journalBytes)
			copy(page, raw)
			copy(page, journalMagic)
			order.PutUint32(page[8:], crc32.Checksum(page[12:journalHeader], castagnoli))
			for at := journalHeader; at < journalInverted; at += 8 {
				putWord(page, at, order.Uint64(page[at:]))
			}
		}
		if len(page) > journalBytes {
			return
		}
		const last = 1 << 40
		disk := journalDisk(t)
		mustNil(t, WriteFileAtomic(disk, "/data/apply", page, filePerm))
		open := func(disk *Mem) JournalFound {
			o := journalOptions(disk, "boot")
			o.Last = last
			_, found, err := OpenJournal(o)
			mustNil(t, err)
			return found
		}
		found := open(disk)
		if c := found.Crash; c != nil && (c.Times < 1 || c.Times > 1<<24 || c.Place < 0 || c.Cause < 0 || c.Cause > 0xff) {
			t.Fatalf("applied %d, crash %+v", found.Applied, *c)
		}
		again := open(disk.Crash(KeepUnsynced, 1))
		learnt := again.Known && found.Applied == last // all that there was on the disk is surely applied
		if again.Known != found.Known && !learnt || again.Applied != found.Applied || again.Held != found.Held || again.HeldBy != found.HeldBy {
			t.Fatalf("found %+v, then %+v", found, again)
		}
		if found.Crash != nil && found.Crash.Index > 0 && (again.Crash == nil || *again.Crash != *found.Crash) {
			t.Fatalf("crash %+v, then %+v", found.Crash, again.Crash)
		}
	})
}
