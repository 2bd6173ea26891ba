package api

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// Member is one row of GET /parley/v1/members. State is alive, suspect, dead or left; Core is leader, voter,
// learner or none.
type Member struct {
	Name     string `json:"name"`
	SPIFFEID string `json:"spiffe_id"`
	State    string `json:"state"`
	Address  string `json:"address"`
	Zone     string `json:"zone"`
	Core     string `json:"core"`
	Copied   bool   `json:"copied"` // it was seen twice, and no operator has decided
}

// CoreMember is one voter or learner. RaftID is in hex.
type CoreMember struct {
	Name    string `json:"name"`
	RaftID  string `json:"raft_id"`
	Healthy bool   `json:"healthy"`
}

// CoreStatus is GET /parley/v1/core. Leader is nil when there is none; Size is the wanted number of voters and Margin
// how many of the present ones may fail before writes stop. Below 0 they have stopped, as they have without a leader.
type CoreStatus struct {
	Leader       *string      `json:"leader"`
	Term         uint64       `json:"term"`
	CommitIndex  uint64       `json:"commit_index"`
	AppliedIndex uint64       `json:"applied_index"`
	Size         int          `json:"size"`
	Margin       int          `json:"margin"`
	ReadOnly     bool         `json:"read_only"` // the members' states differ and none has a majority: writes are refused
	Reads        string       `json:"reads"`     // how this leader answers linearizable ones: "lease", or "round" of asking a majority; "" of others
	Voters       []CoreMember `json:"voters"`
	Learners     []CoreMember `json:"learners"`
	Held         []Hold       `json:"held"`
	Epoch        uint64       `json:"epoch"`    // one more with each recovery; no two leaders share epoch and term
	EpochID      string       `json:"epoch_id"` // 32 hex digits, to tell two recoveries from the same epoch apart
}

// Hold is one agent in maintenance, and until when.
type Hold struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
}

// Leave is what becomes of an agent that leaves the cluster, and of the core: Core was its role there, Heir takes its
// place, "" when nobody has to or can, and Voters is how many there are afterwards. Left is false of a dry run.
type Leave struct {
	Node   string `json:"node"`
	Core   string `json:"core"`
	Heir   string `json:"heir"`
	Voters int    `json:"voters"`
	Left   bool   `json:"left"`
}

// MarshalJSON writes absent lists as [].
func (c CoreStatus) MarshalJSON() ([]byte, error) {
	type plain CoreStatus
	p := plain(c)
	if p.Voters == nil {
		p.Voters = []CoreMember{}
	}
	if p.Learners == nil {
		p.Learners = []CoreMember{}
	}
	if p.Held == nil {
		p.Held = []Hold{}
	}
	return json.Marshal(p)
}

// SVID is the certificate that this agent shows.
type SVID struct {
	SPIFFEID string    `json:"spiffe_id"`
	NotAfter time.Time `json:"not_after"`
}

// AgentStatus is GET /parley/v1/status. SafeMode is 0..3.
type AgentStatus struct {
	Name        string     `json:"name"`
	ClusterID   string     `json:"cluster_id"`
	TrustDomain string     `json:"trust_domain"`
	Version     string     `json:"version"`
	Ready       bool       `json:"ready"`
	SafeMode    int        `json:"safe_mode"`
	Core        CoreStatus `json:"core"`
	SVID        SVID       `json:"svid"`

	Digest *StateDigest `json:"digest,omitempty"`
}

// StateDigest lets two agents compare what they hold: equal revisions must show equal digests. Public covers what
// every agent has, All, only on a core member, everything that has revisions. Hex.
type StateDigest struct {
	Revision uint64 `json:"revision"`
	Public   string `json:"public"`
	All      string `json:"all,omitempty"`
}

// Capability is one thing that this agent can or cannot do at the moment; Detail says why.
type Capability struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// TokenSpec asks for a join token: TTL in whole milliseconds or longer, Uses at least 1, Node the only name that may
// use it ("" any), Role what the joiner gets, Core whether it also gets the core grant, Replace the node whose name
// it may take over.
type TokenSpec struct {
	TTL     time.Duration
	Uses    int
	Node    string
	Role    string
	Core    bool
	Replace string
}

// TokenAnswer is a new token. It is the only place where the secret appears.
type TokenAnswer struct {
	ID          string    `json:"id"`
	Token       string    `json:"token"`
	ExpiresAt   time.Time `json:"expires_at"`
	JoinCommand string    `json:"join_command"`
}

// TokenInfo is one row of GET /parley/v1/tokens; it holds nothing secret.
type TokenInfo struct {
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
	UsesLeft  int       `json:"uses_left"`
	Node      string    `json:"node"`
	Role      string    `json:"role"`
	Core      bool      `json:"core"`
	Replace   string    `json:"replace"`
	CreatedAt time.Time `json:"created_at"`
	Revoked   bool      `json:"revoked"`
}

// tokenInfo shows the role that joiners will have: the core grant implies operator.
func tokenInfo(t state.Token) TokenInfo {
	if t.Core {
		t.Role = policy.Operator
	}
	return TokenInfo{
		ID: t.ID, ExpiresAt: t.Expires.Wall().UTC(), UsesLeft: t.Uses, Node: t.BoundNode, Role: string(t.Role),
		Core: t.Core, Replace: t.Replace, CreatedAt: t.Created.Wall().UTC(), Revoked: t.Revoked,
	}
}

// Pair is one key as the native API shows it. Exactly one of Value and ValueBase64 is set: the second when the bytes
// are not UTF-8.
type Pair struct {
	Key            string      `json:"key"`
	Value          *string     `json:"value,omitempty"`
	ValueBase64    []byte      `json:"value_base64,omitempty"`
	Flags          uint64      `json:"flags"`
	Revision       uint64      `json:"revision"`
	CreateRevision uint64      `json:"create_revision"`
	Version        uint64      `json:"version"`
	ModifiedAt     time.Time   `json:"modified_at"`
	ModifiedHLC    clock.Stamp `json:"modified_hlc"`
	Session        string      `json:"session,omitempty"`    // who holds the lock
	LockIndex      uint64      `json:"lock_index,omitempty"` // how often it was taken
}

func pairOf(kv state.KV) Pair {
	p := Pair{
		Key: kv.Key, Flags: kv.Flags, Revision: kv.ModRevision, CreateRevision: kv.CreateRevision,
		Version: kv.Version, ModifiedAt: kv.ModifiedAt.Wall().UTC(), ModifiedHLC: kv.ModifiedAt,
		Session: kv.Session, LockIndex: kv.LockIndex,
	}
	if utf8.Valid(kv.Value) {
		text := string(kv.Value)
		p.Value = &text
	} else {
		p.ValueBase64 = kv.Value
	}
	return p
}

func pairsOf(rows []state.KV) []Pair {
	pairs := make([]Pair, len(rows))
	for i, row := range rows {
		pairs[i] = pairOf(row)
	}
	return pairs
}
