package client

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Member is one agent. State is alive, suspect, dead or left; Core is leader, voter, learner or none.
type Member struct {
	Name     string `json:"name"`
	SPIFFEID string `json:"spiffe_id"`
	State    string `json:"state"`
	Address  string `json:"address"`
	Zone     string `json:"zone"`
	Core     string `json:"core"`
	Copied   bool   `json:"copied"` // it was seen twice, and no operator has decided
}

// CoreMember is one voter or learner; RaftID is in hex.
type CoreMember struct {
	Name    string `json:"name"`
	RaftID  string `json:"raft_id"`
	Healthy bool   `json:"healthy"`
}

// CoreStatus is the Raft core; Leader is nil when there is none.
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

// SVID is the agent's certificate.
type SVID struct {
	SPIFFEID string    `json:"spiffe_id"`
	NotAfter time.Time `json:"not_after"`
}

// Status is one agent.
type Status struct {
	Name        string     `json:"name"`
	ClusterID   string     `json:"cluster_id"`
	TrustDomain string     `json:"trust_domain"`
	Version     string     `json:"version"`
	Ready       bool       `json:"ready"`
	SafeMode    int        `json:"safe_mode"`
	Core        CoreStatus `json:"core"`
	SVID        SVID       `json:"svid"`

	Digest StateDigest `json:"digest"`
}

// StateDigest compares what two agents hold; All is empty outside the core.
type StateDigest struct {
	Revision uint64 `json:"revision"`
	Public   string `json:"public"`
	All      string `json:"all,omitempty"`
}

// Health is what an agent can do at the moment.
type Health struct {
	Ready        bool         `json:"ready"`
	Capabilities []Capability `json:"capabilities"`
}

// Capability is one of those things; Detail says why not.
type Capability struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// TokenSpec asks for a join token; zero values take the agent's defaults.
type TokenSpec struct {
	TTL     time.Duration
	Uses    int
	Node    string // the only name that may join with it
	Role    string
	Core    bool   // joiners get the core grant
	Replace string // the node whose name may be taken over
}

// MarshalJSON writes the duration as text.
func (s TokenSpec) MarshalJSON() ([]byte, error) {
	body := map[string]any{"uses": s.Uses, "node": s.Node, "role": s.Role, "core": s.Core, "replace": s.Replace}
	if s.TTL != 0 {
		body["ttl"] = s.TTL.String()
	}
	return json.Marshal(body)
}

// TokenAnswer is a new token; the secret is shown once.
type TokenAnswer struct {
	ID          string    `json:"id"`
	Token       string    `json:"token"`
	ExpiresAt   time.Time `json:"expires_at"`
	JoinCommand string    `json:"join_command"`
}

// TokenInfo is a token without its secret.
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

// Pair is one key and its value. In JSON the value is text, or value_base64 when it is not UTF-8. ModifiedHLC orders
// changes; ModifiedAt is for people.
type Pair struct {
	Key            string
	Value          []byte
	Flags          uint64
	Revision       uint64
	CreateRevision uint64
	Version        uint64
	ModifiedAt     time.Time
	ModifiedHLC    string
	Session        string // who holds the lock, "" for nobody
	LockIndex      uint64 // how often it was taken
}

type pairJSON struct {
	Key            string    `json:"key"`
	Value          *string   `json:"value,omitempty"`
	ValueBase64    []byte    `json:"value_base64,omitempty"`
	Flags          uint64    `json:"flags"`
	Revision       uint64    `json:"revision"`
	CreateRevision uint64    `json:"create_revision"`
	Version        uint64    `json:"version"`
	ModifiedAt     time.Time `json:"modified_at"`
	ModifiedHLC    string    `json:"modified_hlc"`
	Session        string    `json:"session,omitempty"`
	LockIndex      uint64    `json:"lock_index,omitempty"`
}

// MarshalJSON writes what the agent wrote.
func (p Pair) MarshalJSON() ([]byte, error) { return json.Marshal(p.json()) }

func (p Pair) json() pairJSON {
	out := pairJSON{
		Key: p.Key, Flags: p.Flags, Revision: p.Revision, CreateRevision: p.CreateRevision, Version: p.Version,
		ModifiedAt: p.ModifiedAt, ModifiedHLC: p.ModifiedHLC, Session: p.Session, LockIndex: p.LockIndex,
	}
	if utf8.Valid(p.Value) {
		text := string(p.Value)
		out.Value = &text
	} else {
		out.ValueBase64 = p.Value
	}
	return out
}

// UnmarshalJSON reads both forms of the value.
func (p *Pair) UnmarshalJSON(data []byte) error {
	var in pairJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*p = Pair{
		Key: in.Key, Value: in.ValueBase64, Flags: in.Flags, Revision: in.Revision, CreateRevision: in.CreateRevision,
		Version: in.Version, ModifiedAt: in.ModifiedAt, ModifiedHLC: in.ModifiedHLC,
		Session: in.Session, LockIndex: in.LockIndex,
	}
	if in.Value != nil {
		p.Value = []byte(*in.Value)
	}
	return nil
}
