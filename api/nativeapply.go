package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/security/policy"
)

// applyRoutes are the endpoints about what core members apply, and what they crash on.
func applyRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/apply", Action: policy.ApplyRead, Own: true, Serve: serveApply},
		{Method: http.MethodPost, Path: "/parley/v1/apply/quarantine", Action: policy.ApplyQuarantine, Takes: []string{"index", "place"}, Serve: serveQuarantine},
	}
}

// ApplyReport is GET /parley/v1/apply: where each core member is, what is being decided about commands that crash them, and
// what was left out. Unreachable did not answer.
type ApplyReport struct {
	Members     []MemberApply `json:"members"`
	Unreachable []string      `json:"unreachable"`
	Cases       []ApplyCase   `json:"cases"`       // as the leader sees them
	Quarantined []LeftOut     `json:"quarantined"` // oldest first, the last 256
}

// MemberApply is one core member. Lag is what is committed and not applied. Withheld is the entry from which on it waits for
// others, 0 if it does not.
type MemberApply struct {
	Name      string     `json:"name"`
	Commit    uint64     `json:"commit"`
	Applied   uint64     `json:"applied"`
	Lag       uint64     `json:"lag"`
	Withheld  uint64     `json:"withheld"`
	StoppedAt *StoppedAt `json:"stopped_at"`
}

// StoppedAt is the command that a core member crashes on. Members whose signatures are equal have met the same mistake.
type StoppedAt struct {
	Index     uint64 `json:"index"`
	Command   int    `json:"command"` // in the entry, from 0
	Cause     string `json:"cause"`
	Signature string `json:"signature"`
}

// ApplyCase is a command at which core members stopped. Answers are those of the voters, to whether they have applied it.
type ApplyCase struct {
	Index   uint64            `json:"index"`
	Command int               `json:"command"`
	Stopped []string          `json:"stopped"`
	Answers map[string]string `json:"answers"`
	Verdict string            `json:"verdict"`
}

// LeftOut is a command that no member has run, because they crash on it.
type LeftOut struct {
	Index   uint64    `json:"index"`
	Command int       `json:"command"`
	Kind    string    `json:"kind"`
	Hash    string    `json:"hash"` // SHA-256 of its bytes
	At      time.Time `json:"at"`
}

// MarshalJSON writes absent lists as [].
func (r ApplyReport) MarshalJSON() ([]byte, error) {
	type plain ApplyReport
	p := plain(r)
	p.Members, p.Unreachable = append([]MemberApply{}, p.Members...), append([]string{}, p.Unreachable...)
	p.Cases, p.Quarantined = append([]ApplyCase{}, p.Cases...), append([]LeftOut{}, p.Quarantined...)
	return json.Marshal(p)
}

func serveApply(x *Exchange) error {
	report, err := x.service.local.ApplyStatus(x.Context())
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, report)
}

// serveQuarantine takes an operator's decision to leave a command out although not every voter has said that it has not
// applied it.
func serveQuarantine(x *Exchange) error {
	index, _, err := x.Uint("index")
	if err != nil {
		return err
	}
	place, _, err := x.Uint("place")
	if err != nil {
		return err
	}
	if index == 0 || place >= 1<<16 {
		return Errorf(CodeInvalid, "index and place name no command: see GET /parley/v1/apply")
	}
	if err := x.service.local.Quarantine(x.Context(), index, int(place)); err != nil {
		return err
	}
	return x.JSON(http.StatusOK, map[string]uint64{"index": index, "command": place})
}
