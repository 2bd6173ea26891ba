package api

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// callInHand is a call that a test makes.
type callInHand struct {
	answers chan []byte
	wentOn  bool
	ctx     context.Context
}

func (c *callInHand) Answer(body []byte) { c.answers <- body }

func (c *callInHand) GoOn(rest func(context.Context) []byte) {
	c.wentOn = true
	go func() { c.answers <- rest(c.ctx) }()
}

var remote = Caller{Role: policy.Operator, Name: "spiffe://example.org/parley/agent/a9", Kind: KindMTLS}

// tryPut makes a put as the mesh port does: begun if it can be, else by the handler.
func (s *Service) tryPut(ctx context.Context, caller Caller, put wire.Put) (answer []byte, begun, wentOn bool) {
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	call := &callInHand{answers: make(chan []byte, 2), ctx: ctx}
	body := put.Append(nil)
	giveUp := s.BeginPut(ctx, caller, body, call)
	if giveUp == nil {
		return s.ClientHandler()(ctx, caller, wire.MethodPut, body), false, false
	}
	defer context.AfterFunc(ctx, func() { giveUp(ctx.Err()) })()
	return <-call.answers, true, call.wentOn
}

// atRest fails the test if a put has kept a place.
func (s *Service) atRest(t *testing.T) {
	t.Helper()
	s.gate.mu.Lock()
	open := s.gate.mu.open
	s.gate.mu.Unlock()
	s.concurrent.mu.Lock()
	defer s.concurrent.mu.Unlock()
	if open != 0 || len(s.concurrent.mu.open) != 0 {
		t.Errorf("%d writes are under way, open are %v", open, s.concurrent.mu.open)
	}
}

func parseWritten(t *testing.T, answer []byte) (wire.Written, wire.Failure) {
	t.Helper()
	w, failed, err := wire.ParseWritten(answer)
	if err != nil {
		t.Fatal(err)
	}
	if failed == nil {
		failed = &wire.Failure{}
	}
	return w, *failed
}

func failureOf(t *testing.T, answer []byte) wire.Failure {
	t.Helper()
	_, f := parseWritten(t, answer)
	return f
}

// A put that is begun is answered and told as one that a goroutine waits for, and so is one that cannot be begun.
func TestBegunPutsAnswerAsOthers(t *testing.T) {
	seven := uint64(7)
	for _, test := range []struct {
		what   string
		put    wire.Put
		caller Caller
		begun  bool
	}{
		{"plain", wire.Put{Key: "k", Value: []byte("v"), Flags: 3}, remote, true},
		{"by an id of its own", wire.Put{Key: "k", Request: newRequestID(0)}, remote, true},
		{"of another revision", wire.Put{Key: "k", Compare: &seven}, remote, true},
		{"without a key", wire.Put{}, remote, false},
		{"too large", wire.Put{Key: "k", Value: make([]byte, state.MaxValueBytes+1)}, remote, false},
		{"without the right", wire.Put{Key: "k"}, Caller{Role: policy.Discovery, Name: "b", Kind: KindMTLS}, false},
		{"of a session", wire.Put{Key: "k", Session: "none"}, remote, false},
		{"of an agent itself", wire.Put{Key: "k"}, Internal("a1"), false},
	} {
		var answers [2]wire.Written
		var failures [2]wire.Failure
		var events [2][]string
		for i, begins := range []bool{true, false} {
			c := newFake(t, 1, 1)
			s := observed(c.agents["a1"], &events[i])
			if !begins {
				s.local.Begin = nil
			}
			answer, begun, wentOn := s.tryPut(t.Context(), test.caller, test.put)
			if begun != (test.begun && begins) || wentOn {
				t.Errorf("%s: begun %v, went on %v", test.what, begun, wentOn)
			}
			s.atRest(t)
			answers[i], failures[i] = parseWritten(t, answer)
		}
		if fmt.Sprint(answers[0]) != fmt.Sprint(answers[1]) || fmt.Sprint(failures[0]) != fmt.Sprint(failures[1]) || !slices.Equal(events[0], events[1]) {
			t.Errorf("%s: begun %+v, %+v, told %q; else %+v, %+v, told %q", test.what, answers[0], failures[0], events[0], answers[1], failures[1], events[1])
		}
	}
}

// beginFails has the first put that is begun fail, after or before it is done; what follows goes the way of all writes.
func (a *fakeAgent) beginFails(does bool, failed error, then func()) {
	var once sync.Once
	a.begin = func(command []byte, done func(Proposed, error)) func(error) {
		if does {
			if _, err := a.apply(command); err != nil {
				a.cluster.t.Error(err)
			}
		}
		once.Do(then)
		done(Proposed{}, failed)
		return func(error) {}
	}
}

