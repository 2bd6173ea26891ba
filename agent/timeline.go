package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

const (
	timelineRoom  = 256 // events that wait to be written
	timelineBurst = 50  // events written at once ...
	// timelineEvery is the pace after that: one agent that reports without end must not fill the timeline,
	// or the log, of all.
	timelineEvery = time.Second

	timelineRetryMin = 250 * time.Millisecond
	timelineRetryMax = 5 * time.Second
	// timelineGrace is how long a stop waits for the last events to be written.
	timelineGrace = 500 * time.Millisecond
)

// timeline reports this agent's events to the replicated timeline. Reporting never waits: events queue up while
// there is no leader and are written afterwards, in order. Each keeps its id, so that one whose outcome is unknown
// is sent again without appearing twice.
type timeline struct {
	node    string
	execute func(context.Context, state.EventAppend) error
	wall    func() clock.Stamp   // the reporter's clock, which orders nothing
	elapsed func() time.Duration // boottime
	log     *zap.Logger
	wake    chan struct{} // cap 1: something was reported

	mu struct {
		sync.Mutex
		queue   []state.EventAppend // at most timelineRoom
		sending bool                // the first of queue is on its way, or next
		dropped int                 // since the last events-dropped
	}
}

// report adds an event. When the queue is full the oldest one that is not on its way is dropped; how many were is
// an event of its own as soon as there is room.
func (t *timeline) report(kind, subject, message string) {
	e := t.event(kind, subject, message)
	t.mu.Lock()
	if len(t.mu.queue) == timelineRoom {
		oldest := 0
		if t.mu.sending {
			oldest = 1
		}
		t.mu.queue = slices.Delete(t.mu.queue, oldest, oldest+1)
		t.mu.dropped++
	}
	t.mu.queue = append(t.mu.queue, e)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *timeline) event(kind, subject, message string) state.EventAppend {
	e := state.EventAppend{
		Node: t.node, Kind: kind, Origin: t.wall(),
		Subject: oneLine(subject, state.MaxEventSubjectBytes), Message: oneLine(message, state.MaxEventMessageBytes),
	}
	_, _ = rand.Read(e.ID[:]) // never fails: it ends the process instead
	return e
}

// oneLine makes text, which may come from an error, fit for an event.
func oneLine(text string, limit int) string {
	out := make([]byte, 0, min(len(text), limit))
	for _, c := range text {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			c = ' '
		}
		if len(out)+utf8.RuneLen(c) > limit {
			break
		}
		out = utf8.AppendRune(out, c)
	}
	return string(out)
}

// pending lists what waits to be written.
func (t *timeline) pending() []state.EventAppend {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.mu.queue)
}

// flush waits until all is written, or ctx ends.
func (t *timeline) flush(ctx context.Context) {
	await(ctx, func() bool { return len(t.pending()) == 0 })
}

// run writes until ctx ends. What is not written by then is lost with the process.
func (t *timeline) run(ctx context.Context) error {
	pace := pace{burst: timelineBurst, every: timelineEvery}
	retry := timelineRetryMin
	for ctx.Err() == nil {
		e, ok := t.next()
		if !ok {
			select {
			case <-t.wake:
			case <-ctx.Done():
			}
			continue
		}
		if wait := pace.take(t.elapsed()); wait > 0 {
			pause(ctx, wait)
			continue
		}
		if err := t.execute(ctx, e); err != nil && !refusedForGood(err) {
			t.log.Debug("event not written yet", zap.Error(err))
			pace.giveBack()
			pause(ctx, retry)
			retry = min(2*retry, timelineRetryMax)
			continue
		} else if err != nil {
			t.log.Warn("event refused", zap.String("reason", e.Kind), zap.Error(err))
		}
		retry = timelineRetryMin
		t.written()
	}
	return nil
}

// refusedForGood tells an event that would be refused again from one that had no leader to take it.
func refusedForGood(err error) bool {
	switch api.AsError(err).Code {
	case api.CodeDenied, api.CodeInvalid, api.CodeTooLarge:
		return true
	}
	return false
}

// next is the first event that waits; once all are written, that some were dropped.
func (t *timeline) next() (state.EventAppend, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.mu.queue) == 0 && t.mu.dropped > 0 {
		message := fmt.Sprintf("%d events found no room while they could not be written", t.mu.dropped)
		t.mu.queue, t.mu.dropped = append(t.mu.queue, t.event(api.EventDropped, "", message)), 0
	}
	t.mu.sending = len(t.mu.queue) > 0
	if !t.mu.sending {
		return state.EventAppend{}, false
	}
	return t.mu.queue[0], true
}

func (t *timeline) written() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.queue, t.mu.sending = slices.Delete(t.mu.queue, 0, 1), false
}

// pace lets burst through at once and then one each every.
type pace struct {
	burst int
	every time.Duration
	spent time.Duration // how far the burst is used up, as time until it is whole again
	last  time.Duration
}

// take uses one place, or says how long to wait for it.
func (p *pace) take(now time.Duration) time.Duration {
	p.spent = max(0, p.spent-(now-p.last))
	p.last = now
	if over := p.spent + p.every - time.Duration(p.burst)*p.every; over > 0 {
		return over
	}
	p.spent += p.every
	return 0
}

// giveBack returns a place that was not used.
func (p *pace) giveBack() { p.spent = max(0, p.spent-p.every) }
