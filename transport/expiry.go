package transport

import "time"

// expiryRest is the least time between two looks for calls whose time is up: what a look costs goes by the number of calls.
const expiryRest = time.Millisecond

// expiry is one timer for the deadlines of all calls of a connection. It is set for the earliest that it was told of, and that
// call has been answered long since in most cases: then the look finds the earliest of those that are in progress. So calls
// with the same limit, which most are, cost one look in the time of their limit, however many there are.
//
// It has no lock of its own.
type expiry struct {
	look  func()      // what is called when the time of a call may be up; it may take the lock that guards this
	timer *time.Timer // nil while no look is due
	at    time.Time
}

// expect makes sure that there is a look at a deadline, or before. A look itself calls it for what it leaves.
func (e *expiry) expect(deadline, now time.Time) {
	if deadline.IsZero() || e.timer != nil && !deadline.Before(e.at) {
		return
	}
	e.stop()
	e.at = deadline
	e.timer = time.AfterFunc(max(deadline.Sub(now), expiryRest), e.look)
}

func (e *expiry) stop() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}