// The lead is lost after a put was begun, which was done or not: it is sent to the next leader, happens once, and a
// compare-and-set does not lose to itself.
func TestBegunPutOutlivesItsLeader(t *testing.T) {
	for _, does := range []bool{true, false} {
		for _, failed := range []error{Errorf(CodeOutcomeUnknown, "lost"), Errorf(CodeNotLeader, "a1 does not lead")} {
			if does && AsError(failed).Code == CodeNotLeader {
				continue
			}
			c := newFake(t, 2, 2)
			c.put("before", "v")
			a1 := c.agents["a1"]
			a1.beginFails(does, failed, func() { c.setLeader("a2") })
			zero := uint64(0)
			answer, begun, wentOn := a1.service.tryPut(t.Context(), remote, wire.Put{Key: "k", Value: []byte("v"), Compare: &zero})
			w, f := parseWritten(t, answer)
			kv, _ := c.machine.View().Get("k")
			if !begun || !wentOn || w.Revision != kv.CreateRevision || string(kv.Value) != "v" || w.Place.Node != "a2" {
				t.Errorf("done %v, %v: %+v, %+v, begun %v, went on %v; the key is %+v", does, failed, w, f, begun, wentOn, kv)
			}
			a1.service.atRest(t)
		}
	}
}

// What a second try comes to says nothing about the first: nobody leads any more, and the caller is told that it is not known, and
// by which id to ask. Of a first try that surely did nothing it is told that there is no leader.
func TestBegunPutStaysUnknown(t *testing.T) {
	for failed, want := range map[*Error]string{Errorf(CodeOutcomeUnknown, "lost"): CodeOutcomeUnknown, Errorf(CodeNotLeader, "lost"): CodeNoLeader} {
		c := newFake(t, 1, 1)
		a1 := c.agents["a1"]
		a1.beginFails(false, failed, func() { c.setLeader("") })
		answer, _, _ := a1.service.tryPut(t.Context(), remote, wire.Put{Key: "k"})
		if f := failureOf(t, answer); f.Code != want || (f.RequestID != "") != (want == CodeOutcomeUnknown) {
			t.Errorf("after %v: %+v", failed, f)
		}
		a1.service.atRest(t)
	}
}

// An id that was made here and is too old for the state is made anew. One of the caller's is not.
func TestBegunPutRenewsItsID(t *testing.T) {
	c := newFake(t, 1, 1)
	a1 := c.agents["a1"]
	c.forget() // its hub has not heard of it
	if w, f := parseWritten(t, first(a1.service.tryPut(t.Context(), remote, wire.Put{Key: "k"}))); w.Revision == 0 {
		t.Errorf("by an id of the agent's: %+v, %+v", w, f)
	}
	if f := failureOf(t, first(a1.service.tryPut(t.Context(), remote, wire.Put{Key: "k", Request: newRequestID(0)}))); f.Code != CodeRequestForgotten {
		t.Errorf("by the caller's id: %+v", f)
	}
	a1.service.atRest(t)
}

func first(answer []byte, _, _ bool) []byte { return answer }

// A put is not begun where others wait for a place, or where its caller has too many: it waits behind them, or is refused.
func TestBegunPutsTakeTheirTurn(t *testing.T) {
	c := newFake(t, 1, 1)
	s := c.agents["a1"].service
	s.gate.mu.limit = 0
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	answer, begun, _ := s.tryPut(ctx, remote, wire.Put{Key: "k"})
	if f := failureOf(t, answer); begun || f.Code != CodeBusy {
		t.Errorf("without a place: begun %v, %+v", begun, f)
	}
	s.gate.mu.limit = 1
	if _, begun, _ = s.tryPut(t.Context(), remote, wire.Put{Key: "k"}); !begun {
		t.Error("with a place it is not begun")
	}
	for s.concurrent.acquire(remote.identity()) { //nolint:revive // until it has them all
	}
	answer, begun, _ = s.tryPut(t.Context(), remote, wire.Put{Key: "k"})
	if f := failureOf(t, answer); begun || f.Code != CodeTooMany {
		t.Errorf("with too many: begun %v, %+v", begun, f)
	}
}

// A put that was begun ends with its call, and its caller is told what may have become of it.
func TestBegunPutIsGivenUp(t *testing.T) {
	c := newFake(t, 1, 1)
	a1 := c.agents["a1"]
	a1.begin = func(_ []byte, done func(Proposed, error)) func(error) {
		return func(cause error) { done(Proposed{}, Errorf(CodeOutcomeUnknown, "given up: %v", cause)) }
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	answer, begun, wentOn := a1.service.tryPut(ctx, remote, wire.Put{Key: "k"})
	if f := failureOf(t, answer); !begun || !wentOn || f.Code != CodeOutcomeUnknown || f.RequestID == "" {
		t.Errorf("begun %v, went on %v, %+v", begun, wentOn, f)
	}
	a1.service.atRest(t)
}

// A panic does not reach the goroutine that applies. It is logged, and of the write nothing is known.
func TestBegunPutPanics(t *testing.T) {
	c := newFake(t, 1, 1)
	a1 := c.agents["a1"]
	core, logs := observer.New(zap.ErrorLevel)
	o := a1.options()
	o.Log = zap.New(core)
	o.Observe.Write = func(bool) func(int, bool) { return func(int, bool) { panic("index out of range") } }
	s := New(o)
	answer, begun, _ := s.tryPut(t.Context(), remote, wire.Put{Key: "k"})
	if f := failureOf(t, answer); !begun || f.Code != CodeOutcomeUnknown || logs.Len() != 1 {
		t.Errorf("begun %v, %+v, %d lines", begun, f, logs.Len())
	}
	s.atRest(t)
}
