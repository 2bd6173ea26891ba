package consensus

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/parley-mesh/parley/clock"
)

// sim is a cluster of cores without goroutines: every queue is a slice and somebody decides what
// happens next, a script or a seed. It checks after every step what must hold always.
type sim struct {
	withheld map[uint64]int // nil: chunks of snapshots can be fetched; else how often each node has asked for one in vain
	t        testing.TB
	rnd      *rand.Rand
	now      time.Time
	ids      []uint64
	nodes    map[uint64]*simNode
	net      []packet
	cut      map[[2]uint64]bool
	dropped  func(packet) bool // what the network loses besides; nil: nothing
	tune     func(*coreConfig)
	doubt    map[uint64]string // why the disk of a node says that its end is in doubt
	leader   map[uint64]uint64 // by term
	log      map[uint64]string // by index: what everybody must apply there
	acked    uint64            // highest acknowledged index
	sent     map[string]string // acknowledged key -> value
	broken   []string
	held     **outcome // of a script's request that is not waited for
	noSync   bool      // a control: the disks lie about syncs
	noRead   bool      // a control: leaders answer reads from what they have applied
}

type packet struct {
	from, to uint64
	m        *raftpb.Message
	report   *snapReport
	note     *note
}

// simNode is one replica: its disks survive a crash, the rest does not.
type simNode struct {
	clock   *clock.Clock
	s       *sim
	id      uint64
	log     *fakeLog
	snaps   *fakeSnapshots
	mark    clock.Stamp // of the clock, durable
	core    *core       // nil = down
	machine *fakeMachine
	logQ    []logTask
	applyQ  []*applyTask
	saveQ   []*saveTask
	instQ   []*installTask
	open    map[*request]bool // asked since the start and not answered
	crashes map[string]bool   // commands that it panics on, with a guard
	stopped bool              // at the first entry of applyQ
	journal simJournal
}

var simBegan = time.UnixMilli(1_700_000_000_000)

func newSim(t testing.TB, seed uint64) *sim {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	src := rand.NewChaCha8(key)
	old := crand.Reader
	crand.Reader = rand.NewChaCha8([32]byte(append([]byte("raft"), key[:28]...))) // raft's timeouts
	t.Cleanup(func() { crand.Reader = old })
	return &sim{
		t: t, rnd: rand.New(src), now: simBegan, nodes: map[uint64]*simNode{},
		cut: map[[2]uint64]bool{}, leader: map[uint64]uint64{}, log: map[uint64]string{}, sent: map[string]string{}, doubt: map[uint64]string{},
	}
}

// add makes a node; with voters its disk holds the genesis snapshot that names them.
func (s *sim) add(id uint64, voters ...uint64) {
	n := &simNode{s: s, id: id, log: newFakeLog(), snaps: newFakeSnapshots()}
	if len(voters) > 0 {
		if err := genesis(n.log, n.snaps, voters...); err != nil {
			s.t.Fatal(err)
		}
	}
	s.nodes[id] = n
	s.ids = append(s.ids, id)
	slices.Sort(s.ids)
	n.start()
}

func (s *sim) fail(format string, args ...any) {
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
}

func (n *simNode) start() {
	rec := n.log.recovered(n.snaps)
	mem, reset, err := recoverLog(rec)
	if err != nil {
		n.s.t.Fatalf("node %d: recover: %v", n.id, err)
	}
	if reset {
		if err := n.log.Reset(mem.snap.Index, mem.snap.Term, mem.snap.Chain, mem.hard); err != nil {
			n.s.t.Fatal(err)
		}
	}
	n.machine = newFakeMachine()
	if mem.snap.Index > 0 {
		n.restore(mem.snap)
	}
	skew := time.Duration(n.id*37%50) * time.Millisecond
	clk, err := clock.New(clock.Options{Physical: func() time.Time { return n.s.now.Add(skew) }, HighWater: n.mark,
		Persist: func(m clock.Stamp) error { n.mark = m; return nil }})
	if err != nil {
		n.s.t.Fatal(err)
	}
	n.clock = clk
	cfg := Options{Clock: clk, Log: n.log, Snapshots: n.snaps, Machine: n.machine, ID: n.id}
	cfg, err = cfg.withDefaults()
	if err != nil {
		n.s.t.Fatal(err)
	}
	cc := cfg.core(n.machine.stamp())
	n.stopped = false
	if n.s.tune != nil {
		n.s.tune(&cc)
	}
	if n.core, err = newCore(cc, mem); err != nil {
		n.s.t.Fatalf("node %d: %v", n.id, err)
	}
	n.open = make(map[*request]bool)
	n.do(n.core.start)
}

