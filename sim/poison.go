package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// poisons are commands that crash replicas, and what became of them. They have dice of their own.
type poisons struct {
	c       *cluster
	rnd     *rand.Rand
	turn    uint64
	by      map[string]*poison // by encoded command
	program int                // counts those that were started
	fates   map[spot]*fate
	all     []*kvHistory

	struck   time.Duration // when one was asked for last
	crashed  time.Duration // when a member crashed on one last
	patience time.Duration // when it is late enough for an operator
}

// poison is one such command.
type poison struct {
	hosts map[*host]bool // that crash on it
	way   poisonWay
	never bool // of a kind that is never left out
}

// poisonWay is how they crash.
type poisonWay struct {
	name  string
	ends  bool // the process, else it is a panic
	cause int  // that the process notes before
}

var poisonWays = []poisonWay{
	{"poison: panic", false, storage.CausePanic},
	{"poison: the process ends", true, storage.CauseUnknown},
	{"poison: it does not end", true, storage.CauseStalled},
}

var poisonScopes = []string{"poison for one", "poison for a minority", "poison for a majority", "poison for all"}

// spot is the place of a command in the log.
type spot struct {
	index uint64
	place int
}

// fate is what became of a command there: every voter does it, or nobody.
type fate struct {
	ran  []uint64 // voters that did it
	left bool     // somebody left it out
}

// newPoisons gives two seeds of five guards and poison: all others run without a guard.
func newPoisons(c *cluster, o Options) *poisons {
	if n := o.Seed % 5; !o.Poison || n != 0 && n != 3 {
		return nil
	}
	turn := o.Seed/5*2 + o.Seed%5/3                                                                                                           // each scope is that of the first poison in a quarter of the seeds: a second one waits behind it
	return &poisons{c: c, rnd: rand.New(rand.NewPCG(o.Seed, uint64(o.Nodes))), turn: turn, by: map[string]*poison{}, fates: map[spot]*fate{}} //nolint:gosec // not negative
}

func (ps *poisons) upTo(d time.Duration) time.Duration { return time.Duration(ps.rnd.Int64N(int64(d))) }

// trouble has one or two poisons until end.
func (ps *poisons) trouble(end time.Duration) {
	for range 1 + ps.rnd.IntN(2) {
		ps.c.after(300*time.Millisecond+ps.upTo(end-800*time.Millisecond), ps.strike)
	}
}

// strike has clients ask for one or two commands that crash replicas, and for what became of them. Two times in three
// something else goes wrong meanwhile; sometimes somebody starts another program.
func (ps *poisons) strike() {
	c := ps.c
	if c.leader() == nil || c.taint() {
		c.later(50*time.Millisecond, ps.strike)
		return
	}
	if c.healed {
		return
	}
	ps.struck = c.now
	p := ps.mix()
	for range 1 + ps.rnd.IntN(4)/3 {
		ps.ask(p)
	}
	if ps.rnd.IntN(3) > 0 {
		under := poisonUnder[ps.rnd.IntN(len(poisonUnder))]
		c.later(ps.upTo(250*time.Millisecond), func() {
			c.trace("under it: %s", under.name)
			c.note(under.name)
			under.do(c)
		})
	}
	if ps.rnd.IntN(3) == 0 {
		c.later(1500*time.Millisecond+ps.upTo(1500*time.Millisecond), ps.mend)
	}
}

// poisonUnder is what goes wrong while replicas crash on a command.
var poisonUnder = []fault{
	{"crash", (*cluster).crashOne},
	{"crash of all", (*cluster).crashAll},
	{"process of all killed", func(c *cluster) {
		for _, h := range c.hosts {
			h.crash(storage.KeepUnsynced)
			c.after(50*time.Millisecond+c.upTo(500*time.Millisecond), func() { c.boot(h) })
		}
	}},
	{"pause", (*cluster).pauseOne},
	{"partition", (*cluster).partition},
	{"isolated leader", (*cluster).isolateLeader},
	{"transfer", (*cluster).transferLead},
	{"replacement", (*cluster).replaceOne},
}

// quiet reports whether no command is about to crash anybody, and nobody waits for a snapshot behind one. A majority that
// does takes the state of who is left, which nobody can contradict then (decision 39).
func (ps *poisons) quiet() bool {
	if ps == nil {
		return true
	}
	for _, h := range ps.c.hosts {
		if h.beyond > 0 || h.up && h.stopped() {
			return false
		}
	}
	return ps.struck == 0 || ps.c.now-ps.struck > time.Second && ps.c.now-ps.crashed > time.Second
}

// mix draws who crashes, and how: by turns, so that a hundred seeds have it all.
func (ps *poisons) mix() *poison {
	voters := slices.Clone(ps.c.voters())
	ps.rnd.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	scope := ps.turn % uint64(len(poisonScopes))
	p := &poison{hosts: map[*host]bool{}, way: poisonWays[ps.turn/uint64(len(poisonScopes))%uint64(len(poisonWays))], never: ps.rnd.IntN(6) == 0}
	ps.turn++
	if p.never { // or one that has applied it would settle the matter
		scope = uint64(len(poisonScopes)) - 1
	}
	victims := voters[:[]int{1, (len(voters) - 1) / 2, len(voters)/2 + 1, len(voters)}[scope]]
	if int(scope) == len(poisonScopes)-1 { //nolint:gosec // small
		victims = ps.c.hosts
	}
	names := []string{}
	for _, h := range victims {
		p.hosts[h] = true
		names = append(names, h.name)
	}
	ps.c.note(poisonScopes[scope])
	ps.c.note(p.way.name)
	ps.c.trace("fault: %s: %v, never left out %v", p.way.name, names, p.never)
	return p
}

