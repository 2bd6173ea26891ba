package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

var clusterID = [16]byte{0: 0x51, 15: 0x15}

// cluster is the whole simulated world.
type cluster struct {
	timeline
	recordBytes     int
	recording       func(host string, recording []byte)
	rnd             *rand.Rand
	hosts           []*host
	size            int // voters wanted
	nextID          uint64
	messageBytes    int             // of entries in one message, at most
	snapshotEntries uint64          // between snapshots
	rare            map[string]bool // points at which rare things happen in this run
	passed          map[string]int  // passages of these points
	damages         int             // by turns
	memory          bool            // faults of memory as well
	noRelay         bool            // a control
	noLease         bool            // reads take a round each
	healed          bool            // the faults have ended
	frozen          bool            // nobody plans
	transferAt      time.Duration   // of the last transfer that was asked for
	net             network
	log             history
	fired           map[string]int // how often each fault and buggify point has happened

	clients  *clients
	watchers *watchers
	poisons  *poisons // nil: replicas have no guard
	err      error
	sum      hash.Hash // of the trace
	scratch  []byte    // what is hashed next
	lines    func(string)
}

func newCluster(o Options, rnd *rand.Rand) (*cluster, error) {
	c := &cluster{rnd: rnd, memory: o.Seed/4%2 == 1, noRelay: o.NoRelay, noLease: o.Seed%8 == 6, size: o.Nodes, nextID: 1, messageBytes: 1 << 20, fired: map[string]int{}, sum: sha256.New(), lines: o.Trace}
	c.recordBytes, c.recording = o.RecordBytes, o.Recording
	c.damages = int(o.Seed % uint64(len(damageKinds))) //nolint:gosec // small
	if o.Seed%4 == 3 {
		c.messageBytes = 1 // one entry
	}
	c.snapshotEntries = 900
	if o.Seed%3 == 1 {
		c.snapshotEntries = 200
	}
	c.net = newNetwork()
	c.rare, c.passed = map[string]bool{}, map[string]int{}
	for _, point := range slices.Concat(consensus.RarePoints(), storage.RarePoints()) {
		c.rare[point] = !o.Calm && c.chance(3)
	}
	c.log = newHistory()
	genesis := state.Genesis(state.GenesisOptions{
		ClusterID: fmt.Sprintf("%x", clusterID), TrustDomain: "sim.test", EpochID: [16]byte{1},
		Node:   state.Node{Name: "n1", HostKey: []byte("host key"), SealKey: make([]byte, state.SealKeyBytes)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{[]byte("root")}}, Sealed: []byte("sealed"),
	}).View()
	var voters []uint64
	for i := range o.Nodes + o.Spares {
		h := &host{c: c, name: fmt.Sprintf("n%d", len(c.hosts)+1), disk: storage.NewMem(), slow: 1}
		if i < o.Nodes { // a spare gets its id when the planner asks for one
			h.id = c.nextID
			c.nextID++
			voters = append(voters, h.id)
		}
		c.hosts = append(c.hosts, h)
	}
	for _, h := range c.hosts[:o.Nodes] {
		if err := h.found(voters, genesis); err != nil {
			return nil, err
		}
		h.disk = h.disk.Crash(storage.KeepUnsynced, 0)
	}
	c.clients, c.watchers, c.poisons = newClients(c, o), newWatchers(c), newPoisons(c, o)
	for _, h := range c.hosts {
		c.boot(h)
	}
	return c, c.err
}

// boot starts a host. One whose files are damaged has lost what it acknowledged: it comes back under a new Raft id.
func (c *cluster) boot(h *host) {
	if h.up || h.id == 0 {
		return
	}
	if h.lied {
		c.lose(h)
		return
	}
	err := h.start()
	var damage *storage.DamageError
	switch {
	case errors.As(err, &damage) || errors.Is(err, consensus.ErrLost):
		c.trace("%s is damaged: %v", h.name, err)
		c.note("damage seen")
		c.heal(h, err, nil, 0)
	case errors.Is(err, syscall.EIO) || errors.Is(err, storage.ErrCrashed):
		h.disk = h.disk.Crash(storage.KeepUnsynced, 0)
		c.after(200*time.Millisecond, func() { c.boot(h) })
	case err != nil:
		c.fail("%s does not start: %v", h.name, err)
	}
}

// fail notes the first violation; the run ends there.
func (c *cluster) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("at %v: %s", c.now, fmt.Sprintf(format, args...))
	}
}

