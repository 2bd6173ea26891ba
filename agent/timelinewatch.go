package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/state"
)

// timelineLook is how often an agent looks for what it has to report, beside each change of its core node.
const timelineLook = 500 * time.Millisecond

// timelineWatch turns what is into events. It looks at levels: the last word of the timeline about a member is
// compared with what gossip holds, so that a death that happened while nobody led is reported by the next leader,
// and one that the leader before has reported is not reported twice.
type timelineWatch struct {
	agent    *Agent
	term     uint64 // of which this agent said that it leads
	revision uint64 // of the timeline that last is from
	last     lastWords
	failing  bool // the last renewal of the certificate did
	relays   map[string]string
}

// runTimeline writes events and watches for them until ctx ends.
func (a *Agent) runTimeline(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&timelineWatch{agent: a}).run(ctx)
	}()
	err := a.timeline.run(ctx)
	<-done
	return err
}

func (w *timelineWatch) run(ctx context.Context) {
	ticker := newBeat(timelineLook)
	defer ticker.stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.agent.core.changed:
		case <-ticker.C:
			ticker.again()
		}
		w.lookAtCore()
		w.lookAtRenewals(w.agent.renewalErr())
		w.lookAtRelays(w.agent.core.relays())
	}
}

// lookAtCore reports as the leader: that it leads, and who is gone or back.
func (w *timelineWatch) lookAtCore() {
	a := w.agent
	n := a.core.member()
	if n == nil {
		return
	}
	st := n.Status()
	if st.Leader != st.ID || !st.Confirmed {
		return
	}
	if st.Term != w.term {
		w.term = st.Term
		a.timeline.report(api.EventLeader, a.ids.Node, fmt.Sprintf("term %d", st.Term))
	}
	last := w.lastWords()
	for _, c := range memberChanges(a.ids.Node, a.memberList(), last.members) {
		a.timeline.report(c.kind, c.node, c.message)
	}
	for _, c := range copyChanges(copiedHosts(a.hub.View()), last.copies) {
		a.timeline.report(c.kind, c.node, c.message)
	}
	for _, c := range alertChanges(a.watcher.board.Snapshot().Alerts, last.alerts) {
		a.reportAlert(c.ID, c.State == ops.StateFiring, c.Summary)
	}
}

// lastWords are the kinds of the last events about each member (dead, left or back), and about each alert (firing or
// resolved), and each host that was seen twice (copied or decided).
type lastWords struct{ members, alerts, copies map[string]string }

func (l lastWords) note(kind, subject string) {
	switch {
	case memberKinds[kind]:
		l.members[subject] = kind
	case kind == api.EventAlert || kind == api.EventResolved:
		l.alerts[subject] = kind
	case kind == api.EventCopied || kind == api.EventCopyOver:
		l.copies[subject] = kind
	}
}

// lastWords reads the timeline. What waits to be written counts.
func (w *timelineWatch) lastWords() lastWords {
	v := w.agent.hub.View()
	if r := v.TableRevision(state.TableEvent); w.last.members == nil || r != w.revision {
		w.last, w.revision = lastWords{make(map[string]string), make(map[string]string), make(map[string]string)}, r
		v.Events(0, func(e state.Event) bool { w.last.note(e.Kind, e.Subject); return true })
	}
	last := lastWords{maps.Clone(w.last.members), maps.Clone(w.last.alerts), maps.Clone(w.last.copies)}
	for _, e := range w.agent.timeline.pending() {
		last.note(e.Kind, e.Subject)
	}
	return last
}

// copyChanges lists the hosts that were seen twice and of which the last words do not say so, and the others way round.
func copyChanges(now []state.Fork, last map[string]string) (changes []memberChange) {
	copied := make(map[string]bool)
	for _, f := range now {
		copied[f.Node] = true
		if last[f.Node] != api.EventCopied {
			changes = append(changes, memberChange{api.EventCopied, f.Node,
				fmt.Sprintf("at generation %d, by %s: its certificate is renewed no more, see runbook host-copied", f.Generation, f.By)})
		}
	}
	for _, node := range slices.Sorted(maps.Keys(last)) {
		if last[node] == api.EventCopied && !copied[node] {
			changes = append(changes, memberChange{api.EventCopyOver, node, "trusted, replaced, evicted or left"})
		}
	}
	return changes
}

var memberKinds = map[string]bool{api.EventMemberDead: true, api.EventMemberLeft: true, api.EventMemberBack: true}

// memberChange is one event to report about a member.
type memberChange struct {
	kind, node, message string
}

