package api

import (
	"encoding/json"
	"net/http"

	"github.com/parley-mesh/parley/security/policy"
)

// DigestComparison is GET /parley/v1/digest/compare: what the core members hold at one index. Groups counts the
// digests that differ, so 1 is good. Minority names those that a majority contradicts, or, when no digest has a
// majority, everyone who answered. Unreachable members did not answer, Behind ones had no digest of that index. Absent
// are those that are allowed in the core and not in it, while it is smaller than it should be.
type DigestComparison struct {
	Groups      int            `json:"groups"`
	Index       uint64         `json:"index"`
	Members     []MemberDigest `json:"members"`
	Minority    []string       `json:"minority"`
	Unreachable []string       `json:"unreachable"`
	Behind      []string       `json:"behind"`
	Absent      []string       `json:"absent"`
	// Differences are rows in which a member of the minority differs, for operators alone: a key may say much.
	Differences []RowDifference `json:"differences,omitempty"`
}

// RowDifference is one such row. Key is as it is, or hex after 0x where a table has numbers for keys.
type RowDifference struct {
	Member string `json:"member"`
	Table  string `json:"table"`
	Key    string `json:"key"`
}

// MemberDigest is one core member's digest of everything, in hex.
type MemberDigest struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// MarshalJSON writes absent lists as [].
func (d DigestComparison) MarshalJSON() ([]byte, error) {
	type plain DigestComparison
	p := plain(d)
	p.Members, p.Minority = orEmpty(p.Members), orEmpty(p.Minority)
	p.Unreachable, p.Behind, p.Absent = orEmpty(p.Unreachable), orEmpty(p.Behind), orEmpty(p.Absent)
	return json.Marshal(p)
}

// Link is how one agent reaches another. UDP is about gossip: ok, fallback (it goes by TCP), down or unknown. TCP is
// about a call: ok, down or unknown; RTT is how long one took, 0 unless TCP is ok. Via is, between members of the core,
// by whom the core's traffic is relayed, absent when it goes straight.
type Link struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	UDP  string  `json:"udp"`
	TCP  string  `json:"tcp"`
	RTT  float64 `json:"rtt_ms"`
	Via  string  `json:"via,omitempty"`
}

// LinkMatrix is GET /parley/v1/net/matrix: all links between the live agents. Unreachable counts links without TCP,
// UDPFallback those whose gossip goes by TCP, Asymmetric pairs that reach each other one way only, and Unknown links of
// which nobody could tell. Relayed counts links on which the core's traffic goes by way of another member.
type LinkMatrix struct {
	Agents      []string `json:"agents"`
	Links       []Link   `json:"links"`
	Unreachable int      `json:"unreachable"`
	UDPFallback int      `json:"udp_fallback"`
	Asymmetric  int      `json:"asymmetric"`
	Unknown     int      `json:"unknown"`
	Relayed     int      `json:"relayed"`
}

// MarshalJSON writes absent lists as [].
func (m LinkMatrix) MarshalJSON() ([]byte, error) {
	type plain LinkMatrix
	p := plain(m)
	p.Agents, p.Links = orEmpty(p.Agents), orEmpty(p.Links)
	return json.Marshal(p)
}

// NodeStatus is GET /parley/v1/node/NAME: one agent as this one sees it, so that it works when that one cannot speak.
// Incarnation counts its starts, Starts10m those of the last ten minutes that were seen, Reachable says whether a call
// got through.
type NodeStatus struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Incarnation uint64 `json:"incarnation"`
	Starts10m   int    `json:"starts_10m"`
	// CrashStarts10m are those of them that came after an end that was not clean.
	CrashStarts10m int `json:"crash_starts_10m"`

	SafeMode  int    `json:"safe_mode"`
	Core      string `json:"core"`
	Address   string `json:"address"`
	Zone      string `json:"zone"`
	Version   string `json:"version"`
	Reachable bool   `json:"reachable"`
}

func orEmpty[T any](rows []T) []T {
	if rows == nil {
		return []T{}
	}
	return rows
}

// clusterRoutes are about the cluster as this agent sees it. They change nothing and need no leader, but for the choice of a
// state.
func clusterRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/digest/compare", Action: policy.DigestRead, Own: true, Serve: serveDigests},
		{Method: http.MethodGet, Path: "/parley/v1/digest/diff", Action: policy.DigestDiff, Takes: []string{"node", "reference"}, Serve: serveDigestDiff},
		{Method: http.MethodPost, Path: "/parley/v1/digest/accept", Action: policy.DigestAccept, Serve: serveDigestAccept},
		{Method: http.MethodGet, Path: "/parley/v1/net/matrix", Action: policy.NetRead, Own: true, Serve: serveMatrix},
		{Method: http.MethodGet, Path: "/parley/v1/node/*", Action: policy.Status, Own: true, Serve: serveNode},
	}
}

func serveDigests(x *Exchange) error {
	found, err := x.service.local.CompareDigests(x.Context())
	if err != nil {
		return err
	}
	if !policy.Allowed(x.Caller.Role, policy.CoreWrite) {
		found.Differences = nil
	}
	return x.JSON(http.StatusOK, found)
}

func serveMatrix(x *Exchange) error {
	matrix, err := x.service.local.LinkMatrix(x.Context())
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, matrix)
}

func serveNode(x *Exchange) error {
	node, ok := x.service.local.NodeStatus(x.Rest)
	if !ok {
		return Errorf(CodeNotFound, "there is no agent %q", x.Rest).WithHint("list the agents: parley members")
	}
	return x.JSON(http.StatusOK, node)
}
