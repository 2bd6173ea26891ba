package api

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

func report(node, kind string) state.EventAppend {
	return state.EventAppend{ID: [16]byte{1}, Node: node, Kind: kind, Message: "m"}
}

// forward asks the leader as another agent would, whatever that agent itself thinks it may do.
func forward(t *testing.T, leader *fakeAgent, from string, role policy.Role, kind string, cmd state.Command) error {
	t.Helper()
	command, err := state.Encode(state.Envelope{Caller: "agent:" + from, Command: cmd}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	body := appendExecute(nil, executeRequest{role: role, kind: kind, command: command})
	_, err = leader.service.HandleRPC(context.Background(), from, methodExecute, body)
	return err
}

// An agent reports about itself with the weakest role that a member has, and in nobody else's name: the leader goes by
// the certificate of who asks, not by what the event says.
func TestAgentsReportInTheirOwnNameOnly(t *testing.T) {
	c := newFake(t, 3, 1)
	leader := c.agents["a1"]
	for _, test := range []struct {
		what, from, caller string
		event              state.EventAppend
		want               string
	}{
		{"its own start", "a2", KindInternal, report("a2", EventStarted), ""},
		{"in another's name", "a2", KindInternal, report("a3", EventStarted), CodeDenied},
		{"in the leader's name", "a2", KindInternal, report("a1", EventStarted), CodeDenied},
		{"that a member is dead, from outside the core", "a2", KindInternal, report("a2", EventMemberDead), CodeDenied},
		{"that it leads, from outside the core", "a2", KindInternal, report("a2", EventLeader), CodeDenied},
		{"an agent's event by a person", "a2", KindSocket, report("a2", EventStarted), CodeDenied},
		{"a note through an agent that may not write", "a2", KindSocket, report("a2", state.EventNote), CodeDenied},
		{"a stranger", "a9", KindInternal, report("a9", EventStarted), CodeDenied},
	} {
		err := forward(t, leader, test.from, policy.Operator, test.caller, test.event)
		if got := codeOf(err); got != test.want {
			t.Errorf("%s: got %q (%v), want %q", test.what, got, err, test.want)
		}
	}
	leader.cluster.agents["a2"].role = policy.Operator // as with the core grant
	if err := forward(t, leader, "a2", policy.Operator, KindInternal, report("a2", EventMemberDead)); err != nil {
		t.Errorf("from the core: %v", err)
	}
	if _, err := leader.service.Execute(context.Background(), Internal("a1"), report("a2", EventStarted)); codeOf(err) != CodeDenied {
		t.Errorf("the leader in another's name: %v", err)
	}
	if _, err := leader.service.Execute(context.Background(), Internal("a1"), report("a1", EventLeader)); err != nil {
		t.Errorf("the leader about itself: %v", err)
	}
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}

func listEvents(t *testing.T, a *fakeAgent, query string) []Event {
	t.Helper()
	w := do(a.service.Handler(Loopback), "GET", "/parley/v1/events"+query, "")
	var rows []Event
	if err := json.Unmarshal(w.Body.Bytes(), &rows); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s (%v)", query, w.Code, w.Body, err)
	}
	return rows
}

// Filters cut what was asked, limit keeps the newest, and what waits to be written stands flagged at the end until it
// is written.
func TestEventList(t *testing.T) {
	c := newFake(t, 1, 1)
	a := c.agents["a1"]
	for i, kind := range []string{EventStarted, EventLeader, EventStarted} {
		e := report("a1", kind)
		e.ID = [16]byte{byte(i + 1)}
		if _, err := a.service.Execute(context.Background(), Internal("a1"), e); err != nil {
			t.Fatal(err)
		}
	}
	a.pending = []state.EventAppend{
		{ID: [16]byte{3}, Node: "a1", Kind: EventStarted}, // the answer to its report was lost
		{ID: [16]byte{4}, Node: "a1", Kind: EventAlert, Origin: fakeStamp},
	}
	all := listEvents(t, a, "")
	if len(all) != 4 || all[2].Pending || !all[3].Pending || all[3].HLC != "" || all[3].Time.IsZero() {
		t.Fatalf("got %+v, want three events and a pending one", all)
	}
	for query, want := range map[string]int{
		"?kind=agent-started": 2, "?kind=alert-firing": 1, "?limit=2": 2, "?limit=0": 4, "?since=1h": 4,
		"?since=" + all[0].HLC: 3, "?since=" + all[2].HLC: 1,
	} {
		if got := listEvents(t, a, query); len(got) != want {
			t.Errorf("%s: got %d events, want %d", query, len(got), want)
		}
	}
	if got := listEvents(t, a, "?limit=2"); got[1].Kind != EventAlert || got[0].HLC != all[2].HLC {
		t.Errorf("limit=2: got %+v, want the newest", got)
	}
	for _, query := range []string{"?since=yesterday", "?limit=x", "?index=-1", "?knd=x", "?kind=nope"} {
		if w := do(a.service.Handler(Loopback), "GET", "/parley/v1/events"+query, ""); w.Code != 400 {
			t.Errorf("%s: got %d, want 400", query, w.Code)
		}
	}
}

