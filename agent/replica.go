package agent

import (
	"fmt"
	"io"
	"sync"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// viewSwitch decides which of two sources feeds the agent's one published View: the change stream
// while the agent is outside the core, its own Raft log once that has caught up. The View's index
// never goes back over a switch.
type viewSwitch struct {
	hub *watch.Hub

	mu struct {
		sync.Mutex
		own bool // the own log feeds the hub; hub.Publish, which only queues, is the sole call made under mu
	}
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
		if v.Index() < s.hub.View().Index() {
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

// replica is the consensus.StateMachine: the pure machine, publishing each new View.
// Only the consensus apply goroutine calls it.
type replica struct {
	machine *state.Machine
	views   *viewSwitch
	digests *digestRing
}

func (r *replica) Apply(index, term uint64, at clock.Stamp, commands [][]byte) ([][]byte, error) {
	results, touched, err := r.machine.Apply(index, term, at, commands)
	if err != nil {
		return nil, fmt.Errorf("apply entry %d of term %d: %w", index, term, err)
	}
	v := r.machine.View()
	r.digests.note(index, v.Digest())
	r.views.fromLog(v, touched)
	return results, nil
}

func (r *replica) Capture() func(io.Writer) error {
	return r.machine.View().WriteSnapshot
}

func (r *replica) Restore(src io.Reader, index, term uint64) error {
	if err := r.machine.Restore(src); err != nil {
		return fmt.Errorf("restore snapshot at index %d: %w", index, err)
	}
	v := r.machine.View()
	if v.Index() != index || v.Term() != term {
		return fmt.Errorf("snapshot holds index %d of term %d, its manifest says index %d of term %d", v.Index(), v.Term(), index, term)
	}
	r.digests.note(index, v.Digest())
	r.views.fromLog(v, state.Touched{All: true})
	return nil
}
