package ops

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// CheckStatus is how a check ended.
type CheckStatus string

// Warn means: it works, and one more failure or some more time will hurt.
const (
	CheckOK   CheckStatus = "ok"
	CheckWarn CheckStatus = "warn"
	CheckFail CheckStatus = "fail"
)

// CheckResult is one check. Hint and Runbook are empty when all is well, or when there is none.
type CheckResult struct {
	ID      string      `json:"id"`
	Status  CheckStatus `json:"status"`
	Message string      `json:"message"`
	Hint    string      `json:"hint"`
	Runbook string      `json:"runbook"`
}

// CheckReport is the answer of `parley check`. OK means that nothing failed; warnings are no failures.
type CheckReport struct {
	OK     bool          `json:"ok"`
	Checks []CheckResult `json:"checks"`
}

// Where the checks of a running agent warn and fail.
const (
	certificateWarn = 1.0 / 3 // of its life left: renewal is at half of it, so it has failed for a while
	certificateFail = 1.0 / 6

	rootWarn = 90 * 24 * time.Hour

	diskWarnBytes = 1 << 30
	diskFailBytes = 256 << 20 // four log segments

	clockAheadWarn = time.Second
	clockAheadFail = 5 * time.Second

	learnerBehindWarn = 10_000 // entries; a learner that keeps up is a few behind
)

// CheckFacts is what the checks of a running agent judge.
type CheckFacts struct {
	CertificateLeft, CertificateLife time.Duration

	// OutageLeft is when the first link of any chain in use here ends, OutageOf which that is, CertificateLeast the least
	// part of its life that a certificate has left which this host renews.
	OutageLeft       time.Duration
	OutageOf         string
	CertificateLeast float64
	RootLeft         time.Duration // 0: unknown
	AuthorityLeast   float64       // part of the life of an authority that another one has signed; 0 and no HasAuthority: there is none
	HasAuthority     bool
	SealTrouble      string // why this host cannot open the root, or holds it by another key than it should; "": nothing is known

	Epoch          uint64 // that this agent lives in
	EpochAtOdds    string // an agent that cannot be followed and does not follow, in words; empty if there is none
	LeaderKnown    bool
	Size           int // the wanted number of voters
	Voters         []CheckMember
	Learners       []CheckMember
	Dead           []string // agents outside the core that gossip holds dead, by name
	AllowedInCore  int      // agents that hold the core grant and have not left
	AnonymousRole  string
	DiskFreeBytes  uint64
	DiskKnown      bool
	WideFiles      []string      // "path (mode)": files that others than the agent's user can read
	ClockAhead     time.Duration // of the cluster's newest stamp over this host's clock
	Versions       map[string]int
	Scrubbed       bool // there was a scrub since the start
	ScrubErrors    int
	ScrubFirstFile string
	Copied         []string      // hosts that were seen twice, by name
	Generations    string        // why this host cannot read its generations, or not write the next one; "": it can
	Unread         bool          // it cannot read them, and asks for certificates without
	SafeMode       int           // 0..3
	SafeWindow     time.Duration // safe_mode.window
}

// CheckMember is a member of the core as this agent sees it.
type CheckMember struct {
	Name, Zone  string
	Healthy     bool // the leader hears from it; on others, gossip does
	Alive       bool // by this agent's gossip
	Behind      uint64
	BehindKnown bool // only the leader knows Behind
}

// Check judges a running agent. The order is the order in which one would look.
func Check(f CheckFacts) CheckReport {
	return reportOf([]CheckResult{
		f.certificate(), f.certificates(), f.copied(), f.generations(), f.seal(), f.epoch(), f.leader(), f.margin(), f.voters(), f.members(), f.coreSize(), f.allowed(), f.zones(), f.learners(),
		f.versions(), f.clock(), f.safe(), f.disk(), f.files(), f.storage(), f.anonymous(),
	})
}

func (f CheckFacts) copied() CheckResult {
	const id = "copies"
	if len(f.Copied) == 0 {
		return pass(id, "no host was seen twice")
	}
	r := CheckResult{ID: id, Message: "seen twice, or gone back to an older copy of its files, and renewed no more: " + strings.Join(f.Copied, ", ")}
	return r.fail("find out where the copy came from, then trust, replace or evict the host: parley runbook run host-copied").with(runbookCopied)
}

