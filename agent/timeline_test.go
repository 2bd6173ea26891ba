package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
)

// testLog takes events while there is a leader, each id once.
type testLog struct {
	mu     sync.Mutex
	err    error
	before func() // called with each event, before it is taken
	wrote  []state.EventAppend
	at     []time.Time
}

func (l *testLog) execute(_ context.Context, e state.EventAppend) error {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil && !errors.Is(l.err, errLost) {
		return l.err
	}
	if !slices.ContainsFunc(l.wrote, func(w state.EventAppend) bool { return w.ID == e.ID }) {
		l.wrote, l.at = append(l.wrote, e), append(l.at, time.Now())
	}
	return l.err
}

func (l *testLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *testLog) messages() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.wrote {
		out = append(out, e.Message)
	}
	return out
}

var (
	errLost   = api.Errorf(api.CodeOutcomeUnknown, "the answer was lost")
	errNobody = api.Errorf(api.CodeNoLeader, "nobody leads")
)

// runTimelineTest runs a timeline on virtual time.
func runTimelineTest(t *testing.T, test func(t *testing.T, tl *timeline, log *testLog)) {
	synctest.Test(t, func(t *testing.T) {
		began, log := time.Now(), &testLog{}
		tl := &timeline{
			node: "a1", execute: log.execute, log: zap.NewNop(), wake: make(chan struct{}, 1),
			wall: func() clock.Stamp { return stampOf(time.Now()) }, elapsed: func() time.Duration { return time.Since(began) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = tl.run(ctx) })
		test(t, tl, log)
		cancel()
		running.Wait()
	})
}

