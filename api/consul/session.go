package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const (
	minSessionTTL    = 10 * time.Second
	defaultLockDelay = 15 * time.Second
	maxSessionBody   = 64 << 10
	// secondsBelow tells the two meanings of a lock-delay that is a number: small ones are seconds, the others
	// nanoseconds.
	secondsBelow = 1000
	// leaseShare: a session of this dialect lives for so many times its TTL, because its clients halve what they were
	// given and are used to the grace.
	leaseShare = 2
)

func (d *dialect) sessionRoutes() []api.Route {
	return []api.Route{
		{Method: http.MethodPut, Path: "/v1/session/create", Action: policy.SessionUse, Serve: d.sessionCreate},
		{Method: http.MethodPut, Path: "/v1/session/destroy/*", Action: policy.SessionUse, Serve: d.sessionDestroy},
		{Method: http.MethodPut, Path: "/v1/session/renew/*", Action: policy.SessionUse, Serve: d.sessionRenew},
		{Method: http.MethodGet, Path: "/v1/session/info/*", Action: policy.SessionRead, Serve: d.sessionInfo},
		{Method: http.MethodGet, Path: "/v1/session/node/*", Action: policy.SessionRead, Serve: d.sessionNode},
		{Method: http.MethodGet, Path: "/v1/session/list", Action: policy.SessionRead, Serve: d.sessionList},
	}
}

// session is one as this dialect shows it. LockDelay is in nanoseconds; NodeChecks is never null, ServiceChecks is
// when there are none.
type session struct {
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string
	TTL           string
	NodeChecks    []string
	ServiceChecks []serviceCheck
	CreateIndex   uint64
	ModifyIndex   uint64
}

type serviceCheck struct {
	ID        string
	Namespace string
}

func sessionsOf(all []state.Session) []session {
	out := make([]session, len(all))
	for i, s := range all {
		out[i] = session{
			ID: s.ID.String(), Name: s.Name, Node: s.Node, LockDelay: s.LockDelay, Behavior: string(s.Behavior),
			TTL: ttlText(s.TTL), NodeChecks: append([]string{}, s.NodeChecks...),
			CreateIndex: s.CreateRevision, ModifyIndex: s.ModRevision,
		}
		for _, name := range s.ServiceChecks {
			out[i].ServiceChecks = append(out[i].ServiceChecks, serviceCheck{ID: name})
		}
	}
	return out
}

// ttlText is a TTL as clients sent it, mostly: in seconds, "" for none.
func ttlText(ttl time.Duration) string {
	switch {
	case ttl == 0:
		return ""
	case ttl%time.Second == 0:
		return strconv.FormatInt(int64(ttl/time.Second), 10) + "s"
	}
	return ttl.String()
}

// sessionBody is what a session is created from, all optional. Absent checks mean serfHealth; an empty list means none.
// Checks is the older name of NodeChecks.
type sessionBody struct {
	Name          string
	Node          string
	LockDelay     json.RawMessage
	Behavior      string
	TTL           string
	Checks        *[]string
	NodeChecks    *[]string
	ServiceChecks []serviceCheck
}

func (d *dialect) sessionCreate(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	raw, err := x.Body("session", maxSessionBody)
	if err != nil {
		return err
	}
	var body sessionBody
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &body); err != nil {
			return refuse(x, badRequest("Request decode failed: "+err.Error()))
		}
	}
	spec, err := body.session()
	if err == nil {
		err = d.checkAlive(x, spec)
	}
	if err != nil {
		return refuse(x, err)
	}
	made, done, err := x.Service().CreateSession(x.Context(), x.Caller, spec)
	if err != nil {
		return err
	}
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return writeJSON(x, struct{ ID string }{made.ID.String()})
}

func (b sessionBody) session() (state.Session, error) {
	s := state.Session{Name: b.Name, Node: b.Node, Behavior: state.Behavior(b.Behavior), LockDelay: defaultLockDelay}
	switch s.Behavior {
	case "":
		s.Behavior = state.BehaviorRelease
	case state.BehaviorRelease, state.BehaviorDelete:
	default:
		return s, badRequest(fmt.Sprintf("Invalid Session Behavior %q: use release or delete", b.Behavior))
	}
	var err error
	if s.TTL, err = parseTTL(b.TTL); err != nil {
		return s, err
	}
	s.Lease = leaseShare * s.TTL
	if s.LockDelay, err = parseLockDelay(b.LockDelay); err != nil {
		return s, err
	}
	s.NodeChecks, s.ServiceChecks = b.checks()
	return s, nil
}

// parseTTL refuses with the status and the beginning that clients of this dialect look for.
func parseTTL(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl != 0 && (ttl < minSessionTTL || ttl > state.MaxSessionTTL) {
		return 0, &refusal{http.StatusInternalServerError,
			fmt.Sprintf("Invalid Session TTL %.40q: use %s to %s, or none", text, minSessionTTL, state.MaxSessionTTL)}
	}
	return ttl, nil
}