func (f CheckFacts) generations() CheckResult {
	const id = "generations"
	switch {
	case f.Generations == "":
		return pass(id, "this host can show at each renewal that it is no copy")
	case f.Unread:
		return pass(id, "this host cannot show at a renewal that it is no copy: %s", f.Generations).
			fail("mend the file that is named, it is read again by itself; if it is lost, remove it, and run parley agent trust NODE on another agent").with(runbookExpiry)
	}
	return pass(id, "this host shows the generation that it had once more, because it can write no other: %s", f.Generations).
		warn("make room on the file system of the data directory, and let the agent write there; it tries again by itself").with(runbookExpiry)
}

func (f CheckFacts) seal() CheckResult {
	const id = "root-seal"
	if f.SealTrouble == "" {
		return pass(id, "nothing is wrong with how this host would open the root")
	}
	r := CheckResult{ID: id, Message: "the root cannot be opened on this host, or is not sealed to the key that it should be: " + f.SealTrouble}
	return r.warn("the agent tries again by itself: see identity.key_store and identity.tpm, and that another core member is reached").with(runbookDataLoss)
}

// safeWindowMin is how short safe_mode.window may be on a host that matters.
const safeWindowMin = time.Minute

func (f CheckFacts) safe() CheckResult {
	const id = "safe-mode"
	switch {
	case f.SafeMode > 0:
		return CheckResult{
			ID: id, Status: CheckWarn, Runbook: runbookCrashLoop,
			Message: fmt.Sprintf("this agent is in safe mode %d: it ended badly again and again", f.SafeMode),
			Hint:    fmt.Sprintf("mend what its log says; it does all of its work again after %s without a crash", f.SafeWindow),
		}
	case f.SafeWindow < safeWindowMin:
		return CheckResult{
			ID: id, Status: CheckWarn, Message: fmt.Sprintf("safe_mode.window is %s: an agent that crashes again and again is hardly noticed", f.SafeWindow),
			Hint: "leave safe_mode.window at 10m, unless this is a test",
		}
	}
	return pass(id, "in no safe mode; three crashes within %s begin one", f.SafeWindow)
}

func reportOf(checks []CheckResult) CheckReport {
	failed := func(c CheckResult) bool { return c.Status == CheckFail }
	return CheckReport{OK: !slices.ContainsFunc(checks, failed), Checks: checks}
}

func pass(id, format string, args ...any) CheckResult {
	return CheckResult{ID: id, Status: CheckOK, Message: fmt.Sprintf(format, args...)}
}

func (r CheckResult) warn(hint string) CheckResult {
	r.Status, r.Hint = CheckWarn, hint
	return r
}

func (r CheckResult) fail(hint string) CheckResult {
	r.Status, r.Hint = CheckFail, hint
	return r
}

func (r CheckResult) with(runbook string) CheckResult {
	r.Runbook = runbook
	return r
}

func (f CheckFacts) certificate() CheckResult {
	r := pass("certificate", "valid for %s", f.CertificateLeft.Round(time.Second))
	left := float64(f.CertificateLeft) / float64(max(f.CertificateLife, 1))
	const hint = "it is renewed at half of its life: see 'certificate renewal failed' in this agent's log, and whether it reaches a core member"
	switch {
	case f.CertificateLeft <= 0:
		r.Message = fmt.Sprintf("expired %s ago, peers refuse this agent", (-f.CertificateLeft).Round(time.Second))
		return r.fail(hint)
	case left < certificateFail:
		return r.fail(hint)
	case left < certificateWarn:
		return r.warn(hint)
	}
	return r
}

// An authority that another one has signed is due when a third of its life is left.
const (
	authorityWarn = 1.0 / 3
	authorityFail = 1.0 / 10
	authorityHint = "have the next one signed: parley ca csr, and then parley ca external with what was signed"
)

// certificates judges all that is in use on this host, the programs' among them.
func (f CheckFacts) certificates() CheckResult {
	r := pass("certificates", "without any renewal all stay valid for %s; then ends %s", f.OutageLeft.Round(time.Second), f.OutageOf)
	const hint = "each is renewed at half of its life: parley identity show lists them, and the agent's log says why a renewal fails"
	switch {
	case f.OutageOf == "":
		r.Message = "none is in use"
	case f.OutageLeft <= 0:
		r.Message = fmt.Sprintf("%s has ended", f.OutageOf)
		return r.fail(hint).with(runbookExpiry)
	case f.CertificateLeast < certificateFail:
		return r.fail(hint).with(runbookExpiry)
	case f.CertificateLeast < certificateWarn:
		return r.warn(hint).with(runbookExpiry)
	case f.HasAuthority && f.AuthorityLeast < authorityFail:
		r.Message = "the authority that another one has signed is about to end, and all certificates with it"
		return r.fail(authorityHint).with(runbookExpiry)
	case f.HasAuthority && f.AuthorityLeast < authorityWarn:
		r.Message = "the authority that another one has signed has less than a third of its life left"
		return r.warn(authorityHint).with(runbookExpiry)
	case f.RootLeft > 0 && f.RootLeft < rootWarn:
		r.Message = fmt.Sprintf("a root of trust ends in %d days", int(f.RootLeft.Hours()/24))
		return r.warn("rotate it before it ends: every certificate goes back to it").with(runbookExpiry)
	}
	return r
}

