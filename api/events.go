package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// clusterEvents are kinds about others than the agent that reports them. Only an agent of the core may say these:
// the leader judges who is dead and who leads, and an agent outside must not make people believe it.
var clusterEvents = map[string]bool{
	EventMemberDead: true, EventMemberLeft: true, EventMemberBack: true, EventLeader: true, EventYielded: true, EventCore: true,
	EventUndecided: true, EventDecided: true,
}

// The kinds of events that agents report; state.EventNote is what people write.
const (
	EventStarted    = "agent-started"  // message: which start, and whether the stop before was clean
	EventStopping   = "agent-stopping" // on purpose
	EventJoined     = "agent-joined"   // its first start in this cluster
	EventRenewal    = "renewal-failed" // of its certificate
	EventRenewed    = "renewal-works"  // again
	EventDropped    = "events-dropped" // events that it could not report
	EventAlert      = "alert-firing"   // subject: the alert
	EventResolved   = "alert-resolved" // subject: the alert
	EventMemberDead = "member-dead"    // gossip holds it dead; subject: the member
	EventMemberLeft = "member-left"    // by request
	EventMemberBack = "member-back"    // alive again
	EventLeader     = "leader-elected" // subject: who leads
	EventYielded    = "lead-yielded"   // by a leader that was too slow; subject: who took over
	EventCore       = "core-changed"   // subject: whom the step is about
	EventDamage     = "storage-damage" // files of this agent are not what was written; subject: the agent
	EventHealed     = "storage-healed" // and were put right by the agent itself
	EventSpaceLow   = "space-low"      // too little is free on its disk: it takes no writes; subject: the agent
	EventSpaceBack  = "space-back"     // again enough

	EventSafeMode     = "safe-mode"      // an agent ended badly again and again and leaves something out; subject: the agent
	EventSafeModeOver = "safe-mode-over" // and does all again

	EventBackupFailed = "backup-failed" // a scheduled one; subject: the agent
	EventBackupWorks  = "backup-works"  // again

	EventCanaryLost = "canary-lost" // acknowledged writes are not there any more; subject: the agent that remembers them

	EventRelayed  = "link-relayed"  // this member reaches another only by way of a third; subject: the other
	EventStraight = "link-straight" // and straight again

	EventFenced       = "state-fenced"  // a core member's state is wrong: it answers nothing until it is rebuilt; subject: the agent
	EventRebuilt      = "state-rebuilt" // and equals that of the others again
	EventApplyStopped = "apply-stopped" // a core member crashes on a command and applies nothing; subject: the agent
	EventApplyResumed = "apply-resumed" // the command is left out on all members, and it goes on

	EventViolated = "invariant-violated" // what must always hold did not; subject: the agent that saw it
	EventRecorded = "core-recorded"      // what led to something that must not happen is on its disk; subject: the agent

	EventUndecided = "state-undecided" // the core members hold different states and none has a majority: writes are refused; subject: who leads
	EventDecided   = "state-decided"   // one has a majority again, or an operator has chosen

	EventRoot     = "root-rotation"    // the root is being replaced, and this is one step of it; subject: the root, as its hash begins
	EventCopied   = "host-copied"      // it was seen twice, or went back to an older copy of its files: it is renewed no more; subject: the host
	EventCopyOver = "host-decided"     // an operator has trusted, replaced or evicted it
	EventStale    = "host-stale"       // it asked with an old generation, or with the same one for hours: it may be a copy; subject: the host
	EventUnopened = "root-unopened"    // a core member can no longer open the root that is sealed for it
	EventEpoch    = "epoch-passed"     // this core member learned of a recovery without it: its log is kept aside, it comes back under a new id
	EventRaftID   = "raft-id-given-up" // with a log that could not be repaired; the agent comes back under a new id
	EventRejoined = "core-rejoined"    // under a new Raft id, and votes again; subject: the agent
	EventDoubt    = "log-in-doubt"     // this member may have acknowledged more than its log holds: it waits for all others
)

// eventKinds are all that there can be, for those who ask for one.
var eventKinds = []string{
	EventStarted, EventStopping, EventJoined, EventRenewal, EventRenewed, EventAlert, EventResolved,
	EventMemberDead, EventMemberLeft, EventMemberBack, EventLeader, EventCore, EventDropped, state.EventNote,
	state.EventRecovered, EventDamage, EventHealed, EventSpaceLow, EventSpaceBack, EventSafeMode, EventSafeModeOver, EventBackupFailed, EventBackupWorks,
	EventYielded, EventRoot, EventUnopened, EventEpoch, EventRaftID, EventRejoined, EventDoubt, EventFenced, EventRebuilt, EventUndecided, EventDecided, EventViolated, EventRecorded,
	EventApplyStopped, EventApplyResumed, EventRelayed, EventStraight, EventCanaryLost,
	EventCopied, EventCopyOver, EventStale,
}

