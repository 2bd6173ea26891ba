package consul

import (
	"hash/fnv"
	"sync"

	"github.com/parley-mesh/parley/api"
)

// roster numbers what gossip showed this agent, by node, so that reads of health and addresses can block.
//
// Gossip has no index: two agents see the same change at different times, and a restarted one has seen nothing yet.
// So the index of such a read is this agent's own, a sum of parts that only grow:
//
//	starts of this agent x 2^24  +  its tag  +  revision of the row  +  changes that it saw of the node
//
// It grows with a change of either kind, which the larger of the two would not. It never goes back on one agent: a new
// start adds more than a run counts. Indexes of two agents cannot be compared, and the tag (from the agent's name) keeps
// them from being equal by chance; so a blocking read whose index is not the present one is answered at once, the larger
// ones too. A client that is sent to another agent reads once more than it had to, and never waits with old data.
type roster struct {
	base    uint64
	members func() []api.Member
	changed func() <-chan struct{}

	mu struct {
		sync.Mutex // nothing is called under it
		seen       <-chan struct{}
		nodes      map[string]sighting
		moves      uint64 // changes of any address
		changes    uint64 // changes of any member's being alive
		prints     map[string]printed
		turns      uint64 // changes of any print
	}
}

// printed is what gossip adds to the answer about a service, as a hash, and how often that changed.
type printed struct{ print, count uint64 }

// maxPrints bounds the services that are remembered. Beyond it all are forgotten: their readers look once more.
const maxPrints = 1 << 14

// sighting is what gossip last showed of a node, and how often that changed.
type sighting struct {
	member         api.Member
	changes, moves uint64
}

const (
	startShift = 24      // room for the changes of one run: fifty a second for four days, and then for a restart to be late
	tagSpace   = 1 << 20 // of the names of agents
)

func newRoster(local api.Local) *roster {
	tag := fnv.New32a()
	_, _ = tag.Write([]byte(local.Node)) // a hash takes everything
	r := &roster{members: local.Members, changed: local.MembersChanged}
	r.base = local.Starts()<<startShift + uint64(tag.Sum32()%tagSpace)
	r.mu.nodes = make(map[string]sighting)
	r.mu.prints = make(map[string]printed)
	return r
}

// look takes in what changed since the last look. Two looks at once may take in the older one last; its reader then
// finds its channel closed and looks again, and others at worst wake once for nothing.
func (r *roster) look() {
	if r.current() {
		return
	}
	seen := r.changed()
	r.take(seen, r.members())
}

func (r *roster) current() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.seen == nil {
		return false
	}
	select {
	case <-r.mu.seen:
		return false
	default:
		return true
	}
}

// take counts the differences. A node that is no longer shown keeps its count, or its index would go back.
func (r *roster) take(seen <-chan struct{}, members []api.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.seen = seen
	shown := make(map[string]bool, len(members))
	for _, m := range members {
		shown[m.Name] = true
		r.note(m)
	}
	for name, s := range r.mu.nodes {
		if !shown[name] {
			r.note(api.Member{Name: name, State: stateDead, Address: s.member.Address})
		}
	}
}

func (r *roster) note(m api.Member) {
	s, known := r.mu.nodes[m.Name]
	if alive(m) != alive(s.member) || !known {
		s.changes++
		r.mu.changes++
	}
	if m.Address != s.member.Address {
		s.moves++
		r.mu.moves++
	}
	s.member = m
	r.mu.nodes[m.Name] = s
}

// of returns what was last seen of a node; one that gossip never showed is dead.
func (r *roster) of(name string) sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.mu.nodes[name]
	if !known {
		s.member = api.Member{Name: name, State: stateDead}
	}
	return s
}

// moves counts the changes of all addresses.
func (r *roster) moves() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.moves
}

// changes counts how often any member was seen to come alive or die.
func (r *roster) changes() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.changes
}

// turns counts how often what gossip adds to an answer about a service changed: the print says what it is now. The
// count is never less than an earlier one, also of a service that was forgotten meanwhile.
func (r *roster) turns(service string, print uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known := r.mu.prints[service]
	switch {
	case known && p.print == print:
		return p.count
	case known:
		r.mu.turns++
	case len(r.mu.prints) >= maxPrints:
		clear(r.mu.prints)
	}
	r.mu.prints[service] = printed{print, r.mu.turns}
	return r.mu.turns
}

// The states of api.Member.
const (
	stateAlive   = "alive"
	stateSuspect = "suspect"
	stateLeft    = "left"
	stateDead    = "dead"
)

// alive counts a suspect in: it has not answered once and may still refute. To act on a suspicion would make a slow
// moment of one host a failure everywhere.
func alive(m api.Member) bool { return m.State == stateAlive || m.State == stateSuspect }
