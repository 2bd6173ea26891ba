package consensus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
)

// Limits of one command, far beyond what the largest takes.
const (
	watchEvery  = 50 * time.Millisecond // while a command is under way
	idleWatch   = time.Second           // otherwise: how much memory there was before
	stallTime   = 5 * time.Second       // while the process runs: a pause of it does not count
	memoryLimit = 512 << 20             // bytes that the heap grows by, beyond twice what it was
)

// applier is what the goroutine that owns the machine keeps besides.
type applier struct {
	parked  []*applyTask  // from the entry on at which it stopped
	stopped bool          // at the first of parked
	marker  *GuardCrash   // not to be tried again
	place   int           // of the command under way
	under   atomic.Uint64 // counts the steps; even: nothing is under way
	entry   atomic.Uint64 // the entry under way
	alarm   *time.Timer   // wakes the watch while a command is under way
}

// stopError says that the machine panicked on a command, or would end the process.
type stopError struct {
	at   applyStop
	from int // place of its entry in the task
	text string
}

func (e *stopError) Error() string {
	return fmt.Sprintf("apply entry %d, command %d: %s", e.at.index, e.at.place, e.text)
}

// applyWaiting applies what waits, unless it has stopped and nothing says how to go on. Between two tasks it asks whether to
// go on now, or to leave the rest for the next call.
func (n *Node) applyWaiting(goOn func() bool) error {
	a := &n.applier
	for _, r := range n.resumes.take() {
		if a.stopped && a.parked[0].entries[0].GetIndex() == r.index {
			t := a.parked[0]
			if t.skips == nil {
				t.skips = make([][]int, len(t.entries))
			}
			t.skips[0], a.stopped = r.skip, false
			n.waits.resume()
		}
	}
	if a.stopped {
		return n.captureStopped()
	}
	tasks := append(a.parked, n.applies.take()...)
	a.parked = nil
	for i, t := range tasks {
		if i > 0 && !goOn() {
			n.applies.putFirst(tasks[i:])
			return nil
		}
		err := n.apply(t)
		var stop *stopError
		if errors.As(err, &stop) {
			n.park(stop, t, tasks[i+1:])
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// captureStopped does what an applier can that has stopped: show what it has applied to those who begin again behind that.
func (n *Node) captureStopped() error {
	a := &n.applier
	first := a.parked[0].entries[0].GetIndex()
	for _, t := range n.applies.take() {
		if !t.onlyCaptures() || t.index >= first {
			a.parked = append(a.parked, t)
		} else if err := n.apply(t); err != nil {
			return err
		}
	}
	return nil
}

// park keeps what cannot be applied now, and says why.
func (n *Node) park(stop *stopError, t *applyTask, rest []*applyTask) {
	if head, tail := t.split(stop.from); head != nil {
		n.events.put(input{kind: inputApplied, task: head, cut: stop.from})
		t = tail
	}
	n.applier.parked, n.applier.stopped = append([]*applyTask{t}, rest...), true
	n.log.Error("applying stopped at a command that crashes this member", zap.Uint64("index", stop.at.index),
		zap.Uint32("count", stop.at.place), zap.String("reason", stop.text))
	n.waits.fail(fmt.Errorf("%w: %w", ErrStopped, stop))
	at := stop.at
	n.events.put(input{kind: inputStopped, stop: &at})
}

// applyGuarded applies the commands of one entry, or says that it is where this replica stops.
func (n *Node) applyGuarded(e *raftpb.Entry, stamp clock.Stamp, commands [][]byte, skip []int) (results [][]byte, err error) {
	g, a := n.opts.Guard, &n.applier
	if m := a.marker; m != nil && e.GetIndex() == m.Index && e.GetTerm() == m.Term && !slices.Contains(skip, m.Place) {
		return nil, n.stopAt(e, m.Place, m.Cause, "ended", "the process ended on it before: "+causeName(byte(m.Cause))) //nolint:gosec // a few
	}
	a.alarm.Reset(watchEvery)
	defer func() {
		a.under.Add(a.under.Load() & 1)
		a.alarm.Stop()
		if p := recover(); p != nil {
			where := panickedAt()
			g.Blame(StopPanic)
			results, err = nil, n.stopAt(e, a.place, StopPanic, where, fmt.Sprintf("it panics in %s: %.200s", where, fmt.Sprint(p)))
		}
	}()
	a.place = 0
	a.entry.Store(e.GetIndex())
	a.under.Add(1)
	return g.Apply(e.GetIndex(), e.GetTerm(), stamp, commands, skip, func(place int) {
		a.place = place
		a.under.Add(2)
	})
}

func (n *Node) stopAt(e *raftpb.Entry, place, cause int, where, text string) *stopError {
	return &stopError{text: text, at: applyStop{
		index: e.GetIndex(), term: e.GetTerm(), place: uint32(place), cause: byte(cause), //nolint:gosec // a place in an entry; a few
		entry: sha256.Sum256(e.GetData()), before: n.opts.Guard.Before(), signature: sha256.Sum256([]byte(where)),
	}}
}

// panickedAt names the function that panicked. Its address would differ between processes.
func panickedAt() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	panicking := false
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicking = true
		case panicking && !strings.HasPrefix(f.Function, "runtime."):
			return f.Function
		}
	}
	return "an unknown function"
}

