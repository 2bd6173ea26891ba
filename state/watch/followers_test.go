package watch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/state"
)

// A crowd is many followers of the public class of a few core members, without a network: each connection is a queue of
// frames with a limit, and time is a count of rounds.
type crowd struct {
	t       *testing.T
	random  *rand.Rand
	machine *core
	members []*member
	crowd   []*outsider
	resumed int // connections after the first that went on without a snapshot
	again   int // and those that needed one
}

// member is a core member: it applies what all apply, later.
type member struct {
	hub  *Hub
	lags []published
}

type published struct {
	view    *state.View
	touched state.Touched
}

type outsider struct {
	replica *Replica
	feed    *Feed
	queue   [][]byte
	slow    bool
	was     bool // connected before
}

// queueFrames is what a connection holds that its follower has not read; one more cuts it.
const queueFrames = 64

var errFull = errors.New("the follower does not read")

func newCrowd(t *testing.T, seed uint64, followers int) *crowd {
	c := &crowd{t: t, random: rand.New(rand.NewPCG(seed, 1)), machine: newCore(t, DefaultTiming)}
	for range 3 {
		c.members = append(c.members, &member{hub: NewHub(c.machine.m.View())})
	}
	for i := range followers {
		c.crowd = append(c.crowd, &outsider{replica: NewReplica(public...), slow: i%10 == 0})
	}
	return c
}

func (c *crowd) write(commands ...state.Command) {
	touched := c.machine.apply(commands...)
	for _, m := range c.members {
		m.lags = append(m.lags, published{c.machine.m.View(), touched})
	}
}

// show lets a member apply some of what waits, or all.
func (m *member) show(n int) {
	n = min(n, len(m.lags))
	for _, p := range m.lags[:n] {
		m.hub.Publish(p.view, p.touched)
	}
	m.lags = m.lags[n:]
}

func (o *outsider) cut() {
	if o.feed != nil {
		o.feed.Close()
	}
	o.feed, o.queue = nil, nil
}

func (c *crowd) connect(o *outsider) {
	hub := c.members[c.random.IntN(len(c.members))].hub
	send := func(b []byte) error {
		if len(o.queue) == queueFrames {
			return errFull
		}
		o.queue = append(o.queue, b)
		return nil
	}
	feed, err := hub.Feed(o.replica.Resume(), public, send)
	if err != nil {
		c.t.Fatal(err)
	}
	o.feed = feed
	err = feed.Begin()
	if o.was && err == nil {
		if FrameKind(o.queue[0][0]) == FrameSnapshotBegin {
			c.again++
		} else {
			c.resumed++
		}
	}
	o.was = o.was || err == nil
	if err != nil { // behind the follower, or it does not read
		o.cut()
	}
}

// turn moves one follower on.
func (c *crowd) turn(o *outsider, tick, faults bool) {
	switch {
	case o.feed == nil:
		c.connect(o)
		return
	case faults && c.random.IntN(20) == 0:
		o.cut()
		return
	}
	if err := o.feed.Look(tick); err != nil {
		o.cut()
		return
	}
	if faults && o.slow && c.random.IntN(8) > 0 {
		return
	}
	for _, b := range o.queue {
		if _, err := o.replica.Feed(b); err != nil {
			c.t.Errorf("a frame of a core member was refused: %v", err)
			o.cut()
			return
		}
	}
	o.queue = o.queue[:0]
}

func (c *crowd) round(i int, faults bool) {
	for _, o := range c.crowd {
		c.turn(o, i%3 == 0, faults)
	}
}

// 1,000 followers of three core members that apply at different times, cut, connected again to any of them, and every tenth
// slow to read, hold the public state in the end, and so much of the writing of keys that a ring of all changes would have
// forgotten where they were costs none of them a snapshot.
func TestThousandFollowers(t *testing.T) {
	for seed := range uint64(2) {
		c := newCrowd(t, seed, 1000)
		c.round(0, false)
		c.round(1, false)
		for i := range 60 {
			for range 3 * MaxRingEntries / 60 {
				c.write(put(fmt.Sprint("k", c.random.IntN(100)), "v"))
			}
			c.write(role(i + 1))
			for _, m := range c.members {
				m.show(c.random.IntN(2 * len(m.lags)))
			}
			c.round(i, true)
		}
		for _, m := range c.members {
			m.show(len(m.lags))
		}
		for i := range 6 {
			c.round(3*i, false)
		}
		want := c.machine.m.View().DigestOf(publicClass)
		for i, o := range c.crowd {
			if got := o.replica.View().DigestOf(publicClass); got != want {
				t.Fatalf("seed %d: follower %d is at revision %d and differs from revision %d", seed, i, o.replica.View().Revision(), c.machine.m.View().Revision())
			}
		}
		t.Logf("seed %d: %d connections went on where the one before had ended, %d began with a snapshot again", seed, c.resumed, c.again)
		if c.resumed < 1000 {
			t.Errorf("seed %d: only %d connections were resumed", seed, c.resumed)
		}
		if c.again > 0 {
			t.Errorf("seed %d: %d followers needed a snapshot again", seed, c.again)
		}
		for _, o := range c.crowd {
			o.cut()
		}
	}
}