// ask has a client propose the poison.
func (ps *poisons) ask(p *poison) {
	cl := ps.c.clients
	k := &kvHistory{key: fmt.Sprintf("p/%05d", len(ps.all))}
	op := kvOp{kind: opPut, value: uint64(len(ps.all)) + 1}
	a := &call{command: state.Put{Key: k.key, Value: encodeValue(op.value)}}
	a.end = func(o outcome) {
		if o.unknown || o.result.Code == state.CodeOK {
			k.add(a.client, op, kvSeen{unknown: o.unknown, revision: o.result.Revision}, a.began, o.at, o.unknown)
		}
	}
	if p.never {
		ps.c.note("poison of a kind that is never left out")
		a.command, a.end = state.SetCoreSize{Size: ps.c.size}, func(outcome) {}
	} else {
		ps.all = append(ps.all, k)
	}
	if !cl.beginAny(a) {
		return
	}
	ps.by[string(a.encoded)] = p
	for i := range 12 {
		ps.c.after(time.Duration(i)*150*time.Millisecond+ps.upTo(150*time.Millisecond), func() {
			get := &call{plain: true}
			get.end = func(o outcome) { k.add(get.client, kvOp{kind: opGet}, readKey(o.view, k.key), get.began, o.at, false) }
			if !p.never && !cl.stopped {
				cl.beginAny(get)
			}
		})
	}
}

// first returns the first command on which the host crashes, nil if there is none.
func (ps *poisons) first(h *host, commands [][]byte, skip []int) (int, *poison) {
	if len(ps.by) == 0 {
		return 0, nil
	}
	for place, command := range commands {
		if p := ps.by[string(command)]; p != nil && p.hosts[h] && !slices.Contains(skip, place) {
			return place, p
		}
	}
	return 0, nil
}

// judge holds what a replica made of an entry against what the others made of it, before its state is compared.
func (ps *poisons) judge(h *host, index uint64, commands [][]byte, skip []int) {
	if ps == nil || len(ps.by) == 0 {
		return
	}
	for place, command := range commands {
		p, left := ps.by[string(command)], slices.Contains(skip, place)
		if p == nil {
			if left {
				ps.c.fail("%s left out command %d of entry %d, on which nobody crashes", h.name, place, index)
			}
			continue
		}
		f := ps.fates[spot{index, place}]
		if f == nil {
			f = &fate{}
			ps.fates[spot{index, place}] = f
		}
		ps.c.trace("%s/%d is at the poison, command %d of entry %d, left out %v", h.name, h.id, place, index, left)
		switch {
		case left && p.never:
			ps.c.fail("%s left out command %d of entry %d, of a kind that never is", h.name, place, index)
		case left && len(f.ran) > 0:
			ps.c.fail("%s left out command %d of entry %d, which the voters %d have applied", h.name, place, index, f.ran)
		case left:
			f.left = true
			ps.c.note("command left out")
		case !h.isVoter():
			ps.early(h, f)
		case f.left: // it began again, and has not heard of the quarantine yet
			ps.early(h, f)
		default:
			f.ran = append(f.ran, h.id)
		}
	}
}

// early notes that a member has applied a command which nobody asked it about, since it has no vote, or which the others have
// left out before it began again. Its state is wrong then until it is built again, and it has to find that out itself.
func (ps *poisons) early(h *host, f *fate) {
	if len(f.ran) > 0 {
		return
	}
	ps.c.note("poison applied in vain")
	h.tainted, h.flipped = true, ""
	h.wrong()
}

// ranAt reports whether a voter has applied a poison of that entry.
func (ps *poisons) ranAt(index uint64) bool {
	for at, f := range ps.fates {
		if at.index == index && len(f.ran) > 0 {
			return true
		}
	}
	return false
}

// mend starts another program on those that are stopped: it can apply what the last one could not.
func (ps *poisons) mend() {
	for _, p := range ps.by {
		clear(p.hosts)
	}
	ps.program++
	ps.c.note("another program")
	for _, h := range ps.c.hosts {
		if h.up && h.rep.Status().StoppedAt != nil {
			ps.c.trace("%s: another program", h.name)
			h.crash(storage.KeepUnsynced)
			ps.c.after(10*time.Millisecond, func() { ps.c.boot(h) })
		}
	}
}

// operate is what somebody does in the end about what the core may not decide. While members still come to commands that crash
// them, which takes them two lives each, it is too early to say what that is, but not for ever.
func (ps *poisons) operate() {
	if ps.c.now-ps.crashed < healTime/6 && ps.c.now < ps.patience {
		ps.c.after(time.Second, ps.operate)
		return
	}
	ps.decided()
	ps.mend()
}

// decided checks that what is still open long after the other faults have ended is what people have to decide.
func (ps *poisons) decided() {
	l := ps.c.leader()
	if l == nil || ps.c.taint() {
		return
	}
	for _, one := range l.rep.Status().Cases {
		open := strings.Contains(one.Verdict, "operator") || strings.Contains(one.Verdict, "never")
		for _, id := range slices.Sorted(maps.Keys(one.Answers)) {
			open = open || one.Answers[id] == "none" && ps.c.byID(id) == nil
		}
		if !open {
			ps.c.fail("nobody has decided what becomes of entry %d: %+v; %s", one.Index, one, ps.c.describe())
		}
		ps.c.note("left to an operator")
	}
}

// last and check make poisons a workload: what clients were told of them has to be true.
func (ps *poisons) last(v *state.View) {
	for _, k := range ps.all {
		k.add(0, kvOp{kind: opGet}, readKey(v, k.key), ps.c.now, ps.c.now, false)
	}
}

func (ps *poisons) check() error   { return registerModel.check(ps.all) }
func (ps *poisons) next(int) *call { return nil }
