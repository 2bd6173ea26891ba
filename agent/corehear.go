package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodProve   = "core.prove"
	methodWilling = "core.willing"
	answerNo      = "no"
	answerYes     = "yes"

	proveNonceSize = 32

	// willingFor is how long an answer to methodWilling counts, which is how soon one that leaves is heard, and silentFor how long an agent that let
	// the question time out is left alone.
	willingFor = 2 * time.Second
	silentFor  = 2 * time.Second
	// maxHearing is how many questions of the controller may be open at once.
	maxHearing = 64
)

// willingness is what a node answered last.
type willingness struct {
	answered, no, leaves bool
	next                 time.Duration // boottime from which on it is asked again
}

// hear asks the members what is not known of them yet: who wants to be in the core, and who can open the root, once a day. All are asked at once and each has askTimeout: a frozen agent must not keep the
// controller from the others.
func (c *controller) hear(ctx context.Context, members []consensus.PlanMember, st consensus.Status) {
	willing, asked, answers := make([]willingness, len(members)), make([]bool, len(members)), make([]error, len(members))
	now := clock.Boottime()
	var asking errgroup.Group
	asking.SetLimit(maxHearing)
	for i, m := range members {
		if m.RaftID != 0 && (m.Node == c.self || st.Progress[m.RaftID].Active) && c.proofs.due(m.RaftID, now) {
			asked[i] = true
			asking.Go(func() error { answers[i] = c.askProof(ctx, m.RaftID, m.Node); return nil })
		}
		if m.Node == c.self {
			continue
		}
		if willing[i] = c.willing[m.Node]; m.Alive && clock.Boottime() >= willing[i].next {
			asking.Go(func() error { c.askWilling(ctx, m.Node, &willing[i]); return nil })
		}
	}
	_ = asking.Wait() // the questions keep their errors
	c.proofs.keep(func(id uint64) bool {
		return slices.ContainsFunc(members, func(m consensus.PlanMember) bool { return m.RaftID == id })
	})
	for i, m := range members {
		c.willing[m.Node] = willing[i]
		if asked[i] && c.proofs.note(m.RaftID, answers[i], clock.Boottime()) {
			c.log.Error("a core member can no longer open the root", zap.String("node", m.Node), zap.Error(answers[i]))
			c.report(api.EventUnopened, m.Node, truncate("cannot open the root any more: "+answers[i].Error()))
		}
	}
}

// isWilling reports whether a node lets itself be in the core. A member stays willing while it says
// nothing, because silence is for gossip to judge; another has to say so before it is taken in.
func (c *controller) isWilling(m consensus.PlanMember) bool {
	if m.Node == c.self {
		return c.cfg.eligible
	}
	w := c.willing[m.Node]
	return !w.no && (w.answered || m.RaftID != 0)
}

// askWilling asks a node whether its own configuration or its disk keeps it out of the core. One that
// refuses to answer, as a new agent does until it knows the core, is asked again at the next look.
func (c *controller) askWilling(ctx context.Context, node string, w *willingness) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	raw, err := c.call(ctx, node, methodWilling, nil)
	switch {
	case err == nil:
		*w = willingness{answered: true, no: string(raw) == answerNo, leaves: string(raw) == answerLeaving, next: clock.Boottime() + willingFor}
	case ctx.Err() != nil:
		w.next = clock.Boottime() + silentFor
	}
}

// askProof asks a member to sign a challenge with the root that it was given sealed. The leader asks itself as well.
func (c *controller) askProof(ctx context.Context, id uint64, node string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nonce := make([]byte, proveNonceSize)
	_, _ = rand.Read(nonce)
	var signature []byte
	var err error
	if node == c.self {
		signature, err = c.issuer.prove(id, nonce)
	} else {
		signature, err = c.call(ctx, node, methodProve, nonce)
	}
	if err == nil {
		err = c.issuer.checkProof(id, nonce, signature)
	}
	if err != nil {
		c.log.Debug("a member has not opened the sealed root", zap.String("node", node), zap.Error(err))
	}
	return err
}

// proofDigest is what a learner signs: the purpose, its id, and the leader's nonce.
func proofDigest(raftID uint64, nonce []byte) []byte {
	h := sha256.New()
	h.Write([]byte("parley core proof 1"))
	_ = binary.Write(h, binary.BigEndian, raftID)
	h.Write(nonce)
	return h.Sum(nil)
}

// prove answers the leader's challenge.
func (c *coreRunner) prove(issuer *issuer, nonce []byte) ([]byte, error) {
	n := c.running()
	if n == nil || len(nonce) != proveNonceSize {
		return nil, &transport.Error{Code: "unavailable", Message: "this agent runs no Raft id"}
	}
	return issuer.prove(n.raftID, nonce)
}
