package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	// generationsGather is how long a core member collects what hosts tell of their generations before it writes that down, so
	// that many of them are one write.
	generationsGather = time.Second
	// generationsRetry is the pause after nobody could write it down.
	generationsRetry   = 10 * time.Second
	generationsTimeout = 10 * time.Second
)

// generations is a core member's part in the generations of hosts: it judges what a host shows when it asks for a certificate, and
// has the log told afterwards. Nobody who asks waits for that.
type generations struct {
	clusterID string
	view      func() *state.View
	propose   func(context.Context, state.NodeGenerations) error
	log       *zap.Logger
	wake      chan struct{} // there is something to propose; capacity 1

	mu   sync.Mutex // guards what follows; nothing is called under it
	book *generationBook
}

func newGenerations(a *Agent) *generations {
	return &generations{
		clusterID: a.ids.ClusterID, view: a.hub.View, log: a.log.Named("issuer"), wake: make(chan struct{}, 1),
		book: newGenerationBook(state.MaxNodes),
		propose: func(ctx context.Context, c state.NodeGenerations) error {
			_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), c)
			return err
		},
	}
}

// admit says why a host is not to be renewed, which is a *security.RekeyError, or which of its generations the state has.
func (g *generations) admit(n state.Node, link *security.GenerationLink) (recorded uint64, err error) {
	v := g.view()
	if f, forked := v.Fork(n.Name); forked {
		return 0, copied(f.Node, fmt.Sprintf("since %s", f.At.Wall().UTC().Format(time.RFC3339)))
	}
	known := v.Generations(n)
	if link == nil {
		return 0, untold(known, v.Stamp())
	}
	c := state.GenerationClaim{Node: n.Name, Binding: n.BindingEpoch, Series: known.Series, Live: true}
	first, marks, err := link.Marks(g.clusterID, n.Name, n.HostKey)
	if err != nil {
		return 0, security.NewRekeyError(security.RekeyInvalid, err.Error())
	}
	c.First = first
	for _, m := range marks {
		c.Marks = append(c.Marks, state.GenerationMark(m))
	}
	g.mu.Lock()
	verdict := g.book.admit(known, c, v)
	g.mu.Unlock()
	if verdict != state.GenerationSame {
		g.look()
	}
	return known.Generation, g.refusal(c, verdict)
}

// untold is for a host that shows nothing. One that never did is older than generations.
func untold(known state.Generations, at clock.Stamp) error {
	if len(known.Marks) == 0 || known.BeginBy != 0 && at <= known.BeginBy {
		return nil
	}
	return security.NewRekeyError(security.RekeyUntold,
		fmt.Sprintf("node %s has shown a secret for each of its renewals until generation %d, and shows none now", known.Node, known.Generation))
}

func copied(node, more string) error {
	return security.NewRekeyError(security.RekeyCopied,
		fmt.Sprintf("there are two copies of the host %s, or it went back to an older copy of its files (%s): none is renewed until an operator decides", node, more))
}

func (g *generations) refusal(c state.GenerationClaim, verdict state.GenerationVerdict) error {
	switch verdict {
	case state.GenerationForks:
		g.log.Error("a host was seen twice, or went back to an older copy of itself", zap.String("node", c.Node), zap.Uint64("generation", c.Last()))
		return copied(c.Node, fmt.Sprintf("generation %d", c.Last()))
	case state.GenerationPast:
		return security.NewRekeyError(security.RekeyOutdated, fmt.Sprintf("node %s has gone on from generation %d since", c.Node, c.Last()))
	case state.GenerationAhead:
		return security.NewRekeyError(security.RekeyUnavailable,
			fmt.Sprintf("this core member knows less of node %s than it can show from generation %d on", c.Node, c.First))
	case generationBusy:
		return security.NewRekeyError(security.RekeyUnavailable, "this core member holds too much that no leader has written down")
	}
	return nil
}

func (g *generations) look() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run has the log told until ctx ends.
func (g *generations) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		}
		pause(ctx, generationsGather)
		for g.tell(ctx) {
		}
	}
}

// tell proposes what there is, as much as one command holds, and reports whether to go on.
func (g *generations) tell(ctx context.Context) (more bool) {
	v := g.view()
	g.mu.Lock()
	claims := g.book.next(v, state.MaxGenerationClaims)
	g.mu.Unlock()
	if len(claims) == 0 || ctx.Err() != nil {
		return false
	}
	asked, cancel := context.WithTimeout(ctx, generationsTimeout)
	err := g.propose(asked, state.NodeGenerations{Claims: claims})
	cancel()
	if err != nil {
		g.log.Debug("generations of hosts not written down, trying again", zap.Int("count", len(claims)), zap.Error(err))
		pause(ctx, generationsRetry)
		return true
	}
	g.mu.Lock()
	g.book.told(claims)
	g.mu.Unlock()
	return true
}

// copiedHosts are those of which an operator has to decide. One that has left, or was evicted, needs no decision.
func copiedHosts(v *state.View) []state.Fork {
	if v.Rows(state.TableFork) == 0 {
		return nil // nearly always
	}
	return slices.DeleteFunc(v.Forks(), func(f state.Fork) bool {
		n, ok := v.Node(f.Node)
		return !ok || n.Left
	})
}

// generationWire is how a refusal reaches a host that asks with its certificate.
func generationWire(err error) error {
	var refused *security.RekeyError
	if errors.As(err, &refused) {
		return &transport.Error{Code: refused.Code, Message: refused.Message, Hint: refused.Hint}
	}
	return err
}

// outdated reports whether a core member said that the host has gone on since.
func outdated(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.Code == security.RekeyOutdated
}
