package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

// running is an agent in this process.
type running struct {
	*client.Client
	agent *Agent
	name  string
	stop  func() // ends it before the test does
}

// start runs an agent until the test ends.
func start(t *testing.T, cfg config.Config, ahead time.Duration) *running {
	t.Helper()
	return startBy(t, cfg, func() time.Time { return clock.System().Add(ahead) }, nil)
}

// startBy is start with a clock of its own; wall is that of certificates, nil the system's.
func startBy(t *testing.T, cfg config.Config, physical, wall func() time.Time) *running {
	t.Helper()
	ready := make(chan struct{})
	a, err := New(cfg, Options{Physical: physical, wall: wall, Ready: func() { close(ready) }, Log: zaptest.NewLogger(t, zaptest.Level(zap.FatalLevel))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: a stop by its context returned %v", cfg.Name, err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("%s ended with %v", cfg.Name, err)
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not ready", cfg.Name)
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &running{Client: c, agent: a, name: cfg.Name, stop: stop}
}

// startCluster runs one agent for each clock: a1, a2 and so on, each so far ahead of this machine's.
func startCluster(t *testing.T, ahead ...time.Duration) []*running {
	t.Helper()
	return startClusterWith(t, func(*config.Config) {}, ahead...)
}

func startClusterWith(t *testing.T, tune func(*config.Config), ahead ...time.Duration) []*running {
	t.Helper()
	clocks := make([]func() time.Time, len(ahead))
	for i, d := range ahead {
		clocks[i] = func() time.Time { return clock.System().Add(d) }
	}
	return startClusterBy(t, tune, nil, clocks...)
}

// startClusterBy is startClusterWith with clocks that a test moves.
func startClusterBy(t *testing.T, tune func(*config.Config), wall func() time.Time, clocks ...func() time.Time) []*running {
	t.Helper()
	cfg := single(t)
	tune(&cfg)
	cfg.Gossip.Profile = "fast"
	cfg.Core.ElectionTicks = 60 // no other leader because the machine is busy: whose clock is behind cannot follow
	agents := []*running{startBy(t, cfg, clocks[0], wall)}
	token, err := agents[0].CreateToken(t.Context(), client.TokenSpec{Uses: len(clocks), Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	for i, physical := range clocks[1:] {
		dir, err := os.MkdirTemp("", "parley-agent-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		joiner := cfg
		joiner.DataDir, joiner.Name = filepath.Join(dir, "d"), fmt.Sprintf("a%d", i+2)
		joiner.Mesh.Bind, joiner.HTTP.Bind = freeAddr(t), freeAddr(t)
		joiner.Join, joiner.Token = []string{cfg.Mesh.Bind}, token.Token
		agents = append(agents, startBy(t, joiner, physical, wall))
	}
	within(t, "all see each other, and the core is complete", func(ctx context.Context) error {
		for _, r := range agents {
			members, err := r.Members(ctx)
			alive := 0
			for _, m := range members {
				if m.State == "alive" {
					alive++
				}
			}
			if core, err := r.Core(ctx); err != nil || len(core.Voters) != min(3, len(clocks)) || core.Leader == nil || alive != len(clocks) {
				return fmt.Errorf("%s sees %d alive and the core %+v (%w)", r.name, alive, core, err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return agents
}

// within asks again until check is content; what is waited for comes in much less.
func within(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// noteLines are the notes of a list, as far as they have to be equal everywhere.
func noteLines(events []client.TimelineEvent) (lines []string) {
	for _, e := range events {
		if e.Kind == "note" {
			lines = append(lines, e.HLC+" "+e.Node+" "+e.Message)
		}
	}
	return lines
}

// TestOneOrderWhateverTheClocksSay: five agents whose clocks are minutes apart write events at once, and in a chain in
// which each waits until it sees the event before. All list the same order, and in it causes come first. The control
// is the same list by the reporters' clocks, in which they do not.
func TestOneOrderWhateverTheClocksSay(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, time.Minute, -3*time.Minute, 5*time.Minute, -9*time.Minute)
	var writing sync.WaitGroup
	for _, r := range agents {
		writing.Go(func() {
			for i := range 5 {
				if _, err := r.AddEvent(t.Context(), fmt.Sprintf("at once %d", i)); err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
			}
		})
	}
	writing.Wait()
	chain := []*running{agents[3], agents[2], agents[1], agents[0], agents[4]} // the clock that is furthest ahead begins
	for i, r := range chain {
		if i > 0 {
			within(t, r.name+" sees the cause", func(ctx context.Context) error {
				events, err := r.Events(ctx, client.EventOptions{})
				if err == nil && indexOf(events, fmt.Sprintf("link %d", i-1)) < 0 {
					err = fmt.Errorf("link %d is not in its timeline", i-1)
				}
				return err
			})
		}
		if _, err := r.AddEvent(t.Context(), fmt.Sprintf("link %d", i)); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
	}
	var list []client.TimelineEvent
	within(t, "all list the same", func(ctx context.Context) error {
		var first []string
		for _, r := range agents {
			events, err := r.Events(ctx, client.EventOptions{})
			if err != nil {
				return err
			}
			lines := noteLines(events)
			if r == agents[0] {
				list, first = events, lines
			}
			if len(lines) != 30 || !slices.Equal(lines, first) {
				return fmt.Errorf("%s lists %d notes:\n%s\na1:\n%s", r.name, len(lines), strings.Join(lines, "\n"), strings.Join(first, "\n"))
			}
		}
		return nil
	})
	if err := causesFirst(list, len(chain)); err != nil {
		t.Error(err)
	}
	byClock := slices.Clone(list)
	slices.SortStableFunc(byClock, func(a, b client.TimelineEvent) int { return a.ReportedAt.Compare(b.ReportedAt) })
	if slices.Equal(noteLines(byClock), noteLines(list)) || causesFirst(byClock, len(chain)) == nil {
		t.Error("control: the reporters' clocks give the same order, so nothing was tested")
	}
}

func indexOf(events []client.TimelineEvent, message string) int {
	return slices.IndexFunc(events, func(e client.TimelineEvent) bool { return e.Message == message && !e.Pending })
}

func causesFirst(events []client.TimelineEvent, links int) error {
	for i := 1; i < links; i++ {
		if cause, effect := indexOf(events, fmt.Sprintf("link %d", i-1)), indexOf(events, fmt.Sprintf("link %d", i)); cause < 0 || effect < cause {
			return fmt.Errorf("link %d stands at %d, its cause at %d", i, effect, cause)
		}
	}
	return nil
}

// TestClusterSeesItself: each agent's own start is in the timeline; all core members are compared by an agent outside;
// a member whose digest differs is named; all links are up; a start that gossip shows is counted.
func TestClusterSeesItself(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0, 0)
	outside := agents[3]
	within(t, "every start is in the timeline", func(ctx context.Context) error {
		events, err := outside.Events(ctx, client.EventOptions{Kind: "agent-started"})
		if err == nil && len(events) != len(agents) {
			err = fmt.Errorf("%d starts: %+v", len(events), events)
		}
		return err
	})
	agents[1].agent.reportAlert("no-leader", true, "nobody leads")
	agents[1].agent.reportAlert("no-leader", false, "somebody leads")
	within(t, "an alert is in the timeline", func(ctx context.Context) error {
		fired, err := outside.Events(ctx, client.EventOptions{Kind: "alert-firing"})
		if err != nil {
			return err
		}
		resolved, err := outside.Events(ctx, client.EventOptions{Kind: "alert-resolved"})
		if err == nil && (len(fired) != 1 || len(resolved) != 1 || resolved[0].Subject != "no-leader") {
			err = fmt.Errorf("got %+v, %+v", fired, resolved)
		}
		return err
	})
	within(t, "the core agrees", func(ctx context.Context) error {
		found, err := outside.CompareDigests(ctx)
		if err == nil && (found.Groups != 1 || len(found.Members) != 3 || len(found.Minority) != 0) {
			err = fmt.Errorf("got %+v", found)
		}
		return err
	})
	within(t, "a differing member is named", func(ctx context.Context) error {
		bad := agents[1].agent.digests
		bad.note(bad.newest(), [32]byte{0xbad % 256})
		found, err := outside.agent.compareDigests(ctx)
		if err == nil && (found.Groups != 2 || !slices.Equal(found.Minority, []string{"a2"})) {
			err = fmt.Errorf("got %+v", found)
		}
		return err
	})
	inCore, errSums := agents[0].agent.askSums(t.Context(), "a2")
	rows, errRows := agents[0].agent.askRowMarks(t.Context(), "a2", 7)
	if errSums != nil || len(inCore) != 32*state.DigestBuckets || errRows != nil || rows.Revision == 0 {
		t.Errorf("a core member asks another for its sums and rows: %d bytes, %v; %+v, %v", len(inCore), errSums, rows, errRows)
	}
	if _, err := outside.agent.askSums(t.Context(), "a2"); api.AsError(fromWire(err)).Code != api.CodeDenied {
		t.Errorf("an agent outside asks for sums: %v", err)
	}
	if _, err := outside.agent.askRowMarks(t.Context(), "a2", 7); api.AsError(fromWire(err)).Code != api.CodeDenied {
		t.Errorf("an agent outside asks for rows: %v", err)
	}
	within(t, "all links are up", func(ctx context.Context) error {
		m, err := outside.NetMatrix(ctx)
		if err == nil && (len(m.Links) != 12 || m.Unreachable+m.UDPFallback+m.Asymmetric+m.Unknown != 0) {
			err = fmt.Errorf("got %+v", m)
		}
		return err
	})
	within(t, "the figures of its own links say so too", func(context.Context) error {
		n, measured := outside.agent.unreachableLinks()
		ratio, known := outside.agent.udpFallbackRatio()
		if !measured || !known || n != 0 || ratio != 0 {
			return fmt.Errorf("unreachable %v, %v; fallback %v, %v", n, measured, ratio, known)
		}
		return nil
	})
	if n, ok := outside.agent.maxStarts10m(); !ok || n != 1 {
		t.Errorf("starts: %v, %v, want its own", n, ok)
	}
	if _, ok := outside.agent.digestMinority(); ok {
		t.Error("an agent outside the core has a figure for the digests")
	}
	within(t, "agents are alive and reachable", func(ctx context.Context) error {
		for _, name := range []string{"a1", "a4"} {
			n, err := outside.Node(ctx, name)
			if err != nil {
				return err
			}
			if n.State != "alive" || !n.Reachable || n.Incarnation != 1 {
				return fmt.Errorf("%s: %+v", name, n)
			}
		}
		return nil
	})
}
