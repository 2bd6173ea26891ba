package agent

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/slo"
)

// lookEvery is the pace at which the agent looks at itself, in time that a lab may speed up.
const lookEvery = time.Second

// watcher is how the agent watches itself: it gathers readings, lets them be judged, and shows the outcome.
type watcher struct {
	agent    *Agent
	sources  opsSources // filled before run
	scale    int        // a lab's haste
	board    ops.Board
	registry *ops.Registry
	writes   *slo.Counter
	accuracy *slo.Counter
	fresh    *slo.Counter
	log      *zap.Logger

	// Owned by run.
	alarms *ops.Alarms
	judge  *slo.Accuracy

	freshUntil time.Duration // the minute that is not judged yet ends then; 0: none has begun
	tracks     []track
}

// track is one objective: what was counted, and how much of it the tracker has seen.
type track struct {
	counter   *slo.Counter
	tracker   *slo.Tracker
	good, bad uint64
}

func newWatcher(a *Agent) *watcher {
	w := &watcher{
		agent: a, scale: a.cfg.Ops.TimeScale, log: a.log.Named("ops"), judge: slo.NewAccuracy(),
	}
	w.alarms = ops.NewAlarms(ops.Alerts(), w.moment())
	counters := make(map[string]*slo.Counter)
	var all []*slo.Counter
	for _, o := range slo.Objectives() {
		c := slo.NewCounter(o)
		counters[o.Name], all = c, append(all, c)
		w.tracks = append(w.tracks, track{counter: c, tracker: slo.NewTracker(o)})
	}
	w.writes, w.accuracy = counters[slo.ConfigWrite], counters[slo.MembershipAccuracy]
	w.fresh = counters[slo.CertificateFreshness]
	w.registry = ops.NewRegistry(ops.RegistryOptions{Version: a.opts.Version, Board: &w.board, Counters: all, Elapsed: clock.Awake})
	return w
}

// elapsed is boottime for windows and waits; a lab may let it pass faster.
func (w *watcher) elapsed() time.Duration { return clock.Boottime() * time.Duration(w.scale) }

// hasten shortens a wait as elapsed does.
func (w *watcher) hasten(d time.Duration) time.Duration { return d / time.Duration(w.scale) }

func (w *watcher) moment() ops.Moment { return ops.Moment{Elapsed: w.elapsed(), Wall: w.agent.now()} }

// observer counts requests and writes.
func (w *watcher) observer() api.Observer {
	return api.Observer{Request: w.registry.Request, Write: w.observeWrite, Gate: w.registry.Gate}
}

func (w *watcher) observeWrite(probe bool) func(status int, abandoned bool) {
	source, began := slo.SourceClient, clock.Awake()
	if probe {
		source = slo.SourceProbe
	}
	return func(status int, abandoned bool) {
		good, counts := slo.Write{Status: status, Abandoned: abandoned, Took: clock.Awake() - began}.Judge()
		switch {
		case !counts:
		case good:
			w.writes.Add(source, 1, 0)
		default:
			w.writes.Add(source, 0, 1)
		}
	}
}

// run looks once a second and probes beside it, until ctx ends.
func (w *watcher) run(ctx context.Context) error {
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		w.probe(ctx)
	}()
	ticker := newBeat(w.hasten(lookEvery))
	defer ticker.stop()
	for {
		w.look()
		select {
		case <-ctx.Done():
			<-probed
			return nil
		case <-ticker.C:
			ticker.again()
		}
	}
}

// look gathers, judges and publishes once.
func (w *watcher) look() {
	now := w.moment()
	members := w.agent.memberList()
	good, bad := w.judge.Observe(now.Elapsed, w.sightings(members))
	w.accuracy.Add(slo.SourceGossip, good, bad)

	readings, facts := w.gather(members)
	w.countFresh(now.Elapsed, readings)
	statuses := w.burn(now.Elapsed, readings)
	facts.Burns = w.burned(now)
	for _, t := range w.alarms.Look(now, readings) {
		w.tell(t)
	}
	w.board.Publish(&ops.Snapshot{Readings: readings, Alerts: w.alarms.Status(), SLOs: statuses, Facts: facts})
}

