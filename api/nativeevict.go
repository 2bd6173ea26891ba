package api

import (
	"net/http"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

func evictRoutes() []Route {
	return []Route{{Method: http.MethodPost, Path: "/parley/v1/evict", Action: policy.Evict, Serve: serveEvict}}
}

// evictBody is POST /parley/v1/evict. With DryRun nothing happens, and the answer says what would.
type evictBody struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
	DryRun bool   `json:"dry_run"`
}

// evictAnswer is what it answers. Core is what the node is there now; RootReplaced, that another root is on its way.
type evictAnswer struct {
	Node         string `json:"node"`
	Core         string `json:"core"`
	RootReplaced bool   `json:"root_replaced"`
	Evicted      bool   `json:"evicted"`
}

func serveEvict(x *Exchange) error {
	var body evictBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	if _, ok := x.service.local.Hub.View().Node(body.Node); !ok {
		return Errorf(CodeNotFound, "there is no node %q", body.Node).WithHint("list them: parley members")
	}
	core := x.service.local.Core()
	if failed := mayEvict(core, body.Node); failed != nil {
		return failed
	}
	answer := evictAnswer{Node: body.Node, Core: core.roleOf(body.Node), RootReplaced: x.service.local.Hub.View().WasIssuer(body.Node)}
	if body.DryRun {
		return x.JSON(http.StatusOK, answer)
	}
	done, err := x.service.Execute(x.Context(), x.Caller, state.NodeEvict{Node: body.Node, Reason: body.Reason})
	if err != nil {
		return err
	}
	x.applied(done)
	answer.Evicted = true
	return x.JSON(http.StatusOK, answer)
}

// mayEvict refuses what would leave the core without a quorum: then nobody could take the step after it.
func mayEvict(core CoreStatus, node string) *Error {
	voters, others, member := len(core.Voters), 0, false
	for _, v := range core.Voters {
		if v.Name == node {
			member = true
		} else if v.Healthy {
			others++
		}
	}
	if member && others < voters/2+1 {
		return Errorf(CodeGuarded, "%s is one of %d voters, and of the others %d are healthy: without it there is no quorum", node, voters, others).
			WithHint("bring the others back or let a further agent into the core first: parley core allow NODE")
	}
	return nil
}

// roleOf is what a node is in the core: voter, learner or none.
func (c CoreStatus) roleOf(node string) string {
	for role, list := range map[string][]CoreMember{"voter": c.Voters, "learner": c.Learners} {
		for _, m := range list {
			if m.Name == node {
				return role
			}
		}
	}
	return "none"
}
