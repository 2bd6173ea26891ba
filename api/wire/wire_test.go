package wire

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

var seven = uint64(7)

var place = Place{Node: "a1", Term: 2, Index: 9, Stamp: 1 << 40}

var row = Row{Key: "k", Value: []byte{0xff}, Flags: 1, CreateRevision: 2, Revision: 3, Version: 4, ModifiedAt: 5, Session: "s", LockIndex: 6}

// samples is one of each message, and how it is read back.
func samples() map[string]struct {
	body  []byte
	parse func([]byte) (any, error)
	want  any
} {
	failure := Failure{Code: "busy", Message: "m", Hint: "h", Leader: "a2", RequestID: "r", Place: place, Status: 429, ExitCode: 3, Retryable: true, RetryAfter: time.Second}
	get := Get{Key: "k/", Prefix: true, KeysOnly: true, Stale: true, MinRevision: 3, Wait: time.Second, Limit: 9}
	put := Put{Request: RequestID{1}, Key: "k", Value: []byte("v"), Flags: 3, Compare: &seven, Session: "s", Release: true}
	del := Delete{Request: RequestID{2}, Key: "k", Prefix: true, Compare: &seven}
	rows := Rows{Place: place, Revision: 8, Rows: []Row{row, row}}
	written := Written{Place: place, Revision: 1, Deleted: 2, LockIndex: 3}
	call := Call{Method: "GET", Target: "/livez?a=b", RequestID: "00", ReadOnly: true, Body: []byte("{}")}
	reply := Reply{Status: 200, Receipt: "node=a1", Body: []byte("ok")}
	add := WatchAdd{Token: Token{9}, Watches: []Watch{{ID: 1, Key: "k", Values: true, After: 7}, {ID: 2, Prefix: true}}}
	remove := WatchRemove{Token: Token{9}, IDs: []uint64{1, 1 << 60}}
	notices := Notices{Revision: 5, Notices: []Notice{{ID: 1, Kind: NoticeRow, Row: row}, {ID: 2, Kind: NoticeGone, More: true}, {ID: 3}}}
	items := AppendNotices(nil, notices.Revision)
	for _, n := range notices.Notices {
		items = n.Append(items)
	}
	type sample = struct {
		body  []byte
		parse func([]byte) (any, error)
		want  any
	}
	return map[string]sample{
		"get":     {get.Append(nil), func(b []byte) (any, error) { return ParseGet(b) }, get},
		"put":     {put.Append(nil), func(b []byte) (any, error) { return ParsePut(b) }, put},
		"delete":  {del.Append(nil), func(b []byte) (any, error) { return ParseDelete(b) }, del},
		"call":    {call.Append(nil), func(b []byte) (any, error) { return ParseCall(b) }, call},
		"rows":    {rows.Append(nil), func(b []byte) (any, error) { a, _, err := ParseRows(b); return a, err }, rows},
		"written": {written.Append(nil), func(b []byte) (any, error) { a, _, err := ParseWritten(b); return a, err }, written},
		"reply":   {reply.Append(nil), func(b []byte) (any, error) { a, _, err := ParseReply(b); return a, err }, reply},
		"failure": {failure.Append(nil), func(b []byte) (any, error) { _, f, err := ParseRows(b); return f, err }, &failure},
		"hello":   {Hello{Token: Token{7}}.Append(nil), func(b []byte) (any, error) { return ParseHello(b) }, Hello{Token: Token{7}}},
		"add":     {add.Append(nil), func(b []byte) (any, error) { return ParseWatchAdd(b) }, add},
		"remove":  {remove.Append(nil), func(b []byte) (any, error) { return ParseWatchRemove(b) }, remove},
		"notices": {items, func(b []byte) (any, error) { return ParseNotices(b) }, notices},
	}
}

// Every message is read back as it was, and is refused when a byte is missing, or one too many is there.
func TestMessages(t *testing.T) {
	for name, s := range samples() {
		got, err := s.parse(s.body)
		if err != nil || !reflect.DeepEqual(got, s.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, s.want)
		}
		for n := range s.body {
			if name == "notices" && n > 1 {
				break // it has as many notices as there are
			}
			if _, err := s.parse(s.body[:n]); err == nil {
				t.Errorf("%s: the first %d of %d bytes were taken for it", name, n, len(s.body))
			}
		}
		if _, err := s.parse(append(bytes.Clone(s.body), 0)); err == nil {
			t.Errorf("%s: a byte too many was taken", name)
		}
	}
	many := WatchAdd{Watches: make([]Watch, MaxWatches+1)}
	if _, err := ParseWatchAdd(many.Append(nil)); err == nil {
		t.Error("too many watches in one request were taken")
	}
}

// No input makes a decoder panic, or allocate what the input does not justify; what is taken is written as it was read.
func FuzzMessages(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, s := range samples() {
			_, _ = s.parse(body)
		}
		if p, err := ParsePut(body); err == nil {
			if again, err := ParsePut(p.Append(nil)); err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("put %+v is read back as %+v, %v", p, again, err)
			}
		}
		if a, failed, err := ParseRows(body); err == nil && failed == nil {
			if again, _, err := ParseRows(a.Append(nil)); err != nil || len(again.Rows) != len(a.Rows) {
				t.Errorf("rows %+v are read back as %+v, %v", a, again, err)
			}
		}
	})
}
