package consensus

import (
	"errors"
	"fmt"
	"testing"
)

// coreOfOne is a core of one whose snapshots are taken every tenth entry.
func coreOfOne(t *testing.T, tune func(*Options)) (*replicas, *fakeSnapshots) {
	t.Helper()
	c := newReplicas(t, 1)
	snaps := c.all[0].n.opts.Snapshots.(*fakeSnapshots) //nolint:errcheck // newReplicas made it
	tune(&c.all[0].n.opts)
	c.all[0].n.core.cfg.snapshotEntries, c.all[0].n.core.cfg.trailingEntries = 10, 2
	c.leader()
	return c, snaps
}

func (c *replicas) write(n int) {
	c.t.Helper()
	for i := range n {
		c.do(c.all[0].Propose(fmt.Appendf(nil, "k%d=v", i), func(_ Proposed, err error) {
			if err != nil {
				c.t.Fatal(err)
			}
		}))
		c.work()
	}
}

// work does all that waits, what a group commit left for the next included.
func (c *replicas) work() {
	c.t.Helper()
	for r := c.all[0]; r.LogWaits() || r.ApplyWaits() || r.SaveWaits(); {
		c.do(r.LogWork())
		c.do(r.ApplyWork())
		c.do(r.SaveWork())
	}
}

// TestRenewSnapshot: a snapshot is saved again when it turned out damaged, at the same index if nothing was written since,
// and the entries before it are not asked for. Without the call nothing is saved: the control.
func TestRenewSnapshot(t *testing.T) {
	c, snaps := coreOfOne(t, func(*Options) {})
	c.write(12)
	ref, _ := snaps.latest()
	if snaps.saves == 0 || ref.Index <= 1 {
		t.Fatalf("%d snapshots, the last at %d", snaps.saves, ref.Index)
	}
	r := c.all[0]
	for _, more := range []int{0, 1} {
		c.write(more)
		before, applied := snaps.saves, r.Applied()
		c.do(r.Tick())
		c.work()
		if snaps.saves != before {
			t.Fatal("control: one was saved that nobody asked for")
		}
		r.n.RenewSnapshot()
		c.do(r.settle())
		c.work()
		if ref, _ := snaps.latest(); snaps.saves != before+1 || ref.Index != applied || string(r.n.core.log.snap.Manifest) != string(ref.Manifest) {
			t.Errorf("%d saved, at %d of %d", snaps.saves-before, ref.Index, applied)
		}
	}
}

// TestDiskKeepsThePreviousSnapshotsLog: the log on disk always reaches back to the snapshot before the newest, so that the
// older one and the log make the whole state; memory does not.
func TestDiskKeepsThePreviousSnapshotsLog(t *testing.T) {
	c, snaps := coreOfOne(t, func(*Options) {})
	for range 6 {
		c.write(11)
		if len(snaps.refs) < 3 {
			continue
		}
		previous, newest := snaps.refs[len(snaps.refs)-2], snaps.refs[len(snaps.refs)-1]
		if base := c.logs[0].now.base; base > previous.Index || base+30 < previous.Index {
			t.Errorf("the log on disk begins at %d, the snapshots are at %d and %d", base+1, previous.Index, newest.Index)
		}
		if first := c.all[0].n.core.log.first(); first+2 < newest.Index {
			t.Errorf("the log in memory begins at %d, the snapshot is at %d", first, newest.Index)
		}
	}
	// A start that has only the previous one: everything is there.
	want := c.cells[0].view()
	snaps.refs = snaps.refs[:len(snaps.refs)-1]
	machine := newFakeMachine()
	o := c.all[0].n.opts
	o.Machine, o.Recovered = machine, c.logs[0].recovered(snaps)
	r, err := NewReplica(o)
	if err != nil {
		t.Fatal(err)
	}
	c.all[0] = r
	c.do(r.Start())
	c.work()
	c.leader()
	c.work()
	if got := machine.view(); fmt.Sprint(got.Values) != fmt.Sprint(want.Values) {
		t.Errorf("got %v, want %v", got.Values, want.Values)
	}
}

// TestFailedSnapshotSyncIsFinal: a snapshot that cannot be written is tried again later, unless its sync failed, which ends
// the process.
func TestFailedSnapshotSyncIsFinal(t *testing.T) {
	broken := errors.New("sync failed")
	for _, final := range []bool{false, true} {
		var told error
		c, snaps := coreOfOne(t, func(o *Options) {
			o.Final = func(err error) bool { return final && errors.Is(err, broken) }
			o.Fatal = func(err error) { told = err }
		})
		snaps.fail = broken
		r := c.all[0]
		r.n.RenewSnapshot()
		c.do(r.settle())
		c.do(r.ApplyWork())
		c.do(r.LogWork())
		err := r.SaveWork()
		if (err != nil) != final || (told != nil) != final {
			t.Errorf("final %v: SaveWork %v, Fatal %v", final, err, told)
		}
	}
}