// parseLockDelay takes a duration's text, such as "15s", or a number.
func parseLockDelay(raw json.RawMessage) (time.Duration, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return defaultLockDelay, nil
	}
	var delay time.Duration
	var number int64
	var text string
	err := json.Unmarshal(raw, &text)
	if err == nil {
		delay, err = time.ParseDuration(text)
	} else if err = json.Unmarshal(raw, &number); number >= secondsBelow || number < 0 {
		delay = time.Duration(number)
	} else {
		delay = time.Duration(number) * time.Second
	}
	if err != nil || delay < 0 || delay > state.MaxLockDelay {
		return 0, badRequest(fmt.Sprintf("Invalid Session LockDelay %.40s: use 0s to %s", raw, state.MaxLockDelay))
	}
	return delay, nil
}

// checks names the checks of the session. That they exist and are not critical, the state makes sure, in the same step
// as it makes the session.
func (b sessionBody) checks() (node, service []string) {
	node = []string{serfCheckID}
	if b.NodeChecks != nil {
		node = *b.NodeChecks
	} else if b.Checks != nil {
		node = *b.Checks
	}
	for _, check := range b.ServiceChecks {
		service = append(service, check.ID)
	}
	return node, service
}

// checkAlive refuses a session that relies on the life of an agent that gossip holds dead. This check alone is not in the
// state.
func (d *dialect) checkAlive(x *api.Exchange, s state.Session) error {
	local, r := x.Service().Local(), d.roster(x)
	if s.Node == "" || s.Node == local.Node || !slices.Contains(s.NodeChecks, serfCheckID) {
		return nil
	}
	r.look()
	if _, ok := local.Hub.View().Node(s.Node); ok && !alive(r.of(s.Node).member) {
		return badRequest(fmt.Sprintf("check %q on node %.80q is critical", serfCheckID, s.Node))
	}
	return nil
}

// sessionID is the id in the path. One that is no UUID names no session.
func sessionID(x *api.Exchange) (id state.SessionID, known bool, err error) {
	if x.Rest == "" {
		return id, false, badRequest("Missing session")
	}
	id, parseErr := state.ParseSessionID(x.Rest)
	return id, parseErr == nil, nil
}

// sessionDestroy answers true also when there was none.
func (d *dialect) sessionDestroy(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	id, known, err := sessionID(x)
	if err != nil {
		return refuse(x, err)
	}
	if !known {
		return writeJSON(x, true)
	}
	done, err := x.Service().Execute(x.Context(), x.Caller, state.SessionDestroy{ID: id, Reason: state.ReasonAsked})
	var failed *api.Error
	if errors.As(err, &failed) && failed.Code == api.CodeNotFound {
		return writeJSON(x, true)
	}
	if err != nil {
		return err
	}
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return writeJSON(x, true)
}

// sessionRenew answers a list of one, and 404 for a session that has ended.
func (d *dialect) sessionRenew(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	id, known, err := sessionID(x)
	if err != nil {
		return refuse(x, err)
	}
	gone := &refusal{http.StatusNotFound, fmt.Sprintf("Session id %.60q not found", x.Rest)}
	if !known {
		return refuse(x, gone)
	}
	answer, err := x.Service().RenewSession(x.Context(), x.Caller, id)
	var failed *api.Error
	if errors.As(err, &failed) && failed.Code == api.CodeNotFound {
		return refuse(x, gone)
	}
	if err != nil {
		return err
	}
	return writeSessions(x, answer)
}

func (d *dialect) sessionInfo(x *api.Exchange) error {
	id, known, err := sessionID(x)
	if err != nil {
		return refuse(x, err)
	}
	if !known {
		id = state.SessionID{} // no session has it
	}
	return d.readSessions(x, api.SessionQuery{ID: &id})
}

func (d *dialect) sessionNode(x *api.Exchange) error {
	if x.Rest == "" {
		return refuse(x, badRequest("Missing node name"))
	}
	return d.readSessions(x, api.SessionQuery{Node: x.Rest})
}

func (d *dialect) sessionList(x *api.Exchange) error { return d.readSessions(x, api.SessionQuery{}) }

func (d *dialect) readSessions(x *api.Exchange, q api.SessionQuery) error {
	o, err := d.readOptions(x)
	if err != nil {
		return refuse(x, err)
	}
	q.Consistency, q.MinRevision, q.Wait = o.consistency, o.index, o.wait
	answer, err := x.Service().Sessions(x.Context(), x.Caller, q)
	if err != nil {
		readHeaders(x, x.Service().Local().Hub.View().TableRevision(state.TableSession))
		return err
	}
	return writeSessions(x, answer)
}

func writeSessions(x *api.Exchange, answer api.SessionAnswer) error {
	readHeaders(x, answer.Revision)
	x.Receipt(answer.Node, answer.Term, answer.Index, answer.Stamp)
	return writeJSON(x, sessionsOf(answer.Sessions))
}
