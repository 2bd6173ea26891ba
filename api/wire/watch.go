package wire

import (
	"encoding/binary"
	"errors"
)

// The methods of watches. MethodWatch is a stream: its first item is a Hello, all others are Notices. Its watches come and
// go by MethodWatchAdd and MethodWatchRemove, which name it by the Hello's token, over any connection to the same agent.
const (
	MethodWatch       = "kv.watch"
	MethodWatchAdd    = "kv.watch.add"
	MethodWatchRemove = "kv.watch.remove"
)

// MaxWatches bounds what one WatchAdd or WatchRemove names: as many as an agent lets one identity have.
const MaxWatches = 1000

// Token names a stream of watches to those who have it.
type Token = [16]byte

// Hello is the first item of a stream of watches.
type Hello struct{ Token Token }

// Append encodes.
func (h Hello) Append(b []byte) []byte { return append(append(b, Version), h.Token[:]...) }

// ParseHello decodes.
func ParseHello(item []byte) (Hello, error) {
	r := NewReader(item)
	r.Version()
	h := Hello{Token: r.request()}
	return h, r.End("begin of a stream of watches")
}

// Watch is one key, or with Prefix all keys that begin with it. ID is the client's own name for it, which no other watch
// of its stream has. It tells of changes after the revision After; 0 begins with how things are. With Values a notice of
// a key carries the row.
type Watch struct {
	ID             uint64
	Key            string
	Prefix, Values bool
	After          uint64
}

const minWatch = 5

// WatchAdd adds watches to a stream, all or none of them.
type WatchAdd struct {
	Token   Token
	Watches []Watch
}

// Append encodes.
func (a WatchAdd) Append(b []byte) []byte {
	b = append(append(b, Version), a.Token[:]...)
	b = binary.AppendUvarint(b, uint64(len(a.Watches)))
	for _, w := range a.Watches {
		b = binary.AppendUvarint(b, w.ID)
		b = AppendText(b, w.Key)
		b = AppendBool(b, w.Prefix)
		b = AppendBool(b, w.Values)
		b = binary.AppendUvarint(b, w.After)
	}
	return b
}

var errMany = errors.New("more than one request may name")

// ParseWatchAdd decodes.
func ParseWatchAdd(body []byte) (WatchAdd, error) {
	r := NewReader(body)
	r.Version()
	a := WatchAdd{Token: r.request()}
	n := r.Count(minWatch)
	if n > MaxWatches {
		r.Fail(errMany)
	}
	for i := 0; i < n && !r.Failed(); i++ {
		a.Watches = append(a.Watches, Watch{ID: r.Uint(), Key: r.Text(maxKey), Prefix: r.Bool(), Values: r.Bool(), After: r.Uint()})
	}
	return a, r.End("new watches")
}

// WatchRemove ends watches of a stream; those that there are not are no error.
type WatchRemove struct {
	Token Token
	IDs   []uint64
}

// Append encodes.
func (a WatchRemove) Append(b []byte) []byte {
	b = append(append(b, Version), a.Token[:]...)
	b = binary.AppendUvarint(b, uint64(len(a.IDs)))
	for _, id := range a.IDs {
		b = binary.AppendUvarint(b, id)
	}
	return b
}

// ParseWatchRemove decodes.
func ParseWatchRemove(body []byte) (WatchRemove, error) {
	r := NewReader(body)
	r.Version()
	a := WatchRemove{Token: r.request()}
	n := r.Count(1)
	if n > MaxWatches {
		r.Fail(errMany)
	}
	for i := 0; i < n && !r.Failed(); i++ {
		a.IDs = append(a.IDs, r.Uint())
	}
	return a, r.End("watches to end")
}

// What became of a watched key or prefix.
const (
	NoticeChanged = 0 // it did change; no row is carried
	NoticeRow     = 1 // this is the row now
	NoticeGone    = 2 // the key is not there
)

// Notice says that a watch has something new. More says that it was more than one change since its last notice: the
// reader was slower than the writers, and has the newest all the same.
type Notice struct {
	ID   uint64
	Kind byte
	More bool
	Row  Row // of NoticeRow
}

// Append encodes one notice. Items are made of Notices' head and these.
func (n Notice) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, n.ID)
	kind := n.Kind
	if n.More {
		kind |= moreBit
	}
	b = append(b, kind)
	if n.Kind == NoticeRow {
		b = n.Row.append(b)
	}
	return b
}

const moreBit = 0x80

// Notices is an item: all that it tells of is included in Revision, from which a watch resumes.
type Notices struct {
	Revision uint64
	Notices  []Notice
}

// AppendNotices begins an item; its notices follow.
func AppendNotices(b []byte, revision uint64) []byte {
	return binary.AppendUvarint(append(b, Version), revision)
}

var errNotice = errors.New("notice of an unknown kind")

// ParseNotices decodes.
func ParseNotices(item []byte) (a Notices, err error) {
	r := NewReader(item)
	r.Version()
	a.Revision = r.Uint()
	for r.Left() > 0 {
		n := Notice{ID: r.Uint()}
		kind := r.Byte()
		n.Kind, n.More = kind&^moreBit, kind&moreBit != 0
		switch n.Kind {
		case NoticeRow:
			n.Row = r.row()
		case NoticeChanged, NoticeGone:
		default:
			r.Fail(errNotice)
		}
		if !r.Failed() {
			a.Notices = append(a.Notices, n)
		}
	}
	return a, r.End("notices")
}
