package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// DigestDiff is GET /parley/v1/digest/diff: the rows in which core members differ from one of them, the reference, at the
// index of the comparison. Rows that changed since on one of the two are no difference. More says that there are more
// rows than are named, Unanswered who did not tell its rows.
type DigestDiff struct {
	Reference   string    `json:"reference"`
	Index       uint64    `json:"index"`
	Members     []string  `json:"members"`
	Differences []RowDiff `json:"differences"`
	More        bool      `json:"more"`
	Unanswered  []string  `json:"unanswered"`
}

// RowDiff is one such row. Kind is "differs", "missing" (at the member) or "extra" (at the member alone). The hashes are the
// beginnings of those of the whole rows, in hex, absent where there is no row and for rows that core members alone may hold.
// No value is ever shown.
type RowDiff struct {
	Member            string `json:"member"`
	Table             string `json:"table"`
	Key               string `json:"key"`
	Kind              string `json:"kind"`
	Revision          uint64 `json:"revision"`
	ReferenceRevision uint64 `json:"reference_revision"`
	Hash              string `json:"hash,omitempty"`
	ReferenceHash     string `json:"reference_hash,omitempty"`
}

// MarshalJSON writes absent lists as [].
func (d DigestDiff) MarshalJSON() ([]byte, error) {
	type plain DigestDiff
	p := plain(d)
	p.Members, p.Differences, p.Unanswered = orEmpty(p.Members), orEmpty(p.Differences), orEmpty(p.Unanswered)
	return json.Marshal(p)
}

// DigestPlan says what a DigestDiff is to compare: Node "" is everyone who differs from a majority, or without one everyone
// but the reference; Reference "" is one of the majority, or without one the first by name.
type DigestPlan struct {
	Node, Reference string
}

// DigestChoice is the answer to POST /parley/v1/digest/accept: whose state was chosen, as of which checkpoint.
type DigestChoice struct {
	Node  string `json:"node"`
	Index uint64 `json:"index"`
}

// Digests are what an agent can do about differing states.
type Digests struct {
	Diff func(ctx context.Context, plan DigestPlan) (DigestDiff, error)
	// Accept is the word of an operator, named by, that the state of a node is right. Only while no state has a majority.
	Accept func(ctx context.Context, node, by string) (DigestChoice, error)
}

func serveDigestDiff(x *Exchange) error {
	found, err := x.service.local.Digests.Diff(x.Context(), DigestPlan{Node: x.Query().Get("node"), Reference: x.Query().Get("reference")})
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, found)
}

func serveDigestAccept(x *Exchange) error {
	var in struct {
		Node string `json:"node"`
	}
	if err := x.Decode(&in); err != nil {
		return err
	}
	if in.Node == "" {
		return Errorf(CodeInvalid, "node is missing: whose state is right?")
	}
	chosen, err := x.service.local.Digests.Accept(x.Context(), in.Node, x.service.callerName(x.Caller))
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, chosen)
}
