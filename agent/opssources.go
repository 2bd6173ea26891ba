package agent

import "github.com/parley-mesh/parley/ops"

// opsSources are the readings and signals that other parts of the agent offer. Each function is cheap and
// safe for concurrent use; ok false, and a nil function, mean that there is no data.
type opsSources struct {
	recordings       func(ops.Readings)
	digestMinority   func() (value float64, ok bool) // core members that differ from the majority
	scrubErrors      func() (value float64, ok bool) // errors of the last scrub
	udpFallbackRatio func() (value float64, ok bool) // of this agent's own links
	unreachableLinks func() (value float64, ok bool) // of this agent's own links
	leases           func(ops.Readings)              // of linearizable reads; nil outside the core
	relay            func(ops.Readings)              // of the core's traffic; nil outside the core
	pace             func(ops.Readings)              // of the disk and the loop of a core member; nothing outside the core
	heal             func(ops.Readings)              // of this member's copy of the state, and what was healed
	suspended        func() (value float64, ok bool) // 1 while the end of the log is in doubt
	unopened         func() (value float64, ok bool) // core members that failed to open the root; on the leader
	applyStopped     func() (value float64, ok bool) // 1 while nothing is applied because of a command
	applyStops       func() (value float64, ok bool)
	storageHealed    func() (value float64, ok bool) // files of snapshots that were put right
	writesRefused    func() (value float64, ok bool) // 1 below the floor of free space
	backupAge        func() (value float64, ok bool)
	backupLag        func() (value float64, ok bool)
	backupVerified   func() (value float64, ok bool)
	canariesLost     func() (value float64, ok bool)
	copiedHosts      func() (value float64, ok bool)
	generations      func() (value float64, ok bool) // 1 while this host cannot read or write its own
	keysGone         func() (value float64, ok bool) // part of the keys of ten minutes ago; on the leader
	safeMode         func() (value float64, ok bool)
	maxStarts10m     func() (value float64, ok bool) // the largest of the own and of any member's

	// crashes counts the starts of each agent after an end that was not clean, unreachable names live agents that
	// this one does not reach; nil when that is not known.
	crashes     func() map[string]int
	unreachable func() []string

	// alertChanged is told when an alert begins or ceases to fire, for the timeline.
	alertChanged func(ops.Transition)
}

// opsSources are the parts of this agent that know more than the watcher gathers by itself.
func (a *Agent) opsSources() opsSources {
	return opsSources{
		digestMinority: a.digestMinority, scrubErrors: a.scrubber.scrubErrors, udpFallbackRatio: a.udpFallbackRatio, unreachableLinks: a.unreachableLinks,
		relay:        a.core.relayReadings,
		leases:       a.core.leaseReadings,
		pace:         a.yielder.readings,
		suspended:    a.core.suspended,
		unopened:     a.unopened,
		applyStopped: a.core.applyStopped, applyStops: a.core.applyStops,
		heal:          a.core.healReadings,
		recordings:    a.recordings.reading,
		storageHealed: a.scrubber.healedFiles, writesRefused: a.space.refusesWrites,
		backupAge:      func() (float64, bool) { return a.backups.age() },
		backupLag:      func() (float64, bool) { return a.backups.lag() },
		backupVerified: func() (float64, bool) { return a.backups.verifiedAge() },
		canariesLost:   func() (float64, bool) { return a.canaries.lost() },
		keysGone:       a.keysGoneReading,
		copiedHosts:    func() (float64, bool) { return float64(len(copiedHosts(a.hub.View()))), true },
		generations:    a.generationsStuck,
		safeMode:       a.safeReading,
		maxStarts10m:   a.maxStarts10m, crashes: a.crashStarts, unreachable: a.unreachableAgents,
		alertChanged: a.alertChanged,
	}
}

// facts adds the names behind the readings.
func (s *opsSources) facts(r ops.Readings, f *ops.Facts) {
	if s.crashes != nil {
		name, most := worstCrasher(s.crashes())
		r[ops.AgentCrashes], f.Crashing = float64(most), name
	}
	if s.unreachable != nil {
		f.Unreachable = s.unreachable()
	}
}

// read adds what the sources know.
func (s *opsSources) read(r ops.Readings) {
	for _, more := range []func(ops.Readings){s.relay, s.leases, s.pace, s.recordings} {
		if more != nil {
			more(r)
		}
	}
	if s.heal != nil {
		s.heal(r)
	}
	for metric, source := range map[string]func() (float64, bool){
		ops.DigestMinority: s.digestMinority, ops.StorageScrubErrors: s.scrubErrors,
		ops.NetUDPFallback: s.udpFallbackRatio, ops.NetUnreachable: s.unreachableLinks,
		ops.AgentStarts:      s.maxStarts10m,
		ops.AgentSafeMode:    s.safeMode,
		ops.CoreApplyStopped: s.applyStopped, ops.CoreApplyStops: s.applyStops,
		ops.CoreUnopened:  s.unopened,
		ops.CoreSuspended: s.suspended, ops.StorageHealed: s.storageHealed, ops.StorageWritesRefused: s.writesRefused,
		ops.BackupAge: s.backupAge, ops.BackupLag: s.backupLag, ops.BackupVerifiedAge: s.backupVerified, ops.CanariesLost: s.canariesLost, ops.KeysGone: s.keysGone,
		ops.IdentityCopied: s.copiedHosts, ops.IdentityStuck: s.generations,
	} {
		if source != nil {
			value, ok := source()
			r.Set(metric, value, ok)
		}
	}
}
