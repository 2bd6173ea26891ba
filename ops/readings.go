package ops

// Readings are what an agent measured at one moment, by metric name. An absent name means no data.
type Readings map[string]float64

// Set notes a reading, unless ok says that there is none.
func (r Readings) Set(metric string, value float64, ok bool) {
	if ok {
		r[metric] = value
	}
}

// SetBool notes 1 or 0.
func (r Readings) SetBool(metric string, value bool) {
	r[metric] = 0
	if value {
		r[metric] = 1
	}
}

// The names of the readings that are judged. Metrics lists all of them.
const (
	CoreLeaderKnown     = "parley_core_leader_known"
	CoreQuorumMargin    = "parley_core_quorum_margin"
	CoreUnhealthyVoters = "parley_core_unhealthy_voters"
	CoreVoters          = "parley_core_voters"
	CoreLearners        = "parley_core_learners"
	CoreTerm            = "parley_core_term"
	CoreCommitIndex     = "parley_core_commit_index"
	CoreAppliedIndex    = "parley_core_applied_index"
	CoreFsync           = "parley_core_fsync_p99_seconds"
	CoreTickLate        = "parley_core_tick_late_p99_seconds"
	CoreYields          = "parley_core_yields"
	CoreSlow            = "parley_core_slow_ratio"

	MembersAlive   = "parley_membership_alive"
	MembersSuspect = "parley_membership_suspect"
	MembersDead    = "parley_membership_dead"
	MembersLeft    = "parley_membership_left"

	AgentReady        = "parley_agent_ready"
	AgentStarts       = "parley_agent_starts_10m"
	AgentCrashes      = "parley_agent_crash_starts_10m"
	AgentSafeMode     = "parley_agent_safe_mode"
	IdentityRemaining = "parley_identity_remaining_ratio"
	IdentityOutage    = "parley_identity_outage_seconds"
	IdentityLeast     = "parley_identity_least_remaining_ratio"
	IdentityRootLeft  = "parley_identity_root_left_seconds"
	IdentityAuthority = "parley_identity_authority_remaining_ratio"
	IdentityCopied    = "parley_identity_copied_hosts"
	IdentityStuck     = "parley_identity_generations_stuck"
	ViewIndex         = "parley_view_index"
	ViewLag           = "parley_view_lag_entries"
	ClockAhead        = "parley_clock_ahead_seconds"

	StorageFreeBytes   = "parley_storage_free_bytes"
	StorageFreeRatio   = "parley_storage_free_ratio"
	StorageScrubErrors = "parley_storage_scrub_errors"
	DigestMinority     = "parley_state_digest_minority"

	CoreSuspended        = "parley_core_suspended"
	CoreUnopened         = "parley_core_unopened_roots"
	CoreApplyStopped     = "parley_core_apply_stopped"
	CoreApplyStops       = "parley_core_apply_stops"
	CoreFenced           = "parley_core_fenced"
	CoreUndecided        = "parley_core_undecided"
	CoreViolations       = "parley_core_invariant_violations"
	RecordingsKept       = "parley_core_recordings"
	CoreFencings         = "parley_core_fencings"
	CoreRebuilds         = "parley_core_rebuilds"
	CoreLogRepairs       = "parley_core_log_repairs"
	CoreIDsGivenUp       = "parley_core_raft_ids_given_up"
	StorageHealed        = "parley_storage_healed_files"
	StorageWritesRefused = "parley_storage_writes_refused"
	BackupAge            = "parley_backup_age_seconds"
	BackupLag            = "parley_backup_lag_ratio"
	BackupVerifiedAge    = "parley_backup_verified_age_seconds"
	CanariesLost         = "parley_canaries_lost"
	KeysGone             = "parley_kv_keys_gone_ratio"

	NetUDPFallback = "parley_net_udp_fallback_ratio"
	NetUnreachable = "parley_net_unreachable_links"

	ReadsByLease = "parley_core_reads_by_lease"
	ReadsByRound = "parley_core_reads_by_round"

	RelayLinks   = "parley_core_relay_links"
	RelaySent    = "parley_core_relay_sent_frames"
	RelayPassed  = "parley_core_relay_passed_frames"
	RelayBytes   = "parley_core_relay_passed_bytes"
	RelayDropped = "parley_core_relay_dropped_frames"
	RelayRefused = "parley_core_relay_refused_frames"
	RelayLeads   = "parley_core_relay_leads_moved"

	Epoch        = "parley_core_epoch"
	EpochRefused = "parley_core_epoch_refused"
)

// A Metric is one reading as /metrics shows it.
type Metric struct {
	Name string
	Help string
}

// Metrics returns every reading that an agent can have, in a fixed order. The slice is the caller's own.
func Metrics() []Metric {
	out := make([]Metric, len(metrics))
	copy(out, metrics)
	for _, a := range sloAlerts() {
		out = append(out, Metric{Name: a.Metric, Help: "How far the worst burn-rate rule behind alert " + a.ID + " is over its factor; above 1 it fires."})
	}
	return out
}

