package agent

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
)

// voters makes a core of the given names; a capital first letter stands for one that does not answer.
func voters(leader string, names ...string) api.CoreStatus {
	s := api.CoreStatus{}
	if leader != "" {
		s.Leader = &leader
	}
	healthy := 0
	for _, n := range names {
		ok := n == strings.ToLower(n)
		if ok {
			healthy++
		}
		s.Voters = append(s.Voters, api.CoreMember{Name: strings.ToLower(n), Healthy: ok})
	}
	s.Margin = healthy - (len(names)/2 + 1)
	if leader == "" {
		s = leaderless(s)
	}
	return s
}

// What is known of the core becomes readings; what is not is absent, except that nobody is known to lead.
func TestReadCore(t *testing.T) {
	for _, test := range []struct {
		name                      string
		core                      api.CoreStatus
		known                     bool
		leader, margin, unhealthy float64
		measured                  bool
	}{
		{"whole", voters("a1", "a1", "a2", "a3"), true, 1, 1, 0, true},
		{"one dead", voters("a1", "a1", "A2", "a3"), true, 1, 0, 1, true},
		{"no quorum", voters("", "a1", "A2", "A3"), true, 0, -1, 2, true},
		{"nobody leads", voters("", "a1", "a2", "a3"), true, 0, -1, 0, true},
		{"no word of it", voters("a1", "a1", "a2", "a3"), false, 0, 0, 0, false},
		{"no core yet", voters(""), true, 0, 0, 0, false},
	} {
		r := ops.Readings{}
		readCore(r, test.core, test.known)
		margin, measured := r[ops.CoreQuorumMargin]
		if r[ops.CoreLeaderKnown] != test.leader || measured != test.measured || margin != test.margin || r[ops.CoreUnhealthyVoters] != test.unhealthy {
			t.Errorf("%s: %v", test.name, r)
		}
	}
}

// Gossip's states are counted, each of them at 0 when nobody is in it.
func TestReadMembers(t *testing.T) {
	r := ops.Readings{}
	readMembers(r, []membership.Member{{State: membership.StateAlive}, {State: membership.StateAlive}, {State: membership.StateDead}})
	want := ops.Readings{ops.MembersAlive: 2, ops.MembersSuspect: 0, ops.MembersDead: 1, ops.MembersLeft: 0}
	if !maps.Equal(r, want) {
		t.Errorf("got %v, want %v", r, want)
	}
}

// The ratio of life left is 1 at the start, 0 from the end on.
func TestReadIdentity(t *testing.T) {
	from := time.Unix(1_700_000_000, 0)
	for minutes, want := range map[int]float64{-5: 1, 0: 1, 15: 0.75, 30: 0.5, 60: 0, 90: 0} {
		r := ops.Readings{}
		readIdentity(r, from, from.Add(time.Hour), from.Add(time.Duration(minutes)*time.Minute))
		if got := r[ops.IdentityRemaining]; got != want {
			t.Errorf("after %d minutes of 60: %v, want %v", minutes, got, want)
		}
	}
}

