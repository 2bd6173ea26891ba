package api

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// Times and bounds of the Service. Options can change those that tests or small hosts want to change.
const (
	leaderWait      = 5 * time.Second        // how long a core may be without a leader before requests are refused: they wait meanwhile
	leastWait       = 200 * time.Millisecond // what each of them waits all the same: the election may be over just now
	hopelessAfter   = time.Second            // how long nobody leads before the word of gossip that nobody can counts
	opTimeout       = 10 * time.Second       // a write or a plain read, unless the caller's context ends earlier
	maxAttempts     = 128                    // times that a request is sent at most; with retryPause it outlasts leaderWait
	retryPauseFirst = 5 * time.Millisecond   // between attempts, doubling ...
	retryPauseMax   = 50 * time.Millisecond  // ... up to here: an election takes several of these
	maxWatches      = 1000                   // blocking reads and streams open for one identity
	maxConcurrent   = 8192                   // requests open for one identity, watches included, and writes that wait at the gate
	maxForwarded    = 4096                   // requests that one other agent has open here
)

// Proposed is where a command stands in the log and what it resulted in (state.DecodeResult).
type Proposed struct {
	Index, Term uint64
	Stamp       clock.Stamp
	Data        []byte
}

// Local is what the agent offers to the API. Each function is safe for concurrent use, returns *Error values where it
// returns an error, and is set unless its line says otherwise.
type Local struct {
	Node        string
	TrustDomain spiffeid.TrustDomain
	Hub         *watch.Hub
	// HoldsKV reports whether this agent's View carries key/value: a core member that has caught up.
	HoldsKV func() bool
	// Leader names the leader as far as this agent knows, and whether it is this agent. It must be cheap.
	Leader func() (node string, self, known bool)
	// Leaderless is for how long this agent has seen the core without a leader, and whether gossip holds so few of its voters
	// alive that none can come; 0 and false when it does not know. Nil: it never does.
	Leaderless func() (since time.Duration, hopeless bool)
	// Propose appends a command to the log. not_leader means that this agent does not lead and surely did not.
	Propose func(ctx context.Context, command []byte) (Proposed, error)
	// Begin is Propose for who does not wait: done is told once, by whatever goroutine has the answer, and neither waits nor
	// panics. giveUp is what the end of Propose's context is. Nil: every write has a goroutine that waits.
	Begin func(command []byte, done func(Proposed, error)) (giveUp func(cause error))
	// ReadIndex confirms leadership with a majority and returns the index that a read must wait for.
	ReadIndex func(ctx context.Context) (uint64, error)
	// Call asks another agent. unavailable means that the request never left.
	Call func(ctx context.Context, node, method string, body []byte) ([]byte, error)
	// RoleOf is the role that the applied state gives to an agent; the core grant implies operator.
	RoleOf func(node string) policy.Role
	// CoreNodes lists live core members, for stale reads of an agent without key/value.
	CoreNodes func() []string
	// ClusterVersion gates encodings.
	ClusterVersion func() uint32
	// LastContact is how old a follower's data may be; nil counts as zero.
	LastContact func() time.Duration
	// MembersChanged returns a channel that is closed when Members may next answer differently.
	MembersChanged func() <-chan struct{}
	// Starts counts the starts of this agent, this one included.
	Starts func() uint64

	// RenewSession counts a session's time from now on, while this agent leads: not_leader if it does not, not_found
	// if it has decided already that the session is over.
	RenewSession func(state.Session) error

	Members func() []Member
	Core    func() CoreStatus
	Status  func() AgentStatus
	Health  func() []Capability
	// Invariants are what this agent's core member watches, and what it found.
	Invariants func() InvariantReport
	// EventTime is this agent's own clock, for people; PendingEvents are its events that the log has not taken yet.
	EventTime     func() clock.Stamp
	PendingEvents func() []state.EventAppend
	// CompareDigests, LinkMatrix and NodeStatus ask the other agents, or tell what this one has seen of them.
	CompareDigests func(ctx context.Context) (DigestComparison, error)
	Digests        Digests
	Debug          Debug
	LinkMatrix     func(ctx context.Context) (LinkMatrix, error)
	NodeStatus     func(name string) (NodeStatus, bool)
	// CreateToken makes the secret here and executes TokenCreate as caller.
	CreateToken func(ctx context.Context, caller Caller, spec TokenSpec) (TokenAnswer, error)
	// Ops is what the agent last found out about itself; Metrics serves /metrics.
	Ops     func() *ops.Snapshot
	Metrics http.Handler
	// Check looks for what is wrong with this agent or will be. Scrub verifies the log and snapshots of a node, "" for this
	// one, reading at most bytesPerSecond.
	Check func(ctx context.Context) ops.CheckReport
	Scrub func(ctx context.Context, node string, bytesPerSecond int64) (ScrubReport, error)
	// AcceptTail is an operator's word that the end of this agent's log is to be taken as it is; false: it is not in doubt.
	AcceptTail func(ctx context.Context) (accepted bool, err error)
	// Certifies returns why this cluster signs no identities, if it does not. nil: it does.
	Certifies func() error
	// SignOperator signs the certificate of an operator with this agent's own issuer. unavailable: it has none.
	SignOperator func(security.OperatorRequest) (chain [][]byte, notAfter time.Time, err error)
	// CAStatus is where the roots are, by the leader's measurement if there is a leader.
	CAStatus func(ctx context.Context) (CAStatus, error)
	// UseTokenKey has this core member's next key of tokens sign without those that it waits for.
	UseTokenKey func() (CATokenKeyUsed, error)
	// CARequest makes the certificate request for an authority that another one signs, and CAExternal takes what it signed.
	CARequest  func() (CARequest, error)
	CAExternal func(ctx context.Context, by string, chain []byte) (CAAuthority, error)
	// CAReseal gives this host the root again by the recovery key (PEM), which is kept nowhere.
	CAReseal func(ctx context.Context, recoveryKey []byte) error
	// Identities are those of this host.
	Identities Identities
	// Leave takes this agent out of the cluster, or with dryRun says what would become of the core.
	Leave func(ctx context.Context, dryRun bool) (Leave, error)
	// ApplyStatus asks the core members where they are. Quarantine takes an operator's decision; this agent has to lead.
	ApplyStatus func(ctx context.Context) (ApplyReport, error)
	Quarantine  func(ctx context.Context, index uint64, place int) error
	// WriteSnapshot streams a backup file of a View of the whole state; nil where there is none to have.
	WriteSnapshot func(v *state.View, w io.Writer) error
}

