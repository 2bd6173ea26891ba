// Package clock owns time: the hybrid logical clock that stamps every command (Kulkarni, Demirbas,
// Madeppa, Avva and Leone, "Logical Physical Clocks", 2014) and, in system.go, the only readings of
// the machine's clocks that a decision may rest on.
//
//	c, err := clock.New(clock.Options{Physical: clock.System, HighWater: loaded, Persist: save})
//	stamp, err := c.Now()           // stamps an event of ours
//	stamp, err = c.Update(received) // orders us after what a peer stamped
//
// A Clock belongs to one goroutine: it takes no lock, starts nothing and does no I/O of its own; the
// only things it calls are Options.Physical and Options.Persist. Everything but the system*.go files
// is a pure function of what is passed in.
package clock

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of Options.
//
// MaxForward must exceed Reserve by more than the machines' clocks differ: an agent that restarts at
// once stamps up to Reserve ahead of its physical clock, and its peers must still follow it.
const (
	DefaultMaxForward = 2 * time.Second
	DefaultReserve    = time.Second
)

// ErrTooFarAhead is returned by Update when the remote stamp is further ahead of the physical clock
// than Options.MaxForward. One of the two machines has a wrong clock; the Clock is unchanged.
var ErrTooFarAhead = errors.New("remote clock is too far ahead")

// ErrExhausted is returned when no later stamp exists: a stamp of the year 10889 was seen or loaded.
var ErrExhausted = errors.New("clock has no later stamp; set the machine's clock right and restore the saved clock mark")

// Options says how a Clock reads, bounds and saves time. Only Physical is required.
type Options struct {
	// Physical returns the machine's wall clock; it may step in both directions.
	Physical func() time.Time
	// MaxForward is how far ahead of Physical a remote stamp may be; 0 means DefaultMaxForward. Larger
	// tolerates worse clocks, and lets one of them drag all others ahead by as much.
	MaxForward time.Duration
	// HighWater is the mark that Persist stored last, zero at the first start.
	HighWater Stamp
	// Reserve is how far beyond the current stamp each mark is set; 0 means DefaultReserve. Larger
	// saves writes (one per Reserve while stamps are drawn) and costs a larger jump after a restart.
	Reserve time.Duration
	// Persist stores a mark durably before any stamp up to it is handed out. It is called by Now and
	// Update on their goroutine. nil saves nothing: then a restart can repeat stamps.
	Persist func(Stamp) error
}

// Clock is a hybrid logical clock. Invariants, all property-tested:
//
//   - each stamp handed out is greater than every earlier one, of this Clock or merged into it;
//   - each is at most a mark that Persist accepted, and a Clock made with that mark as HighWater
//     begins after it, so a restart neither repeats a stamp nor goes back, wherever Physical is;
//   - a stamp is ahead of the furthest physical reading by at most MaxForward (remote) or Reserve
//     (restart), plus one millisecond for each 65,536 stamps drawn meanwhile.
type Clock struct {
	physical   func() time.Time
	persist    func(Stamp) error
	maxForward time.Duration
	reserve    time.Duration
	last       Stamp // the latest handed out or observed
	mark       Stamp // none that was handed out exceeds it
}

// New makes a Clock whose first stamp is after options.HighWater.
func New(options Options) (*Clock, error) {
	if options.Physical == nil {
		return nil, errors.New("clock: Options.Physical is required")
	}
	if options.MaxForward < 0 || options.Reserve < 0 {
		return nil, fmt.Errorf("clock: MaxForward %v and Reserve %v must not be negative", options.MaxForward, options.Reserve)
	}
	c := &Clock{
		physical:   options.Physical,
		persist:    options.Persist,
		maxForward: options.MaxForward,
		reserve:    options.Reserve,
		last:       options.HighWater,
		mark:       options.HighWater,
	}
	if c.maxForward == 0 {
		c.maxForward = DefaultMaxForward
	}
	if c.reserve == 0 {
		c.reserve = DefaultReserve
	}
	return c, nil
}

// Now returns the stamp of a local event. It fails, handing out nothing and leaving the clock as it
// was, when the mark cannot be persisted or no later stamp exists.
func (c *Clock) Now() (Stamp, error) {
	return c.advance(physical(c.physical()), c.last)
}

// Update returns a stamp after both remote and every stamp so far. Besides Now's errors it returns
// ErrTooFarAhead, also leaving the clock as it was.
func (c *Clock) Update(remote Stamp) (Stamp, error) {
	now := physical(c.physical())
	if err := c.near(remote, now); err != nil {
		return 0, err
	}
	return c.advance(now, max(c.last, remote))
}

// Observe has every later stamp be after remote, as Update does, and hands out none: nothing is saved. Whoever calls it finds
// remote again after a restart, in a log for instance. It returns ErrTooFarAhead as Update does.
func (c *Clock) Observe(remote Stamp) error {
	if err := c.near(remote, physical(c.physical())); err != nil {
		return err
	}
	c.last = max(c.last, remote)
	return nil
}

// near complains of a stamp too far ahead.
func (c *Clock) near(remote, now Stamp) error {
	if ahead := remote.millis(); ahead > now.plus(c.maxForward).millis() {
		return fmt.Errorf("%w: %s is more than %v after this machine's %s; compare both machines' clocks (NTP)",
			ErrTooFarAhead, remote, c.maxForward, now)
	}
	return nil
}

// Last returns the latest stamp handed out or observed, or the HighWater that the clock started from.
func (c *Clock) Last() Stamp { return c.last }

// Wall returns the physical clock as it is. It can step.
func (c *Clock) Wall() time.Time { return c.physical() }

// Ahead returns how far Last is ahead of the physical clock, zero if it is not. A lasting second or
// more means that this machine's clock went back or a peer's runs ahead.
func (c *Clock) Ahead() time.Duration {
	return max(0, c.last.Wall().Sub(c.physical()))
}

// advance hands out the first stamp that is at least floor and greater than after. Adding one to a
// full logical part carries into the milliseconds, which is what keeps stamps unique in a burst.
func (c *Clock) advance(floor, after Stamp) (Stamp, error) {
	if after == ^Stamp(0) {
		return 0, ErrExhausted
	}
	next := max(floor, after+1)
	if err := c.cover(next); err != nil {
		return 0, err
	}
	c.last = next
	return next, nil
}

// cover persists a new mark if next is beyond the present one. A mark whose Persist failed may be on
// disk or not; nothing up to it was handed out, so both are right, and the next call tries again.
func (c *Clock) cover(next Stamp) error {
	if c.persist == nil || next <= c.mark {
		return nil
	}
	mark := next.plus(c.reserve)
	if err := c.persist(mark); err != nil {
		return fmt.Errorf("save clock mark %s: %w", mark, err)
	}
	c.mark = mark
	return nil
}
