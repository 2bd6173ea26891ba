package agent

import (
	"errors"
	"io"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

// TestSpaceFloor: writes stop below the floor and go on a quarter above it; a small file system has a small floor; 0 is none.
func TestSpaceFloor(t *testing.T) {
	const mib = 1 << 20
	f := spaceFloor{bytes: 256 * mib}
	for _, look := range []struct {
		free, total uint64
		low         bool
	}{
		{1000, 100_000, false}, {257, 100_000, false}, {255, 100_000, true}, {300, 100_000, true}, {319, 100_000, true},
		{320, 100_000, false}, {256, 100_000, false}, {255, 100_000, true}, {1000, 100_000, false},
		{9, 160, false}, {7, 160, true}, {9, 160, true}, {10, 160, false}, // a twentieth: 8 MiB
	} {
		if low := f.judge(look.free*mib, look.total*mib); low != look.low {
			t.Errorf("%d MiB free of %d: low %v", look.free, look.total, low)
		}
	}
	if none := (&spaceFloor{}); none.judge(0, 100_000*mib) {
		t.Error("a floor of 0 refuses")
	}
}

// TestFloorComesBeforeTheFullDisk: whoever stops writing at the floor never sees a full disk, and has room for a snapshot
// and the next segment. Without the floor, the control, the disk is full.
func TestFloorComesBeforeTheFullDisk(t *testing.T) {
	const segment, limit = 256 << 10, 4 << 20
	for _, floor := range []uint64{3 * segment, 0} {
		disk := storage.NewMem()
		disk.Limit(limit)
		l, _, err := storage.OpenLog(storage.LogOptions{FS: disk, Dir: "/d", ClusterID: [16]byte{1}, RaftID: 1, SegmentBytes: segment})
		if err != nil {
			t.Fatal(err)
		}
		keeper, full := spaceFloor{bytes: floor}, false
		for index := uint64(1); index < 5000; index++ {
			free := uint64(limit - disk.Used())
			if floor > 0 && keeper.judge(free, 100*limit) {
				break
			}
			err := l.Append([]*raftpb.Entry{{Index: &index, Term: new(uint64(1)), Data: make([]byte, 3000)}}, nil, true)
			if errors.Is(err, storage.ErrNoSpace) {
				full = true
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if full != (floor == 0) {
			t.Errorf("floor %d: full %v with %d of %d used", floor, full, disk.Used(), limit)
		}
		snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: disk, Dir: "/d", ClusterID: [16]byte{1}})
		if err == nil {
			_, err = snapshots.Save(storage.SnapshotMeta{Index: 1, Term: 1, ConfState: &raftpb.ConfState{Voters: []uint64{1}}}, func(w io.Writer) error {
				_, err := w.Write(incompressible(segment))
				return err
			})
		}
		if (err == nil) != (floor > 0) {
			t.Errorf("floor %d: a snapshot afterwards: %v", floor, err)
		}
	}
}

func incompressible(n int) []byte {
	out, x := make([]byte, n), uint64(88172645463325252)
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

// TestLowSpaceInWords: the refusal crosses the table as no_space, with figures and what to do.
func TestLowSpaceInWords(t *testing.T) {
	a := &Agent{ids: clusterIDs{Node: "a1"}, log: zap.NewNop()}
	err := a.consensusError(&consensus.UnavailableError{Cause: &lowSpaceError{free: 12 << 20, floor: 16 << 20}})
	e := api.AsError(err)
	if e.Code != api.CodeNoSpace || e.Message != "the disk of a1 is almost full: 12 MiB are free, and writes stop below 16 MiB" || e.Hint == "" {
		t.Errorf("%+v", e)
	}
}

// TestMayLead: a member offers to lead only if it would serve.
func TestMayLead(t *testing.T) {
	for name, spoil := range map[string]func(a *Agent, st *consensus.Status){
		"":                func(*Agent, *consensus.Status) {},
		"no vote":         func(_ *Agent, st *consensus.Status) { st.Suspended = "in doubt" },
		"applies nothing": func(_ *Agent, st *consensus.Status) { st.Stopped = consensus.ErrStopped },
		"on probation":    func(_ *Agent, st *consensus.Status) { st.Probation = 1 },
		"fenced":          func(a *Agent, _ *consensus.Status) { a.core.isFenced.Store(&fencing{Tries: rebuildTries}) },
		"no space":        func(a *Agent, _ *consensus.Status) { a.space.low.Store(true) },
	} {
		a, st := &Agent{core: &coreRunner{}, space: &spaceKeeper{}}, consensus.Status{}
		spoil(a, &st)
		if got := a.mayLead(st); got != (name == "") {
			t.Errorf("%q: it may lead: %v", name, got)
		}
	}
}