// memberChanges lists what gossip holds and the last words do not say. A member of which nothing was ever said is
// alive, and a suspected one is not judged yet.
func memberChanges(self string, members []membership.Member, last map[string]string) []memberChange {
	var changes []memberChange
	for _, m := range members {
		kind, was := "", last[m.Name]
		switch {
		case m.Name == self:
		case m.State == membership.StateDead && was != api.EventMemberDead && was != api.EventMemberLeft:
			kind = api.EventMemberDead
		case m.State == membership.StateLeft && was != api.EventMemberLeft:
			kind = api.EventMemberLeft
		case m.State == membership.StateAlive && (was == api.EventMemberDead || was == api.EventMemberLeft):
			kind = api.EventMemberBack
		}
		if kind != "" {
			changes = append(changes, memberChange{kind: kind, node: m.Name, message: fmt.Sprintf("gossip holds it %s, incarnation %d", m.State, m.Epoch)})
		}
	}
	return changes
}

// reportStart says how this agent came to run.
func (a *Agent) reportStart() {
	if a.joined {
		a.timeline.report(api.EventJoined, a.ids.Node, "version "+a.opts.Version)
	}
	var message string
	switch {
	case a.safeOver: // in this process
		message = startClean
		a.timeline.report(api.EventSafeModeOver, a.ids.Node, "it was stable for long enough, and does all of its work again")
	case a.ledger == nil:
		message = "the ledger of starts cannot be written"
	case a.ledger.first():
		message = startFirst
	case !a.ledger.clean():
		message = "the run before ended without a clean stop"
	default:
		message = cleanStart(a.ledger.cleanRun())
	}
	a.timeline.report(api.EventStarted, a.ids.Node, fmt.Sprintf(startMessage, a.incarnation)+message)
}

// lookAtRenewals reports when renewals of this agent's certificate begin to fail, and when they work again.
func (w *timelineWatch) lookAtRenewals(err error) {
	a := w.agent
	switch {
	case err != nil && !w.failing:
		a.timeline.report(api.EventRenewal, a.ids.Node, err.Error())
	case err == nil && w.failing:
		a.timeline.report(api.EventRenewed, a.ids.Node, "")
	}
	w.failing = err != nil
}

// lookAtRelays reports whom this core member reaches by way of another, and whom straight again.
func (w *timelineWatch) lookAtRelays(now map[string]string) {
	a := w.agent
	for _, c := range relayChanges(w.relays, now) {
		a.timeline.report(c.kind, c.node, c.message)
	}
	w.relays = now
}

// relayChanges lists them by name. Another hub is no news.
func relayChanges(was, now map[string]string) (changes []memberChange) {
	for _, node := range slices.Sorted(maps.Keys(now)) {
		if was[node] == "" {
			changes = append(changes, memberChange{api.EventRelayed, node, "by way of " + now[node]})
		}
	}
	for _, node := range slices.Sorted(maps.Keys(was)) {
		if now[node] == "" {
			changes = append(changes, memberChange{api.EventStraight, node, ""})
		}
	}
	return changes
}

func (a *Agent) newTimeline() *timeline {
	return &timeline{
		node: a.ids.Node, wall: a.eventTime, elapsed: clock.Boottime, wake: make(chan struct{}, 1), log: a.log.Named("timeline"),
		execute: func(ctx context.Context, e state.EventAppend) error {
			_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), e)
			return err
		},
	}
}

// eventTime is this host's wall clock as a stamp. It is shown beside the stamp of the log and orders nothing.
func (a *Agent) eventTime() clock.Stamp { return stampOf(a.opts.Physical()) }

// uncountStart takes the start back when it was refused.
func (a *Agent) uncountStart() error {
	if a.ledger == nil || a.safeOver {
		return nil
	}
	err := a.ledger.undo()
	a.ledger = nil // nor is there a stop to be noted
	return err
}

// countStop marks a clean stop.
func (a *Agent) countStop(failed error) {
	if a.ledger == nil || failed != nil {
		return
	}
	if err := a.ledger.stop(); err != nil {
		a.log.Warn("this stop is not in the ledger, the next start will take it for a crash", zap.Error(err))
	}
}

// sayStopping is the last event of this run. It waits for it to be written for a moment, if anybody leads.
func (a *Agent) sayStopping() {
	a.timeline.report(api.EventStopping, a.ids.Node, fmt.Sprintf(stopMessage, a.incarnation))
	if a.coreStatus().Leader == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timelineGrace)
	defer cancel()
	a.timeline.flush(ctx)
}
