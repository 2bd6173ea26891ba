// Package mutant names the known mistakes that can be planted in this program, to prove that its tests
// would find them. Each name is a line of code somewhere that does the wrong thing while On says so.
//
//	if mutant.On(mutant.SkipFsync) {
//		return nil
//	}
//
// Without the build tag "mutants" On is a constant false, so that no released program holds a mistake:
// the compiler removes the branch.
package mutant

// Name is one mistake.
type Name string

// The mistakes, by what they break.
const (
	SkipFsync               Name = "skip-fsync"
	AckBeforeFsync          Name = "ack-before-fsync"
	DoubleVote              Name = "double-vote"
	VoteNotPersisted        Name = "vote-not-persisted"
	RestartVotesAtOnce      Name = "restart-votes-at-once"
	CountSelfTwice          Name = "count-self-twice"
	CommitPriorTerm         Name = "commit-prior-term"
	ReadWithoutReadIndex    Name = "read-without-readindex"
	ReadIndexWithoutApplied Name = "readindex-without-applied-wait"
	NoPreVote               Name = "no-prevote"
	NoCheckQuorum           Name = "no-checkquorum"
	NonatomicApplied        Name = "nonatomic-applied"
	DedupLost               Name = "dedup-lost"
	DedupWrongResult        Name = "dedup-wrong-result"
	SnapshotWithoutDedup    Name = "snapshot-without-dedup"
	TruncateMidlog          Name = "truncate-midlog"
	TornTailCounts          Name = "torn-tail-counts"
	NoAnchor                Name = "no-anchor"
	ReuseWipedID            Name = "reuse-wiped-id"
	PromoteBehind           Name = "promote-behind"
	ReplaceTwoAtOnce        Name = "replace-two-at-once"
	SkipJoint               Name = "skip-joint"
	ShrinkOnAbsence         Name = "shrink-on-absence"
	RecoverLongestWins      Name = "recover-longest-wins"
	AcceptOldEpoch          Name = "accept-old-epoch"
	QuarantineAfterApplied  Name = "quarantine-after-applied"
	QuarantineDenial        Name = "quarantine-denial"
	CASIgnored              Name = "cas-ignored"
	WatchDropsEvent         Name = "watch-drops-event"
	DigestSkipsRow          Name = "digest-skips-row"
	FencingNotMonotone      Name = "fencing-not-monotone"
	RelayUnauthenticated    Name = "relay-unauthenticated"
	PeerClaimWithoutMAC     Name = "peer-claim-without-mac"
	LeaseTooLong            Name = "lease-too-long"
	LeaseWallClock          Name = "lease-wall-clock"
	LeaseTicksAfterPause    Name = "lease-ticks-after-pause"
	LeaseOverTransfer       Name = "lease-over-transfer"
	CampaignAtOnceOnReset   Name = "campaign-at-once-on-reset"
	RareMisorder            Name = "rare-misorder"
)

// All lists the mistakes in the order above.
var All = []Name{
	SkipFsync, AckBeforeFsync, DoubleVote, VoteNotPersisted, RestartVotesAtOnce, CountSelfTwice, CommitPriorTerm,
	ReadWithoutReadIndex, ReadIndexWithoutApplied, NoPreVote, NoCheckQuorum, NonatomicApplied, DedupLost,
	DedupWrongResult, SnapshotWithoutDedup, TruncateMidlog, TornTailCounts, NoAnchor, ReuseWipedID, PromoteBehind,
	ReplaceTwoAtOnce, SkipJoint, ShrinkOnAbsence, RecoverLongestWins, AcceptOldEpoch, QuarantineAfterApplied,
	QuarantineDenial, CASIgnored, WatchDropsEvent, DigestSkipsRow, FencingNotMonotone, RelayUnauthenticated,
	PeerClaimWithoutMAC, LeaseTooLong, LeaseWallClock, LeaseTicksAfterPause, LeaseOverTransfer,
	CampaignAtOnceOnReset, RareMisorder,
}
