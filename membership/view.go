package membership

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// State is what we believe of a member.
type State string

// The states. Suspect: it did not answer, and has not yet refuted that it is dead. Left: it said
// so itself.
const (
	StateAlive   State = "alive"
	StateSuspect State = "suspect"
	StateDead    State = "dead"
	StateLeft    State = "left"
)

// HostID is a hash of a node's name and host key. It changes when another host takes the name.
type HostID [16]byte

// Gone reports whether the member is dead or has left.
func (s State) Gone() bool { return s == StateDead || s == StateLeft }

// Member is one node as we see it.
type Member struct {
	Name    string
	Addr    netip.AddrPort
	State   State
	Since   time.Time // when we saw the state first
	Zone    string
	Version string
	Epoch   uint64 // of the start that its record names
	Host    HostID // whose record that is: another one under the same name counts its own epochs
	Path    Path   // how we reach it; empty while there is no link
}

// reapAfter is how long the dead and those that left are shown.
const reapAfter = 72 * time.Hour

// view is the level-triggered list of members. Safe for concurrent use.
type view struct {
	now     func() time.Time
	changed chan struct{} // cap 1

	mu struct {
		sync.Mutex
		members map[string]Member
		next    chan struct{} // closed at the next change
	}
}

func newView(now func() time.Time) *view {
	v := &view{now: now, changed: make(chan struct{}, 1)}
	v.mu.members = make(map[string]Member)
	v.mu.next = make(chan struct{})
	return v
}

// nextChange returns a channel that is closed at the next change.
func (v *view) nextChange() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.next
}

func (v *view) members() []Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]Member, 0, len(v.mu.members))
	for _, m := range v.mu.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// update takes in what memberlist holds now. Who is not in it any more was dead for a while; the
// names of those reaped are returned.
func (v *view) update(current []Member) (reaped []string) {
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	changed := false
	present := make(map[string]bool, len(current))
	for _, m := range current {
		present[m.Name] = true
		was, ok := v.mu.members[m.Name]
		m.Since = was.Since
		if !ok || was.State != m.State {
			m.Since = now
		}
		if was != m {
			v.mu.members[m.Name] = m
			changed = true
		}
	}
	for name, m := range v.mu.members {
		switch {
		case present[name]:
		case !m.State.Gone():
			m.State, m.Since, m.Path = StateDead, now, ""
			v.mu.members[name] = m
			changed = true
		case now.Sub(m.Since) > reapAfter:
			delete(v.mu.members, name)
			reaped = append(reaped, name)
			changed = true
		}
	}
	if changed {
		close(v.mu.next)
		v.mu.next = make(chan struct{})
		select {
		case v.changed <- struct{}{}:
		default:
		}
	}
	return reaped
}
