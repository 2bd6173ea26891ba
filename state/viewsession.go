package state

import "github.com/parley-mesh/parley/clock"

// Session returns the session with that id.
func (v *View) Session(id SessionID) (Session, bool) { return v.s.session(id) }

// Sessions returns all sessions, by id.
func (v *View) Sessions() []Session { return rows(v.s, TableSession, sessionOf) }

// SessionsOf returns the sessions that are bound to a node, by id. It looks at all sessions.
func (v *View) SessionsOf(node string) []Session {
	var out []Session
	v.s.scan(TableSession, "", "", func(r *record) bool {
		if s := must(sessionOf(r)); s.Node == node {
			out = append(out, s)
		}
		return true
	})
	return out
}

// HeldKeys returns the keys that a session holds, in order.
func (v *View) HeldKeys(id SessionID) []string { return v.s.holds(id, MaxSessionKeys) }

func sessionOf(r *record) (Session, error) {
	return DecodeSession(SessionID([]byte(r.key)), r.revision, r.row)
}

func (s *store) session(id SessionID) (Session, bool) {
	r, ok := s.get(TableSession, sessionKey(id))
	if !ok {
		return Session{}, false
	}
	return must(sessionOf(r)), true
}

func (s *store) nodeSessions(node string) int {
	r, ok := s.get(TableNodeSessions, node)
	if !ok {
		return 0
	}
	return must(decodeCount(r.row))
}

// holds lists at most limit of the keys that a session holds.
func (s *store) holds(id SessionID, limit int) []string {
	var keys []string
	s.scan(TableHold, sessionKey(id), "", func(r *record) bool {
		keys = append(keys, r.key[len(id):])
		return len(keys) < limit
	})
	return keys
}

// lockDelay is the stamp up to which the key cannot be acquired, which may be over.
func (s *store) lockDelay(key string) (clock.Stamp, bool) {
	r, ok := s.get(TableDelay, key)
	if !ok {
		return 0, false
	}
	return must(decodeDelay(r.row)), true
}
