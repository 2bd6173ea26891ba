package sim

import (
	"fmt"
	"time"

	"github.com/parley-mesh/parley/state"
)

const (
	liveLocks = 20
	lockUses  = 40
)

// lockLoad makes sessions, takes locks by them, and lets go of these or ends the sessions. Tokens that fence must grow
// from one holder to the next.
type lockLoad struct {
	cl       *clients
	live     []*lock
	all      []*lockHistory
	sessions uint64
	newest   uint64 // highest fencing token of a session that was acknowledged
	mine     [clientCount]holder
}

type lockHistory = keyHistory[lockOp, lockSeen]

// lock is a key and the highest revision at which taking it was acknowledged.
type lock struct {
	*lockHistory
	newest uint64
}

// holder is what a client does with its lock.
type holder struct {
	session state.SessionID
	number  uint64 // of the session; 0 for none
	lock    *lock
	holds   bool
}

func newLockLoad(cl *clients) *lockLoad {
	w := &lockLoad{cl: cl, live: make([]*lock, liveLocks)}
	for i := range w.live {
		w.renew(i)
	}
	return w
}

func (w *lockLoad) renew(i int) {
	w.live[i] = &lock{lockHistory: &lockHistory{key: fmt.Sprintf("l/%04d", len(w.all))}}
	w.all = append(w.all, w.live[i].lockHistory)
}

func (w *lockLoad) next(client int) *call {
	m := &w.mine[client]
	switch {
	case m.number == 0:
		return w.create(m)
	case m.lock == nil:
		i := w.cl.c.rnd.IntN(len(w.live))
		if w.live[i].uses >= lockUses || w.live[i].unsure >= maxUnsure {
			w.renew(i)
		}
		m.lock = w.live[i]
		return w.take(m)
	case !m.holds && !w.cl.c.chance(8):
		return w.take(m)
	case m.holds && !w.cl.c.chance(6):
		return w.operation(m, lockOp{kind: lockRelease}, state.Unlock{Key: m.lock.key, Session: m.session.String()})
	}
	return w.operation(m, lockOp{kind: lockEnd}, state.SessionDestroy{ID: m.session, Reason: state.ReasonAsked})
}

// create makes a session. Of two, of which one was acknowledged before the other was asked for, the later has the
// larger token.
func (w *lockLoad) create(m *holder) *call {
	w.sessions++
	number, floor := w.sessions, w.newest
	id := state.SessionID{0: 1}
	copy(id[8:], encodeValue(number))
	return &call{
		command: state.SessionCreate{Session: state.Session{ID: id, Node: "n1", Behavior: state.BehaviorRelease}}, patient: true,
		end: func(o outcome) {
			switch token := o.result.Revision; {
			case o.unknown:
			case o.result.Code != state.CodeOK:
				w.cl.c.fail("a new session was answered by %q: %s", o.result.Code, o.result.Message)
			case token <= floor:
				w.cl.c.fail("session %d has the token %d, an earlier one %d", number, token, floor)
			default:
				w.newest = max(w.newest, token)
				*m = holder{session: id, number: number}
			}
		},
	}
}

func (w *lockLoad) take(m *holder) *call {
	return w.operation(m, lockOp{kind: lockTake}, state.Lock{Key: m.lock.key, Session: m.session.String()})
}

func (w *lockLoad) operation(m *holder, op lockOp, command state.Command) *call {
	l, floor := m.lock, m.lock.newest
	op.session = m.number
	l.uses++
	a := &call{command: command, patient: op.kind != lockTake}
	a.end = func(o outcome) {
		seen := lockSeen{unknown: o.unknown}
		switch {
		case o.unknown: // the client starts afresh
		case o.result.Code == state.CodeOK:
			seen.token = o.result.Number()
			w.took(l, op, o.result.Revision, floor)
		case o.result.Code == state.CodeConflict && op.kind != lockEnd:
			seen.conflict = true
		default:
			w.cl.c.fail("%+v of %s was answered by %q: %s", op, l.key, o.result.Code, o.result.Message)
			return
		}
		l.add(a.client, op, seen, a.began, o.at, o.unknown)
		switch {
		case o.unknown || op.kind == lockEnd:
			*m = holder{}
		case op.kind == lockRelease:
			m.lock, m.holds = nil, false
		case op.kind == lockTake:
			m.holds = !seen.conflict
		}
	}
	return a
}

// took checks that the revision at which a lock is taken grows.
func (w *lockLoad) took(l *lock, op lockOp, revision, floor uint64) {
	if op.kind != lockTake {
		return
	}
	if revision <= floor {
		w.cl.c.fail("%s was taken at revision %d, before at %d", l.key, revision, floor)
	}
	l.newest = max(l.newest, revision)
}

// last ends with who holds each lock.
func (w *lockLoad) last(v *state.View) {
	for _, k := range w.all {
		kv, _ := v.Get(k.key)
		seen := lockSeen{token: kv.LockIndex}
		if id, err := state.ParseSessionID(kv.Session); err == nil {
			seen.holder = decodeValue(id[8:])
		}
		k.add(0, lockOp{kind: lockLook}, seen, w.cl.c.now, w.cl.c.now+time.Nanosecond, false)
	}
}

func (w *lockLoad) check() error { return lockModel.check(w.all) }