func (n *simNode) restore(ref SnapshotRef) {
	r, err := n.snaps.Open(ref.Manifest)
	if err == nil {
		err = n.machine.Restore(r, ref.Index, ref.Term)
	}
	if err != nil {
		n.s.t.Fatalf("node %d: restore at %d: %v", n.id, ref.Index, err)
	}
}

func (n *simNode) crash(loseTail bool) {
	n.core, n.logQ, n.applyQ, n.saveQ, n.instQ = nil, nil, nil, nil, nil
	n.stopped = false
	n.log.crash(loseTail)
}

// do runs one event and collects its effects.
func (n *simNode) do(f func()) {
	if n.core == nil {
		return
	}
	n.core.clockIs(n.s.now.Sub(simBegan))
	f()
	n.core.flush()
	out := n.core.take()
	for _, t := range out.appends {
		n.logQ = append(n.logQ, logTask{append: t})
	}
	for _, t := range out.saves {
		n.logQ = append(n.logQ, logTask{save: t})
	}
	if out.settled {
		n.logQ = append(n.logQ, logTask{settled: true})
	}
	if out.compact > 0 {
		n.logQ = append(n.logQ, logTask{compact: out.compact})
	}
	n.applyQ = append(n.applyQ, out.applies...)
	n.takeGuard(out)
	n.instQ = append(n.instQ, out.installs...)
	n.send(out.messages)
	for _, r := range out.reports {
		n.s.net = append(n.s.net, packet{from: n.id, to: r.to, report: &r})
	}
	for _, told := range out.notes {
		n.s.net = append(n.s.net, packet{from: n.id, to: told.peer, note: &note{peer: n.id, kind: told.kind, body: told.body}})
	}
	for _, a := range out.answers {
		a.to.reply(a.outcome)
	}
	n.check()
}

func (n *simNode) send(messages []*raftpb.Message) {
	for _, m := range messages {
		n.s.net = append(n.s.net, packet{from: n.id, to: m.GetTo(), m: m})
	}
}

func (n *simNode) check() {
	if !n.core.leads() {
		return
	}
	if other, ok := n.s.leader[n.core.term]; ok && other != n.id {
		n.s.fail("nodes %d and %d both lead term %d", other, n.id, n.core.term)
	}
	n.s.leader[n.core.term] = n.id
}

// writeLog performs the next task of the log writer.
func (n *simNode) writeLog() {
	if len(n.logQ) == 0 {
		return
	}
	t := n.logQ[0]
	n.logQ = n.logQ[1:]
	switch {
	case t.append != nil:
		n.appendOne(t.append)
	case t.save != nil:
		chain, ok := n.log.Chain(t.save.ref.Index)
		if !ok {
			ref := t.save.ref
			n.do(func() { n.core.saved(ref, errNoChain) })
			return
		}
		t.save.ref.Chain = chain
		n.saveQ = append(n.saveQ, t.save)
	case t.settled:
		_ = n.log.Settled()
	default:
		if err := n.log.Compact(t.compact); err != nil {
			n.s.t.Fatal(err)
		}
	}
}

