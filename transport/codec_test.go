package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestFramesSurviveTheWire(t *testing.T) {
	frames := []outFrame{
		{kind: kindRequest, id: 1, priority: PriorityBulk, request: request{method: "m", deadline: 7, window: 9, body: []byte("body")}},
		{kind: kindRequest, id: 2, request: request{method: strings.Repeat("x", maxMethod), body: make([]byte, MaxBody)}},
		{kind: kindResponse, id: 1, body: make([]byte, MaxBody)},
		{kind: kindError, id: 3, failure: &Error{Code: "c", Message: "m", Hint: "h", Leader: "l"}},
		{kind: kindItem, id: 4, body: []byte("item")},
		{kind: kindEnd, id: 4}, {kind: kindCancel, id: 5}, {kind: kindPing}, {kind: kindPong},
		{kind: kindGoaway, id: math.MaxUint64},
		{kind: kindCredit, id: 4, grant: 77},
	}
	var wireBytes []byte
	for i := range frames {
		wireBytes = frames[i].append(wireBytes)
	}
	in := receiver{r: bufio.NewReader(bytes.NewReader(wireBytes))}
	for i := range frames {
		h, err := in.next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		want := header{kind: frames[i].kind, flags: uint8(frames[i].priority), id: frames[i].id, payload: frames[i].size()}
		if h != want {
			t.Errorf("frame %d: got %+v, want %+v", i, h, want)
		}
		if _, err := in.payload(h.payload); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if _, err := in.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: got %v, want EOF", err)
	}
}

func TestBadHeadersAreRefusedBeforeTheirPayload(t *testing.T) {
	valid := appendHeader(nil, header{kind: kindResponse, id: 1, payload: MaxBody})
	if _, err := parseHeader(valid); err != nil {
		t.Fatalf("control: %v", err)
	}
	bad := map[string][]byte{
		"one byte over the body limit": appendHeader(nil, header{kind: kindResponse, payload: MaxBody + 1}),
		"one byte over the largest":    appendHeader(nil, header{kind: kindRequest, payload: maxPayload + 1}),
		"length below the header":      {0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"length of four gigabytes":     {255, 255, 255, 255, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"kind 0":                       appendHeader(nil, header{}),
		"kind 11":                      appendHeader(nil, header{kind: 11}),
		"priority 5":                   appendHeader(nil, header{kind: kindRequest, flags: 5}),
		"flags on a response":          appendHeader(nil, header{kind: kindResponse, flags: 1}),
		"ping with a payload":          appendHeader(nil, header{kind: kindPing, payload: 1}),
		"error over its limit":         appendHeader(nil, header{kind: kindError, payload: maxErrorBytes + 1}),
	}
	for name, b := range bad {
		if _, err := parseHeader(b); !errors.Is(err, errProtocol) {
			t.Errorf("%s: got %v, want errProtocol", name, err)
		}
	}
}

func TestBadPayloadsAreRefused(t *testing.T) {
	good := appendRequest(nil, request{method: "abc", body: []byte("x")})
	if _, err := parseRequest(good); err != nil {
		t.Fatalf("control: %v", err)
	}
	for n := range requestFixed + 3 {
		if _, err := parseRequest(good[:n]); err == nil {
			t.Errorf("request cut to %d bytes was accepted", n)
		}
	}
	if _, err := parseRequest(appendRequest(nil, request{})); err == nil {
		t.Error("request without a method was accepted")
	}
	if _, err := parseRequest(appendRequest(nil, request{method: "m", window: math.MaxInt32 + 1})); err == nil {
		t.Error("window over 2 GiB was accepted")
	}
	e := appendError(nil, &Error{Code: "c", Message: "m"})
	for n := range e {
		if _, err := parseError(e[:n]); err == nil {
			t.Errorf("error cut to %d bytes was accepted", n)
		}
	}
	if _, err := parseError(append(e, 0)); err == nil {
		t.Error("error with a trailing byte was accepted")
	}
	if _, err := parseError(appendError(nil, &Error{})); err == nil {
		t.Error("error without a code was accepted")
	}
}

func TestErrorOfALaterVersionIsRead(t *testing.T) {
	// A later version may add a fifth text: ours are read, the rest is ignored.
	b := appendError(nil, &Error{Code: "c", Message: "m", Hint: "h", Leader: "l"})
	b[0]++
	b = append(b, 0, 1, 'x')
	e, err := parseError(b)
	if err != nil || e.Code != "c" || e.Leader != "l" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestLongErrorTextsAreCutBetweenCharacters(t *testing.T) {
	b := appendError(nil, &Error{Code: "c", Message: strings.Repeat("é", maxErrorField)})
	e, err := parseError(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Message) > maxErrorField || !utf8.ValidString(e.Message) {
		t.Errorf("got %d bytes, valid UTF-8: %v", len(e.Message), utf8.ValidString(e.Message))
	}
}

func TestRemainingNeverTurnsALimitIntoNone(t *testing.T) {
	for _, c := range []struct {
		left time.Duration
		want uint32
	}{
		{-time.Second, 1}, {0, 1}, {1, 1}, {time.Millisecond, 1}, {time.Millisecond + 1, 2},
		{time.Second, 1000}, {math.MaxUint32 * time.Millisecond, math.MaxUint32}, {math.MaxInt64, 0},
	} {
		if got := remaining(c.left); got != c.want {
			t.Errorf("remaining(%v): got %d, want %d", c.left, got, c.want)
		}
	}
}

func TestAnnouncedBytesAreNotAllocatedAhead(t *testing.T) {
	// A peer that announces 4 MiB and sends 100 bytes must not make us hold 4 MiB.
	in := receiver{r: bufio.NewReader(bytes.NewReader(make([]byte, 100)))}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := in.payload(MaxBody)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want ErrUnexpectedEOF", err)
	}
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 2*readStep {
		t.Errorf("got %d bytes allocated, want at most %d", allocated, 2*readStep)
	}
}

// FuzzFrames feeds bytes to both ends' readers: whatever comes, they return an error and no panic,
// and what they accept they encode back to the same bytes.
func FuzzFrames(f *testing.F) {
	seed := (&outFrame{kind: kindRequest, id: 1, request: request{method: "echo", body: []byte("x")}}).append(nil)
	f.Add((&outFrame{kind: kindCredit, id: 1, grant: 5}).append(seed))
	f.Add((&outFrame{kind: kindError, id: 1, failure: &Error{Code: "c"}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := receiver{r: bufio.NewReader(bytes.NewReader(b))}
		var again []byte
		for {
			h, err := in.next()
			if err != nil {
				break
			}
			payload, err := in.payload(h.payload)
			if err != nil {
				break
			}
			again = append(appendHeader(again, h), payload...)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("decoded and encoded again: got %x of %x", again, b)
		}
	})
}

// FuzzRequest: a request that is accepted encodes back to the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add(appendRequest(nil, request{method: "kv.get", deadline: 1, window: 2, body: []byte("b")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err == nil && !bytes.Equal(appendRequest(nil, r), b) {
			t.Fatalf("got %x, want %x", appendRequest(nil, r), b)
		}
	})
}

// FuzzError: an error payload that is accepted can be encoded and read again to the same texts.
func FuzzError(f *testing.F) {
	f.Add(appendError(nil, &Error{Code: "c", Message: "m", Hint: "h", Leader: "l"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseError(b)
		if err != nil {
			return
		}
		again, err := parseError(appendError(nil, e))
		if err != nil || *again != *e {
			t.Fatalf("got %+v, %v, want %+v", again, err, e)
		}
	})
}
