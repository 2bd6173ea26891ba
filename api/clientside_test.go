package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
)

// newClient talks to agent over its admin socket.
func newClient(t *testing.T, a *fakeAgent, options ...client.Option) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	serve(t, listen(t, "unix", path), a.service.Handler(Socket))
	c, err := client.New("unix://"+path, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The client of the same repository reads and writes everything that the endpoints offer.
func TestClientAgainstTheAPI(t *testing.T) {
	fake := newFake(t, 1, 1)
	c, ctx := newClient(t, fake.agents["a1"]), context.Background()
	zero := uint64(0)
	for _, key := range []string{"a//b", "../x", "ü?&#%", "\x00"} {
		written, err := c.Put(ctx, key, []byte(key), client.PutOptions{CAS: &zero, Flags: 7})
		if err != nil {
			t.Fatalf("put %q: %v", key, err)
		}
		pair, err := c.Get(ctx, key, client.ReadOptions{})
		if err != nil || string(pair.Value) != key || pair.Revision != written.Revision || pair.Flags != 7 {
			t.Errorf("get %q: %+v, %v", key, pair, err)
		}
	}
	for _, key := range []string{"k\xff", "k\xfe"} { // in JSON they would be the same key
		if _, err := c.Put(ctx, key, nil, client.PutOptions{}); !hasCode(err, CodeInvalid) {
			t.Errorf("put %q: %v", key, err)
		}
	}
	pairs, err := c.List(ctx, "", client.ListOptions{Stale: true})
	if err != nil || len(pairs) != 4 {
		t.Errorf("list: %d pairs, %v", len(pairs), err)
	}
	if _, err := c.Keys(ctx, "", client.ListOptions{Limit: -1}); !hasCode(err, CodeInvalid) {
		t.Errorf("a negative limit: %v", err)
	}
	if _, err := c.Events(ctx, client.EventOptions{Since: -1}); !hasCode(err, CodeInvalid) {
		t.Errorf("a negative length of time: %v", err)
	}
	keys, err := c.Keys(ctx, "", client.ListOptions{Limit: 2})
	if want := []string{"\x00", "../x"}; err != nil || !slices.Equal(keys, want) {
		t.Errorf("keys: %q, %v, want %q", keys, err, want)
	}
	txn, err := c.Txn(ctx, client.Txn{
		Compare: []client.Compare{{Key: "none"}},
		Then:    []client.Op{{Op: "put", Key: "t", Value: []byte{0xff}}, {Op: "get", Key: "t"}, {Op: "delete", Key: "../x"}},
	})
	if err != nil || !txn.Succeeded || len(txn.Results) != 3 || !bytes.Equal(txn.Results[1].Pair.Value, []byte{0xff}) || txn.Results[2].Deleted != 1 {
		t.Errorf("txn: %+v, %v", txn, err)
	}
	if done, err := c.Delete(ctx, "t", client.DeleteOptions{}); err != nil || done.Deleted != 1 {
		t.Errorf("delete: %+v, %v", done, err)
	}
	if done, err := c.DeletePrefix(ctx, "a"); err != nil || done.Deleted != 1 {
		t.Errorf("delete prefix: %+v, %v", done, err)
	}
	administer(t, c)
}

func administer(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := context.Background()
	token, err := c.CreateToken(ctx, client.TokenSpec{TTL: time.Hour, Uses: 2, Role: "local"})
	if err != nil || token.Token == "" || token.ExpiresAt.IsZero() || token.JoinCommand == "" {
		t.Errorf("create token: %+v, %v", token, err)
	}
	if tokens, err := c.Tokens(ctx); err != nil || len(tokens) != 1 || tokens[0].UsesLeft != 2 || tokens[0].Role != "local" {
		t.Errorf("tokens: %+v, %v", tokens, err)
	}
	status, err := c.Status(ctx)
	if err != nil || status.Name != "a1" || *status.Core.Leader != "a1" || status.SVID.NotAfter.IsZero() {
		t.Errorf("status: %+v, %v", status, err)
	}
	members, err := c.Members(ctx)
	if err != nil || !reflect.DeepEqual(members, []client.Member{{Name: "a1", SPIFFEID: "spiffe://example.org/parley/agent/a1", State: "alive", Address: "127.0.0.1:8310", Zone: "z1", Core: "leader"}}) {
		t.Errorf("members: %+v, %v", members, err)
	}
	core, err := c.Core(ctx)
	if err != nil || core.Size != 3 || len(core.Voters) != 1 {
		t.Errorf("core: %+v, %v", core, err)
	}
	health, err := c.Health(ctx)
	if err != nil || !health.Ready || len(health.Capabilities) != 2 {
		t.Errorf("health: %+v, %v", health, err)
	}
	observe(t, c)
	ready, text, err := c.Ready(ctx)
	if err != nil || !ready || text == "" {
		t.Errorf("ready: %v %q, %v", ready, text, err)
	}
	for what, err := range map[string]error{
		"live": c.Live(ctx), "allow": c.AllowCore(ctx, "a1", true), "size": c.SetCoreSize(ctx, 5), "role": c.SetAgentRole(ctx, "a1", "operator"),
		"revoke": c.RevokeToken(ctx, token.ID),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func observe(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := context.Background()
	added, err := c.AddEvent(ctx, "hello")
	if err != nil || added.HLC == "" || added.Node != "a1" {
		t.Errorf("add event: %+v, %v", added, err)
	}
	events, err := c.Events(ctx, client.EventOptions{Since: time.Hour, Limit: 5, Kind: state.EventNote})
	if err != nil || len(events) != 1 || events[0].HLC != added.HLC || events[0].Message != "hello" {
		t.Errorf("events: %+v, %v", events, err)
	}
	digests, err := c.CompareDigests(ctx)
	if err != nil || digests.Groups != 1 || len(digests.Members) != 1 || digests.Minority == nil {
		t.Errorf("digests: %+v, %v", digests, err)
	}
	matrix, err := c.NetMatrix(ctx)
	if err != nil || matrix.UDPFallback != 1 || len(matrix.Links) != 1 || matrix.Links[0].RTT != 0.5 {
		t.Errorf("matrix: %+v, %v", matrix, err)
	}
	node, err := c.Node(ctx, "a1")
	if err != nil || node.Incarnation != 3 || node.Starts10m != 1 || !node.Reachable {
		t.Errorf("node: %+v, %v", node, err)
	}
}

// A refusal arrives with everything that the table says of it.
func TestClientErrors(t *testing.T) {
	fake := newFake(t, 1, 1)
	fake.put("k", "v")
	c, ctx := newClient(t, fake.agents["a1"]), context.Background()
	one := uint64(1)
	_, missing := c.Get(ctx, "none", client.ReadOptions{})
	_, conflict := c.Put(ctx, "k", nil, client.PutOptions{CAS: &one})
	_, large := c.Put(ctx, "k", make([]byte, state.MaxValueBytes+1), client.PutOptions{})
	fake.agents["a1"].role = "none"
	_, denied := c.Get(ctx, "k", client.ReadOptions{})
	fake.agents["a1"].role = "operator"
	fake.setLeader("")
	_, noLeader := c.Put(ctx, "k", nil, client.PutOptions{})
	for _, test := range []struct {
		err  error
		want string
	}{
		{missing, "not_found 404 1"}, {conflict, "conflict 409 1"}, {large, "too_large 413 1"},
		{denied, "denied 403 4"}, {noLeader, "no_leader 503 3"},
	} {
		var e *client.Error
		if !errors.As(test.err, &e) {
			t.Fatalf("got %v, want %s", test.err, test.want)
		}
		if got := fmt.Sprintf("%s %d %d", e.Code, e.Status, e.ExitCode()); got != test.want || e.Hint == "" || e.RequestID == "" {
			t.Errorf("got %q, hint %q, request id %q; want %q", got, e.Hint, e.RequestID, test.want)
		}
	}
}

// flaky is a listener whose connections a test can cut.
type flaky struct {
	net.Listener
	conns chan net.Conn
}

func (f *flaky) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err == nil {
		f.conns <- conn
	}
	return conn, err
}

// A watch survives its connection: what changed meanwhile is reported once, deletions too, and nothing twice.
func TestClientWatchReconnects(t *testing.T) {
	fake := newFake(t, 1, 1)
	fake.put("w/a", "1")
	fake.put("w/b", "1")
	l := &flaky{listen(t, "tcp", "127.0.0.1:0"), make(chan net.Conn, 8)}
	serve(t, l, fake.agents["a1"].service.Handler(Loopback))
	c, err := client.New("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen := ""
	done := errors.New("done")
	err = c.Watch(context.Background(), "w/", true, func(e client.Event) error {
		seen += e.Type + " " + e.Key + "\n"
		switch {
		case e.Type == "ready":
			_ = (<-l.conns).Close()
			if _, err := fake.agents["a1"].service.Execute(context.Background(), operator, state.Delete{Key: "w/a"}); err != nil {
				t.Error(err)
			}
			fake.put("w/c", "1")
		case e.Key == "w/d":
			return done
		case e.Type == "delete":
			fake.put("w/d", "1")
		}
		return nil
	})
	if want := "put w/a\nput w/b\nready \nput w/c\ndelete w/a\nput w/d\n"; !errors.Is(err, done) || seen != want {
		t.Errorf("got %v\n%swant\n%s", err, seen, want)
	}
}

// What the agent finds out about itself arrives as it was sent.
func TestClientExamines(t *testing.T) {
	c, ctx := newClient(t, newFake(t, 1, 1).agents["a1"]), context.Background()
	report, err := c.Check(ctx)
	if want := (client.CheckReport{OK: true, Checks: []client.CheckResult{{ID: "leader", Status: "ok", Message: "the core has a leader"}}}); err != nil || !reflect.DeepEqual(report, want) {
		t.Errorf("check: %+v, %v", report, err)
	}
	scrub, err := c.ScrubStorage(ctx, 2)
	if want := (client.ScrubReport{Segments: 1, Entries: 2, Bytes: 2 << 20, Problems: []client.ScrubProblem{}}); err != nil || !reflect.DeepEqual(scrub, want) {
		t.Errorf("scrub: %+v, %v", scrub, err)
	}
	if watched, err := c.Invariants(ctx); err != nil || watched.Count != 1 || len(watched.Invariants) != 1 || watched.Invariants[0].Detail != "1 and 2" {
		t.Errorf("invariants: %+v, %v", watched, err)
	}
	diff, err := c.DiffDigests(ctx, "a2", "")
	if err != nil || diff.Reference != "a1" || len(diff.Differences) != 1 || diff.Differences[0].Key != "a2" || diff.Unanswered == nil {
		t.Errorf("diff: %+v, %v", diff, err)
	}
	if index, err := c.AcceptDigest(ctx, "a2"); err != nil || index != 7 {
		t.Errorf("accept a state: %d, %v", index, err)
	}
	if accepted, err := c.AcceptTail(ctx); err != nil || accepted {
		t.Errorf("accept tail: %v, %v", accepted, err)
	}
	if until, err := c.HoldCore(ctx, "a1", time.Hour); err != nil || until.IsZero() {
		t.Errorf("hold: until %v, %v", until, err)
	}
	if until, err := c.HoldCore(ctx, "a1", 0); err != nil || !until.IsZero() {
		t.Errorf("release: until %v, %v", until, err)
	}
	gone := client.Leave{Node: "a1", Core: "voter", Heir: "a4", Voters: 3}
	if would, err := c.LookLeave(ctx); err != nil || would != gone {
		t.Errorf("look at leaving: %+v, %v", would, err)
	}
	gone.Left = true
	if left, err := c.Leave(ctx); err != nil || left != gone {
		t.Errorf("leave: %+v, %v", left, err)
	}
	applied, err := c.ApplyStatus(ctx)
	want := client.ApplyReport{Members: []client.MemberApply{{Name: "a1", Commit: 9, Applied: 9}}, Unreachable: []string{}, Cases: []client.ApplyCase{}, Quarantined: []client.LeftOut{}}
	if err != nil || !reflect.DeepEqual(applied, want) {
		t.Errorf("apply status: %+v, %v", applied, err)
	}
	if err := c.Quarantine(ctx, 7, 0); err != nil {
		t.Errorf("quarantine: %v", err)
	}
	if err := c.Quarantine(ctx, 0, 0); !hasCode(err, CodeInvalid) {
		t.Errorf("quarantine of nothing: %v", err)
	}
}

func hasCode(err error, code string) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Code == code
}
