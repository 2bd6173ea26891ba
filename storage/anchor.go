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
)

var anchorMagic = []byte("PARLEYAN")

// anchorState is what a slot says: the log was durable up to tip.
type anchorState struct {
	id         identity
	generation uint64
	clean      bool // written by Close, after everything else
	tip        tip
}

func (a anchorState) encode() []byte {
	b := append(make([]byte, 0, anchorSlotBytes), anchorMagic...)
	b = order.AppendUint32(b, 0)
	b = order.AppendUint32(b, formatVersion)
	b = append(b, a.id.cluster[:]...)
	b = order.AppendUint64(b, a.id.raft)
	b = order.AppendUint64(b, a.generation)
	flags := uint64(0)
	if a.clean {
		flags = 1
	}
	b = order.AppendUint64(b, flags)
	b = a.tip.append(b)[:anchorSlotBytes]
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
	return anchorState{
		id:         identity{cluster: [16]byte(c.take(16)), raft: c.u64()},
		generation: c.u64(),
		clean:      c.u64()&1 != 0,
		tip:        c.tip(),
	}, nil
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
	content := make([]byte, anchorBytes)
	for slot := range 2 {
		copy(content[slot*pageBytes:], anchorState{id: id, generation: uint64(slot + 1)}.encode())
	}
	return WriteFileAtomic(fsys, path, content, filePerm)
}

// anchorFile writes the slots of an existing file. Writers take turns.
type anchorFile struct {
	path       string
	id         identity
	turn       chan struct{}
	file       File // nil once closed
	generation uint64
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
	if a.file == nil {
		return nil
	}
	state := anchorState{id: a.id, generation: a.generation + 1, clean: clean, tip: t}
	slot := int64(state.generation+1) % 2
	if _, err := a.file.WriteAt(state.encode(), slot*pageBytes); err != nil {
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
