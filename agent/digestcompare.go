package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

const (
	// digestEvery is how often a core member compares by itself, digestFresh how long the outcome counts.
	digestEvery = 10 * time.Second
	digestFresh = 3 * digestEvery
)

// memberAnswer is what one core member answered, or that it did not.
type memberAnswer struct {
	node   string
	answer digestAnswer
	err    error
}

// digestAsker asks one core member for its digest at an index; see digestAnswer.
type digestAsker func(ctx context.Context, node string, index uint64) (digestAnswer, error)

// compareDigests compares all core members, and names who should be one and is not.
func (a *Agent) compareDigests(ctx context.Context) (api.DigestComparison, error) {
	names := a.coreNames()
	found, err := compareAll(ctx, names, a.askDigest)
	view := a.hub.View()
	found.Absent = absentFromCore(names, view.Cluster().CoreSize, view.Nodes())
	return found, err
}

// compareAll asks all nodes for their digest at one index. Members apply at different times, so it is the newest index
// that all have passed. When one is so far behind that others have forgotten that, the newest of all is tried, which
// compares those others.
func compareAll(ctx context.Context, nodes []string, ask digestAsker) (api.DigestComparison, error) {
	index := lowestApplied(askAll(ctx, nodes, 0, ask))
	if index == 0 {
		return api.DigestComparison{}, api.Errorf(api.CodeUnavailable, "no core member answers").
			WithHint("see which are alive: parley members")
	}
	answers := askAll(ctx, nodes, index, ask)
	found := groupDigests(index, answers)
	if len(found.Behind) > 0 {
		index = highestApplied(answers)
		later := groupDigests(index, askAll(ctx, nodes, index, ask))
		if len(later.Members) > len(found.Members) {
			found = later
		}
	}
	return found, ctx.Err()
}

// absentFromCore lists who is allowed in the core and not in it, while that has fewer members than it should: one
// that was replaced and is not back, or was taken out for being dead, is among them. A spare is, too, for the moment.
func absentFromCore(core []string, size int, nodes []state.Node) (absent []string) {
	if len(core) >= size {
		return nil
	}
	for _, n := range nodes {
		if n.CoreGrant && !n.Left && !slices.Contains(core, n.Name) {
			absent = append(absent, n.Name)
		}
	}
	return absent
}

// coreNames lists the core members of the replicated state, this agent among them if it is one.
func (a *Agent) coreNames() []string {
	var names []string
	for _, m := range a.hub.View().Core() {
		if !slices.Contains(names, m.Node) {
			names = append(names, m.Node)
		}
	}
	slices.Sort(names)
	return names
}

// askAll asks all nodes at once; there are at most as many as Raft ids.
func askAll(ctx context.Context, nodes []string, index uint64, ask digestAsker) []memberAnswer {
	answers := make([]memberAnswer, len(nodes))
	var asked sync.WaitGroup
	for i, node := range nodes {
		asked.Go(func() {
			answer, err := ask(ctx, node, index)
			answers[i] = memberAnswer{node: node, answer: answer, err: err}
		})
	}
	asked.Wait()
	return answers
}

// lowestApplied is the newest index that every member which answered has applied, 0 if none did. Only a member that
// is digestRoom entries ahead of another has forgotten it.
func lowestApplied(answers []memberAnswer) (lowest uint64) {
	for _, m := range answers {
		if m.err == nil && m.answer.Applied > 0 && (lowest == 0 || m.answer.Applied < lowest) {
			lowest = m.answer.Applied
		}
	}
	return lowest
}

// highestApplied is the newest index that a member has applied.
func highestApplied(answers []memberAnswer) (highest uint64) {
	for _, m := range answers {
		if m.err == nil {
			highest = max(highest, m.answer.Applied)
		}
	}
	return highest
}

// groupDigests puts members with equal digests together. Those outside the group that has more than half of the
// digests are the minority; if no group has, all are, because nobody can say who is right.
func groupDigests(index uint64, answers []memberAnswer) api.DigestComparison {
	found := api.DigestComparison{Index: index}
	size := make(map[string]int)
	for _, m := range answers {
		switch {
		case m.err != nil:
			found.Unreachable = append(found.Unreachable, m.node)
		case m.answer.Digest == "":
			found.Behind = append(found.Behind, m.node)
		default:
			size[m.answer.Digest]++
			found.Members = append(found.Members, api.MemberDigest{Name: m.node, Digest: m.answer.Digest})
		}
	}
	found.Groups = len(size)
	for _, m := range found.Members {
		if found.Groups > 1 && 2*size[m.Digest] <= len(found.Members) {
			found.Minority = append(found.Minority, m.Name)
		}
	}
	return found
}

// lastComparison is what a core member found by itself.
type lastComparison struct {
	found api.DigestComparison
	at    time.Duration // boottime
}

// watchDigests compares while this agent is in the core. Each member does so for itself, not the leader alone: a
// leader whose state went bad must not be the only judge.
func (a *Agent) watchDigests(ctx context.Context) error {
	ticker := newBeat(digestEvery)
	defer ticker.stop()
	differed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
		if a.core.member() == nil {
			a.lastDigests.Store(nil)
			continue
		}
		found, err := a.compareDigests(ctx)
		if err != nil || found.Groups == 0 {
			continue
		}
		a.lastDigests.Store(&lastComparison{found: found, at: clock.Boottime()})
		if differ := found.Groups > 1; differ != differed {
			differed = differ
			a.logDigests(found)
		}
	}
}

func (a *Agent) logDigests(found api.DigestComparison) {
	if found.Groups > 1 {
		a.log.Error("core members hold different states", zap.Uint64("index", found.Index), zap.Strings("node", found.Minority),
			zap.String("hint", "run: parley digest compare; then: parley runbook show data-corruption"))
		return
	}
	a.log.Info("core members hold the same state again", zap.Uint64("index", found.Index))
}

// digestMinority is how many core members the last comparison contradicted. There is no figure outside the core, or
// while nothing was compared lately.
func (a *Agent) digestMinority() (float64, bool) {
	last := a.lastDigests.Load()
	if last == nil || clock.Boottime()-last.at > digestFresh {
		return 0, false
	}
	return float64(len(last.found.Minority)), true
}

// sharedAnswer lets callers that come at the same time share one round of questions to other agents, so that many
// callers cost no more than one.
type sharedAnswer[T any] struct {
	turn chan struct{} // cap 1: who holds it asks, and reads and writes the fields below
	last T
	at   time.Duration
	good bool
}

// sharedFor is how long an answer is given again.
const sharedFor = time.Second

func newShared[T any]() *sharedAnswer[T] { return &sharedAnswer[T]{turn: make(chan struct{}, 1)} }

func (s *sharedAnswer[T]) get(ctx context.Context, ask func(context.Context) (T, error)) (out T, err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return out, ctx.Err()
	}
	defer func() { <-s.turn }()
	if s.good && clock.Boottime()-s.at < sharedFor {
		return s.last, nil
	}
	s.last, err = ask(ctx)
	s.at, s.good = clock.Boottime(), err == nil
	return s.last, err
}