// Options of a Service; zero values take the constants above.
type Options struct {
	Local Local
	// AnonymousRole is what a caller without credentials on the loopback listener may do; "" is discovery.
	AnonymousRole policy.Role
	// IdentifyTLS says who is behind the verified client certificate of an https request, by the applied state of now.
	// Nil refuses all certificates.
	IdentifyTLS func(tls.ConnectionState) (Caller, error)
	// LeaderWait bounds how long the core may be without a leader while requests wait for one, OpTimeout a whole write or plain read.
	LeaderWait, OpTimeout time.Duration
	// Concurrent and Watches bound what one identity has open.
	Concurrent, Watches int
	Log                 *zap.Logger
	// Observe is told of every request and of every write.
	Observe Observer
	// Elapsed is boottime; nil is this machine's. It paces what other agents send.
	Elapsed func() time.Duration
	// Now is the wall clock; only request logging reads it.
	Now func() time.Time
}

// Service executes, reads and serves. Make one with New.
type Service struct {
	local      Local
	options    Options
	log        *zap.Logger
	concurrent *limiter
	watches    *limiter
	forwarded  *limiter
	gate       *gate
	snapshots  *limiter
	bundles    *limiter // one at a time
	probes     *pacer
	places     *pacer
	events     *pacer // of other agents
	notes      *pacer // of callers here
	issueAsks  *pacer // for certificates of operators, of callers here
	issues     *pacer // of such certificates, by operator
	barrier    barrier
	sessions   watchSessions
	extra      []Route
}

// New returns a Service; it starts nothing.
func New(o Options) *Service {
	if o.AnonymousRole == "" {
		o.AnonymousRole = policy.Discovery
	}
	if o.LeaderWait == 0 {
		o.LeaderWait = leaderWait
	}
	if o.OpTimeout == 0 {
		o.OpTimeout = opTimeout
	}
	if o.Concurrent == 0 {
		o.Concurrent = maxConcurrent
	}
	if o.Watches == 0 {
		o.Watches = maxWatches
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Elapsed == nil {
		o.Elapsed = clock.Boottime
	}
	s := &Service{
		local: o.Local, options: o, log: o.Log,
		concurrent: newLimiter(o.Concurrent),
		watches:    newLimiter(o.Watches),
		forwarded:  newLimiter(maxForwarded),
		gate:       newGate(clock.Awake),
		snapshots:  newLimiter(maxSnapshotStreams),
		bundles:    newLimiter(1),
		probes:     newPacer(probeRate, probeBurst, o.Elapsed),
		places:     newPacer(placeRate, placeBurst, o.Elapsed),
		events:     newPacer(eventRate, eventBurst, o.Elapsed),
		notes:      newPacer(noteRate, noteBurst, o.Elapsed),
		issueAsks:  newPacer(askRate, askBurst, o.Elapsed),
		issues:     newPacer(issueRate, issueBurst, o.Elapsed),
		barrier:    barrier{limit: o.LeaderWait},
	}
	if o.Observe.Gate != nil {
		s.gate.waited = o.Observe.Gate
	}
	return s
}

// Local returns what the Service was built on, for the dialects that serve beside it.
func (s *Service) Local() Local { return s.local }

// Applied is a command that took effect in the log: its result (which may still be a refusal by the state, in
// Result.Code), where it stands, and which agent led.
type Applied struct {
	Result state.Result
	Proposed
	Node string
}
