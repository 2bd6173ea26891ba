package state

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// appendSession appends what describes a session, its id left out.
func appendSession(b []byte, s Session) []byte {
	b = appendString(b, s.Name)
	b = appendString(b, s.Node)
	b = binary.AppendUvarint(b, uint64(s.TTL))
	b = binary.AppendUvarint(b, uint64(s.Lease))
	b = appendWord(b, behaviors, s.Behavior)
	b = binary.AppendUvarint(b, uint64(s.LockDelay))
	b = appendNames(b, s.NodeChecks)
	b = appendNames(b, s.ServiceChecks)
	b = binary.AppendUvarint(b, uint64(s.CreatedAt))
	return binary.AppendUvarint(b, s.CreateRevision)
}

func readSession(r *reader, id SessionID) Session {
	return Session{
		ID:             id,
		Name:           r.string(MaxSessionNameBytes, "session name"),
		Node:           r.string(MaxNameBytes, "node name"),
		TTL:            readDuration(r),
		Lease:          readDuration(r),
		Behavior:       readWord(r, behaviors, "behavior"),
		LockDelay:      readDuration(r),
		NodeChecks:     readNames(r),
		ServiceChecks:  readNames(r),
		CreatedAt:      clock.Stamp(r.uvarint()),
		CreateRevision: r.uvarint(),
	}
}

func appendNames(b []byte, names []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendString(b, name)
	}
	return b
}

func readNames(r *reader) []string {
	var names []string
	for range r.count(MaxSessionChecks, "checks") {
		names = append(names, r.string(MaxCheckNameBytes, "check name"))
	}
	return names
}

func readDuration(r *reader) time.Duration {
	n := r.uvarint()
	if n > math.MaxInt64 {
		r.fail("duration over the limit")
		return 0
	}
	return time.Duration(n)
}

func (c SessionCreate) append(b []byte) []byte {
	return appendSession(append(b, c.Session.ID[:]...), c.Session)
}

func readSessionCreate(r *reader) Command {
	return SessionCreate{Session: readSession(r, r.fixed16("session id"))}
}

func (c SessionDestroy) append(b []byte) []byte {
	b = append(b, c.ID[:]...)
	b = appendWord(b, reasons, c.Reason)
	return binary.AppendUvarint(b, c.Term)
}

func readSessionDestroy(r *reader) Command {
	return SessionDestroy{
		ID: r.fixed16("session id"), Reason: readWord(r, reasons, "reason"), Term: r.uvarint(),
	}
}

func (c Lock) append(b []byte) []byte { return appendHold(b, c.Key, c.Flags, c.Session, c.Value) }

func (c Unlock) append(b []byte) []byte { return appendHold(b, c.Key, c.Flags, c.Session, c.Value) }

func appendHold(b []byte, key string, flags uint64, session string, value []byte) []byte {
	b = binary.AppendUvarint(appendString(b, key), flags)
	return appendBytes(appendString(b, session), value)
}

func readLock(r *reader) Command {
	return Lock{
		Key:     r.string(MaxKeyBytes, "key"),
		Flags:   r.uvarint(),
		Session: r.string(maxSessionBytes, "session"),
		Value:   r.bytes(MaxValueBytes, "value"),
	}
}

func readUnlock(r *reader) Command { return Unlock(readLock(r).(Lock)) }

// EncodeSession returns the session's row, without what is kept beside it: id and ModRevision.
func EncodeSession(s Session) []byte { return appendSession(newRow(160), s) }

// DecodeSession reads what EncodeSession wrote. The error is ErrMalformed, wrapped.
func DecodeSession(id SessionID, revision uint64, row []byte) (Session, error) {
	r := openRow(row)
	s := readSession(&r, id)
	s.ModRevision = revision
	return s, r.done()
}

// The rows below say all by their keys.

// sessionKey is the key of a session, and begins those of its holdings.
func sessionKey(id SessionID) string { return string(id[:]) }

// holdKey is the key of TableHold: by session, then by what it holds.
func holdKey(id SessionID, key string) string { return string(id[:]) + key }

// delayEndKey orders the lock-delays by their ends.
func delayEndKey(until clock.Stamp, key string) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(until))) + key
}

func encodeDelay(until clock.Stamp) []byte { return binary.AppendUvarint(newRow(10), uint64(until)) }

func decodeDelay(row []byte) (clock.Stamp, error) {
	r := openRow(row)
	until := clock.Stamp(r.uvarint())
	return until, r.done()
}

func encodeCount(n int) []byte { return binary.AppendUvarint(newRow(4), uint64(n)) }

func decodeCount(row []byte) (int, error) {
	r := openRow(row)
	n := readInt(&r, "count")
	return n, r.done()
}

// checkSessionRow is checkRow for the tables of this file.
func checkSessionRow(t Table, key string, row []byte) error {
	var err error
	switch t {
	case TableSession:
		if len(key) != len(SessionID{}) {
			return fmt.Errorf("%w: session id of %d bytes", ErrMalformed, len(key))
		}
		_, err = DecodeSession(SessionID([]byte(key)), 0, row)
	case TableNodeSessions:
		if err = CheckNodeName(key); err == nil {
			_, err = decodeCount(row)
		}
	case TableDelay:
		if err = CheckKey(key); err == nil {
			_, err = decodeDelay(row)
		}
	case TableHold:
		err = checkIndexRow(key, len(SessionID{}), row)
	case TableDelayEnd:
		err = checkIndexRow(key, 8, row)
	}
	return err
}

// checkIndexRow is for rows whose key is a head of so many bytes and then a key.
func checkIndexRow(key string, head int, row []byte) error {
	if len(key) <= head {
		return fmt.Errorf("%w: index row without a key", ErrMalformed)
	}
	if err := noRow(row); err != nil {
		return err
	}
	return CheckKey(key[head:])
}
