package client

import (
	"context"
	"net/http"
	"net/url"
)

// CheckReport is what an agent found when it examined itself. OK means that nothing failed.
type CheckReport struct {
	OK     bool          `json:"ok"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is one check. Status is ok, warn or fail; Hint and Runbook are empty when all is well.
type CheckResult struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
	Runbook string `json:"runbook"`
}

// ScrubReport is what an agent found in its log and snapshots. Errors counts all problems, Problems lists the first
// hundred. Disagree counts those of which one kind of checksum is right and the other wrong.
type ScrubReport struct {
	Errors    int            `json:"errors"`
	Disagree  int            `json:"disagree"`
	Segments  int            `json:"segments"`
	Entries   uint64         `json:"entries"`
	Snapshots int            `json:"snapshots"`
	Bytes     int64          `json:"bytes"`
	Healed    uint64         `json:"healed"`
	Problems  []ScrubProblem `json:"problems"`
}

// ScrubProblem is one place in a file that is not what was written there.
type ScrubProblem struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"`
	Message string `json:"message"`
}

// Check has the agent examine itself.
func (c *Client) Check(ctx context.Context) (CheckReport, error) {
	var out CheckReport
	err := c.call(ctx, http.MethodGet, "/parley/v1/check", nil, nil, &out)
	return out, err
}

// ScrubStorage has the agent verify its log and snapshots, reading at most so many MiB a second; 0 leaves that to the
// agent. It takes as long as reading them does.
func (c *Client) ScrubStorage(ctx context.Context, mibPerSecond uint64) (ScrubReport, error) {
	return c.ScrubNode(ctx, "", mibPerSecond)
}

// AcceptTail has the agent take the end of its log as it is, which an unclean stop has left in doubt: it votes without
// having heard all others. False: it was not in doubt.
func (c *Client) AcceptTail(ctx context.Context) (accepted bool, err error) {
	var out struct {
		Accepted bool `json:"accepted"`
	}
	err = c.call(ctx, http.MethodPost, "/parley/v1/storage/accept-tail", nil, nil, &out)
	return out.Accepted, err
}

// ScrubNode is ScrubStorage for the files of another agent, by its name.
func (c *Client) ScrubNode(ctx context.Context, node string, mibPerSecond uint64) (ScrubReport, error) {
	query := url.Values{}
	if node != "" {
		query.Set("node", node)
	}
	if mibPerSecond > 0 {
		uintParam(query, "mib_per_second", mibPerSecond)
	}
	var out ScrubReport
	err := c.call(ctx, http.MethodGet, "/parley/v1/storage/scrub", query, nil, &out)
	return out, err
}
