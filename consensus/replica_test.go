package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// replicas is a cluster of Replica over fakes, whose steps a test calls in a fixed order.
type replicas struct {
	t     *testing.T
	all   []*Replica
	logs  []*fakeLog
	cells []*fakeMachine
	cut   map[[2]uint64]bool // from, to
}

func newReplicas(t *testing.T, n int, tune ...func(*Options)) *replicas {
	newSim(t, 7) // makes raft's timeouts repeatable
	return replicasOf(t, n, tune...)
}

// replicasOf is newReplicas with the randomness that there is.
func replicasOf(t *testing.T, n int, tune ...func(*Options)) *replicas {
	c := &replicas{t: t}
	voters := make([]uint64, n)
	for i := range voters {
		voters[i] = uint64(i + 1)
	}
	for _, id := range voters {
		log, snaps, machine := newFakeLog(), newFakeSnapshots(), newFakeMachine()
		if err := genesis(log, snaps, voters...); err != nil {
			t.Fatal(err)
		}
		clk, err := clock.New(clock.Options{Physical: func() time.Time { return time.UnixMilli(1_700_000_000_000) },
			Persist: func(clock.Stamp) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		var r *Replica
		o := Options{ID: id, Elapsed: func() time.Duration { return time.Duration(r.n.core.ticks) * defaultTick }, Clock: clk, Log: log, Recovered: log.recovered(snaps), Snapshots: snaps, Machine: machine,
			Peers:     PeerOptions{NodeOf: func(id uint64) (string, bool) { return fmt.Sprint(id), true }},
			Retryable: func(err error) bool { return errors.Is(err, errNoRoom) }}
		for _, f := range tune {
			f(&o)
		}
		if r, err = NewReplica(o); err != nil {
			t.Fatal(err)
		}
		c.all, c.logs, c.cells = append(c.all, r), append(c.logs, log), append(c.cells, machine)
	}
	for _, r := range c.all {
		c.do(r.Start())
	}
	return c
}

var errNoRoom = errors.New("no room")

func (c *replicas) do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// settle does all work and delivers all frames until nothing is left.
func (c *replicas) settle() {
	for busy := true; busy; {
		busy = false
		for i, r := range c.all {
			for r.LogWaits() && len(r.redo) == 0 || r.ApplyWaits() || r.SaveWaits() || r.InstallWaits() {
				c.do(r.LogWork())
				c.do(r.ApplyWork())
				c.do(r.SaveWork())
				c.do(r.InstallWork(context.Background()))
				busy = true
			}
			for _, f := range r.TakeFrames() {
				if c.cut[[2]uint64{uint64(i + 1), f.To}] {
					c.do(r.Lost(f.To, true))
					continue
				}
				c.do(c.all[f.To-1].Receive(fmt.Sprint(i+1), f.Body))
				busy = true
			}
		}
	}
}

func (c *replicas) leader() *Replica {
	for range 100 {
		for _, r := range c.all {
			if r.Leads() {
				return r
			}
		}
		for _, r := range c.all {
			c.do(r.Tick())
		}
		c.settle()
	}
	c.t.Fatal("no leader")
	return nil
}

// TestReplica: a cluster of replicas, driven by steps, elects, writes, reads and hands over.
func TestReplica(t *testing.T) {
	c := newReplicas(t, 3)
	leader := c.leader()
	var got Proposed
	var failed error
	c.do(leader.Propose([]byte("k=v"), func(p Proposed, err error) { got, failed = p, err }))
	c.settle()
	if failed != nil || got.Index == 0 {
		t.Fatalf("%+v, %v", got, failed)
	}
	for i, r := range c.all {
		if r.Applied() < got.Index {
			c.do(r.Tick()) // the commit index travels with the next heartbeat
			c.settle()
		}
		_ = i
	}
	read := uint64(0)
	c.do(leader.ReadIndex(func(index uint64, err error) { read, failed = index, err }))
	c.settle()
	if failed != nil || read < got.Index {
		t.Errorf("read at %d after a write at %d: %v", read, got.Index, failed)
	}
	to := leader.Status().ID%3 + 1
	c.do(leader.TransferLeader(to, func(err error) { failed = err }))
	c.settle()
	if failed != nil || !c.all[to-1].Leads() || leader.Leads() {
		t.Errorf("transfer to %d: %v", to, failed)
	}
}

// TestReplicaNoRoom: what finds no room is done later, and acknowledged only then.
func TestReplicaNoRoom(t *testing.T) {
	c := newReplicas(t, 1)
	leader := c.leader()
	full := true
	c.logs[0].fail = func() error {
		if full {
			return errNoRoom
		}
		return nil
	}
	acked := false
	c.do(leader.Propose([]byte("k=v"), func(_ Proposed, err error) { acked = err == nil }))
	c.do(leader.LogWork())
	c.settle()
	if acked || !leader.LogWaits() {
		t.Fatalf("acknowledged %v without room; waits %v", acked, leader.LogWaits())
	}
	var refused error
	c.do(leader.Propose([]byte("k=w"), func(_ Proposed, err error) { refused = err }))
	if unavailable := (*UnavailableError)(nil); !errors.As(refused, &unavailable) {
		t.Errorf("a write while the disk is full: %v", refused)
	}
	full = false
	c.do(leader.LogWork())
	c.settle()
	if !acked {
		t.Error("not acknowledged once there was room")
	}
}

// TestReplicaRefusesStrangers: frames pass the checks of a Node.
func TestReplicaRefusesStrangers(t *testing.T) {
	c := newReplicas(t, 3)
	c.do(c.all[0].Tick())
	for range 30 {
		c.do(c.all[0].Tick())
	}
	c.do(c.all[0].LogWork())
	frames := c.all[0].TakeFrames()
	if len(frames) == 0 {
		t.Fatal("a candidate says nothing")
	}
	if err := c.all[1].Receive("3", frames[0].Body); err == nil {
		t.Error("a frame under another name was taken")
	}
	if err := c.all[1].Receive("1", bytes.Repeat([]byte{9}, 20)); err == nil {
		t.Error("garbage was taken")
	}
}