// Events that happen while nobody leads are written afterwards, in their order; the queue keeps the newest, and says
// how many it could not keep.
func TestTimelineWaitsForALeader(t *testing.T) {
	runTimelineTest(t, func(t *testing.T, tl *timeline, log *testLog) {
		log.fail(errNobody)
		const more = 44
		tl.report("note", "", "first")
		synctest.Wait() // it is on its way from now on, so it stays
		for i := range timelineRoom + more - 1 {
			tl.report("note", "", fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		if got := log.messages(); len(got) != 0 || len(tl.pending()) != timelineRoom {
			t.Fatalf("without a leader: %d written, %d wait", len(got), len(tl.pending()))
		}
		log.fail(nil)
		time.Sleep(timelineRetryMax + (timelineRoom+1)*timelineEvery)
		got := log.messages()
		if len(got) != timelineRoom+1 || !strings.HasPrefix(got[timelineRoom], fmt.Sprintf("%d events ", more)) {
			t.Fatalf("%d written, the last %q, want %d and the count of those that were dropped", len(got), got[len(got)-1], timelineRoom+1)
		}
		if got[0] != "first" {
			t.Errorf("the first is %q", got[0])
		}
		for i, m := range got[1:timelineRoom] {
			if m != fmt.Sprint(i+more) {
				t.Fatalf("event %d is %q, want %d", i+1, m, i+more)
			}
		}
		if log.wrote[timelineRoom].Kind != api.EventDropped {
			t.Errorf("the last is a %q", log.wrote[timelineRoom].Kind)
		}
	})
}

// An event whose answer was lost is sent again under its id, and is in the log once.
func TestTimelineRetriesWithTheSameID(t *testing.T) {
	runTimelineTest(t, func(t *testing.T, tl *timeline, log *testLog) {
		log.fail(errLost)
		tl.report("note", "", "once")
		time.Sleep(time.Second)
		if len(tl.pending()) != 1 {
			t.Errorf("%d events wait after a lost answer, want 1", len(tl.pending()))
		}
		log.fail(nil)
		time.Sleep(timelineRetryMax)
		if got := log.messages(); !slices.Equal(got, []string{"once"}) || len(tl.pending()) != 0 {
			t.Errorf("written %q, %d wait", got, len(tl.pending()))
		}
	})
}

// An event that is refused for good does not hold up the next.
func TestTimelineSkipsWhatIsRefused(t *testing.T) {
	runTimelineTest(t, func(t *testing.T, tl *timeline, log *testLog) {
		log.fail(api.Errorf(api.CodeDenied, "no"))
		tl.report("note", "", "refused")
		time.Sleep(time.Second)
		log.fail(nil)
		tl.report("note", "", "taken")
		time.Sleep(time.Second)
		if got := log.messages(); !slices.Equal(got, []string{"taken"}) {
			t.Errorf("written %q", got)
		}
	})
}

// A burst goes through at once, then one a second.
func TestTimelinePace(t *testing.T) {
	runTimelineTest(t, func(t *testing.T, tl *timeline, log *testLog) {
		for i := range timelineBurst + 10 {
			tl.report("note", "", fmt.Sprint(i))
		}
		synctest.Wait()
		if got := len(log.messages()); got != timelineBurst {
			t.Errorf("%d written at once, want %d", got, timelineBurst)
		}
		time.Sleep(5 * timelineEvery)
		synctest.Wait()
		if got := len(log.messages()); got != timelineBurst+5 {
			t.Errorf("%d written after 5 s, want %d", got, timelineBurst+5)
		}
		time.Sleep(time.Hour)
		for range timelineBurst {
			tl.report("note", "", "later")
		}
		synctest.Wait()
		if got := len(log.messages()); got != 2*timelineBurst+10 {
			t.Errorf("%d written after an hour, want %d: the burst is whole again", got, 2*timelineBurst+10)
		}
	})
}

// The event on its way is not the one that a full queue drops.
func TestTimelineKeepsWhatIsOnItsWay(t *testing.T) {
	runTimelineTest(t, func(t *testing.T, tl *timeline, log *testLog) {
		var once sync.Once
		log.before = func() {
			once.Do(func() {
				for i := range timelineRoom {
					tl.report("note", "", fmt.Sprint(i))
				}
			})
		}
		tl.report("note", "", "first")
		time.Sleep(time.Hour)
		got := log.messages()
		if len(got) != timelineRoom+1 || got[0] != "first" || got[1] != "1" {
			t.Errorf("%d written, beginning with %q", len(got), got[:2])
		}
	})
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "two\nlines\x1b": "two lines ", "\xff": "\ufffd", strings.Repeat("é", 9): "ééééé",
	} {
		if got := oneLine(in, 10); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
}

// The leader says what gossip holds and the timeline's last word about a member does not, and nothing twice.
func TestMemberChanges(t *testing.T) {
	dead, left, back := api.EventMemberDead, api.EventMemberLeft, api.EventMemberBack
	for _, test := range []struct {
		state membership.State
		last  string
		want  string
	}{
		{membership.StateAlive, "", ""}, {membership.StateAlive, back, ""},
		{membership.StateAlive, dead, back}, {membership.StateAlive, left, back},
		{membership.StateSuspect, "", ""}, {membership.StateSuspect, dead, ""},
		{membership.StateDead, "", dead}, {membership.StateDead, back, dead}, {membership.StateDead, dead, ""}, {membership.StateDead, left, ""},
		{membership.StateLeft, "", left}, {membership.StateLeft, dead, left}, {membership.StateLeft, left, ""},
	} {
		members := []membership.Member{{Name: "a1", State: membership.StateDead}, {Name: "a2", State: test.state}}
		changes := memberChanges("a1", members, map[string]string{"a2": test.last})
		got := ""
		if len(changes) > 0 {
			got = changes[0].kind
		}
		if got != test.want || len(changes) > 1 {
			t.Errorf("%s, last word %q: got %v, want %q", test.state, test.last, changes, test.want)
		}
	}
}

// The first failed renewal of the certificate is an event, and the first that works again; those between are not.
func TestRenewalsAreReported(t *testing.T) {
	a := &Agent{ids: clusterIDs{Node: "a1"}, timeline: &timeline{node: "a1", wall: func() clock.Stamp { return 1 }, wake: make(chan struct{}, 1)}}
	w := &timelineWatch{agent: a}
	failed := errors.New("no core member\nsigns")
	for _, err := range []error{nil, nil, failed, failed, nil, nil, failed} {
		w.lookAtRenewals(err)
	}
	var got []string
	for _, e := range a.timeline.pending() {
		got = append(got, strings.TrimSpace(e.Kind+" "+e.Message))
	}
	if want := []string{"renewal-failed no core member signs", "renewal-works", "renewal-failed no core member signs"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
