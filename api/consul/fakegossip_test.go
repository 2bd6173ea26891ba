package consul

import (
	"slices"
	"sync"

	"github.com/parley-mesh/parley/api"
)

// fakeGossip is what an agent sees of a1, a2 and a3.
type fakeGossip struct {
	mu      sync.Mutex
	members []api.Member
	next    chan struct{} // closed at the next change
}

func newGossip() *fakeGossip {
	return &fakeGossip{next: make(chan struct{}), members: []api.Member{
		{Name: "a2", Address: "127.0.0.2:8310", State: "alive", Core: "voter"},
		{Name: "a1", Address: "127.0.0.1:8310", State: "alive", Core: "leader"},
		{Name: "a3", Address: "127.0.0.3:8310", State: "alive", Core: "learner"},
	}}
}

// beside gives the options of a start of the agent called name what gossip adds.
func (g *fakeGossip) beside(name string, start uint64, o api.Options) api.Options {
	o.Local.Node, o.Local.Starts = name, func() uint64 { return start }
	o.Local.Members, o.Local.MembersChanged = g.shown, g.changed
	return o
}

func (g *fakeGossip) shown() []api.Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.members)
}

func (g *fakeGossip) changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next
}

// gossip changes what is seen of a member.
func (g *fakeGossip) gossip(name string, change func(*api.Member)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.members {
		if g.members[i].Name == name {
			change(&g.members[i])
		}
	}
	close(g.next)
	g.next = make(chan struct{})
}