func (f CheckFacts) epoch() CheckResult {
	if f.EpochAtOdds != "" {
		return pass("epoch", "%s", f.EpochAtOdds).
			fail("this agent and that one belong to two histories of the cluster: docs/operating.md, Backup, says how to decide which goes on")
	}
	return pass("epoch", "this agent lives in epoch %d of the cluster", f.Epoch)
}

func (f CheckFacts) leader() CheckResult {
	if !f.LeaderKnown {
		return pass("leader", "no leader is known: no writes, no linearizable reads").
			fail("a majority of the voters must be up and reach each other: parley core, parley members").with(runbookServerDown)
	}
	return pass("leader", "the core has a leader")
}

func (f CheckFacts) healthyVoters() int {
	n := 0
	for _, v := range f.Voters {
		if v.Healthy {
			n++
		}
	}
	return n
}

func (f CheckFacts) margin() CheckResult {
	quorum := len(f.Voters)/2 + 1
	margin := f.healthyVoters() - quorum
	r := pass("quorum-margin", "%d of %d voters may fail", max(margin, 0), len(f.Voters))
	switch {
	case len(f.Voters) == 0:
		r.Message = "the voters are not known"
		return r.fail("this agent has not heard from a core member since it started: parley members").with(runbookServerDown)
	case margin < 0:
		r.Message = fmt.Sprintf("%d of %d voters are healthy, %d are needed", f.healthyVoters(), len(f.Voters), quorum)
		return r.fail("bring the missing voters back").with(runbookServerDown)
	case !f.LeaderKnown:
		r.Message = fmt.Sprintf("%d of %d voters are healthy, and none leads: writes have stopped", f.healthyVoters(), len(f.Voters))
		return r.fail("see the check leader").with(runbookServerDown)
	case margin == 0 && len(f.Voters) >= 3:
		r.Message = "the next failure of a voter stops writes"
		return r.fail("bring the missing voters back, or allow another agent: parley core allow NODE").with(runbookServerDown)
	case margin == 0:
		r.Message = "one failure stops writes: the core has " + count(len(f.Voters), "voter")
		return r.warn("a core of three survives one failure: let more agents join with a token of 'parley token create --core'")
	}
	return r
}

func (f CheckFacts) voters() CheckResult {
	var missing []string
	for _, v := range f.Voters {
		if !v.Healthy || !v.Alive {
			missing = append(missing, v.Name)
		}
	}
	if len(missing) > 0 {
		return pass("voters", "not reached: %s", strings.Join(missing, ", ")).
			warn("if the host is up, see whether UDP and TCP of the mesh port pass both ways; if it is gone for good, it is replaced after core.replace_after").
			with(runbookFirewall)
	}
	return pass("voters", "%s reached", count(len(f.Voters), "voter"))
}

// maxNamedDead bounds the names in one line; how many there are is said in any case.
const maxNamedDead = 8

func (f CheckFacts) members() CheckResult {
	n := len(f.Dead)
	if n == 0 {
		return pass("members", "no agent outside the core is dead")
	}
	names, are := f.Dead[:min(n, maxNamedDead)], "are"
	if n == 1 {
		are = "is"
	}
	r := pass("members", "%s %s dead: %s", count(n, "agent"), are, strings.Join(names, ", "))
	if n > len(names) {
		r.Message += " and others"
	}
	return r.warn("start it on its host; if the host is gone for good, this is forgotten 72 hours after it died").with(runbookServerDown)
}

func (f CheckFacts) coreSize() CheckResult {
	r := pass("core-size", "%d of %d wanted voters", len(f.Voters), f.Size)
	if len(f.Voters) < f.Size {
		return r.warn("let more agents join with a token of 'parley token create --core', or run parley core allow NODE for one that has")
	}
	return r
}

func (f CheckFacts) allowed() CheckResult {
	r := pass("core-allowed", "%s allowed in a core of %d", count(f.AllowedInCore, "agent"), f.Size)
	if f.AllowedInCore < f.Size+1 {
		return r.warn("without a spare a dead voter is not replaced: run parley core allow NODE for one agent more")
	}
	return r
}

