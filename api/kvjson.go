package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

// The answers to a put and a get of one key are written by hand, because most requests end with one: the bytes are those
// that encoding/json makes of written and Pair, without reflection and without garbage.

// maxPooledAnswer keeps one large value from staying in memory for ever.
const maxPooledAnswer = 16 << 10

var answers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// writeBuilt sends what build appends as JSON. W keeps no reference to it.
func (x *Exchange) writeBuilt(build func([]byte) []byte) error {
	buffer, _ := answers.Get().(*[]byte)
	*buffer = append(build((*buffer)[:0]), '\n')
	err := x.Write(http.StatusOK, "application/json", *buffer)
	if cap(*buffer) <= maxPooledAnswer {
		answers.Put(buffer)
	}
	return err
}

func appendWritten(b []byte, w written) []byte {
	b = appendJSONText(append(b, `{"key":`...), w.Key)
	b = strconv.AppendUint(append(b, `,"revision":`...), w.Revision, 10)
	if w.Deleted != nil {
		b = strconv.AppendUint(append(b, `,"deleted":`...), *w.Deleted, 10)
	}
	if w.LockIndex != 0 {
		b = strconv.AppendUint(append(b, `,"lock_index":`...), w.LockIndex, 10)
	}
	return append(b, '}')
}

func appendPair(b []byte, kv state.KV) []byte {
	b = appendJSONText(append(b, `{"key":`...), kv.Key)
	if utf8.Valid(kv.Value) {
		b = appendJSONText(append(b, `,"value":`...), kv.Value)
	} else {
		b = base64.StdEncoding.AppendEncode(append(b, `,"value_base64":"`...), kv.Value)
		b = append(b, '"')
	}
	b = strconv.AppendUint(append(b, `,"flags":`...), kv.Flags, 10)
	b = strconv.AppendUint(append(b, `,"revision":`...), kv.ModRevision, 10)
	b = strconv.AppendUint(append(b, `,"create_revision":`...), kv.CreateRevision, 10)
	b = strconv.AppendUint(append(b, `,"version":`...), kv.Version, 10)
	b = kv.ModifiedAt.Wall().UTC().AppendFormat(append(b, `,"modified_at":"`...), time.RFC3339Nano)
	b = append(appendStamp(append(b, `","modified_hlc":"`...), kv.ModifiedAt), '"')
	if kv.Session != "" {
		b = appendJSONText(append(b, `,"session":`...), kv.Session)
	}
	if kv.LockIndex != 0 {
		b = strconv.AppendUint(append(b, `,"lock_index":`...), kv.LockIndex, 10)
	}
	return append(b, '}')
}

// appendStamp is clock.Stamp.String without a string.
func appendStamp(b []byte, s clock.Stamp) []byte {
	b = strconv.AppendInt(b, s.Wall().UnixMilli(), 10)
	return strconv.AppendUint(append(b, '.'), uint64(s.Logical()), 10)
}

// appendJSONText writes text that is valid UTF-8. Whatever JSON or HTML would read as more than a letter is left to
// encoding/json.
func appendJSONText[T ~string | ~[]byte](b []byte, text T) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(string(text)) // a string always encodes
			return append(b, quoted...)
		}
	}
	b = append(append(b, '"'), text...)
	return append(b, '"')
}