func (n *simNode) appendOne(t *appendTask) {
	if s := t.snapshot; s != nil {
		if err := n.log.Reset(s.Index, s.Term, s.Chain, t.hard); err != nil {
			n.s.t.Fatal(err)
		}
	}
	if len(t.entries) > 0 || t.hard != nil {
		if err := n.log.Append(t.entries, t.hard, t.sync && !n.s.noSync); err != nil {
			n.s.t.Fatalf("node %d: %v", n.id, err)
		}
	}
	n.send(t.remote)
	if len(t.local) > 0 {
		n.do(func() { n.core.appended(t.local) })
	}
}

// applyNext performs the next task of the applier.
func (n *simNode) applyNext() {
	if !n.applies() {
		return
	}
	t := n.applyQ[0]
	n.applyQ = n.applyQ[1:]
	if t.restore != nil {
		n.restore(*t.restore)
	}
	for i, e := range t.entries {
		if n.stops(t, i) {
			return
		}
		n.applyOne(e, t.batches[i], t.skip(i))
	}
	if t.capture {
		t.write = n.machine.Capture()
	}
	stamp := clock.Stamp(0)
	if t.restore != nil {
		stamp = n.machine.stamp()
	}
	n.do(func() { n.core.appliedTask(t, stamp) })
}

func (n *simNode) applyOne(e *raftpb.Entry, b *batch, skip []int) {
	var stamp clock.Stamp
	var commands [][]byte
	told, body := control(e)
	if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 && told == 0 {
		var err error
		if stamp, commands, err = decodeBatch(e.GetData()); err != nil {
			n.s.t.Fatal(err)
		}
	}
	results, err := n.machine.Apply(e.GetIndex(), e.GetTerm(), stamp, n.leaveOut(e.GetIndex(), commands, skip))
	n.journal.applied = max(n.journal.applied, e.GetIndex())
	if err != nil {
		n.s.fail("node %d: apply %d: %v", n.id, e.GetIndex(), err)
		return
	}
	is := fmt.Sprintf("%d %x", e.GetTerm(), e.GetData())
	if was, ok := n.s.log[e.GetIndex()]; ok && was != is {
		n.s.fail("node %d applied another entry at %d", n.id, e.GetIndex())
	}
	n.s.log[e.GetIndex()] = is
	switch told {
	case controlCheckpoint:
		n.checkpoint(e.GetIndex())
	case controlAccept:
		n.do(func() { n.core.accepted(body) })
	}
	if b != nil {
		for i, r := range b.requests {
			r.reply(outcome{done: Proposed{Index: e.GetIndex(), Term: e.GetTerm(), Stamp: stamp, Data: results[i]}})
		}
	}
}

// background performs the next snapshot work.
func (n *simNode) background() {
	if len(n.saveQ) > 0 {
		t := n.saveQ[0]
		n.saveQ = n.saveQ[1:]
		ref := t.ref
		manifest, err := n.snaps.Save(ref, t.write)
		ref.Manifest = manifest
		n.do(func() { n.core.saved(ref, err) })
	}
	if len(n.instQ) > 0 {
		t := n.instQ[0]
		n.instQ = n.instQ[1:]
		err := n.install(t)
		n.do(func() { n.core.installed(t, err) })
	}
}

func (n *simNode) install(t *installTask) error {
	ref, err := n.snaps.Parse(t.ref.Manifest)
	if err != nil {
		return err
	}
	t.ref.Chain = ref.Chain
	return n.snaps.Install(context.Background(), t.ref.Manifest, func(_ context.Context, hash [32]byte) ([]byte, error) {
		if n.s.cut[[2]uint64{t.from, n.id}] {
			return nil, errors.New("unreachable")
		}
		if n.s.withheld != nil {
			n.s.withheld[n.id]++
			return nil, errors.New("it has lost that chunk")
		}
		return n.s.nodes[t.from].snaps.chunk(hash)
	})
}