// Event is one row of GET /parley/v1/events, in the order of the log. Time is the cluster's, ReportedAt what the
// reporter's own clock said: only HLC and the order count. A pending event is one of this agent's own that is not in
// the log yet; it has no HLC and stands at the end.
type Event struct {
	HLC        string    `json:"hlc"`
	Time       time.Time `json:"time"`
	Node       string    `json:"node"`
	Kind       string    `json:"kind"`
	Subject    string    `json:"subject"`
	Message    string    `json:"message"`
	Pending    bool      `json:"pending"`
	ReportedAt time.Time `json:"reported_at"`
}

func eventRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/events", Action: policy.EventRead, Own: true, Takes: []string{"since", "kind", "limit", "index", "wait"}, Serve: serveEvents},
		{Method: http.MethodPost, Path: "/parley/v1/events", Action: policy.EventFire, Serve: serveEventAdd},
	}
}

// eventQuery is what GET /parley/v1/events takes.
type eventQuery struct {
	after clock.Stamp   // only later ones
	since time.Duration // only those of so long before the newest stamp known here; 0 for all
	kind  string
	limit int // the newest so many; 0 for all
	index uint64
	wait  time.Duration
}

func (x *Exchange) eventQuery() (q eventQuery, err error) {
	if q.kind = x.Query().Get("kind"); q.kind != "" && !slices.Contains(eventKinds, q.kind) {
		return q, Errorf(CodeInvalid, "no kind of events is called %q", q.kind).WithHint("there are: %s", strings.Join(eventKinds, ", "))
	}
	if since := x.Query().Get("since"); since != "" {
		if q.after, err = clock.ParseStamp(since); err != nil {
			if q.since, err = x.Duration("since"); err != nil {
				return q, Errorf(CodeInvalid, "since=%q is neither a duration nor a stamp", since).
					WithHint("use a length of time, such as 10m, or the hlc of an event")
			}
		}
	}
	limit, _, err := x.Uint("limit")
	if err != nil {
		return q, err
	}
	q.limit = int(min(limit, state.MaxEvents)) //nolint:gosec // bounded
	if q.index, _, err = x.Uint("index"); err != nil {
		return q, err
	}
	q.wait, err = x.Duration("wait")
	q.wait = min(q.wait, maxWait)
	return q, err
}

// serveEvents answers from this agent's View, which has the timeline with or without a core.
func serveEvents(x *Exchange) error {
	q, err := x.eventQuery()
	if err != nil {
		return err
	}
	view, err := x.service.eventView(x.Context(), x.Caller, q)
	if err != nil {
		return err
	}
	rows := eventsIn(view, q)
	rows = append(rows, x.service.pendingEvents(view, q)...)
	if q.limit > 0 && len(rows) > q.limit {
		rows = rows[len(rows)-q.limit:]
	}
	x.Receipt(x.service.local.Node, view.Term(), view.Index(), view.Stamp())
	x.W.Header()[headerRevision] = []string{strconv.FormatUint(view.TableRevision(state.TableEvent), 10)}
	return x.JSON(http.StatusOK, rows)
}

// eventView is the View to answer from: the one that has a later event, when the query waits for that.
func (s *Service) eventView(ctx context.Context, caller Caller, q eventQuery) (*state.View, error) {
	if q.index == 0 || q.wait == 0 {
		return s.local.Hub.View(), nil
	}
	who := caller.identity()
	if !s.watches.acquire(who) {
		return nil, Errorf(CodeTooMany, "%d watches are open for this caller", s.watches.each)
	}
	defer s.watches.release(who)
	waited, cancel := context.WithTimeout(ctx, q.wait)
	defer cancel()
	view, err := s.local.Hub.Wait(waited, watch.Selector{Table: state.TableEvent, Prefix: true}, q.index)
	switch {
	case err == nil:
		return view, nil
	case ctx.Err() != nil || waited.Err() == nil:
		return nil, hubError(err)
	}
	return s.local.Hub.View(), nil
}