var metrics = []Metric{
	{CoreLeaderKnown, "1 while this agent knows who leads the core, else 0."},
	{CoreQuorumMargin, "Voters that may fail before writes stop; below 0 they have, as without a leader."},
	{CoreUnhealthyVoters, "Voters that the leader, or gossip on a follower, does not hear."},
	{CoreVoters, "Voters of the core."},
	{CoreLearners, "Learners of the core."},
	{CoreTerm, "Raft term."},
	{CoreCommitIndex, "Raft index up to which entries are committed."},
	{CoreAppliedIndex, "Raft index up to which entries are applied."},
	{CoreFsync, "Time within which 99 % of the syncs of this core member's log ended in the last 5 s, or the one under way has lasted."},
	{CoreTickLate, "Lateness within which this core member's loop saw 99 % of its ticks in the last 5 s."},
	{CoreYields, "Times that this core member handed the lead over because it was too slow, since its start."},
	{CoreSlow, "How many times slower than a leader may be this core member's disk is, or its loop, whichever is worse; above 1 it is too slow to lead."},
	{MembersAlive, "Agents that gossip holds alive, this one included."},
	{MembersSuspect, "Agents that gossip suspects."},
	{MembersDead, "Agents that gossip holds dead."},
	{MembersLeft, "Agents that said that they leave."},
	{AgentReady, "1 while this agent can serve linearizable requests, else 0."},
	{AgentStarts, "Starts within 10 minutes, of this agent or of the member with the most, whichever is more."},
	{AgentCrashes, "Those of them that came after an end that was not clean, of this agent or of the member with the most; the alert goes by these."},
	{AgentSafeMode, "0, or how much this agent leaves out because it ended badly again and again: 1 its own initiative, 2 the core, 3 all but the admin socket."},
	{IdentityRemaining, "Part of the certificate's life that is left, 0 once it has expired."},
	{IdentityOutage, "Time until the first certificate of any chain in use on this host ends, if none is renewed."},
	{IdentityLeast, "Least part of its life that a certificate has left which this host renews: its own, its programs', its issuer's."},
	{IdentityRootLeft, "Time until the first root ends that a chain in use on this host leads to."},
	{IdentityAuthority, "Least part of its life that an authority has left which one above it has signed, of those in use on this host; absent without one."},
	{ViewIndex, "Raft index of the state that this agent shows."},
	{ViewLag, "Committed entries that this agent does not show yet."},
	{ClockAhead, "How far the newest stamp of the state is ahead of this host's clock."},
	{StorageFreeBytes, "Free space on the file system of the data directory."},
	{StorageFreeRatio, "Free part of the file system of the data directory."},
	{StorageScrubErrors, "Errors that the last scrub of log and snapshots found."},
	{DigestMinority, "Core members whose state differs from that of the majority."},
	{NetUDPFallback, "Part of this agent's links on which gossip had to fall back to TCP."},
	{NetUnreachable, "Live agents that this one cannot reach."},
	{StorageHealed, "What this agent put right on its disk since its start: files of snapshots, slots of the anchor, whole logs."},
	{CoreSuspended, "1 while this core member does not vote fully, because it may have acknowledged more than its log holds, else 0."},
	{CoreUnopened, "Core members whose last daily proof that they can open the root failed; on the leader alone."},
	{CoreApplyStopped, "1 while this core member applies nothing, because it crashes on a command or waits for others that do, else 0."},
	{CoreApplyStops, "Commands at which this core member stopped applying since its start."},
	{CoreFenced, "1 while this core member's state was wrong and is not trusted again yet, so that it answers nothing, else 0."},
	{CoreUndecided, "1 while the core members hold different states of which none has a majority, so that writes are refused, else 0."},
	{CoreViolations, "How often an invariant of the algorithm did not hold on this core member since its start: 0, or something is wrong."},
	{RecordingsKept, "What led to something that must not happen in the core, on this agent's disk until somebody has them forgotten: 0, or there is one to be looked at."},
	{CoreFencings, "How often this core member's state was found wrong since its start."},
	{CoreRebuilds, "How often it was rebuilt then, and equalled that of the others at three checkpoints."},
	{CoreLogRepairs, "Damaged logs that this core member repaired under their Raft id since its start."},
	{CoreIDsGivenUp, "Raft ids that this agent gave up since its start, with logs that could not be repaired."},
	{StorageWritesRefused, "1 while this core member takes no writes because too little space is free, else 0."},
	{BackupAge, "Age of this agent's newest scheduled backup that was verified."},
	{BackupLag, "The same in units of backup.every."},
	{ReadsByLease, "Linearizable reads that this core member answered by its lease, while it led, since its start."},
	{ReadsByRound, "Linearizable reads that it answered after it had asked a majority. They begin each lease; all of them are, with core.lease_reads off."},
	{RelayLinks, "Core members that this one reaches only by way of another."},
	{RelaySent, "Frames that this core member had passed on by another since its start."},
	{RelayPassed, "Frames that this core member passed on for others since its start."},
	{RelayBytes, "Bytes in them."},
	{RelayDropped, "Frames of others that were more than this core member passes on."},
	{RelayRefused, "Frames brought by another core member that their origin did not make, or not for now."},
	{RelayLeads, "Times that this core member gave the lead to one that reaches more members without another's help."},
	{Epoch, "Epoch of the cluster that this agent lives in: one more with each recovery."},
	{EpochRefused, "Connections that ended because the two ends live in different epochs, since this agent started."},
	{BackupVerifiedAge, "Time since a scheduled backup of this agent was last verified by restoring it in memory."},
	{IdentityCopied, "Hosts that were seen twice, or went back to an older copy of their files, and of which no operator has decided."},
	{IdentityStuck, "1 while this host cannot read its generations, or not write the next one, 0 otherwise."},
	{CanariesLost, "Canaries, writes of the core's own, that this agent saw acknowledged and found gone within the last day."},
	{KeysGone, "Part of the keys that there were at most within the last ten minutes and that there are no more; from 100 keys on, and on the leader alone."},
}
