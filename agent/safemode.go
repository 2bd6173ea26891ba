package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

// The ladder of safe modes. An agent that ends badly again and again leaves out more each time, so that what ends it has a
// chance to be left out, the core is disturbed less, and somebody can still look into it.
const (
	safeNone   = 0
	safeQuiet  = 1 // it begins nothing by itself, and stands for no election while enough others can lead
	safeStatic = 2 // it serves the state that it has: no log, no core
	safeAdmin  = 3 // it answers on its admin socket
)

const (
	// leaderlessLimit is for how long an agent in safe mode 1 leaves it to others to lead.
	leaderlessLimit = time.Minute
	safeLookEvery   = time.Second

	// A start waits up to twice as long as the one before, from the first in safe mode on.
	safeWaitFirst = time.Second
	safeWaitMax   = 30 * time.Second
)

// safeLevel is what so many crashes within the window lead to.
func safeLevel(crashes int) int {
	switch {
	case crashes >= 8:
		return safeAdmin
	case crashes >= 5:
		return safeStatic
	case crashes >= 3:
		return safeQuiet
	}
	return safeNone
}

// safeWait is how long a start after so many crashes waits at most. The wait is anything up to that, so that hosts with the
// same trouble do not start together.
func safeWait(crashes int) time.Duration {
	if safeLevel(crashes) == safeNone {
		return 0
	}
	return min(safeWaitMax, safeWaitFirst<<min(crashes-3, 10))
}

// safeMode is where on the ladder this agent is. The zero value is at its foot.
type safeMode struct {
	at       atomic.Int32
	abstains atomic.Bool
	crashes  int
	until    time.Duration // boottime at which it ends, if there is no crash before
}

func (s *safeMode) level() int { return int(s.at.Load()) }

// quiet reports whether this agent begins nothing by itself.
func (s *safeMode) quiet() bool { return s.level() >= safeQuiet }

// static reports whether this agent serves only what it has.
func (s *safeMode) static() bool { return s.level() >= safeStatic }

// enter takes what the ledger counted.
func (s *safeMode) enter(l *ledger, window time.Duration) {
	crashes, since := l.unstable(window)
	s.crashes, s.until = crashes, clock.Boottime()+window-since
	s.at.Store(int32(safeLevel(crashes))) //nolint:gosec // 0 to 3
	s.abstains.Store(s.quiet())
}

// leave ends it.
func (s *safeMode) leave() {
	s.at.Store(safeNone)
	s.abstains.Store(false)
}

// abstain reports whether a voter in safe mode leaves it to others to lead: while a quorum of them is in none, and somebody
// leads or nobody has done so for less than leaderlessLimit.
func abstain(voters, wellOthers int, leaderless time.Duration) bool {
	return wellOthers >= voters/2+1 && leaderless < leaderlessLimit
}

// abstention is what was decided at each look. One look is not enough to stand: after a start, and on a busy host, others may
// not have answered in time.
type abstention struct{ against int }

// safeLooks is how many looks in a row have to be for standing.
const safeLooks = 2

func (b *abstention) look(abstain bool) bool {
	if abstain {
		b.against = 0
		return true
	}
	b.against = min(b.against+1, safeLooks)
	return b.against < safeLooks
}

// countStart notes this start in the ledger and finds out in which mode it is. A crash that the apply journal explains
// does not count: the guard stops applying there, and the agent may lead and replicate.
func (a *Agent) countStart() {
	ids, err := a.dir.readCluster()
	explained := err == nil && ids != nil && ids.RaftID != 0 && storage.EndedApplying(storage.JournalOptions{
		FS: a.dir.fs, Dir: a.dir.path, ClusterID: mustID(ids.ClusterID), RaftID: ids.RaftID, Boot: bootID(),
	})
	l, err := a.dir.openLedger(machineTime, explained)
	if err != nil {
		a.log.Warn("this start is not in the ledger", zap.Error(err))
		return
	}
	a.ledger = l
	a.safe.enter(l, a.cfg.SafeMode.Window)
	if a.safe.quiet() {
		a.log.Error("this agent ended badly again and again, it starts in safe mode", zap.Int("count", a.safe.crashes),
			zap.String("reason", safeSays[a.safe.level()]), zap.String("hint", "run: parley runbook run crash-loop"))
	}
}

