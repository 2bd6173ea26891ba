package consensus

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// RecordingFormat is the version of recordings that this program writes and replays.
const RecordingFormat = 2

// A recording is
//
//	"PARLEYREC\n" | length 4, header (JSON) | twice: length 4, state | length 4, events | SHA-256 32     (big endian)
//
// The first half may be empty. The hash is over all that is before it.
const recordingMagic = "PARLEYREC\n"

// MaxRecording bounds what is read.
const MaxRecording = 256 << 20

// RecordingHeader says what a recording is of.
type RecordingHeader struct {
	Format int    `json:"format"`
	Build  string `json:"build"`
	Reason string `json:"reason"`
	RaftID string `json:"raft_id"`
	Events uint64 `json:"events"` // since the core was started; the newest of them are here
}

// ErrRecordingFormat is returned for what another version wrote, ErrRecordingBuild for what another program did.
var (
	ErrRecordingFormat = errors.New("the recording has another format")
	ErrRecordingBuild  = errors.New("the recording was made by another build")
)

// recording returns all that is in the ring.
func (r *recorder) recording(reason string) ([]byte, error) {
	if r == nil {
		return nil, ErrNoRecorder
	}
	if r.off != nil {
		return nil, fmt.Errorf("consensus: nothing is recorded: %w", r.off)
	}
	r.now.b = r.tape.b
	header, err := json.Marshal(RecordingHeader{
		Format: RecordingFormat, Build: r.opts.Build, Reason: reason, Events: r.count.events,
		RaftID: fmt.Sprintf("%x", r.count.core.cfg.id),
	})
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(recordingMagic)+len(header)+len(r.old.b)+len(r.now.b)+sha256.Size+20)
	b = append(b, recordingMagic...)
	for _, part := range [][]byte{
		header, r.old.b[:r.old.events], r.old.b[r.old.events:], r.now.b[:r.now.events], r.now.b[r.now.events:],
	} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // far below
		b = append(b, part...)
	}
	hash := sha256.Sum256(b)
	return append(b, hash[:]...), nil
}

// ErrNoRecorder is returned where Options.Record asks for none.
var ErrNoRecorder = errors.New("consensus: the recorder is off: set debug.recorder_mib")

// half is one of a recording.
type half struct{ state, events []byte }

// openRecording checks a recording and takes it apart.
func openRecording(b []byte) (h RecordingHeader, halves []half, err error) {
	if len(b) > MaxRecording {
		return h, nil, fmt.Errorf("%w: more than %d bytes", errTape, MaxRecording)
	}
	rest, ok := bytes.CutPrefix(b, []byte(recordingMagic))
	if !ok || len(rest) < sha256.Size {
		return h, nil, fmt.Errorf("%w: it is no recording of a core", errTape)
	}
	end := len(b) - sha256.Size
	if sha256.Sum256(b[:end]) != [sha256.Size]byte(b[end:]) {
		return h, nil, fmt.Errorf("%w: its checksum is wrong, get the file again", errTape)
	}
	rest = rest[:len(rest)-sha256.Size]
	var parts [5][]byte
	for i := range parts {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return h, nil, fmt.Errorf("%w: it is cut off", errTape)
		}
		n := binary.BigEndian.Uint32(rest)
		parts[i], rest = rest[4:4+n], rest[4+n:]
		if i > 0 {
			continue
		}
		if err := json.Unmarshal(parts[0], &h); err != nil {
			return h, nil, fmt.Errorf("%w: its header: %w", errTape, err)
		}
		if h.Format != RecordingFormat {
			return h, nil, fmt.Errorf("%w: %d, this program replays format %d; use the program that made it", ErrRecordingFormat, h.Format, RecordingFormat)
		}
	}
	if len(rest) != 0 {
		return h, nil, fmt.Errorf("%w: %d bytes too many", errTape, len(rest))
	}
	for _, p := range []half{{parts[1], parts[2]}, {parts[3], parts[4]}} {
		if len(p.state) > 0 {
			halves = append(halves, p)
		}
	}
	return h, halves, nil
}

// ReadRecordingHeader says what a recording is of.
func ReadRecordingHeader(b []byte) (RecordingHeader, error) {
	h, _, err := openRecording(b)
	return h, err
}
