package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
)

const (
	// repairName is the record of a switch to a repaired log. While it is there the switch is not complete.
	repairName     = "repair"
	maxRepairBytes = 4096
	// maxRepairSegments bounds what a record may name: 4 TiB of log in segments of the default size.
	maxRepairSegments = 1 << 16
)

var repairMagic = []byte("PARLEYRP")

// repairRecord says how to switch to a repaired log. Every step of it may be done again.
type repairRecord struct {
	first, count uint64   // the repaired segments
	keep         []uint64 // damaged segments to be kept aside; the others before first go
	anchor       anchorState
}

func (r repairRecord) encode() []byte {
	b := append(bytes.Clone(repairMagic), 0, 0, 0, 0)
	b = order.AppendUint32(b, formatVersion)
	b = order.AppendUint64(b, r.first)
	b = order.AppendUint64(b, r.count)
	b = order.AppendUint64(b, uint64(len(r.keep)))
	for _, number := range r.keep {
		b = order.AppendUint64(b, number)
	}
	b = append(b, r.anchor.encode()...)
	order.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func decodeRepair(b []byte) (r repairRecord, err error) {
	const fixed = 8 + 4 + 4 + 3*8
	if len(b) < fixed+anchorSlotBytes || !bytes.Equal(b[:8], repairMagic) || order.Uint32(b[8:]) != crc32.Checksum(b[12:], castagnoli) {
		return r, errors.New("not an intact record of a repair")
	}
	c := cursor{b[12:]}
	if version := c.u32(); version != formatVersion {
		return r, fmt.Errorf("%w (%d, not %d)", errFormat, version, formatVersion)
	}
	r.first, r.count = c.u64(), c.u64()
	n := c.u64()
	if n > maxDamagedFiles || uint64(len(c.rest)) != 8*n+anchorSlotBytes {
		return r, errors.New("record of a repair has a wrong size")
	}
	if r.first == 0 || r.count == 0 || r.count > maxRepairSegments || r.first > math.MaxUint64-r.count {
		return r, fmt.Errorf("record of a repair names %d segments from %d on", r.count, r.first)
	}
	for range n {
		r.keep = append(r.keep, c.u64())
	}
	r.anchor, err = decodeAnchor(c.rest)
	return r, err
}

// finishRepair completes a switch that Repair has begun, if there is one. A damaged record is none: the repair is then
// made again, with what is left of both logs.
func finishRepair(fsys FS, root string, id identity) error {
	dir := filepath.Join(root, "wal")
	path := filepath.Join(dir, repairName)
	data, err := ReadFile(fsys, path, maxRepairBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r, decodeErr := decodeRepair(data)
	switch {
	case errors.Is(decodeErr, errFormat):
		return fmt.Errorf("read %s: %w", path, decodeErr)
	case err != nil || decodeErr != nil:
		return &DamageError{Path: path, Detail: errors.Join(err, decodeErr).Error(), Hint: hintLog}
	case r.anchor.id != id:
		return &ForeignError{Path: path, Have: r.anchor.id.String(), Want: id.String()}
	}
	if missing, err := r.missing(fsys, dir); err != nil {
		return err
	} else if missing != "" {
		return &DamageError{Path: path, Detail: "the repaired " + missing + " is not there", Hint: hintLog}
	}
	if err := r.setAside(fsys, dir); err != nil {
		return err
	}
	if err := r.rename(fsys, dir); err != nil {
		return err
	}
	if err := writeAnchor(fsys, filepath.Join(root, anchorName), r.anchor); err != nil {
		return err
	}
	if err := fsys.Remove(path); err != nil {
		return classify("remove", path, err)
	}
	return syncDir(fsys, dir)
}

// missing names a segment of the repaired log that is there under neither of its names, "" if none is: nothing of the
// damaged log may go then.
func (r repairRecord) missing(fsys FS, dir string) (string, error) {
	names, err := listPrefix(fsys, dir, "")
	if err != nil {
		return "", err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[strings.TrimPrefix(name, repairedPrefix)] = true
	}
	for number := r.first; number < r.first+r.count; number++ {
		if name := segmentName(number); !there[name] {
			return name, nil
		}
	}
	return "", nil
}

// setAside takes the damaged log away: what is worth a look is kept, of this repair only.
func (r repairRecord) setAside(fsys FS, dir string) error {
	kept := map[string]bool{damagedAnchor: true}
	for _, number := range r.keep {
		kept[damagedPrefix+segmentName(number)] = true
	}
	names, err := listPrefix(fsys, dir, "")
	if err != nil {
		return err
	}
	for _, name := range names {
		number, live := parseSegmentName(name)
		path := filepath.Join(dir, name)
		switch aside := damagedPrefix + name; {
		case live && number < r.first && kept[aside]:
			err = fsys.Rename(path, filepath.Join(dir, aside))
		case live && number < r.first, strings.HasPrefix(name, damagedPrefix) && !kept[name]:
			err = fsys.Remove(path)
		}
		if err != nil {
			return classify("set aside", path, err)
		}
	}
	return syncDir(fsys, dir)
}

// rename makes the repaired segments the log.
func (r repairRecord) rename(fsys FS, dir string) error {
	for number := r.first; number < r.first+r.count; number++ {
		to := filepath.Join(dir, segmentName(number))
		err := fsys.Rename(filepath.Join(dir, repairedPrefix+segmentName(number)), to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // renamed before
			return classify("rename", to, err)
		}
	}
	return syncDir(fsys, dir)
}

func syncDir(fsys FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return classify("sync", dir, err)
	}
	return nil
}
