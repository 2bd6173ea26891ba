package slo

import "time"

// writeLimit is how soon a good write's result is known.
const writeLimit = time.Second

// A Write is how a write ended for its caller. Status is the HTTP status, 200 for one that was done;
// Abandoned means that the caller went away before the answer.
type Write struct {
	Status    int
	Abandoned bool
	Took      time.Duration
}

// Judge reports whether the write was good, and whether it counts at all. What the caller did wrong
// (4xx) does not count. What we refused for want of room (429), of a leader (503), of time (504) or of
// disk (507) is bad, and so is everything that took too long, whatever came of it.
func (w Write) Judge() (good, counts bool) {
	switch {
	case w.Took > writeLimit:
		return false, true
	case w.Abandoned:
		return false, false
	case w.Status == 429:
		return false, true
	case w.Status >= 400 && w.Status < 500, w.Status == 501:
		return false, false
	}
	return w.Status < 400, true
}
