package api

import (
	"net/http"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const defaultLockDelay = 15 * time.Second

// sessionRoutes are the endpoints of sessions. Putting a session that exists renews it.
func (s *Service) sessionRoutes() []Route {
	return []Route{
		{Method: http.MethodPost, Path: "/parley/v1/session", Action: policy.SessionUse, Serve: serveSessionCreate},
		{Method: http.MethodGet, Path: "/parley/v1/sessions", Action: policy.SessionRead, Takes: []string{"node", "stale", "index", "wait"}, Serve: serveSessions},
		{Method: http.MethodGet, Path: "/parley/v1/session/*", Action: policy.SessionRead, Takes: []string{"stale", "index", "wait"}, Serve: serveSession},
		{Method: http.MethodPut, Path: "/parley/v1/session/*", Action: policy.SessionUse, Serve: serveSessionRenew},
		{Method: http.MethodDelete, Path: "/parley/v1/session/*", Action: policy.SessionUse, Once: true, Serve: serveSessionDestroy},
	}
}

// Session is one as the native API shows it. TTL is "0s" for none; Lease is how long it lives without a renewal, which
// for a session made by the /v1 dialect is more than its TTL. A later session has the larger FencingToken.
type Session struct {
	ID           string      `json:"id"`
	Name         string      `json:"name"`
	Node         string      `json:"node"`
	TTL          string      `json:"ttl"`
	Lease        string      `json:"lease"`
	Behavior     string      `json:"behavior"`
	LockDelay    string      `json:"lock_delay"`
	CreatedAt    time.Time   `json:"created_at"`
	CreatedHLC   clock.Stamp `json:"created_hlc"`
	FencingToken uint64      `json:"fencing_token"`
}

func sessionShape(s state.Session) Session {
	return Session{
		ID: s.ID.String(), Name: s.Name, Node: s.Node, TTL: s.TTL.String(), Lease: s.Lease.String(),
		Behavior: string(s.Behavior), LockDelay: s.LockDelay.String(),
		CreatedAt: s.CreatedAt.Wall().UTC(), CreatedHLC: s.CreatedAt, FencingToken: s.CreateRevision,
	}
}

func sessionShapes(all []state.Session) []Session {
	out := make([]Session, len(all))
	for i, s := range all {
		out[i] = sessionShape(s)
	}
	return out
}

// sessionBody is POST /parley/v1/session, all optional: bound to this agent's node, without a TTL, releasing its keys,
// with a lock-delay of 15 s.
type sessionBody struct {
	Name      string  `json:"name"`
	Node      string  `json:"node"`
	TTL       string  `json:"ttl"`
	Behavior  string  `json:"behavior"`
	LockDelay *string `json:"lock_delay"`
}

func serveSessionCreate(x *Exchange) error {
	var body sessionBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	spec := state.Session{Name: body.Name, Node: body.Node, Behavior: state.Behavior(body.Behavior), LockDelay: defaultLockDelay}
	if spec.Behavior == "" {
		spec.Behavior = state.BehaviorRelease
	}
	var err error
	if body.TTL != "" {
		if spec.TTL, err = bodyDuration("ttl", body.TTL); err != nil {
			return err
		}
	}
	spec.Lease = spec.TTL
	if body.LockDelay != nil {
		if spec.LockDelay, err = bodyDuration("lock_delay", *body.LockDelay); err != nil {
			return err
		}
	}
	made, done, err := x.service.CreateSession(x.Context(), x.Caller, spec)
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, sessionShape(made))
}

func bodyDuration(name, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, Errorf(CodeInvalid, "%s %.40q is not a duration", name, text).WithHint("use a number and a unit, such as 500ms or 30s")
	}
	return d, nil
}

func serveSessions(x *Exchange) error {
	return readSessions(x, SessionQuery{Node: x.Query().Get("node")}, func(a SessionAnswer) error {
		return x.JSON(http.StatusOK, sessionShapes(a.Sessions))
	})
}

func serveSession(x *Exchange) error {
	id, err := x.sessionID()
	if err != nil {
		return err
	}
	return readSessions(x, SessionQuery{ID: &id}, func(a SessionAnswer) error {
		if len(a.Sessions) == 0 {
			return noSession(id)
		}
		return x.JSON(http.StatusOK, sessionShape(a.Sessions[0]))
	})
}

func noSession(id state.SessionID) *Error {
	return Errorf(CodeNotFound, "there is no session %s", id).WithHint("list what exists: parley session list")
}

// sessionID is the id in the path.
func (x *Exchange) sessionID() (state.SessionID, error) {
	id, err := state.ParseSessionID(x.Rest)
	if err != nil {
		return id, Errorf(CodeInvalid, "%v", err).WithHint("list what exists: parley session list")
	}
	return id, nil
}

func readSessions(x *Exchange, q SessionQuery, write func(SessionAnswer) error) error {
	if x.Flag("stale") {
		q.Consistency = Stale
	}
	var err error
	if q.MinRevision, _, err = x.Uint("index"); err != nil {
		return err
	}
	if q.Wait, err = x.Duration("wait"); err != nil {
		return err
	}
	answer, err := x.service.Sessions(x.Context(), x.Caller, q)
	if err != nil {
		return err
	}
	x.readAt(answer.Revision, answer.Node, answer.Term, answer.Index, answer.Stamp)
	return write(answer)
}

func serveSessionRenew(x *Exchange) error {
	id, err := x.sessionID()
	if err != nil {
		return err
	}
	answer, err := x.service.RenewSession(x.Context(), x.Caller, id)
	if err != nil {
		return err
	}
	if len(answer.Sessions) == 0 {
		return noSession(id)
	}
	x.readAt(answer.Revision, answer.Node, answer.Term, answer.Index, answer.Stamp)
	return x.JSON(http.StatusOK, sessionShape(answer.Sessions[0]))
}

// ended is the answer to the end of a session.
type ended struct {
	ID       string `json:"id"`
	Revision uint64 `json:"revision"`
}

func serveSessionDestroy(x *Exchange) error {
	id, err := x.sessionID()
	if err != nil {
		return err
	}
	done, err := x.Execute(state.SessionDestroy{ID: id, Reason: state.ReasonAsked})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, ended{ID: id.String(), Revision: done.Result.Revision})
}