// backOff waits before a start that may end as those before it did.
func (a *Agent) backOff(ctx context.Context) {
	if limit := safeWait(a.safe.crashes); limit > 0 && a.ledger != nil && !a.ledger.clean() {
		pause(ctx, rand.N(min(limit, a.cfg.SafeMode.Window)))
	}
}

// safeSays is what each mode leaves out, for people.
var safeSays = [...]string{
	"", "safe mode 1: it begins nothing by itself and leaves it to others to lead",
	"safe mode 2: it serves the state that it has, and takes no part in the core", "safe mode 3: it answers on its admin socket only",
}

// errSafeModeOver ends a run in which parts were left out: the next one in the same process has all.
var errSafeModeOver = errors.New("safe mode is over")

// watchSafeMode leaves the safe mode after a stable time, and until then decides whether this voter may stand.
func (a *Agent) watchSafeMode(ctx context.Context) error {
	if a.safe.level() == safeNone {
		<-ctx.Done()
		return nil
	}
	a.timeline.report(api.EventSafeMode, a.ids.Node, fmt.Sprintf("%s; %d crashes within %s", safeSays[a.safe.level()], a.safe.crashes, a.cfg.SafeMode.Window))
	led, looks := clock.Boottime(), abstention{}
	for ctx.Err() == nil && clock.Boottime() < a.safe.until {
		if n := a.core.node(); n != nil {
			st := n.Status()
			if st.Leader != 0 {
				led = clock.Boottime()
			}
			was := a.safe.abstains.Swap(looks.look(abstain(len(st.Voters), a.wellVoters(ctx, st), clock.Boottime()-led)))
			if now := a.safe.abstains.Load(); now != was {
				a.log.Warn("standing for election in safe mode", zap.Bool("abstains", now))
			}
		}
		pause(ctx, min(safeLookEvery, max(0, a.safe.until-clock.Boottime())))
	}
	if ctx.Err() != nil {
		return nil
	}
	a.log.Info("stable for long enough, safe mode is over")
	again := a.safe.static()
	a.safe.leave()
	a.safeOver = true
	if again {
		return errSafeModeOver
	}
	a.timeline.report(api.EventSafeModeOver, a.ids.Node, "it does all of its work again")
	<-ctx.Done()
	return nil
}

// wellVoters asks the other voters, all at once, and counts those that are in no safe mode.
func (a *Agent) wellVoters(ctx context.Context, st consensus.Status) (well int) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var nodes []string
	for _, id := range st.Voters {
		if node, known := a.core.nodeOf(id); known && id != st.ID {
			nodes = append(nodes, node)
		}
	}
	var n atomic.Int32
	eachOf(nodes, linksAtOnce, func(node string) {
		raw, err := a.pool.Call(ctx, node, methodPace, nil)
		var answer paceAnswer
		if err == nil && json.Unmarshal(raw, &answer) == nil && answer.SafeMode == safeNone {
			n.Add(1)
		}
	})
	return int(n.Load())
}

// safeTiers leaves out what the mode does.
func (a *Agent) safeTiers(all []tier) []tier {
	keep := []string{"view", "admin socket", "readiness", "ops", "safe mode"}
	switch {
	case !a.safe.static():
		return all
	case a.safe.level() == safeStatic:
		keep = append(keep, "identity", "membership", "mesh", "recheck", "trust", "identities", "core status", "links", "http", "https",
			"federation", "bundles", "workload socket", "bundle endpoint")
	}
	return slices.DeleteFunc(all, func(t tier) bool { return !slices.Contains(keep, t.name) })
}

// safeReading is the metric parley_agent_safe_mode.
func (a *Agent) safeReading() (float64, bool) { return float64(a.safe.level()), true }
