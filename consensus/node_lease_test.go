package consensus

import (
	"testing"
	"time"
)

// leasedReplicas are three of which the returned one leads and holds a lease. It reads the clock from *now.
func leasedReplicas(t *testing.T) (c *replicas, l *Replica, now *time.Duration) {
	t.Helper()
	now = new(time.Duration)
	c = newReplicas(t, 3, func(o *Options) { o.Elapsed = func() time.Duration { return *now } })
	for range 100 {
		*now += defaultTick
		for _, r := range c.all {
			c.do(r.Tick())
			if r.Leads() {
				l = r
			}
		}
		c.settle()
		if l != nil && l.Status().Confirmed {
			break
		}
	}
	c.do(l.ReadIndex(func(_ uint64, err error) { c.do(err) }))
	c.settle()
	if _, ok := l.n.readByLease(); !ok || l.Reads() != (Reads{ByLease: 1, ByRound: 1}) {
		t.Fatalf("no read by lease: %+v", l.Reads())
	}
	return c, l, now
}

// A reader that is stopped after it took the commit index finds the lease over, or void; one that is stopped after it has
// read the clock may answer. The index is that of before.
func TestReaderIsStopped(t *testing.T) {
	for name, between := range map[string]func(l *Replica, now *time.Duration){
		"for a second":            func(_ *Replica, now *time.Duration) { *now += time.Second },
		"longer than the lease":   func(_ *Replica, now *time.Duration) { *now += leaseShare },
		"while the loop stands":   func(_ *Replica, now *time.Duration) { *now += leaseGapTicks*defaultTick + 1 },
		"while a transfer begins": func(l *Replica, _ *time.Duration) { _ = l.TransferLeader(otherThan(l), func(error) {}) },
		"while the lead is lost":  func(l *Replica, _ *time.Duration) { l.n.leases.held.Store(nil) },
		"while another term began": func(l *Replica, now *time.Duration) {
			l.n.leases.held.Store(&heldLease{l.Term() + 1, *now + leaseShare})
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, l, now := leasedReplicas(t)
			stop := between
			l.n.leases.now = func() time.Duration {
				if f := stop; f != nil {
					stop = nil
					f(l, now)
				}
				return *now
			}
			if index, ok := l.n.readByLease(); ok {
				t.Errorf("it answered %d by its lease", index)
			}
		})
	}
}

func otherThan(l *Replica) uint64 { return l.n.opts.ID%3 + 1 }

// A node that stops answers nothing by its lease, and one without leases takes a round for each read.
func TestNoLease(t *testing.T) {
	_, l, _ := leasedReplicas(t)
	l.n.stopping.Store(true)
	if _, ok := l.n.readByLease(); ok {
		t.Error("a node that stops answered by its lease")
	}
	c := newReplicas(t, 1, func(o *Options) { o.NoLease = true })
	lone := c.leader()
	for range 3 {
		c.do(lone.ReadIndex(func(_ uint64, err error) { c.do(err) }))
		c.settle()
	}
	if got := lone.Reads(); got != (Reads{ByRound: 3}) || lone.Status().Lease != LeaseOff {
		t.Errorf("%+v, %q", got, lone.Status().Lease)
	}
}
