package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
)

// The anchor file has two slots, each on a page of its own, written in turn and one at a time: a
// crash can spoil only the one that was being written.
const (
	anchorName      = "anchor"
	anchorSlotBytes = 512
	anchorBytes     = 2 * pageBytes

	anchorClean = 1
	anchorDoubt = 2
)

var anchorMagic = []byte("PARLEYAN")

// anchorState is what a slot says: the log was durable up to tip.
type anchorState struct {
	id         identity
	generation uint64
	clean      bool // written by Close, after everything else
	doubt      bool // more than tip may have been durable once: see Recovered.InDoubt
	tip        tip
	segment    uint64 // the newest that was begun; 0: none, or written by a program that did not say it
}

// used reports whether there was a segment when it was written.
func (a anchorState) used() bool { return a.tip.seq > 0 || a.segment > 0 }

func (a anchorState) encode() []byte {
	b := append(make([]byte, 0, anchorSlotBytes), anchorMagic...)
	b = order.AppendUint32(b, 0)
	b = order.AppendUint32(b, formatVersion)
	b = append(b, a.id.cluster[:]...)
	b = order.AppendUint64(b, a.id.raft)
	b = order.AppendUint64(b, a.generation)
	flags := uint64(0)
	if a.clean {
		flags |= anchorClean
	}
	if a.doubt {
		flags |= anchorDoubt
	}
	b = order.AppendUint64(b, flags)
	b = order.AppendUint64(a.tip.append(b), a.segment)[:anchorSlotBytes]
	order.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func decodeAnchor(b []byte) (anchorState, error) {
	if len(b) < anchorSlotBytes || !bytes.Equal(b[:8], anchorMagic) ||
		order.Uint32(b[8:]) != crc32.Checksum(b[12:anchorSlotBytes], castagnoli) {
		return anchorState{}, errors.New("slot is not intact")
	}
	c := cursor{b[12:]}
	if version := c.u32(); version != formatVersion {
		return anchorState{}, fmt.Errorf("%w (%d, not %d)", errFormat, version, formatVersion)
	}
	a := anchorState{id: identity{cluster: [16]byte(c.take(16)), raft: c.u64()}, generation: c.u64()}
	flags := c.u64()
	a.clean, a.doubt, a.tip = flags&anchorClean != 0, flags&anchorDoubt != 0, c.tip()
	a.segment = c.u64()
	if a.tip.seq >= maxSeq {
		return anchorState{}, errors.New("slot names a frame that no log gets to")
	}
	return a, nil
}

// readAnchor returns the newer intact slot. Without the file it returns false; with no intact slot or
// another member's, an error.
func readAnchor(fsys FS, path string, id identity) (anchorState, bool, error) {
	content, err := ReadFile(fsys, path, anchorBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return anchorState{}, false, nil
	}
	if err != nil {
		return anchorState{}, false, readError(path, err, hintLog)
	}
	var best anchorState
	found, reasons := false, []error{}
	for offset := 0; offset < anchorBytes; offset += pageBytes {
		slot, err := decodeAnchor(content[min(offset, len(content)):])
		if errors.Is(err, errFormat) {
			return anchorState{}, false, fmt.Errorf("read %s: %w", path, err)
		}
		if err != nil {
			reasons = append(reasons, err)
			continue
		}
		if slot.id != id {
			return anchorState{}, false, &ForeignError{Path: path, Have: slot.id.String(), Want: id.String()}
		}
		if !found || slot.generation > best.generation {
			best, found = slot, true
		}
	}
	if !found {
		return anchorState{}, false, &DamageError{Path: path, Detail: "both slots are bad: " + errors.Join(reasons...).Error(), Hint: hintLog}
	}
	return best, true, nil
}

// createAnchor makes the file with two equal slots, before the first segment exists: a log without
// an anchor is therefore always damage.
func createAnchor(fsys FS, path string, id identity) error {
	return writeAnchor(fsys, path, anchorState{id: id, generation: 2})
}

// writeAnchor replaces the file by one whose slots both say what a says; a.generation is at least 2.
func writeAnchor(fsys FS, path string, a anchorState) error {
	content := make([]byte, anchorBytes)
	for range 2 {
		copy(content[anchorOffset(a.generation):], a.encode())
		a.generation--
	}
	return WriteFileAtomic(fsys, path, content, filePerm)
}

// anchorOffset is where the slot of a generation is: odd ones first.
func anchorOffset(generation uint64) int64 { return int64((generation+1)%2) * pageBytes }

// anchorFile writes the slots of an existing file. Writers take turns.
type anchorFile struct {
	path       string
	id         identity
	turn       chan struct{}
	file       File // nil once closed
	generation uint64
	doubt      bool   // says every slot that is written
	segment    uint64 // and that
}

func openAnchor(fsys FS, path string, id identity, generation uint64) (*anchorFile, error) {
	file, err := fsys.Open(path)
	if err != nil {
		return nil, classify("open", path, err)
	}
	return &anchorFile{path: path, id: id, turn: make(chan struct{}, 1), file: file, generation: generation}, nil
}

// write makes the anchor say t, durably; t itself must be durable already. After close it does nothing.
func (a *anchorFile) write(t tip, clean bool) error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	return a.put(t, clean)
}

// begin is write, and says that the segment of that number is there, before there is a frame in it: lost with all that the
// anchor does not cover yet, it would leave a log that looks whole, or one that looks new.
func (a *anchorFile) begin(segment uint64, t tip) error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.segment = segment
	return a.put(t, false)
}

// settle is write, and ends the doubt.
func (a *anchorFile) settle(t tip) error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.doubt = false
	return a.put(t, false)
}

// put writes the next slot; the caller has the turn.
func (a *anchorFile) put(t tip, clean bool) error {
	if a.file == nil {
		return nil
	}
	state := anchorState{id: a.id, generation: a.generation + 1, clean: clean, doubt: a.doubt, tip: t, segment: a.segment}
	if _, err := a.file.WriteAt(state.encode(), anchorOffset(state.generation)); err != nil {
		return classify("write", a.path, err)
	}
	if err := a.file.Sync(); err != nil {
		return classify("sync", a.path, err)
	}
	a.generation++
	return nil
}

func (a *anchorFile) close() error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
