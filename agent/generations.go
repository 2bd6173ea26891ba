package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	// wordTimeout is how long a host that begins anew by an operator's word waits until that is written down. Without a quorum it is
	// renewed all the same.
	wordTimeout = 2 * time.Second
	// noticeEvery is how often at most a core member says the same of a host, and maxNotices of how many hosts in that time.
	noticeEvery = time.Hour
	maxNotices  = 100
)

// generations is a core member's part in the generations of hosts: it judges what a host shows when it asks for a certificate, and
// has the log told afterwards. Nobody who asks waits for that.
type generations struct {
	clusterID string
	view      func() *state.View
	propose   func(context.Context, state.NodeGenerations) error
	inCore    func() bool                      // false: nobody asks this agent, and it may tell the log nothing
	report    func(kind, node, message string) // writes an event
	elapsed   func() time.Duration
	log       *zap.Logger
	wake      chan struct{} // there is something to propose, or to forget; capacity 1

	mu       sync.Mutex // guards what follows; nothing is called under it
	book     *generationBook
	notices  notices
	accusing notices // apart from the others, so that those never make one of these be left out
}

// notices are when something was last said of a host.
type notices map[string]time.Duration

// due reports whether to say it now.
func (n notices) due(what, node string, now time.Duration) bool {
	maps.DeleteFunc(n, func(_ string, at time.Duration) bool { return now-at >= noticeEvery })
	key := what + " " + node
	if _, said := n[key]; said || len(n) >= maxNotices {
		return false
	}
	n[key] = now
	return true
}

func newGenerations(a *Agent) *generations {
	return &generations{
		clusterID: a.ids.ClusterID, view: a.hub.View, log: a.log.Named("issuer"), wake: make(chan struct{}, 1),
		book: newGenerationBook(state.MaxNodes), notices: make(notices), accusing: make(notices), elapsed: clock.Boottime,
		inCore: func() bool { return a.issuer.authority.Load() != nil },
		report: func(kind, node, message string) { a.timeline.report(kind, node, message) },
		propose: func(ctx context.Context, c state.NodeGenerations) error {
			_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), c)
			return err
		},
	}
}

// admit says why a host is not to be renewed, which is a *security.RekeyError, or which of its generations the state has, 0 if it has
// none that lead to the one that is shown.
func (g *generations) admit(ctx context.Context, n state.Node, link *security.GenerationLink) (recorded uint64, err error) {
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
	g.book.enter(v)
	before := g.book.held[c.Node]
	verdict := g.book.admit(known, c, v)
	held := g.book.held[c.Node]
	g.mu.Unlock()
	if verdict == state.GenerationBegins && held.Word != 0 && before.Word != held.Word {
		g.writeWord(ctx, held)
	}
	if verdict != state.GenerationSame {
		g.look()
	}
	g.notice(known, c, verdict)
	if verdict == state.GenerationBegins {
		return 0, nil
	}
	return known.Generation, g.refusal(c, verdict)
}

// writeWord has the log told, before the host is answered, that it has begun anew by an operator's word: were this member to end before
// that, nobody would know, and the word is over in an hour. Only the first of its attempts waits. What is held is held further, until
// the applied state has it.
func (g *generations) writeWord(ctx context.Context, c state.GenerationClaim) {
	ctx, cancel := context.WithTimeout(ctx, wordTimeout)
	defer cancel()
	if err := g.propose(ctx, state.NodeGenerations{Claims: []state.GenerationClaim{c}}); err != nil {
		g.log.Warn("a host began anew by an operator's word, which is not written down yet", zap.String("node", c.Node), zap.Error(err))
	}
}

// notice says what an operator may want to know of a host that is accused of nothing. None of it is proof: whoever has seen an old link go by
// can show it, and a host whose disk is full repeats itself.
func (g *generations) notice(known state.Generations, c state.GenerationClaim, verdict state.GenerationVerdict) {
	text, kind, now := "", api.EventStale, g.elapsed()
	g.mu.Lock()
	switch {
	case verdict == state.GenerationPast:
		text = "a host asked with a generation of before: an old copy of its files may run, or a request was long on its way"
	case verdict == state.GenerationSame && g.book.repeated(c, now):
		text = "a host shows the same generation again and again: it cannot write its files, or a copy runs in its place"
	case verdict == state.GenerationBegins && known.Jumps && c.First > known.Generation && known.BeginBy == 0:
		text, kind = "a host is further than the restored state by more than it can show, and was taken at its word", ""
	}
	due := text != "" && g.notices.due(text, c.Node, now)
	g.mu.Unlock()
	if !due {
		return
	}
	g.log.Warn(text, zap.String("node", c.Node), zap.Uint64("generation", c.Last()), zap.Uint64("known", known.Generation))
	if kind != "" {
		g.report(kind, c.Node, fmt.Sprintf("generation %d, known %d: %s", c.Last(), known.Generation, text))
	}
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
		now := g.elapsed()
		g.mu.Lock()
		due := g.accusing.due(strconv.FormatUint(c.Series, 10), c.Node, now) // again after an operator's word
		g.mu.Unlock()
		if due {
			g.log.Error("a host was seen twice, or went back to an older copy of itself", zap.String("node", c.Node), zap.Uint64("generation", c.Last()))
		}
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
	v, member := g.view(), g.inCore()
	g.mu.Lock()
	g.book.enter(v)
	if !member {
		g.book.clear()
	}
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