// trace adds a line to the run's record, which must be the same whenever the seed is run again.
func (c *cluster) trace(format string, args ...any) {
	line := c.line(format, args...)
	_, _ = c.sum.Write([]byte(line)) // never fails
	if c.lines != nil {
		c.lines(line)
	}
}

// traceApplied is trace for what happens most often: what is hashed is not made text unless somebody reads it.
func (c *cluster) traceApplied(h *host, index, term uint64, digest [32]byte) {
	b := c.scratch[:0]
	for _, n := range [...]uint64{uint64(c.now), h.id, index, term} { //nolint:gosec // not negative
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, digest[:]...)
	_, _ = c.sum.Write(b) // never fails
	c.scratch = b
	if c.lines != nil {
		c.lines(c.line("%s/%d applied %d of term %d: %x", h.name, h.id, index, term, digest[:4]))
	}
}

// line is a line of the record.
func (c *cluster) line(format string, args ...any) string {
	return fmt.Sprintf("%12d ", c.now.Microseconds()) + fmt.Sprintf(format, args...) + "\n"
}

// note counts that something happened.
func (c *cluster) note(what string) { c.fired[what]++ }

// rarely makes the production code do what is legal and seldom: at some points in a seed, one time in fifty, and of the
// first passages one in four: some points are passed a few times in a run.
func (c *cluster) rarely(point string) bool {
	if c.healed || !c.rare[point] {
		return false
	}
	c.passed[point]++
	odds := 50
	if c.passed[point] <= 8 {
		odds = 4
	}
	if !c.chance(odds) {
		return false
	}
	c.note("rare: " + point)
	return true
}

// upTo draws a length of time below d.
func (c *cluster) upTo(d time.Duration) time.Duration { return time.Duration(c.rnd.Int64N(int64(d))) }

// chance is true once in n draws.
func (c *cluster) chance(n int) bool { return c.rnd.IntN(n) == 0 }

