package state

import (
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

// Who holds what is in two places: the key's row names the session, and TableHold, ordered by
// session, finds a session's keys without looking at the others. Every change of a key's holder goes
// through put, hold and deleteKey, which keep the two alike.
//
// A lock-delay is a row of TableDelay under the key, which need not exist, and one of TableDelayEnd,
// which finds those that are over. Holdings and lock-delays together are bounded by MaxHolds, when a
// key is acquired: a session always ends, and each of its holdings becomes at most one lock-delay.

func (c SessionCreate) apply(a *applying) Result {
	s := c.Session
	count := a.s.nodeSessions(s.Node)
	switch _, exists := a.s.session(s.ID); {
	case exists:
		return refuse(CodeExists, "session %s exists: draw another id", s.ID)
	case a.mustBeNode(s.Node).Code != CodeOK:
		return refuse(CodeInvalid, "there is no node %q to bind the session to", s.Node)
	case a.s.tables[TableSession].rows >= MaxSessions:
		return refuse(CodeLimit, "there are %d sessions: destroy some, or give them a TTL", MaxSessions)
	case count >= MaxNodeSessions:
		return refuse(CodeLimit, "node %q has %d sessions: destroy some, or give them a TTL",
			s.Node, MaxNodeSessions)
	}
	if res := a.mayRely(s); res.Code != CodeOK {
		return res
	}
	s.CreatedAt, s.CreateRevision = a.at, a.revision()
	a.set(TableSession, sessionKey(s.ID), EncodeSession(s))
	a.set(TableNodeSessions, s.Node, encodeCount(count+1))
	a.rely(s, newRow(0))
	return Result{}
}

func (c SessionDestroy) apply(a *applying) Result {
	s, exists := a.s.session(c.ID)
	switch {
	case !exists:
		return refuse(CodeNotFound, "there is no session %s", c.ID)
	case c.Term != 0 && c.Term != a.term:
		return refuse(CodeConflict, "it was decided in term %d, this is term %d", c.Term, a.term)
	}
	a.endSession(s)
	return Result{}
}

// endSession releases or deletes the keys of a session, and forgets it.
func (a *applying) endSession(s Session) {
	a.sweepDelays()
	until := a.at + stampMillis(s.LockDelay)
	for _, key := range a.s.holds(s.ID, MaxSessionKeys) {
		a.set(TableHold, holdKey(s.ID, key), nil)
		old, exists := a.s.kv(key)
		if !exists || old.Session != s.ID.String() {
			continue // a snapshot that was tampered with: nothing of ours writes that
		}
		if s.Behavior == BehaviorDelete {
			a.set(TableKV, key, nil)
		} else {
			old.Session = ""
			a.put(Put{Key: key, Value: old.Value, Flags: old.Flags}, old)
		}
		if until > a.at {
			a.delay(key, until)
		}
	}
	a.set(TableSession, sessionKey(s.ID), nil)
	a.set(TableNodeSessions, s.Node, encodeCount(max(0, a.s.nodeSessions(s.Node)-1)))
	a.rely(s, nil)
}

// stampMillis is a length of time in the units of a stamp, rounded up to whole milliseconds.
func stampMillis(d time.Duration) clock.Stamp {
	return clock.Stamp((d+time.Millisecond-1)/time.Millisecond) << 16
}

// delay keeps the key from being acquired until then.
func (a *applying) delay(key string, until clock.Stamp) {
	if old, exists := a.s.lockDelay(key); exists {
		a.set(TableDelayEnd, delayEndKey(old, key), nil)
	}
	a.set(TableDelay, key, encodeDelay(until))
	a.set(TableDelayEnd, delayEndKey(until, key), newRow(0))
}

// sweepDelays forgets lock-delays that are over, at most maxSweep at a time: as many as the end of
// one session adds, so that they never pile up.
func (a *applying) sweepDelays() {
	var over []string
	a.s.scan(TableDelayEnd, "", "", func(r *record) bool {
		if r.key > delayEndKey(a.at+1, "") {
			return false
		}
		over = append(over, r.key)
		return len(over) < maxSweep
	})
	for _, end := range over {
		a.set(TableDelay, end[8:], nil)
		a.set(TableDelayEnd, end, nil)
	}
}

func (c Lock) apply(a *applying) Result {
	kv, res := a.lock(c)
	if res.Code != CodeOK {
		return res
	}
	return number(kv.LockIndex)
}

// lock is the key's new row, or a refusal.
func (a *applying) lock(c Lock) (KV, Result) {
	if c.Session == "" {
		return KV{}, refuse(CodeInvalid, "missing session")
	}
	id, err := ParseSessionID(c.Session)
	if _, exists := a.s.session(id); err != nil || !exists {
		return KV{}, refuse(CodeNotFound, "invalid session %q", c.Session)
	}
	old, exists := a.s.kv(c.Key)
	put := Put{Key: c.Key, Value: c.Value, Flags: c.Flags}
	switch {
	case exists && old.Session == id.String():
		return a.put(put, old), Result{}
	case exists && old.Session != "":
		return KV{}, refuse(CodeConflict, "the key %q is held by session %s", c.Key, old.Session)
	}
	if until, delayed := a.s.lockDelay(c.Key); delayed && until > a.at {
		return KV{}, refuse(CodeConflict, "the key %q is in its lock-delay until %s", c.Key, until)
	}
	if res := a.mayHold(id); res.Code != CodeOK {
		return KV{}, res
	}
	a.sweepDelays()
	a.set(TableHold, holdKey(id, c.Key), newRow(0))
	old.Session = id.String()
	if !mutant.On(mutant.FencingNotMonotone) {
		old.LockIndex = max(old.LockIndex, lockBase(a.s.cluster().Epoch.Counter)) + 1
	}
	return a.put(put, old), Result{}
}

// epochLocks is how often a key can be locked in one epoch. The epoch is the high part of a lock index: a member that
// recovered and an old one that does not know of it give no number out twice. They stay below 2^53, where JSON numbers
// end, over two million epochs.
const epochLocks = 1 << 32

// lockBase is below every lock index of an epoch, and above all of the epochs before.
func lockBase(epoch uint64) uint64 { return (max(epoch, 1) - 1) * epochLocks }

// mayHold refuses another holding beyond the limits. Lock-delays that are over do not count.
func (a *applying) mayHold(id SessionID) Result {
	if len(a.s.holds(id, MaxSessionKeys)) == MaxSessionKeys {
		return refuse(CodeLimit, "the session holds %d keys: use another one beside it", MaxSessionKeys)
	}
	if a.s.tables[TableHold].rows+a.s.tables[TableDelay].rows < MaxHolds {
		return Result{}
	}
	if a.sweepDelays(); a.s.tables[TableHold].rows+a.s.tables[TableDelay].rows < MaxHolds {
		return Result{}
	}
	return refuse(CodeLimit, "%d keys are held or in their lock-delay: release some", MaxHolds)
}

func (c Unlock) apply(a *applying) Result {
	kv, res := a.unlock(c)
	if res.Code != CodeOK {
		return res
	}
	return number(kv.LockIndex)
}

// unlock is the key's new row, or a refusal. A holder may always let go.
func (a *applying) unlock(c Unlock) (KV, Result) {
	if c.Session == "" {
		return KV{}, refuse(CodeInvalid, "missing session")
	}
	old, exists := a.s.kv(c.Key)
	id, err := ParseSessionID(c.Session)
	if !exists || err != nil || old.Session != id.String() {
		return KV{}, refuse(CodeConflict, "the key %q is not held by session %q", c.Key, c.Session)
	}
	a.set(TableHold, holdKey(id, c.Key), nil)
	old.Session = ""
	return a.put(Put{Key: c.Key, Value: c.Value, Flags: c.Flags}, old), Result{}
}

// deleteKey deletes a key that exists, and takes it from its holder.
func (a *applying) deleteKey(key string) {
	if a.s.tables[TableHold].rows > 0 {
		if kv, ok := a.s.kv(key); ok && kv.Session != "" {
			if id, err := ParseSessionID(kv.Session); err == nil {
				a.set(TableHold, holdKey(id, key), nil)
			}
		}
	}
	a.set(TableKV, key, nil)
}
