package lab

import (
	"context"
	"slices"
	"time"

	"github.com/parley-mesh/parley/api/client"
)

// observeTimeout is how long one agent may take to answer before its row says so.
const observeTimeout = time.Second

// Row is what one agent looks like at the moment.
type Row struct {
	Name    string
	State   string // ready, not ready, silent (runs but does not answer), or how the process ended
	Core    string // leader, voter, learner or none; empty when nobody says
	Leader  string // the leader that this agent knows, empty for none
	Expires time.Time
	Mesh    string
}

// Observe asks every agent about itself, all at once, each by its own admin socket.
func (l *Lab) Observe(ctx context.Context) []Row {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	rows := make([]Row, len(l.Agents))
	answered := make(chan struct{}, len(l.Agents))
	for i, a := range l.Agents {
		go func() {
			rows[i] = a.observe(ctx)
			answered <- struct{}{}
		}()
	}
	for range l.Agents {
		<-answered
	}
	return rows
}

// Front is the agent that commands are best sent to, as rows of Observe show it: one outside the core, so that it goes
// on answering when a member of the core is killed; without one the last that does not lead, else a1.
func (l *Lab) Front(rows []Row) *Agent { return l.Agents[front(rows)] }

func front(rows []Row) int {
	for _, wanted := range [][]string{{"none"}, {"learner", "voter"}} {
		for i, row := range slices.Backward(rows) {
			if slices.Contains(wanted, row.Core) {
				return i
			}
		}
	}
	return 0
}

func (a *Agent) observe(ctx context.Context) Row {
	row := Row{Name: a.Name, State: "silent", Mesh: a.Mesh}
	if p := a.process(); p == nil || p.ended() {
		row.State = "not started"
		if p != nil {
			row.State = p.cmd.ProcessState.String()
		}
		return row
	}
	c, err := client.New(a.Addr())
	if err != nil {
		return row
	}
	s, err := c.Status(ctx)
	if err != nil {
		return row
	}
	row.State = "not ready"
	if s.Ready {
		row.State = "ready"
	}
	row.Core, row.Expires = coreRole(s.Core, a.Name), s.SVID.NotAfter
	if s.Core.Leader != nil {
		row.Leader = *s.Core.Leader
	}
	return row
}

func coreRole(core client.CoreStatus, name string) string {
	if core.Leader != nil && *core.Leader == name {
		return "leader"
	}
	for _, m := range core.Voters {
		if m.Name == name {
			return "voter"
		}
	}
	for _, m := range core.Learners {
		if m.Name == name {
			return "learner"
		}
	}
	return "none"
}