// Keys alone do not let a follower of the public class fall out, while one of keys does: the control.
func TestRingKeepsPublicChanges(t *testing.T) {
	c := newCore(t, DefaultTiming)
	c.apply(role(1))
	here := c.m.View().Revision()
	c.apply(role(2))
	for i := range MaxRingEntries + 10 {
		c.apply(put("k", fmt.Sprint(i)))
	}
	from := c.hub.ring.start(here)
	if now := c.hub.ring.sinceOf(from, publicClass); now.gone || len(now.entries) != 1 {
		t.Errorf("public: gone %v, %d entries, want the one change", now.gone, len(now.entries))
	}
	if now := c.hub.ring.sinceOf(from, state.NewClassSet(state.ClassPublic, state.ClassKV)); !now.gone {
		t.Error("with keys: the ring cannot hold all that")
	}
	for i := range MaxRingEntries + 1 {
		c.apply(role(i))
	}
	if now := c.hub.ring.sinceOf(from, publicClass); !now.gone {
		t.Error("public: the ring has a limit, and more than that came")
	}
}

// Followers that make the same step get the same bytes; another step, another class or a large step are others'.
func TestStepsAreShared(t *testing.T) {
	c := newCore(t, DefaultTiming)
	var first, second [][]byte
	open := func(out *[][]byte, classes ...state.Class) *Feed {
		f, err := c.hub.Feed(Cursor{Revision: c.m.View().Revision()}, classes, func(b []byte) error {
			*out = append(*out, b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(&first, public...), open(&second, public...)
	defer a.Close()
	defer b.Close()
	c.apply(role(1))
	for _, f := range []*Feed{a, b} {
		if err := f.Look(false); err != nil {
			t.Fatal(err)
		}
	}
	if len(first) != 1 || len(second) != 1 || &first[0][0] != &second[0][0] {
		t.Fatalf("two followers of one step got %d and %d frames, not the same one", len(first), len(second))
	}
	var keys [][]byte
	k := open(&keys, state.ClassKV)
	defer k.Close()
	k.stream.place, k.stream.at = place{revision: c.m.View().Revision() - 1}, state.Position{Revision: c.m.View().Revision() - 1}
	if err := k.Look(true); err != nil || len(keys) != 1 || len(keys[0]) >= len(first[0]) {
		t.Fatalf("a follower of keys got a change of the public class: %x, error %v", keys, err)
	}
	cache := &c.hub.ring.frames
	large := cachedStep{step: step{classes: publicClass, to: state.Position{Revision: 99}}, frames: [][]byte{make([]byte, maxCachedStep+1)}}
	cache.put(large)
	if _, ok := cache.get(large.step); ok {
		t.Error("a step over the limit is kept")
	}
}

// BenchmarkFollowers is one write that concerns followers: applied, published, and a frame made for each. It reports the
// processor time of a write.
func BenchmarkFollowers(b *testing.B) {
	for _, n := range []int{0, 10, 100, 1000} {
		b.Run(fmt.Sprintf("followers=%d", n), func(b *testing.B) {
			c := newCore(b, DefaultTiming)
			feeds := make([]*Feed, n)
			for i := range feeds {
				f, err := c.hub.Feed(Cursor{Revision: c.m.View().Revision()}, public, func([]byte) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(f.Close)
				feeds[i] = f
			}
			began := processorTime(b)
			for i := 0; b.Loop(); i++ {
				c.apply(role(i))
				c.hub.Turn()
				for _, f := range feeds {
					<-f.sub.c
					if err := f.Look(false); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/write")
		})
	}
}

// processorTime is what this process has used so far.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