// runWatch ends the process when one command does not end, or takes all memory: nothing else can stop it.
func (n *Node) runWatch(ctx context.Context) error {
	if n.opts.Guard == nil {
		<-ctx.Done()
		return nil
	}
	idle := time.NewTicker(idleWatch)
	defer idle.Stop()
	w := watched{}
	for {
		under := uint64(0)
		select {
		case <-ctx.Done():
			return nil
		case <-n.applier.alarm.C:
			if under = n.applier.under.Load(); under&1 != 0 {
				n.applier.alarm.Reset(watchEvery)
			}
		case <-idle.C:
			if under = n.applier.under.Load(); under&1 != 0 {
				continue // the alarm looks
			}
		}
		if cause := w.look(under, heapBytes()); cause != StopUnknown {
			n.log.Error("a command is given up with the process", zap.Uint64("index", n.applier.entry.Load()), zap.String("reason", causeName(byte(cause)))) //nolint:gosec // a few
			n.opts.Guard.Blame(cause)
			n.opts.Guard.End(cause)
			<-ctx.Done()
			return nil
		}
	}
}

// watched is the command under way at the last look.
type watched struct {
	under uint64 // its step
	looks int    // at it
	heap  uint64 // bytes, before it
	last  uint64 // bytes, at the last look
}

// look returns why the command under way has to be given up, StopUnknown if it has not.
func (w *watched) look(under, heap uint64) int {
	if under != w.under || under&1 == 0 {
		w.under, w.looks, w.heap = under, 0, w.last
		if w.last == 0 || under&1 == 0 {
			w.heap = heap
		}
	}
	w.last = heap
	if under&1 == 0 {
		return StopUnknown
	}
	w.looks++
	switch {
	case w.looks > 1 && heap > 2*w.heap+memoryLimit:
		return StopMemory
	case w.looks > int(stallTime/watchEvery):
		return StopStalled
	}
	return StopUnknown
}

// heapBytes is what objects take, those that are garbage already included.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// leftOut checks, when a quarantine is applied, that its command was left out.
func (n *Node) leftOut(e *raftpb.Entry) error {
	q, ok := quarantineOf(e)
	if !ok || n.opts.Guard == nil || n.opts.Guard.LeftOut(q.index, int(q.place)) {
		return nil
	}
	n.events.put(input{kind: inputEarly, id: q.index})
	return fmt.Errorf("apply entry %d: command %d of entry %d is quarantined, and was applied before that was known", e.GetIndex(), q.place, q.index)
}

// Quarantine says that a command at which a majority of the voters stopped is left out although a voter has applied it,
// cannot know, or does not answer: who has applied it is built again, and what was told of it is undone. This node must
// lead.
func (n *Node) Quarantine(ctx context.Context, index uint64, place int) error {
	return n.ask(ctx, n.control, &asked{request: request{leaveOut: &quarantine{index: index, place: uint32(place)}}}).err //nolint:gosec // compared only
}
