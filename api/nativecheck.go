package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/security/policy"
)

const (
	defaultScrubMiB = 32    // a second; a disk reads many times that
	maxScrubMiB     = 10000 // as good as no limit
)

// checkRoutes are the endpoints by which an agent is examined.
func checkRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/check", Action: policy.Check, Own: true, Serve: serveCheck},
		{Method: http.MethodGet, Path: "/parley/v1/storage/scrub", Action: policy.StorageScrub, Own: true, Takes: []string{"mib_per_second", "node"}, Serve: serveScrub},
		{Method: http.MethodPost, Path: "/parley/v1/storage/accept-tail", Action: policy.AcceptTail, Own: true, Serve: serveAcceptTail},
	}
}

// ScrubReport is GET /parley/v1/storage/scrub. Errors counts all problems, Problems lists the first hundred.
type ScrubReport struct {
	Errors    int            `json:"errors"`
	Disagree  int            `json:"disagree"` // of them: one kind of checksum is right and the other wrong
	Segments  int            `json:"segments"`
	Entries   uint64         `json:"entries"`
	Snapshots int            `json:"snapshots"`
	Bytes     int64          `json:"bytes"`
	Healed    uint64         `json:"healed"` // files and logs that this agent has put right by itself since its start
	Problems  []ScrubProblem `json:"problems"`
}

// ScrubProblem is one place in a file that is not what was written there.
type ScrubProblem struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"`
	Message string `json:"message"`
}

// MarshalJSON writes an absent list as [].
func (r ScrubReport) MarshalJSON() ([]byte, error) {
	type plain ScrubReport
	p := plain(r)
	if p.Problems == nil {
		p.Problems = []ScrubProblem{}
	}
	return json.Marshal(p)
}

func serveCheck(x *Exchange) error {
	return x.JSON(http.StatusOK, x.service.local.Check(x.Context()))
}

// serveAcceptTail takes the end of this agent's log as it is, which an unclean stop has left in doubt.
func serveAcceptTail(x *Exchange) error {
	accepted, err := x.service.local.AcceptTail(x.Context())
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, map[string]bool{"accepted": accepted})
}

func serveScrub(x *Exchange) error {
	mib, set, err := x.Uint("mib_per_second")
	if err != nil {
		return err
	}
	if !set {
		mib = defaultScrubMiB
	}
	if mib < 1 || mib > maxScrubMiB {
		return Errorf(CodeInvalid, "mib_per_second is %d, it can be 1 to %d", mib, maxScrubMiB)
	}
	// A slow scrub of a large log outlasts the time that other answers have.
	_ = http.NewResponseController(x.W).SetWriteDeadline(time.Time{}) // unsupported outside a real connection
	report, err := x.service.local.Scrub(x.Context(), x.Query().Get("node"), int64(mib)<<20)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, report)
}
