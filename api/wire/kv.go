package wire

import (
	"encoding/binary"
	"time"
)

// The methods by which a client reads and writes. MethodCall carries any endpoint of the HTTP API.
const (
	MethodGet    = "kv.get"
	MethodPut    = "kv.put"
	MethodDelete = "kv.delete"
	MethodCall   = "api.call"
)

// What a decoder takes of one field, in bytes. The agent has limits of its own below these; an answer has room for what
// a frame carries.
const (
	maxName  = 2048
	maxKey   = 64 << 10
	maxBytes = 4 << 20
)

// minRow is the smallest encoded row: nine empty fields.
const minRow = 9

// Get asks for Key, or with Prefix for all keys that begin with it. MinRevision and Wait make it wait for a change.
type Get struct {
	Key                     string
	Prefix, KeysOnly, Stale bool
	MinRevision             uint64
	Wait                    time.Duration // in whole milliseconds
	Limit                   uint64        // 0 is all
}

// Append encodes.
func (g Get) Append(b []byte) []byte {
	b = append(b, Version)
	b = AppendText(b, g.Key)
	b = AppendBool(b, g.Prefix)
	b = AppendBool(b, g.KeysOnly)
	b = AppendBool(b, g.Stale)
	b = binary.AppendUvarint(b, g.MinRevision)
	b = appendDuration(b, g.Wait)
	return binary.AppendUvarint(b, g.Limit)
}

// ParseGet decodes.
func ParseGet(body []byte) (Get, error) {
	r := NewReader(body)
	r.Version()
	g := Get{
		Key: r.Text(maxKey), Prefix: r.Bool(), KeysOnly: r.Bool(), Stale: r.Bool(), MinRevision: r.Uint(),
		Wait: r.duration(), Limit: r.Uint(),
	}
	return g, r.End("request for keys")
}

func appendDuration(b []byte, d time.Duration) []byte {
	return binary.AppendUvarint(b, uint64(max(d, 0)/time.Millisecond)) //nolint:gosec // not negative
}

const maxDuration = 24 * time.Hour