// Whoever asks for a kind is told which there are, so the list has to have all of them.
func TestEventKinds(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{state.EventNote, state.EventRecovered}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(spec.Names[0].Name, "Event") && len(spec.Values) == 1 {
			kind, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, kind)
		}
		return true
	})
	got := slices.Sorted(slices.Values(eventKinds))
	slices.Sort(kinds)
	if !slices.Equal(got, kinds) {
		t.Errorf("got  %q\nwant %q", got, kinds)
	}
}

// A note says who wrote it and through which agent; an empty, long or many-lined one is refused.
func TestEventAdd(t *testing.T) {
	c := newFake(t, 1, 1)
	a := c.agents["a1"]
	w := do(a.service.Handler(Loopback), "POST", "/parley/v1/events", `{"message":"moved the rack"}`)
	var added noteAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &added); err != nil || w.Code != 200 || added.Node != "a1" {
		t.Fatalf("got %d %s (%v)", w.Code, w.Body, err)
	}
	got := listEvents(t, a, "")
	if len(got) != 1 || got[0].HLC != added.HLC || got[0].Message != "moved the rack" || got[0].Kind != state.EventNote {
		t.Errorf("got %+v, want the note at %s", got, added.HLC)
	}
	for _, body := range []string{`{}`, `{"message":"a\nb"}`, `{"message":"` + strings.Repeat("x", state.MaxEventMessageBytes+1) + `"}`} {
		if w := do(a.service.Handler(Loopback), "POST", "/parley/v1/events", body); w.Code != 400 {
			t.Errorf("%.40s: got %d, want 400", body, w.Code)
		}
	}
}

// A blocking list answers when a later event comes, and as things are when the wait is over.
func TestBlockingEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, 1, 1)
		a := c.agents["a1"]
		if _, err := a.service.Execute(t.Context(), Internal("a1"), report("a1", EventStarted)); err != nil {
			t.Fatal(err)
		}
		h := a.service.Handler(Loopback)
		index := do(h, "GET", "/parley/v1/events", "").Header().Get(headerRevision)
		began := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			e := report("a1", EventStopping)
			e.ID = [16]byte{2}
			_, _ = a.service.Execute(context.Background(), Internal("a1"), e)
		}()
		if got := listEvents(t, a, "?wait=30s&index="+index); len(got) != 2 || time.Since(began) != 3*time.Second {
			t.Errorf("got %d events after %s, want 2 after 3s", len(got), time.Since(began))
		}
		index = do(h, "GET", "/parley/v1/events", "").Header().Get(headerRevision)
		began = time.Now()
		if got := listEvents(t, a, "?wait=5s&index="+index); len(got) != 2 || time.Since(began) != 5*time.Second {
			t.Errorf("got %d events after %s, want 2 after 5s", len(got), time.Since(began))
		}
	})
}

// Which rows differ is for operators: the keys of others are not for who may only look at digests.
func TestDifferencesAreForOperators(t *testing.T) {
	for role, want := range map[policy.Role]bool{policy.Discovery: false, policy.Local: false, policy.Operator: true} {
		o := newFake(t, 1, 1).agents["a1"].options()
		o.AnonymousRole = role
		o.Local.CompareDigests = func(context.Context) (DigestComparison, error) {
			return DigestComparison{Groups: 2, Differences: []RowDifference{{Member: "a2", Table: "kv", Key: "secret/plan"}}}, nil
		}
		w := do(New(o).Handler(Loopback), "GET", "/parley/v1/digest/compare", "")
		if got := strings.Contains(w.Body.String(), "secret/plan"); got != want || w.Code != 200 {
			t.Errorf("%s: %d %s", role, w.Code, w.Body)
		}
	}
}

// since counts back from the newest stamp known, and not past the first moment.
func TestBack(t *testing.T) {
	s := clock.Stamp(5000 << 16)
	for d, want := range map[time.Duration]clock.Stamp{0: s, time.Second: 4000 << 16, 5 * time.Second: 0, time.Hour: 0} {
		if got := back(s, d); got != want {
			t.Errorf("back %s: got %s, want %s", d, got, want)
		}
	}
}
