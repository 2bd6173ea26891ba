package storage

import (
	"path/filepath"
)

// passOver returns the segments that have to be read where a snapshot covers the log up to LogOptions.Covered, and keeps the
// headers of those before. The first one to be read begins at or before that entry, and its header says where the log
// stood there, just as that of the first segment does after a compaction. The anchor has to be in it or later: what the
// disk has forgotten is judged as ever.
//
// Nothing is passed over unless every header before is intact at both ends and says what it should: who finds anything else reads
// all, and says what is wrong. The frames that are passed over are verified by the next Scrub.
func (r *recovery) passOver(numbers []uint64, anchor anchorState) (rest []uint64) {
	covered := r.log.covered
	if covered == 0 {
		return numbers
	}
	var headers []segment
	first := 0
	for i, number := range numbers {
		h, ok := r.header(number)
		if !ok || i > 0 && (number != numbers[i-1]+1 || h.start.seq < headers[i-1].start.seq) {
			break
		}
		headers = append(headers, h)
		if h.start.index <= covered && h.start.seq <= anchor.tip.seq {
			first = i
		}
	}
	if len(headers) < len(numbers) {
		return numbers
	}
	r.segments = headers[:first:first]
	return numbers[first:]
}

// header reads the header of a segment, which has to be intact at both ends.
func (r *recovery) header(number uint64) (segment, bool) {
	path := filepath.Join(r.log.spares.dir, segmentName(number))
	f, err := r.log.fs.OpenRead(path)
	if err != nil {
		return segment{}, false
	}
	defer f.Close() //nolint:errcheck // it was only read
	size, err := f.Size()
	if err != nil || size < minSegmentBytes {
		return segment{}, false
	}
	var ends [2]segmentHeader
	for i, offset := range []int64{0, size - pageBytes} {
		page := make([]byte, pageBytes)
		if err := readFull(f, page, offset); err != nil {
			return segment{}, false
		}
		if ends[i], err = decodeSegmentHeader(page); err != nil {
			return segment{}, false
		}
	}
	h := ends[0]
	return segment{h, path}, h == ends[1] && h.id == r.log.id && h.size == size && h.number == number
}
