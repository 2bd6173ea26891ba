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
	timer *time.Timer // nil while no look is due
	at    time.Time
}

// expect makes sure that look is called at a deadline, or before.
func (e *expiry) expect(deadline, now time.Time, look func()) {
	if deadline.IsZero() || e.timer != nil && !deadline.Before(e.at) {
		return
	}
	e.stop()
	e.at = deadline
	e.timer = time.AfterFunc(max(deadline.Sub(now), expiryRest), look)
}

func (e *expiry) stop() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}
