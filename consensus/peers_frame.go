package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"
)

// A frame carries what waited for one peer:
//
//	length 4 | items: kind 1, length 4, bytes      (big endian)
//
// An item is a Raft message (protobuf), the report of a receiver on a snapshot, a note (from 8, kind 1,
// bytes), or an envelope: one that the receiver is asked to pass on, or one that was passed on to it. Kinds that we do not know are refused: what may be sent depends on the version agreed before.
const (
	frameHeader  = 4
	itemHeader   = 1 + 4
	itemMessage  = 1
	itemReport   = 2
	itemNote     = 3
	itemRelay    = 4
	itemRelayed  = 5
	reportSize   = 8 + 8 + 1
	noteHeader   = 8 + 1
	maxFrame     = 16 << 20 // refused beyond, on both sides
	maxFrameItem = 8192
	frameTarget  = 1 << 20 // coalesce up to about here, so that heartbeats wait for little
)

var errFrame = errors.New("peer frame is malformed")

// peerReport says how a snapshot sent by the receiver of this report ended at from.
type peerReport struct {
	from, index uint64
	ok          bool
}

// appendMessage adds a message to a frame under construction; b keeps its length on errors.
func appendMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	start := len(b)
	b = append(b, itemMessage, 0, 0, 0, 0)
	out, err := appendRaft(b, m)
	if err != nil {
		return b[:start], fmt.Errorf("encode %v: %w", m.GetType(), err)
	}
	if len(out) > maxFrame {
		return out[:start], fmt.Errorf("%v of %d bytes is over the frame limit of %d", m.GetType(), len(out)-start, maxFrame)
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(len(out)-start-itemHeader))
	return out, nil
}

// appendReport adds a report to a frame under construction.
func appendReport(b []byte, r peerReport) []byte {
	b = append(b, itemReport)
	b = binary.BigEndian.AppendUint32(b, reportSize)
	b = binary.BigEndian.AppendUint64(b, r.from)
	b = binary.BigEndian.AppendUint64(b, r.index)
	if r.ok {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendNote adds a note of ours to a frame under construction.
func appendNote(b []byte, from uint64, n note) []byte {
	b = append(b, itemNote)
	b = binary.BigEndian.AppendUint32(b, uint32(noteHeader+len(n.body))) //nolint:gosec // at most maxNoteBytes
	b = binary.BigEndian.AppendUint64(b, from)
	b = append(b, byte(n.kind))
	return append(b, n.body...)
}

// readFrame reads one frame's body into buf, which it may grow, and returns the body.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", errFrame, size, maxFrame)
	}
	if uint32(cap(buf)) < size {
		buf = make([]byte, size)
	}
	if _, err := io.ReadFull(r, buf[:size]); err != nil {
		return nil, fmt.Errorf("read frame of %d bytes: %w", size, err)
	}
	return buf[:size], nil
}

// decodeFrame takes a body apart. The result shares nothing with body.
func decodeFrame(body []byte) (inbound, error) {
	var in inbound
	for n := 0; len(body) > 0; n++ {
		if len(body) < itemHeader || n == maxFrameItem {
			return inbound{}, fmt.Errorf("%w: item %d", errFrame, n)
		}
		kind, size := body[0], binary.BigEndian.Uint32(body[1:])
		body = body[itemHeader:]
		if uint64(size) > uint64(len(body)) {
			return inbound{}, fmt.Errorf("%w: item %d of %d bytes", errFrame, n, size)
		}
		if err := in.add(kind, body[:size]); err != nil {
			return inbound{}, fmt.Errorf("%w: item %d: %w", errFrame, n, err)
		}
		body = body[size:]
	}
	return in, nil
}

func (in *inbound) add(kind byte, item []byte) error {
	switch {
	case kind == itemMessage:
		m, err := decodeRaft(item)
		if err != nil {
			return err
		}
		in.messages = append(in.messages, m)
	case kind == itemReport && len(item) == reportSize && item[16] <= 1:
		in.reports = append(in.reports, peerReport{
			from: binary.BigEndian.Uint64(item), index: binary.BigEndian.Uint64(item[8:]), ok: item[16] == 1,
		})
	case kind == itemNote && len(item) >= noteHeader && len(item) <= noteHeader+maxNoteBytes:
		in.notes = append(in.notes, note{
			peer: binary.BigEndian.Uint64(item), kind: noteKind(item[8]), body: bytes.Clone(item[noteHeader:]),
		})
	case kind == itemRelay || kind == itemRelayed:
		return in.addEnvelope(kind, bytes.Clone(item))
	default:
		return fmt.Errorf("kind %d of %d bytes", kind, len(item))
	}
	return nil
}