func (f CheckFacts) zones() CheckResult {
	zones := map[string]int{}
	for _, v := range f.Voters {
		zones[v.Zone]++
	}
	r := pass("zones", "voters in %s", count(len(zones), "zone"))
	switch {
	case len(f.Voters) < 3:
		r.Message = "nothing to spread: " + count(len(f.Voters), "voter")
	case len(zones) == 1 && zones[""] > 0:
		r.Message = "no voter names a zone"
		return r.warn("name the failure domain of each host before it joins (zone, --zone): the core spreads its voters over zones")
	case len(zones) == 1:
		r.Message = "all voters are in zone " + f.Voters[0].Zone
		return r.warn("allow agents of other zones: parley core allow NODE; the core spreads by itself")
	}
	return r
}

func (f CheckFacts) learners() CheckResult {
	var slow []string
	for _, l := range f.Learners {
		if !l.Healthy || l.BehindKnown && l.Behind > learnerBehindWarn {
			slow = append(slow, l.Name)
		}
	}
	if len(slow) > 0 {
		return pass("learners", "not catching up: %s", strings.Join(slow, ", ")).
			warn("see the log of that agent for 'snapshot not installed' or a refused connection; a learner does not count until it has caught up")
	}
	return pass("learners", "%s", count(len(f.Learners), "learner"))
}

func (f CheckFacts) versions() CheckResult {
	if len(f.Versions) <= 1 {
		return pass("versions", "one version in the cluster")
	}
	var parts []string
	for version, n := range f.Versions {
		parts = append(parts, fmt.Sprintf("%s on %s", version, count(n, "agent")))
	}
	slices.Sort(parts)
	return pass("versions", "%s", strings.Join(parts, ", ")).warn("finish the upgrade: versions side by side are for its duration")
}

func (f CheckFacts) clock() CheckResult {
	r := pass("clock", "within %s of the cluster", clockAheadWarn)
	if f.ClockAhead > clockAheadWarn {
		r.Message = fmt.Sprintf("this host's clock is %s behind the cluster's newest stamp", f.ClockAhead.Round(time.Millisecond))
		const hint = "check time synchronization here and on the leader: chronyc tracking, timedatectl"
		if f.ClockAhead > clockAheadFail {
			return r.fail(hint)
		}
		return r.warn(hint)
	}
	return r
}

func (f CheckFacts) disk() CheckResult { return checkDisk(f.DiskFreeBytes, f.DiskKnown) }

// checkDisk is the same before and after the install.
func checkDisk(free uint64, known bool) CheckResult {
	r := pass("disk", "%s free for the data directory", size(free))
	const hint = "make room on the file system of the data directory: a full disk refuses writes, and the agent does not start on one"
	switch {
	case !known:
		r.Message = "free space is not known"
		return r.warn("see df for the data directory")
	case free < diskFailBytes:
		return r.fail(hint)
	case free < diskWarnBytes:
		return r.warn(hint)
	}
	return r
}

func (f CheckFacts) files() CheckResult {
	if len(f.WideFiles) > 0 {
		return pass("files", "others can read %s", strings.Join(f.WideFiles, ", ")).
			fail("chmod go= on them; if a key was readable, give this host a new identity: empty the data directory and join with a token of 'parley token create --replace NODE'")
	}
	return pass("files", "the data directory is the agent's alone")
}

func (f CheckFacts) storage() CheckResult {
	switch {
	case !f.Scrubbed:
		return pass("storage", "verified when it was opened; not scrubbed since")
	case f.ScrubErrors > 0:
		return pass("storage", "%s in the last scrub, the first in %s", count(f.ScrubErrors, "problem"), f.ScrubFirstFile).
			fail("parley storage scrub lists them; keep a copy of the data directory").with(runbookCorruption)
	}
	return pass("storage", "the last scrub found nothing")
}

func (f CheckFacts) anonymous() CheckResult {
	r := pass("anonymous-role", "programs on this host without an identity have the role %s", f.AnonymousRole)
	if f.AnonymousRole == "local" || f.AnonymousRole == "operator" {
		return r.warn("every user of this host has it: set http.anonymous_role to discovery, and use the admin socket for more")
	}
	return r
}

// count is "1 voter", "2 voters".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// size is bytes as people read them.
func size(n uint64) string {
	const mib, gib = 1 << 20, 1 << 30
	if n >= 10*gib {
		return fmt.Sprintf("%d GiB", n/gib)
	}
	return fmt.Sprintf("%d MiB", n/mib)
}