// deliver hands packet i to its receiver, by way of the wire format and the checks.
func (s *sim) deliver(i int) {
	p := s.net[i]
	s.net = append(s.net[:i:i], s.net[i+1:]...)
	to := s.nodes[p.to]
	if to == nil || to.core == nil || s.cut[[2]uint64{p.from, p.to}] || s.dropped != nil && s.dropped(p) {
		return
	}
	if p.report != nil {
		to.do(func() { to.core.report(p.from, p.report.ok) })
		return
	}
	if p.note != nil {
		to.do(func() { _ = to.core.hear(*p.note) })
		return
	}
	b, err := proto.Marshal(p.m)
	if err != nil {
		s.t.Fatal(err)
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		s.t.Fatal(err)
	}
	if err := checkMessage(p.to, m); err != nil {
		s.fail("an honest message was refused: %v: %v", describe(m), err)
		return
	}
	to.do(func() {
		if err := to.core.step(m); err != nil {
			s.fail("node %d: an honest message was refused: %v: %v", p.to, describe(m), err)
		}
	})
}

// settle runs everything that is queued until nothing is left.
func (s *sim) settle() {
	for rounds, busy := 0, true; busy; rounds++ {
		if rounds == 10_000 {
			s.fail("two nodes answer each other without end")
			return
		}
		busy = len(s.net) > 0
		for _, id := range s.ids {
			n := s.nodes[id]
			busy = busy || len(n.logQ)+len(n.saveQ)+len(n.instQ) > 0 || n.applies()
			for len(n.logQ) > 0 {
				n.writeLog()
			}
			for n.applies() {
				n.applyNext()
			}
			n.background()
		}
		for range len(s.net) {
			s.deliver(0)
		}
	}
}

// tick lets one tick pass everywhere and settles.
func (s *sim) tick(times int) {
	for range times {
		s.now = s.now.Add(defaultTick)
		for _, id := range s.ids {
			n := s.nodes[id]
			n.do(func() { n.core.tick() })
		}
		s.settle()
	}
}

// current returns the leader of the highest term, 0 when there is none.
func (s *sim) current() uint64 {
	best, term := uint64(0), uint64(0)
	for _, id := range s.ids {
		if c := s.nodes[id].core; c != nil && c.leads() && c.term > term {
			best, term = id, c.term
		}
	}
	return best
}

// elect ticks until there is a leader that has committed in its term.
func (s *sim) elect() uint64 {
	for range 200 {
		if id := s.current(); id != 0 && s.nodes[id].core.status().Confirmed {
			return id
		}
		s.tick(1)
	}
	s.t.Fatal("no leader after 200 ticks")
	return 0
}

// ask submits a request and returns where its outcome will appear.
func (n *simNode) ask(r *request, submit func(*core, *request)) **outcome {
	var result *outcome
	open := n.open
	open[r] = true
	r.reply = func(o outcome) {
		if result != nil {
			n.s.fail("a request was answered twice")
		}
		result = &o
		delete(open, r)
	}
	n.do(func() { submit(n.core, r) })
	return &result
}

func (n *simNode) propose(key, value string) **outcome {
	r := &request{command: []byte(key + "=" + value)}
	result := n.ask(r, (*core).submit)
	inner := r.reply
	r.reply = func(o outcome) {
		inner(o)
		if o.err == nil {
			n.s.acked = max(n.s.acked, o.done.Index)
			n.s.sent[key] = value
		}
	}
	if *result != nil && (*result).err == nil {
		n.s.t.Fatal("a proposal was answered before it could commit")
	}
	return result
}

func (n *simNode) read() **outcome {
	since := n.s.acked
	if n.s.noRead {
		if n.core.leads() && n.core.applied < since {
			n.s.fail("stale read on node %d: index %d, but %d was acknowledged before", n.id, n.core.applied, since)
		}
		return nil
	}
	r := &request{}
	result := n.ask(r, (*core).read)
	check := func(o outcome) {
		if o.err == nil && o.index < since {
			n.s.fail("stale read on node %d: index %d, but %d was acknowledged before", n.id, o.index, since)
		}
	}
	if *result != nil {
		check(**result)
	}
	inner := r.reply
	r.reply = func(o outcome) { inner(o); check(o) }
	return result
}
