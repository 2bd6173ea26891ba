package sim

// lockKind is what is done with a lock.
type lockKind uint8

const (
	lockTake lockKind = iota
	lockRelease
	lockEnd  // the session ends, which lets go
	lockLook // who holds it
)

type lockOp struct {
	kind    lockKind
	session uint64
}

type lockSeen struct {
	unknown  bool
	conflict bool
	token    uint64 // of a take, or of the last one
	holder   uint64 // to a look
}

// lockState is one lock of the specification. The token of a holder that was never told it is not known: it is above
// the one before.
type lockState struct {
	holder uint64 // session, 0 for nobody
	token  uint64
	unsure bool // the holder's token is above token
}

// stepLock says whether seen may be the answer to op, and what the lock is then. A new holder's token is above all that
// were given before: whoever guards something by it can tell the holders apart.
func stepLock(s lockState, op lockOp, seen lockSeen) (bool, lockState) {
	mine := s.holder == op.session
	switch op.kind {
	case lockLook:
		return seen.holder == s.holder && (seen.token == s.token || s.unsure && seen.token > s.token), s
	case lockTake:
		return stepTake(s, op, seen, mine)
	case lockRelease, lockEnd:
		switch {
		case seen.conflict:
			return !mine, s
		case op.kind == lockRelease && !mine:
			return seen.unknown, s
		case mine:
			s.holder = 0
		}
		return true, s
	}
	return false, s
}

func stepTake(s lockState, op lockOp, seen lockSeen, mine bool) (bool, lockState) {
	free := s.holder == 0
	switch {
	case seen.conflict:
		return !free && !mine, s
	case seen.unknown:
		if free {
			s.holder, s.unsure = op.session, true
		}
		return true, s
	case mine: // it takes it again, and is told the same
		ok := seen.token == s.token || s.unsure && seen.token > s.token
		return ok, lockState{holder: op.session, token: seen.token}
	case free && seen.token > s.token:
		return true, lockState{holder: op.session, token: seen.token}
	}
	return false, s
}

var lockModel = model[lockState, lockOp, lockSeen](stepLock)