// A core member that gossip has not met is unknown, and this agent knows itself to be alive.
func TestCoreFacts(t *testing.T) {
	core := voters("a1", "a1", "A2", "A3")
	core.Learners = []api.CoreMember{{Name: "a4", Healthy: true}}
	got := coreFacts(core, []membership.Member{{Name: "a2", State: membership.StateDead, Since: time.Unix(5, 0)}, {Name: "a4", State: membership.StateAlive}}, "a1")
	want := []ops.CoreFact{
		{Name: "a1", Healthy: true, Member: "alive"}, {Name: "a2", Member: "dead", Since: time.Unix(5, 0)},
		{Name: "a3", Member: ops.MemberUnknown}, {Name: "a4", Learner: true, Healthy: true, Member: "alive"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Core members probe each second, the others share ten a second, and never rest for longer than half of the
// shortest window.
func TestProbeEvery(t *testing.T) {
	for _, test := range []struct {
		inCore  bool
		members int
		want    time.Duration
	}{
		{true, 5, time.Second}, {true, 5000, time.Second}, {false, 1, 10 * time.Second}, {false, 100, 10 * time.Second},
		{false, 500, 50 * time.Second}, {false, 100_000, 150 * time.Second},
	} {
		if got := probeEvery(test.inCore, test.members); got != test.want {
			t.Errorf("in the core %v, %d members: %v, want %v", test.inCore, test.members, got, test.want)
		}
	}
}

// Every source that is there is read, by its own metric; absent ones, and those without data, leave no reading.
func TestSourcesAreRead(t *testing.T) {
	r := ops.Readings{}
	(&opsSources{}).read(r)
	if len(r) != 0 {
		t.Errorf("without sources: %v", r)
	}
	value := func(v float64, ok bool) func() (float64, bool) { return func() (float64, bool) { return v, ok } }
	s := opsSources{
		digestMinority: value(1, true), scrubErrors: value(2, true), udpFallbackRatio: value(0.5, true),
		unreachableLinks: value(4, true), maxStarts10m: value(5, false),
	}
	s.read(r)
	want := ops.Readings{ops.DigestMinority: 1, ops.StorageScrubErrors: 2, ops.NetUDPFallback: 0.5, ops.NetUnreachable: 4}
	if !maps.Equal(r, want) {
		t.Errorf("got %v, want %v", r, want)
	}
}

// An alert that begins is a warning with its runbook, one that ends a note, and whoever keeps the timeline hears of
// both.
func TestAlertsAreTold(t *testing.T) {
	logged, logs := observer.New(zap.InfoLevel)
	var heard []ops.Transition
	w := &watcher{log: zap.New(logged), sources: opsSources{alertChanged: func(t ops.Transition) { heard = append(heard, t) }}}
	alert := ops.Alerts()[0]
	w.tell(ops.Transition{Alert: alert, Firing: true, Value: -1})
	w.tell(ops.Transition{Alert: alert, Value: 1})
	if len(heard) != 2 || !heard[0].Firing || heard[1].Firing {
		t.Errorf("the timeline heard %+v", heard)
	}
	entries := logs.All()
	if len(entries) != 2 || entries[0].Level != zap.WarnLevel || entries[1].Level != zap.InfoLevel ||
		entries[0].ContextMap()["alert"] != alert.ID || entries[0].ContextMap()["runbook"] != alert.Runbook {
		t.Errorf("logged %+v", entries)
	}
	(&watcher{log: zap.NewNop()}).tell(ops.Transition{Alert: alert}) // without a timeline
}

// What a core member said three seconds ago is no news: its leader counts no more, and it is not known.
func TestRemoteCoreGrowsStale(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := remoteCore{now: func() time.Time { return now }}
	if r.fresh() || r.get().Leader != nil {
		t.Error("something is known before the first answer")
	}
	r.last.Store(&remoteAnswer{status: voters("a1", "a1", "a2", "a3"), at: now})
	now = now.Add(remoteCoreStale)
	if !r.fresh() || r.get().Leader == nil {
		t.Errorf("after %v it is stale", remoteCoreStale)
	}
	now = now.Add(time.Millisecond)
	if r.fresh() || r.get().Leader != nil || len(r.get().Voters) != 3 {
		t.Errorf("a moment later: fresh %v, %+v", r.fresh(), r.get())
	}
}

// A lone agent finds itself well: it leads, its probes go through the log, and writes of clients are told
// apart from them. Its time runs faster here, so that this does not take minutes.
func TestAgentWatchesItself(t *testing.T) {
	cfg := single(t)
	cfg.Ops.TimeScale = 50
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k")
		wanted := func() (string, bool) {
			slos, err := c.SLOs(t.Context())
			if err != nil {
				return err.Error(), false
			}
			e, err := c.Explain(t.Context())
			if err != nil || !e.Healthy {
				return "not healthy", false
			}
			i := slices.IndexFunc(slos, func(s client.SLO) bool { return s.Name == "config-write" })
			return "too few good writes", i >= 0 && slos[i].Good >= 10 && slos[i].Burn["5m"] != nil && slos[i].TimeScale == 50
		}
		waitUntil(t, wanted)
		alerts, err := c.Alerts(t.Context())
		if err != nil || len(alerts) != len(ops.Alerts()) {
			t.Fatalf("%d alerts, %v", len(alerts), err)
		}
		for _, a := range alerts {
			if a.State == "firing" || a.State == "pending" {
				t.Errorf("alert %s is %s", a.ID, a.State)
			}
		}
		health, err := c.Health(t.Context())
		if err != nil || !health.Ready {
			t.Errorf("health %+v, %v", health, err)
		}
	})
}

// waitUntil looks again and again until holds does.
func waitUntil(t *testing.T, holds func() (complaint string, ok bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var complaint string
	if !await(ctx, func() (ok bool) { complaint, ok = holds(); return ok }) {
		t.Fatalf("not within 20 s: %s", complaint)
	}
}
