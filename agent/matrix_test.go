package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/membership"
)

func live(names ...string) (members []membership.Member) {
	for _, name := range names {
		members = append(members, membership.Member{Name: name, State: membership.StateAlive, Path: membership.PathUDP})
	}
	return members
}

// All core members are measured, and of a large number of others a fixed number, each by someone.
func TestLinkPeers(t *testing.T) {
	members := live("a1", "a2", "a3", "a4")
	members[3].State = membership.StateDead
	if got := linkPeers("a2", members, []string{"a1", "a2"}); !slices.Equal(got, []string{"a1", "a3"}) {
		t.Errorf("got %q", got)
	}
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("n%03d", i))
	}
	members, measured := live(names...), map[string]int{}
	core := names[50:53]
	for _, self := range names {
		peers := linkPeers(self, members, core)
		if len(peers) > maxLinkPeers+len(core) || slices.Contains(peers, self) {
			t.Fatalf("%s measures %d peers", self, len(peers))
		}
		for _, p := range peers {
			measured[p]++
		}
	}
	for _, name := range names {
		if measured[name] < maxLinkPeers-1 {
			t.Errorf("%s is measured by %d agents only", name, measured[name])
		}
	}
}

// Gossip's path and the last call together say how a link is; who is dead has none.
func TestLinkRow(t *testing.T) {
	members := live("self", "good", "tcp", "silent", "cut", "new", "dead", "distant")
	path := map[string]membership.Path{"tcp": membership.PathTCP, "silent": "", "cut": ""}
	for i := range members {
		if p, ok := path[members[i].Name]; ok {
			members[i].Path = p
		}
	}
	members[3].State, members[6].State = membership.StateSuspect, membership.StateDead
	pings := map[string]ping{"good": {ok: true, ms: 1.5}, "tcp": {ok: true, ms: 2}, "silent": {ok: true}, "cut": {}, "dead": {}}
	var got []string
	row := linkRow("self", members, []string{"good", "tcp", "silent", "cut", "new", "dead"}, pings)
	for _, l := range row {
		got = append(got, fmt.Sprintf("%s %s/%s %v", l.To, l.UDP, l.TCP, l.RTT))
	}
	want := "good ok/ok 1.5; tcp fallback/ok 2; silent unknown/ok 0; cut down/down 0; new ok/unknown 0"
	if strings.Join(got, "; ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, "; "), want)
	}
	if n, names := unreachable(row), unreachableNames(row); n != 1 || !slices.Equal(names, []string{"cut"}) {
		t.Errorf("%d unreachable, %q, want cut", n, names)
	}
	if ratio, ok := fallbackRatio(row); !ok || ratio != 1.0/3 {
		t.Errorf("fallback ratio %v, %v, want a third", ratio, ok)
	}
	if _, ok := fallbackRatio(row[2:3]); ok {
		t.Error("of links of which nothing is known there is a ratio")
	}
	if ratio, ok := fallbackRatio(nil); !ok || ratio != 0 {
		t.Error("an agent that is alone has no figure")
	}
}

// rowOf is written "a2 ok/ok, a3 fallback/down".
func rowOf(from, text string) (row []api.Link) {
	for _, part := range strings.Split(text, ", ") {
		to, how, _ := strings.Cut(part, " ")
		udp, tcp, _ := strings.Cut(how, "/")
		row = append(row, api.Link{From: from, To: to, UDP: udp, TCP: tcp})
	}
	return row
}

