package api

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

var sampleRead = readRequest{
	role: policy.Local, kind: KindSocket, name: "uid:0@a2",
	query: KVQuery{Key: "web/", Prefix: true, KeysOnly: true, Consistency: Stale, MinRevision: 7, Wait: 1500 * time.Millisecond, Limit: 9},
}

func sampleAnswer() KVAnswer {
	return KVAnswer{
		Revision: 5, Index: 9, Term: 2, Stamp: fakeStamp, Node: "a1",
		Rows: []state.KV{
			{Key: "a", Value: []byte("1"), Flags: 3, CreateRevision: 1, ModRevision: 5, Version: 2, ModifiedAt: fakeStamp, Session: "s", LockIndex: 4},
			{Key: "b", Value: []byte{0xff}},
		},
	}
}

func TestCodecRoundTrip(t *testing.T) {
	execute := executeRequest{role: policy.Operator, kind: KindMTLS, command: []byte("command")}
	if got, err := parseExecute(appendExecute(nil, execute)); err != nil || !reflect.DeepEqual(got, execute) {
		t.Errorf("execute: %+v, %v", got, err)
	}
	if got, err := parseRead(appendRead(nil, sampleRead)); err != nil || !reflect.DeepEqual(got, sampleRead) {
		t.Errorf("read: %+v, %v", got, err)
	}
	if got, err := parseAnswer(appendAnswer(nil, sampleAnswer())); err != nil || !reflect.DeepEqual(got, sampleAnswer()) {
		t.Errorf("answer: %+v, %v", got, err)
	}
	result := state.EncodeResult(state.Result{Code: state.CodeConflict, Message: "m", Revision: 3})
	applied := Applied{Proposed: Proposed{Index: 4, Term: 2, Stamp: fakeStamp, Data: result}, Node: "a1"}
	got, err := parseApplied(appendApplied(nil, applied))
	if err != nil || got.Result.Code != state.CodeConflict || got.Index != 4 || got.Node != "a1" {
		t.Errorf("applied: %+v, %v", got, err)
	}
}

// What is cut short, of another version, followed by more, or over a limit is refused.
func TestCodecRefuses(t *testing.T) {
	whole := appendRead(nil, sampleRead)
	for n := range whole {
		if _, err := parseRead(whole[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(whole))
		}
	}
	long := sampleRead
	long.query.Key = strings.Repeat("k", state.MaxKeyBytes+1)
	name := sampleRead
	name.name = strings.Repeat("n", maxNameBytes+1)
	for what, body := range map[string][]byte{
		"another version": append([]byte{wire.Version + 1}, whole[1:]...),
		"more bytes":      append(append([]byte{}, whole...), 0),
		"a long key":      appendRead(nil, long),
		"a long name":     appendRead(nil, name),
	} {
		if _, err := parseRead(body); err == nil {
			t.Errorf("accepted %s", what)
		}
	}
	command := executeRequest{command: make([]byte, state.MaxCommandBytes+1)}
	if _, err := parseExecute(appendExecute(nil, command)); err == nil {
		t.Error("accepted a command over the limit")
	}
	// A count of rows must not allocate more than the bytes behind it could hold.
	if _, err := parseAnswer([]byte{wire.Version, 1, 1, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}); err == nil {
		t.Error("accepted four billion rows in no bytes")
	}
}

func FuzzCodec(f *testing.F) {
	f.Add(appendRead(nil, sampleRead))
	f.Add(appendAnswer(nil, sampleAnswer()))
	f.Add(appendExecute(nil, executeRequest{role: policy.Local, kind: KindSocket, command: []byte("c")}))
	f.Add(appendApplied(nil, Applied{Proposed: Proposed{Data: state.EncodeResult(state.Result{})}, Node: "a1"}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if req, err := parseRead(body); err == nil {
			again, err := parseRead(appendRead(nil, req))
			if err != nil || !reflect.DeepEqual(again, req) {
				t.Errorf("read %+v came back as %+v, %v", req, again, err)
			}
		}
		if a, err := parseAnswer(body); err == nil {
			again, err := parseAnswer(appendAnswer(nil, a))
			if err != nil || !reflect.DeepEqual(again, a) {
				t.Errorf("answer %+v came back as %+v, %v", a, again, err)
			}
		}
		if req, err := parseExecute(body); err == nil {
			again, err := parseExecute(appendExecute(nil, req))
			if err != nil || !reflect.DeepEqual(again, req) {
				t.Errorf("command %+v came back as %+v, %v", req, again, err)
			}
		}
		_, _ = parseApplied(body)
	})
}

// Whatever another agent sends, HandleRPC answers or refuses; it does not panic and proposes nothing.
func FuzzHandleRPC(f *testing.F) {
	c := newFake(f, 2, 2)
	f.Add(uint8(0), appendExecute(nil, executeRequest{role: policy.Local, command: []byte("c")}))
	f.Add(uint8(1), appendRead(nil, sampleRead))
	service := c.agents["a1"].service
	f.Fuzz(func(t *testing.T, method uint8, body []byte) {
		if req, err := parseRead(body); err == nil && req.query.Wait > 0 {
			return // would wait
		}
		_, err := service.HandleRPC(t.Context(), "nobody", service.Methods()[int(method)%len(service.Methods())], body)
		if err != nil && AsError(err).Code == CodeInternal {
			t.Errorf("internal: %v", err)
		}
	})
}
