package ops

import (
	"time"
)

// Facts are what the readings cannot say, because it has names.
type Facts struct {
	Node        string // who explains
	Leader      string // "" when none is known
	Core        []CoreFact
	Members     []MemberFact
	Certificate time.Time // its end
	Unreachable []string  // live agents that this one cannot reach; nil when only their number is known
	Crashing    string    // who has the starts that the reading counts, "" when nobody has
	Burns       []BurnFact
}

// A BurnFact is when an objective counted a bad event last, and how long ago by the clock that decides.
type BurnFact struct {
	Objective string
	LastBad   time.Time
	Quiet     time.Duration
}

// A CoreFact is one voter or learner. Member is what gossip holds of it: alive, suspect, dead, left, or
// unknown when gossip has not met it.
type CoreFact struct {
	Name    string
	Learner bool
	Healthy bool
	Member  string
	Since   time.Time // of Member, zero when it is not known
}

// A MemberFact is one agent as gossip holds it.
type MemberFact struct {
	Name  string
	State string
	Since time.Time
}

// MemberUnknown is a CoreFact's Member that gossip has not met since this agent started.
const MemberUnknown = "unknown"

// Explanation is GET /parley/v1/health/explain. Healthy means that there is no cause to name.
type Explanation struct {
	Healthy bool    `json:"healthy"`
	Causes  []Cause `json:"causes"`
}

// A Cause is one thing that is wrong. Rank 1 is to be looked at first; Subject is whom it is about; Alert
// and Runbook are empty where there is none.
type Cause struct {
	Rank     int      `json:"rank"`
	Cause    string   `json:"cause"`
	Subject  string   `json:"subject"`
	Severity Severity `json:"severity"`
	Evidence []string `json:"evidence"`
	Alert    string   `json:"alert"`
	Runbook  string   `json:"runbook"`
	Command  string   `json:"command"`
}

// What can be wrong.
const (
	CauseCoreMemberDead      = "core-member-dead"
	CauseCoreMemberUnhealthy = "core-member-unhealthy"
	CauseNoQuorum            = "no-quorum"
	CauseNoLeader            = "no-leader"
	CauseDigestMismatch      = "digest-mismatch"
	CauseStorageDamage       = "storage-damage"
	CauseLogInDoubt          = "log-in-doubt"
	CauseUndecided           = "state-undecided"
	CauseInvariant           = "invariant-violated"
	CauseFenced              = "state-fenced"
	CauseCrashLoop           = "crash-loop"
	CauseDiskFull            = "disk-full"
	CauseCertificateExpired  = "certificate-expired"
	CauseCertificateExpiring = "certificate-expiring"
	CauseLinksDown           = "links-down"
	CauseUDPFallback         = "udp-fallback"
	CauseClock               = "clock"
	CauseAgentDead           = "agent-dead"
	CauseAlert               = "alert"   // fires, and nothing above says why
	CauseNoData              = "no-data" // nothing was measured, so nothing can be said
)