// burn hands the trackers what was counted since the last look, and reads what they make of it.
func (w *watcher) burn(now time.Duration, r ops.Readings) []slo.Status {
	statuses := make([]slo.Status, 0, len(w.tracks))
	for i := range w.tracks {
		t := &w.tracks[i]
		good, bad := t.counter.Totals()
		t.tracker.Add(now, good-t.good, bad-t.bad)
		t.good, t.bad = good, bad
		for _, severity := range []slo.Severity{slo.Page, slo.Ticket} {
			excess, ok := t.tracker.Excess(now, severity)
			r.Set(t.tracker.Objective().BurnMetric(severity), excess, ok)
		}
		s := t.tracker.Status(now)
		if w.scale > 1 {
			s.TimeScale = float64(w.scale)
		}
		statuses = append(statuses, s)
	}
	return statuses
}

// burned says when each objective counted a bad event last.
func (w *watcher) burned(now ops.Moment) (facts []ops.BurnFact) {
	for i := range w.tracks {
		t := w.tracks[i].tracker
		if at, ok := t.LastBad(); ok {
			quiet := now.Elapsed - at
			facts = append(facts, ops.BurnFact{Objective: t.Objective().Name, LastBad: now.Wall.Add(-w.hasten(quiet)), Quiet: quiet})
		}
	}
	return facts
}

// sightings are the other agents as the accuracy of gossip is judged by. Who left is nobody's business.
func (w *watcher) sightings(members []membership.Member) []slo.Sighting {
	out := make([]slo.Sighting, 0, len(members))
	for _, m := range members {
		if m.Name != w.agent.ids.Node && m.State != membership.StateLeft {
			out = append(out, slo.Sighting{Name: m.Name, Dead: m.State == membership.StateDead, Epoch: m.Epoch, Host: m.Host})
		}
	}
	return out
}

// tell reports an alert that began or ceased to fire.
func (w *watcher) tell(t ops.Transition) {
	fields := []zap.Field{
		zap.String("alert", t.Alert.ID), zap.String("severity", string(t.Alert.Severity)), zap.Float64("value", t.Value),
		zap.String("runbook", t.Alert.Runbook),
	}
	if t.Firing {
		w.log.Warn("alert fires", append(fields, zap.String("reason", t.Alert.Summary))...)
	} else {
		w.log.Info("alert is over", fields...)
	}
	if w.sources.alertChanged != nil {
		w.sources.alertChanged(t)
	}
}

// gather reads everything that is cheap to read.
func (w *watcher) gather(members []membership.Member) (ops.Readings, ops.Facts) {
	a, r := w.agent, make(ops.Readings, len(ops.Metrics()))
	core, known := a.coreNow()
	view := a.hub.View()
	readCore(r, core, known)
	readMembers(r, members)
	leaf := a.source.Leaf()
	readIdentity(r, leaf.NotBefore, leaf.NotAfter, a.now())
	a.readCertificates(r)
	r.SetBool(ops.AgentReady, a.isReady(core))
	r[ops.ViewIndex] = float64(view.Index())
	r[ops.Epoch], r[ops.EpochRefused] = float64(a.epochs.current().Counter), float64(a.epochs.refused.Load())
	if known {
		r[ops.ViewLag] = max(0, float64(core.CommitIndex)-float64(view.Index()))
	}
	if stamp := view.Stamp(); stamp != 0 {
		r[ops.ClockAhead] = max(0, stamp.Wall().Sub(a.opts.Physical()).Seconds())
	}
	readDisk(r, a.dir.path)
	w.sources.read(r)
	facts := ops.Facts{Node: a.ids.Node, Core: coreFacts(core, members, a.ids.Node), Members: memberFacts(members), Certificate: leaf.NotAfter}
	if core.Leader != nil {
		facts.Leader = *core.Leader
	}
	w.sources.facts(r, &facts)
	return r, facts
}

// isReady says whether this agent can serve linearizable requests.
func (a *Agent) isReady(core api.CoreStatus) bool {
	return a.ready.Load() && a.certified() && core.Leader != nil
}

// hasLiveCore says whether a core member, this agent included, can serve stale reads of keys.
func (a *Agent) hasLiveCore() bool {
	if a.views.ownLog() {
		return true
	}
	alive := a.aliveNodes()
	return slices.ContainsFunc(a.book.coreNodes(), func(node string) bool { return alive[node] })
}
