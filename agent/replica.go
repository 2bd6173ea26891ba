package agent

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
)

// viewSwitch decides which of two sources feeds the agent's one published View: the change stream
// while the agent is outside the core, its own Raft log once that has caught up. The View's index
// never goes back over a switch, but into a later epoch.
type viewSwitch struct {
	hub *watch.Hub

	mu struct {
		sync.Mutex
		own bool // the own log feeds the hub; hub.Publish, which only queues, is the sole call made under mu
	}
}

// olderThan orders two Views by what they were made of: a later epoch is newer, whatever its index.
func olderThan(v, than *state.View) bool {
	mine, other := v.Cluster().Epoch.Counter, than.Cluster().Epoch.Counter
	return mine < other || mine == other && v.Index() < than.Index()
}

// fromStream publishes what the change stream brought, unless the own log has taken over.
func (s *viewSwitch) fromStream(v *state.View, t state.Touched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.own {
		s.hub.Publish(v, t)
	}
}

// fromLog publishes what the own log applied, once it is at least as new as what was shown before.
func (s *viewSwitch) fromLog(v *state.View, t state.Touched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.own {
		if olderThan(v, s.hub.View()) {
			return
		}
		s.mu.own, t = true, state.Touched{All: true}
	}
	s.hub.Publish(v, t)
}

// ownLog says whether the own log feeds the hub, which also means that the View holds key/value.
func (s *viewSwitch) ownLog() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.own
}

// toStream hands the hub back to the change stream, when this agent has left the core.
func (s *viewSwitch) toStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.own = false
}

// retake lets the own log feed the hub again from the newest View that it has made, unless it does so already.
func (s *viewSwitch) retake(newest *atomic.Pointer[state.View]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := newest.Load()
	if s.mu.own || v == nil || olderThan(v, s.hub.View()) {
		return
	}
	s.mu.own = true
	s.hub.Publish(v, state.Touched{All: true})
}

// replica is the consensus.StateMachine: the pure machine, publishing each new View.
// Only the consensus apply goroutine calls it, except where a method says so.
type replica struct {
	machine *state.Machine
	views   *viewSwitch
	digests *digestRing
	sweep   state.Sweep
	loaded  *loadedState        // taken by the first Restore, if that is of it; nil: nothing is
	journal *storage.Journal    // nil: none is kept
	wrong   func(reason string) // tells the node that the state is; from any goroutine

	spoil *atomic.Pointer[func([][]byte) [][]byte] // tests: this replica computes something else

	fenced atomic.Bool                // the state is not trusted: what is applied is not shown
	newest atomic.Pointer[state.View] // as of the last entry
}

// show publishes what was just applied, unless it is not trusted.
func (r *replica) show(v *state.View, t state.Touched) {
	r.digests.note(v.Index(), v.Digest())
	r.newest.Store(v)
	if !r.fenced.Load() {
		r.views.fromLog(v, t)
	}
}

// distrust and trust close and open the fence, from any goroutine.
func (r *replica) distrust() { r.fenced.Store(true) }

func (r *replica) trust() {
	r.fenced.Store(false)
	r.views.retake(&r.newest)
}

const (
	// sweepTime is how long the applier looks at each checkpoint for rows that changed in memory: 20,000 small rows. A larger
	// state is looked at by parts. Nothing is applied meanwhile, so it has to be well below what a write may wait.
	sweepTime = 4 * time.Millisecond
	sweepRows = 250 // before the time is looked at
)

// digest is consensus.Options.Digest. The digest is a sum of what each row was when it was written; that the rows still
// are that is looked at first.
func (r *replica) digest() ([32]byte, error) {
	v := r.machine.View()
	end := clock.Boottime() + sweepTime
	for {
		whole, err := r.sweep.Next(v, sweepRows)
		if err != nil {
			return [32]byte{}, err
		}
		if whole || clock.Boottime() > end {
			return v.Digest(), nil
		}
	}
}

// evidence writes the state as it is, right or wrong, after the node has ended.
func (r *replica) evidence() func(io.Writer) error { return r.machine.View().WriteAsIs }

func (r *replica) Apply(index, term uint64, at clock.Stamp, commands [][]byte) ([][]byte, error) {
	if spoil := r.spoil.Load(); spoil != nil {
		commands = (*spoil)(commands)
	}
	results, touched, err := r.machine.Apply(index, term, at, commands)
	if err != nil {
		return nil, fmt.Errorf("apply entry %d of term %d: %w", index, term, err)
	}
	r.show(r.machine.View(), touched)
	return results, nil
}

func (r *replica) Capture() func(io.Writer) error {
	v := r.machine.View()
	return func(w io.Writer) error {
		err := v.WriteSnapshot(w)
		if errors.Is(err, state.ErrMemory) {
			r.wrong(err.Error())
		}
		return err
	}
}

// beside is a state.Beside.
func beside(work func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	return func() { <-done }
}

func (r *replica) Restore(src io.Reader, index, term uint64) error {
	loaded := r.loaded
	r.loaded = nil
	if loaded != nil && loaded.index == index && loaded.term == term {
		r.machine.Adopt(loaded.machine)
	} else if err := r.machine.RestoreBeside(src, beside); err != nil {
		return fmt.Errorf("restore snapshot at index %d: %w", index, err)
	}
	v := r.machine.View()
	if v.Index() != index || v.Term() != term {
		return fmt.Errorf("snapshot holds index %d of term %d, its manifest says index %d of term %d", v.Index(), v.Term(), index, term)
	}
	if r.journal != nil {
		r.journal.Applied(index)
	}
	r.show(v, state.Touched{All: true})
	return nil
}
