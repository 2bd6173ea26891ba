package api

import (
	"encoding/json"
	"net/http"
)

// InvariantReport is GET /parley/v1/invariants: what this agent's core member watches while it works. Count is how often
// anything of it did not hold since the start: 0, or this program or a machine of the core is wrong. Outside the core nothing
// is watched.
type InvariantReport struct {
	Count      uint64      `json:"count"`
	Invariants []Invariant `json:"invariants"`
}

// Invariant is one of them. Detail is what was seen last, "" while it holds.
type Invariant struct {
	ID         string `json:"id"`
	What       string `json:"what"`
	Holds      bool   `json:"holds"`
	Violations uint64 `json:"violations"`
	Detail     string `json:"detail"`
}

// MarshalJSON writes an absent list as [].
func (r InvariantReport) MarshalJSON() ([]byte, error) {
	type plain InvariantReport
	p := plain(r)
	p.Invariants = orEmpty(p.Invariants)
	return json.Marshal(p)
}

func serveInvariants(x *Exchange) error {
	return x.JSON(http.StatusOK, x.service.local.Invariants())
}