// duration is never more than maxDuration.
func (r *Reader) duration() time.Duration {
	return time.Duration(min(r.Uint(), uint64(maxDuration/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
}

// Place is where in the log an answer comes from, and whose state it is: a receipt.
type Place struct {
	Node        string
	Term, Index uint64
	Stamp       uint64 // of the hybrid logical clock
}

func (p Place) append(b []byte) []byte {
	b = AppendText(b, p.Node)
	b = binary.AppendUvarint(b, p.Term)
	b = binary.AppendUvarint(b, p.Index)
	return binary.AppendUvarint(b, p.Stamp)
}

func (r *Reader) place() Place {
	return Place{Node: r.Text(maxName), Term: r.Uint(), Index: r.Uint(), Stamp: r.Uint()}
}

// Row is a key and what it holds.
type Row struct {
	Key                               string
	Value                             []byte
	Flags                             uint64
	CreateRevision, Revision, Version uint64
	ModifiedAt                        uint64 // a stamp
	Session                           string
	LockIndex                         uint64
}

func (w Row) append(b []byte) []byte {
	b = AppendText(b, w.Key)
	b = AppendText(b, w.Value)
	for _, n := range [...]uint64{w.Flags, w.CreateRevision, w.Revision, w.Version, w.ModifiedAt} {
		b = binary.AppendUvarint(b, n)
	}
	b = AppendText(b, w.Session)
	return binary.AppendUvarint(b, w.LockIndex)
}

func (r *Reader) row() Row {
	return Row{
		Key: r.Text(maxKey), Value: r.Bytes(maxBytes), Flags: r.Uint(), CreateRevision: r.Uint(), Revision: r.Uint(),
		Version: r.Uint(), ModifiedAt: r.Uint(), Session: r.Text(maxName), LockIndex: r.Uint(),
	}
}

// Rows answers Get, in key order. Revision is what a reader waits from for the next change.
type Rows struct {
	Place    Place
	Revision uint64
	Rows     []Row
}

// Append encodes.
func (a Rows) Append(b []byte) []byte {
	b = append(b, Version, isAnswer)
	b = a.Place.append(b)
	b = binary.AppendUvarint(b, a.Revision)
	b = binary.AppendUvarint(b, uint64(len(a.Rows)))
	for _, row := range a.Rows {
		b = row.append(b)
	}
	return b
}

// ParseRows decodes an answer to Get, or the failure that came instead.
func ParseRows(body []byte) (a Rows, failed *Failure, err error) {
	r, failed, err := answer(body)
	if failed != nil || err != nil {
		return a, failed, err
	}
	a = Rows{Place: r.place(), Revision: r.Uint()}
	if n := r.Count(minRow); n > 0 {
		a.Rows = make([]Row, 0, min(n, 1024))
		for i := 0; i < n && !r.Failed(); i++ {
			a.Rows = append(a.Rows, r.row())
		}
	}
	return a, nil, r.End("answer with keys")
}

// RequestID names a write, so that the same one can be sent again without being done twice; zero is a write without.
type RequestID = [16]byte

// Put writes a key. With Session it takes the key's lock as well, or with Release lets go of it.
type Put struct {
	Request RequestID
	Key     string
	Value   []byte
	Flags   uint64
	Compare *uint64 // the revision that the key must have, 0 for none
	Session string
	Release bool
}

// Append encodes.
func (p Put) Append(b []byte) []byte {
	b = append(b, Version)
	b = append(b, p.Request[:]...)
	b = AppendText(b, p.Key)
	b = AppendText(b, p.Value)
	b = binary.AppendUvarint(b, p.Flags)
	b = appendOptional(b, p.Compare)
	b = AppendText(b, p.Session)
	return AppendBool(b, p.Release)
}

// Size is at least as much as Append adds.
func (p Put) Size() int { return 64 + len(p.Key) + len(p.Value) + len(p.Session) }

// ParsePut decodes.
func ParsePut(body []byte) (Put, error) {
	r := NewReader(body)
	r.Version()
	p := Put{
		Request: r.request(), Key: r.Text(maxKey), Value: r.Bytes(maxBytes), Flags: r.Uint(), Compare: r.optional(),
		Session: r.Text(maxName), Release: r.Bool(),
	}
	return p, r.End("put")
}

func (r *Reader) request() (id RequestID) {
	copy(id[:], r.Fixed(len(id)))
	return id
}

func appendOptional(b []byte, v *uint64) []byte {
	b = AppendBool(b, v != nil)
	if v != nil {
		b = binary.AppendUvarint(b, *v)
	}
	return b
}

func (r *Reader) optional() *uint64 {
	if !r.Bool() {
		return nil
	}
	v := r.Uint()
	return &v
}

// Delete removes a key, or with Prefix all that begin with it.
type Delete struct {
	Request RequestID
	Key     string
	Prefix  bool
	Compare *uint64
}

// Append encodes.
func (d Delete) Append(b []byte) []byte {
	b = append(b, Version)
	b = append(b, d.Request[:]...)
	b = AppendText(b, d.Key)
	b = AppendBool(b, d.Prefix)
	return appendOptional(b, d.Compare)
}

// ParseDelete decodes.
func ParseDelete(body []byte) (Delete, error) {
	r := NewReader(body)
	r.Version()
	d := Delete{Request: r.request(), Key: r.Text(maxKey), Prefix: r.Bool(), Compare: r.optional()}
	return d, r.End("delete")
}

// Written answers Put and Delete.
type Written struct {
	Place                        Place
	Revision, Deleted, LockIndex uint64
}

// Append encodes.
func (w Written) Append(b []byte) []byte {
	b = append(b, Version, isAnswer)
	b = w.Place.append(b)
	b = binary.AppendUvarint(b, w.Revision)
	b = binary.AppendUvarint(b, w.Deleted)
	return binary.AppendUvarint(b, w.LockIndex)
}

// ParseWritten decodes an answer to a write, or the failure that came instead.
func ParseWritten(body []byte) (w Written, failed *Failure, err error) {
	r, failed, err := answer(body)
	if failed != nil || err != nil {
		return w, failed, err
	}
	w = Written{Place: r.place(), Revision: r.Uint(), Deleted: r.Uint(), LockIndex: r.Uint()}
	return w, nil, r.End("answer to a write")
}
