package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodAccept = "core.accept"

	maxDiffRows    = 256 // rows that a diff names, of each member
	maxDiffBuckets = 128 // it descends to, of each member
	diffTimeout    = 20 * time.Second
	rowHashBytes   = 8 // of a row's hash that are shown
	maxAcceptBody  = 1 << 10
)

// diffDigests descends from differing digests to buckets, and from these to rows. Only core members tell each other about
// rows, so that another agent names whom to ask.
func (a *Agent) diffDigests(ctx context.Context, plan api.DigestPlan) (api.DigestDiff, error) {
	if a.core.member() == nil {
		return api.DigestDiff{}, api.Errorf(api.CodeUnavailable, "%s does not hold the whole state", a.ids.Node).
			WithHint("ask a core member whose state is not being rebuilt, parley core names them: parley digest diff on its host")
	}
	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	found, err := a.compareDigests(ctx)
	if err != nil {
		return api.DigestDiff{}, err
	}
	return locator{sums: a.askSums, rows: a.askRowMarks}.diff(ctx, found, plan)
}

// diff is what a plan comes to.
func (l locator) diff(ctx context.Context, found api.DigestComparison, plan api.DigestPlan) (api.DigestDiff, error) {
	for _, name := range []string{plan.Node, plan.Reference} {
		if name != "" && !slices.ContainsFunc(found.Members, func(m api.MemberDigest) bool { return m.Name == name }) {
			return api.DigestDiff{}, api.Errorf(api.CodeNotFound, "%q is not among the core members that were compared", name).
				WithHint("see who was: parley digest compare")
		}
	}
	if plan.Node != "" && plan.Node == plan.Reference {
		return api.DigestDiff{}, api.Errorf(api.CodeInvalid, "%s cannot be compared with itself", plan.Node)
	}
	out := api.DigestDiff{Reference: plan.Reference, Index: found.Index}
	if out.Reference == "" {
		out.Reference = referenceOf(found, plan.Node)
	}
	for _, m := range found.Members {
		asked := plan.Node == m.Name || plan.Node == "" && (plan.Reference != "" || slices.Contains(found.Minority, m.Name))
		if !asked || m.Name == out.Reference {
			continue
		}
		out.Members = append(out.Members, m.Name)
		pairs, more, err := l.differ(ctx, out.Reference, m.Name, maxDiffBuckets, maxDiffRows)
		out.More = out.More || more
		if err != nil {
			out.Unanswered = append(out.Unanswered, m.Name)
		}
		for _, p := range pairs {
			out.Differences = append(out.Differences, p.shown(m.Name))
		}
	}
	return out, nil
}

// shown is the pair as an operator sees it. What core members alone may hold shows not even a hash.
func (p rowPair) shown(member string) api.RowDiff {
	out := api.RowDiff{Member: member, Table: p.table.String(), Key: printableKey(p.key), Kind: "differs"}
	open := p.table.Class() == state.ClassPublic || p.table.Class() == state.ClassKV
	hash := func(m *state.RowMark) (string, uint64) {
		switch {
		case m == nil:
			return "", 0
		case !open:
			return "", m.Revision
		}
		return hex.EncodeToString(m.Hash[:rowHashBytes]), m.Revision
	}
	out.Hash, out.Revision = hash(p.own)
	out.ReferenceHash, out.ReferenceRevision = hash(p.reference)
	switch {
	case p.own == nil:
		out.Kind = "missing"
	case p.reference == nil:
		out.Kind = "extra"
	}
	return out
}

// acceptRequest is the body of core.accept.
type acceptRequest struct {
	Node string `json:"node"`
	By   string `json:"by"`
}

// acceptDigest hands an operator's choice to the leader, through whose log it goes.
func (a *Agent) acceptDigest(ctx context.Context, node, by string) (choice api.DigestChoice, err error) {
	leader, self, known := a.leader()
	switch {
	case !known:
		return choice, api.Errorf(api.CodeNoLeader, "the core has no leader, and the choice goes through its log")
	case self:
		return a.acceptHere(ctx, node, by)
	}
	body, err := json.Marshal(acceptRequest{Node: node, By: by})
	if err != nil {
		return choice, err
	}
	raw, err := a.call(ctx, leader, methodAccept, body)
	if err != nil {
		return choice, err
	}
	return choice, json.Unmarshal(raw, &choice)
}

// acceptHere is acceptDigest on the leader.
func (a *Agent) acceptHere(ctx context.Context, node, by string) (choice api.DigestChoice, err error) {
	n := a.core.member()
	if n == nil {
		return choice, api.Errorf(api.CodeNotLeader, "%s does not lead", a.ids.Node)
	}
	st := n.Status()
	if !st.ReadOnly {
		return choice, api.Errorf(api.CodeConflict, "a state has a majority of the core: there is nothing to choose").
			WithHint("who differs from the majority is rebuilt from it by itself: parley events --kind state-fenced")
	}
	for _, id := range st.Voters {
		if name, ok := a.core.nodeOf(id); !ok || name != node {
			continue
		}
		index, err := n.AcceptDigest(ctx, id)
		if err != nil {
			return choice, a.consensusError(err)
		}
		a.log.Warn("an operator has chosen whose state is right", zap.String("node", node), zap.String("caller", by), zap.Uint64("index", index))
		a.tellTimeline(api.EventDecided, a.ids.Node, truncate(fmt.Sprintf("%s chose the state of %s at entry %d", by, node, index)))
		return api.DigestChoice{Node: node, Index: index}, nil
	}
	return choice, api.Errorf(api.CodeNotFound, "%q is not a voter of the core", node).WithHint("the voters are: parley core")
}

// serveAccept takes the choice that an operator made by way of another core member. The core grant implies the role
// operator, which is asked for all the same.
func (a *Agent) serveAccept(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	var in acceptRequest
	if len(body) > maxAcceptBody || json.Unmarshal(body, &in) != nil || in.Node == "" {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a choice names the node whose state is right"}
	}
	if err := mayChoose(a.roleOf(peer.Node), peer.Node); err != nil {
		return nil, toWire(err)
	}
	choice, err := a.acceptHere(ctx, in.Node, strings.TrimSpace(in.By+" via "+peer.Node))
	if err != nil {
		return nil, toWire(err)
	}
	return json.Marshal(choice)
}

// mayChoose refuses what comes by way of an agent that may not choose itself.
func mayChoose(role policy.Role, via string) error {
	if policy.Allowed(role, policy.DigestAccept) {
		return nil
	}
	return api.Errorf(api.CodeDenied, "%s may not choose a state of the core", via)
}