// eventsIn lists what q asks for. A length of time counts back from the newest stamp that this agent has seen, which
// is the cluster's time and not this host's.
func eventsIn(view *state.View, q eventQuery) []Event {
	after := q.after
	if q.since > 0 {
		after = back(view.Stamp(), q.since)
	}
	rows := []Event{}
	view.Events(after, func(e state.Event) bool {
		if q.kind == "" || e.Kind == q.kind {
			rows = append(rows, Event{
				HLC: e.At.String(), Time: e.At.Wall(), Node: e.Node, Kind: e.Kind, Subject: e.Subject,
				Message: e.Message, ReportedAt: e.Origin.Wall(),
			})
		}
		return true
	})
	return rows
}

// back is the stamp so long before s, not before the first.
func back(s clock.Stamp, d time.Duration) clock.Stamp {
	const logicalBits = 16
	if before := clock.Stamp(d.Milliseconds()) << logicalBits; before < s { //nolint:gosec // not negative
		return s - before
	}
	return 0
}

// pendingEvents are this agent's own that the log has not taken yet. One that is in the View is not pending any more,
// even if its reporter has not heard so.
func (s *Service) pendingEvents(view *state.View, q eventQuery) []Event {
	if s.local.PendingEvents == nil {
		return nil
	}
	waiting := s.local.PendingEvents()
	written := map[[16]byte]bool{}
	if len(waiting) > 0 {
		view.Events(0, func(e state.Event) bool {
			written[e.ID] = true
			return true
		})
	}
	var rows []Event
	for _, e := range waiting {
		if written[e.ID] || q.kind != "" && e.Kind != q.kind {
			continue
		}
		at := e.Origin.Wall()
		rows = append(rows, Event{Time: at, Node: e.Node, Kind: e.Kind, Subject: e.Subject, Message: e.Message, Pending: true, ReportedAt: at})
	}
	return rows
}

// noteBody is POST /parley/v1/events.
type noteBody struct {
	Message string `json:"message"`
}

// noteAnswer is what it answers: where the note stands in the timeline, and through which agent it came.
type noteAnswer struct {
	HLC  string    `json:"hlc"`
	Time time.Time `json:"time"`
	Node string    `json:"node"`
}

func serveEventAdd(x *Exchange) error {
	var body noteBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	if body.Message == "" {
		return Errorf(CodeInvalid, "the note is empty").WithHint(`send {"message":"what happened"}`)
	}
	s := x.service
	note := state.EventAppend{
		Node: s.local.Node, Kind: state.EventNote, Subject: s.callerName(x.Caller), Message: body.Message,
		Origin: s.local.EventTime(),
	}
	_, _ = rand.Read(note.ID[:]) // never fails: it ends the process instead
	done, err := s.Execute(x.Context(), x.Caller, note)
	if err != nil {
		return err
	}
	x.applied(done)
	at := clock.Stamp(done.Result.Number())
	return x.JSON(http.StatusOK, noteAnswer{HLC: at.String(), Time: at.Wall(), Node: note.Node})
}

// mayReport says whether caller may add e. An agent speaks for itself: the name in the event must be that of the
// agent that the request came from, whatever it claims. People write notes, through an agent that is named as well.
func (s *Service) mayReport(caller Caller, e state.EventAppend) *Error {
	from := cmp.Or(caller.Via, s.local.Node)
	if e.Node != from {
		return Errorf(CodeDenied, "agent %s may not report events in the name of %q", from, e.Node)
	}
	var denied *Error
	switch {
	case e.Kind == state.EventNote:
		denied = allow(caller, policy.EventFire)
	case caller.Kind != KindInternal:
		denied = Errorf(CodeDenied, "events of kind %q are for the agents themselves", e.Kind)
	case clusterEvents[e.Kind]:
		denied = allow(caller, policy.CoreWrite)
	case caller.Role == policy.None || !caller.Role.Valid():
		denied = Errorf(CodeDenied, "agent %s is not, or no longer, a member of the cluster", from)
	}
	if denied != nil {
		return denied
	}
	return s.paceEvents(caller)
}

// How often one caller may write a note, and how often one other agent may have any event written: the timeline is
// bounded, and nobody may be able to push everything else out of it in a minute. An agent's own reporter is slower.
const (
	noteRate, noteBurst   = 1.0, 50.0
	eventRate, eventBurst = 2.0, 120.0
)

func (s *Service) paceEvents(caller Caller) *Error {
	switch {
	case caller.Via != "" && !s.events.allow(caller.Via):
		return Errorf(CodeBusy, "agent %s sends more than %g events a second", caller.Via, eventRate)
	case caller.Via == "" && caller.Kind != KindInternal && !s.notes.allow(caller.identity()):
		return Errorf(CodeBusy, "more than %g notes a second of this caller", noteRate)
	}
	return nil
}