func TestMatrixCounts(t *testing.T) {
	agents := []string{"a1", "a2", "a3"}
	for _, test := range []struct {
		what, a1, a2, a3                           string
		unreachable, fallback, asymmetric, unknown int
	}{
		{"all well", "a2 ok/ok, a3 ok/ok", "a1 ok/ok, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 0, 0, 0, 0},
		{"udp blocked between a1 and a2", "a2 fallback/ok, a3 ok/ok", "a1 fallback/ok, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 0, 2, 0, 0},
		{"a1 cannot call a2", "a2 ok/down, a3 ok/ok", "a1 ok/ok, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 1, 0, 1, 0},
		{"neither way", "a2 ok/down, a3 ok/ok", "a1 ok/down, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 2, 0, 0, 0},
		{"a3 tells nothing", "a2 ok/ok, a3 ok/ok", "a1 ok/ok, a3 ok/ok", "", 0, 0, 0, 2},
		{"a1 does not know a3", "a2 ok/ok", "a1 ok/ok, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 0, 0, 0, 1},
		{"a link to somebody else does not count", "a2 ok/ok, a3 ok/ok, a9 down/down", "a1 ok/ok, a3 ok/ok", "a1 ok/ok, a2 ok/ok", 0, 0, 0, 0},
	} {
		rows := map[string][]api.Link{"a1": rowOf("a1", test.a1), "a2": rowOf("a2", test.a2)}
		if test.a3 != "" {
			rows["a3"] = rowOf("a3", test.a3)
		}
		m := matrixOf(agents, rows)
		if m.Unreachable != test.unreachable || m.UDPFallback != test.fallback || m.Asymmetric != test.asymmetric || m.Unknown != test.unknown || len(m.Links) != 6 {
			t.Errorf("%s: got %+v", test.what, m)
		}
	}
}

// A matrix is bounded, and keeps the core.
func TestMatrixIsBounded(t *testing.T) {
	var names []string
	for i := range 3 * maxMatrix {
		names = append(names, fmt.Sprintf("n%03d", i))
	}
	agents := matrixAgents(live(names...), []string{"n190", "n191"})
	if len(agents) != maxMatrix || !slices.IsSorted(agents) || !slices.Contains(agents, "n190") || !slices.Contains(agents, "n191") {
		t.Errorf("%d agents: %q", len(agents), agents)
	}
	rows := map[string][]api.Link{}
	for _, name := range agents[1:] {
		rows[name] = linkRow(name, live(names...), linkPeers(name, live(names...), nil), nil)
	}
	m := matrixOf(agents, rows)
	// The first tells nothing, so all its links are unknown; the others are only missing what they do not measure.
	if told := len(m.Links) - (len(agents) - 1); told > len(agents)*maxLinkPeers || told < len(agents) {
		t.Errorf("%d links", len(m.Links))
	}
}

// What an agent answers is taken for its own links only, in our words, and not without end.
func TestCheckRow(t *testing.T) {
	row := []api.Link{
		{From: "a2", To: "a1", UDP: "ok", TCP: "ok"}, {From: "a3", To: "a1", UDP: "ok", TCP: "ok"},
		{From: "a2", To: "a4", UDP: "fine", TCP: "ok"}, {From: "a2", To: "a4", UDP: "ok", TCP: "fallback"},
	}
	if got := checkRow("a2", row); len(got) != 1 || got[0].To != "a1" {
		t.Errorf("got %+v", got)
	}
	if got := checkRow("a2", slices.Repeat(row[:1], 10_000)); len(got) != maxMatrix+maxLinkPeers {
		t.Errorf("%d links are taken", len(got))
	}
}

// The agent that is asked for another one's links is one that reaches it, never the asking one itself.
func TestRelayTo(t *testing.T) {
	rows := map[string][]api.Link{
		"a1": rowOf("a1", "a4 ok/ok"), "a2": rowOf("a2", "a4 ok/down"), "a3": rowOf("a3", "a4 fallback/ok"),
	}
	if got := relayTo("a4", "a1", rows); got != "a3" {
		t.Errorf("got %q, want a3", got)
	}
	if got := relayTo("a5", "a1", rows); got != "" {
		t.Errorf("got %q, want nobody", got)
	}
}

// So many calls are under way and no more.
func TestEachOfIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := make([]string, 10*linksAtOnce)
		var running, most, done atomic.Int32
		eachOf(names, linksAtOnce, func(string) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			done.Add(1)
		})
		if most.Load() != linksAtOnce || done.Load() != int32(len(names)) {
			t.Errorf("%d at once, %d done, want %d and %d", most.Load(), done.Load(), linksAtOnce, len(names))
		}
	})
}