func (c *cluster) byID(id uint64) *host {
	for _, h := range c.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// nodeOf is what certificates and the replicated state say: whose the Raft id is.
func (c *cluster) nodeOf(id uint64) (string, bool) {
	if h := c.byID(id); h != nil {
		return h.name, true
	}
	return "", false
}

// leader returns the host that leads the highest term, nil if none does.
func (c *cluster) leader() *host {
	var best *host
	for _, h := range c.hosts {
		if h.up && !h.paused && h.rep.Leads() && (best == nil || h.rep.Term() > best.rep.Term()) {
			best = h
		}
	}
	return best
}

// network is who can reach whom, and how badly.
type network struct {
	cut       map[link]bool
	drop      int // in a thousand frames
	duplicate int
	reorder   int
	slow      time.Duration // added to each frame at most
	lastAt    map[link]time.Duration
}

// link is one way between two hosts.
type link struct{ from, to *host }

func newNetwork() network {
	return network{cut: map[link]bool{}, lastAt: map[link]time.Duration{}}
}

func (c *cluster) isCut(from, to *host) bool { return c.net.cut[link{from, to}] }

// send puts a frame on its way. Frames of one connection keep their order, unless the network reorders them
// (a connection that broke and was opened again).
func (c *cluster) send(from *host, f consensus.Frame) {
	to := c.byID(f.To)
	if to == nil {
		return
	}
	if c.isCut(from, to) {
		c.note("frame cut off")
		from.lostSoon(f.To)
		return
	}
	if c.rnd.IntN(1000) < c.net.drop {
		c.note("frame dropped")
		from.lostSoon(f.To)
		return
	}
	if from.lies {
		f.Body = from.lie(f.Body)
	}
	at := c.now + 500*time.Microsecond + c.upTo(2*time.Millisecond+c.net.slow)
	if c.rnd.IntN(1000) < c.net.reorder {
		c.note("frame reordered")
		at += c.upTo(30 * time.Millisecond)
	} else {
		at = max(at, c.net.lastAt[link{from, to}])
		c.net.lastAt[link{from, to}] = at
	}
	deliver := func() {
		if c.isCut(from, to) {
			c.note("frame cut off on its way")
			return
		}
		name, body := from.name, f.Body
		if to.id != f.To {
			return // the receiver has another id by now
		}
		to.deaf = deafness{}
		to.do(func() error {
			err := to.rep.Receive(name, body)
			var panicked *consensus.PanicError
			if err != nil && !errors.As(err, &panicked) {
				c.trace("%s refused a frame of %s: %v", to.name, name, err)
				return nil
			}
			return err
		})
	}
	if !to.up {
		from.refusedSoon(f.To)
		return
	}
	to.at(at-c.now, deliver)
	if c.rnd.IntN(1000) < c.net.duplicate {
		c.note("frame duplicated")
		to.at(at-c.now+c.upTo(20*time.Millisecond), deliver)
	}
}

// lostSoon tells the replica that its connection broke.
func (h *host) lostSoon(to uint64) {
	h.at(time.Millisecond, func() { h.do(func() error { return h.rep.Lost(to, true) }) })
}

// refusedSoon tells the replica that nobody listens on a peer's host.
func (h *host) refusedSoon(to uint64) {
	h.at(time.Millisecond+h.c.upTo(100*time.Millisecond), func() {
		h.c.note("connection refused")
		h.do(func() error { return errors.Join(h.rep.Lost(to, true), h.rep.Refused(to)) })
	})
}

// history is what must hold of all replicas together.
type history struct {
	entries map[uint64]entryMark // by index
	leaders map[uint64]member    // by term
	newest  uint64               // highest index applied anywhere
	answers map[[16]byte][]byte  // to requests, when they were done first by a replica that was not wrong
}

// member is a host under one of its Raft ids.
type member struct {
	name string
	id   uint64
}

func (m member) String() string { return fmt.Sprintf("%s/%d", m.name, m.id) }

// entryMark is what the first replica that applied an index made of it.
type entryMark struct {
	term     uint64
	commands [32]byte
	digest   [32]byte
	wrong    bool // it was a replica that was wrong: the digest says nothing
}

func newHistory() history {
	const many = 1 << 11 // as a run has, about
	return history{entries: make(map[uint64]entryMark, many), leaders: map[uint64]member{}, answers: make(map[[16]byte][]byte, many)}
}

// observe checks a replica after each of its steps.
func (c *cluster) observe(h *host) {
	if h.rep.Leads() {
		one := member{h.name, h.id}
		if other, ok := c.log.leaders[h.rep.Term()]; !ok {
			c.log.leaders[h.rep.Term()] = one
			c.trace("%s leads term %d", one, h.rep.Term())
		} else if other != one {
			c.fail("%s and %s both lead term %d", other, one, h.rep.Term())
		}
	}
	if h.rep.HandingOver() {
		c.transferAt = c.now
	}
	if broken := h.rep.Violations(); len(broken) > 0 {
		c.fail("%s violates %s: %s", h.name, broken[0].Invariant, broken[0].Detail)
	}
	h.watchPromises()
	h.watchCommit()
	if commit := h.rep.Commit(); commit < h.commit {
		c.fail("%s: the commit index went back from %d to %d", h.name, h.commit, commit)
	} else {
		h.commit = commit
	}
}

// applied checks that all replicas apply the same and become the same.
func (c *cluster) applied(h *host, index, term uint64, commands, results [][]byte, touched state.Touched) {
	b := c.scratch[:0]
	for _, command := range commands {
		b = binary.BigEndian.AppendUint32(b, uint32(len(command))) //nolint:gosec // short
		b = append(b, command...)
	}
	c.scratch = b
	mark := entryMark{term: term, commands: sha256.Sum256(b), digest: h.machine.View().Digest()}
	c.traceApplied(h, index, term, mark.digest)
	h.overwritten(touched)
	first, ok := c.log.entries[index]
	switch {
	case !ok:
		mark.wrong = h.tainted
		c.log.entries[index] = mark
		c.log.newest = max(c.log.newest, index)
		if !mark.wrong {
			c.log.note(commands, results)
			c.watchers.happened(touched)
		}
	case first.term != term || first.commands != mark.commands:
		c.fail("%s applied another entry at %d: of term %d, not %d", h.name, index, term, first.term)
	case first.wrong && !h.tainted:
		c.log.entries[index] = mark
		c.log.note(commands, results)
		c.watchers.happened(touched)
	case first.wrong:
	case h.tainted:
		h.outlived(first.digest == mark.digest)
	case first.digest != mark.digest:
		c.fail("%s has another state at %d", h.name, index)
	}
}

// note keeps how requests were answered first.
func (l *history) note(commands, results [][]byte) {
	for i, command := range commands {
		id := state.RequestOf(command)
		if _, again := l.answers[id]; !again && id != ([16]byte{}) {
			l.answers[id] = results[i]
		}
	}
}

// restored checks a snapshot against what was applied at its index.
func (c *cluster) restored(h *host, index uint64) {
	c.note("snapshot restored")
	h.tainted = false
	if mark, ok := c.log.entries[index]; ok && (mark.wrong || mark.digest != h.machine.View().Digest()) {
		c.fail("%s restored a snapshot of %d with another state", h.name, index)
	}
}
