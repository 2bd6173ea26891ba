package consensus

import (
	"math"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Raft's messages are protobuf on the wire. Nearly all of them hold numbers and entries: these are written and read here,
// without reflection and a piece of memory for each number. The bytes are those of the general codec, which is left what is
// seldom: snapshots, and whatever is not written as we write it.

// appendRaft adds the bytes of a message.
func appendRaft(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.Snapshot != nil || m.Responses != nil {
		return proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	if m.Type != nil {
		b = appendField(b, 1, uint64(*m.Type)) //nolint:gosec // as protobuf does
	}
	b = appendNumber(b, 2, m.To)
	b = appendNumber(b, 3, m.From)
	b = appendNumber(b, 4, m.Term)
	b = appendNumber(b, 5, m.LogTerm)
	b = appendNumber(b, 6, m.Index)
	for _, e := range m.Entries {
		b = appendRaftEntry(b, e)
	}
	b = appendNumber(b, 8, m.Commit)
	if m.Reject != nil {
		b = appendField(b, 10, protowire.EncodeBool(*m.Reject))
	}
	b = appendNumber(b, 11, m.RejectHint)
	if m.Context != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 12, protowire.BytesType), m.Context)
	}
	return appendNumber(b, 13, m.Vote), nil
}

func appendField(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendNumber(b []byte, field protowire.Number, v *uint64) []byte {
	if v == nil {
		return b
	}
	return appendField(b, field, *v)
}

func appendRaftEntry(b []byte, e *raftpb.Entry) []byte {
	var head [32]byte // all but the data: 3 numbers
	h := head[:0]
	if e.Type != nil {
		h = appendField(h, 1, uint64(*e.Type)) //nolint:gosec // as protobuf does
	}
	h = appendNumber(appendNumber(h, 2, e.Term), 3, e.Index)
	size := len(h)
	if e.Data != nil {
		size += protowire.SizeTag(4) + protowire.SizeBytes(len(e.Data))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, 7, protowire.BytesType), uint64(size)) //nolint:gosec // a length
	if b = append(b, h...); e.Data != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), e.Data)
	}
	return b
}

// decodeRaft reads a message, which shares nothing with b.
func decodeRaft(b []byte) (*raftpb.Message, error) {
	if m := readRaft(b); m != nil {
		return m, nil
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	return m, nil
}

// raftMessage is a message with the numbers that it points to.
type raftMessage struct {
	raftpb.Message
	kind    raftpb.MessageType
	numbers [12]uint64 // the fields from 2 on
	reject  bool
}

// readRaft returns nil for what is left to the general codec.
func readRaft(b []byte) *raftpb.Message {
	m := &raftMessage{}
	ok := readFields(b, m.set, func(field protowire.Number, v []byte) bool {
		switch field {
		case 7:
			e := readRaftEntry(v)
			m.Entries = append(m.Entries, e)
			return e != nil
		case 12:
			m.Context = append([]byte{}, v...)
			return true
		}
		return false
	})
	if !ok {
		return nil
	}
	return &m.Message
}

// readFields takes a message apart. It is false if that is not one, or if one of its fields is of another kind or refused.
func readFields(b []byte, number func(protowire.Number, uint64) bool, bytes func(protowire.Number, []byte) bool) bool {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := false
		switch kind {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n > 0 {
				ok = number(field, v)
			}
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n > 0 {
				ok = bytes(field, v)
			}
		}
		if !ok {
			return false
		}
		b = b[n:]
	}
	return true
}

func (m *raftMessage) set(field protowire.Number, v uint64) bool {
	switch field {
	case 1:
		m.kind = raftpb.MessageType(v) //nolint:gosec // looked at next
		m.Type = &m.kind
		return v <= math.MaxInt32
	case 10:
		m.reject = protowire.DecodeBool(v)
		m.Reject = &m.reject
		return true
	}
	if field < 2 || int(field) >= 2+len(m.numbers) {
		return false
	}
	at := &m.numbers[field-2]
	*at = v
	switch field {
	case 2:
		m.To = at
	case 3:
		m.From = at
	case 4:
		m.Term = at
	case 5:
		m.LogTerm = at
	case 6:
		m.Index = at
	case 8:
		m.Commit = at
	case 11:
		m.RejectHint = at
	case 13:
		m.Vote = at
	default:
		return false
	}
	return true
}

// raftEntry is an entry with the numbers that it points to.
type raftEntry struct {
	raftpb.Entry
	kind        raftpb.EntryType
	term, index uint64
}

func readRaftEntry(b []byte) *raftpb.Entry {
	e := &raftEntry{}
	ok := readFields(b, func(field protowire.Number, v uint64) bool {
		switch field {
		case 1:
			e.kind = raftpb.EntryType(v) //nolint:gosec // looked at next
			e.Type = &e.kind
			return v <= math.MaxInt32
		case 2:
			e.term = v
			e.Term = &e.term
		case 3:
			e.index = v
			e.Index = &e.index
		default:
			return false
		}
		return true
	}, func(field protowire.Number, v []byte) bool {
		e.Data = append([]byte{}, v...)
		return field == 4
	})
	if !ok {
		return nil
	}
	return &e.Entry
}
