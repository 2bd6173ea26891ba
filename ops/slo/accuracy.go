package slo

import "time"

const (
	// trueAfter is how long nothing is heard of a node until its death counts as true.
	trueAfter = 10 * time.Minute
	// maxGap is the longest time between two observations that is attributed to what they saw. Beyond
	// it this agent itself stood still, and saw nothing.
	maxGap = 10 * time.Second
	// maxDead bounds the deaths that are under judgement. When more than that are held dead at once it
	// is not they who are gone; further ones are not judged.
	maxDead = 4096
)

// A Sighting is another node as gossip holds it now. Nodes that left are not listed.
type Sighting struct {
	Name  string
	Dead  bool
	Epoch uint64   // of its start: it grows when the node starts again
	Host  [16]byte // another one under the same name is another life, whatever its epoch
}

// sameLife reports whether two sightings are of one start of one host.
func (s Sighting) sameLife(o Sighting) bool { return s.Epoch == o.Epoch && s.Host == o.Host }

// Accuracy counts the seconds of live nodes: good ones in which they were held alive, bad ones in which they
// were held dead and were not. Whether a node was alive is known only later:
//
//  1. a2 is held dead from second 10. Its seconds are put aside.
//  2. a2 is heard again at second 40 in the same epoch: it never stopped, and 30 seconds are bad.
//  3. Had it come back in a later epoch, or had another host come in its place, it had died: the seconds
//     are nobody's. The same if nothing is heard for 10 minutes.
type Accuracy struct {
	last    time.Duration
	started bool
	dead    map[string]death
}

type death struct {
	of      Sighting
	since   time.Duration
	seconds uint64
}

// NewAccuracy returns one that has seen nobody.
func NewAccuracy() *Accuracy { return &Accuracy{dead: make(map[string]death)} }

// Observe takes in what gossip holds at a moment (boottime) and returns the seconds that are decided now.
func (a *Accuracy) Observe(now time.Duration, seen []Sighting) (good, bad uint64) {
	seconds := a.elapsed(now)
	present := make(map[string]bool, len(seen))
	for _, s := range seen {
		present[s.Name] = true
		d, wasDead := a.dead[s.Name]
		switch {
		case s.Dead:
			a.holdDead(now, s, seconds)
		case wasDead && d.of.sameLife(s) && now-d.since < trueAfter:
			bad += d.seconds
			good += seconds
			delete(a.dead, s.Name)
		default:
			good += seconds
			delete(a.dead, s.Name)
		}
	}
	for name := range a.dead { // what left or was forgotten is judged no more
		if !present[name] {
			delete(a.dead, name)
		}
	}
	return good, bad
}

// elapsed is the whole seconds since the last call; the rest is kept for the next one.
func (a *Accuracy) elapsed(now time.Duration) uint64 {
	passed := now - a.last
	if !a.started || passed < 0 || passed > maxGap {
		a.started, a.last = true, now
		return 0
	}
	whole := passed.Truncate(time.Second)
	a.last += whole
	return uint64(whole / time.Second)
}

// holdDead puts the seconds of a dead node aside. One that started again while it was held dead is
// judged from then on as that start.
func (a *Accuracy) holdDead(now time.Duration, s Sighting, seconds uint64) {
	d, ok := a.dead[s.Name]
	switch {
	case !ok && len(a.dead) >= maxDead:
		return
	case !ok || !d.of.sameLife(s):
		d = death{of: s, since: now}
	default:
		d.seconds += seconds
	}
	a.dead[s.Name] = d
}
