package api

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
)

// BenchmarkPut measures puts by the framed RPC over mutual TLS on loopback, as a leader has them from api/client: all callers
// share one connection, and each put is an entry's in the log of a core of one. That log is kept nowhere and its state machine does
// nothing, so what is left is the way of a call there and back; allocations and processor time are those of both ends.
func BenchmarkPut(b *testing.B) {
	c := newFake(b, 1, 1)
	a := c.agents["a1"]
	core := coreOfOne(b)
	a.propose = proposeTo(core)
	o := a.options()
	registry := ops.NewRegistry(ops.RegistryOptions{Board: &ops.Board{}, Elapsed: clock.Awake})
	o.OpTimeout = 10 * time.Second
	o.Observe = Observer{Request: registry.Request, Write: func(bool) func(int, bool) { return func(int, bool) {} }, Gate: registry.Gate}
	for _, begun := range []bool{true, false} {
		if o.Local.Begin = nil; begun {
			o.Local.Begin = beginAt(core)
		}
		a.service = New(o)
		server := serveRPC(b, a)
		for _, callers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("begun=%v/callers=%d", begun, callers), func(b *testing.B) { benchmarkPuts(b, server, callers) })
		}
	}
}

func benchmarkPuts(b *testing.B, server *rpcAgent, callers int) {
	value := make([]byte, 256)
	cl := server.client(b, "a2")
	if _, err := cl.Put(b.Context(), "web/1", value, client.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	began, sent := processorTime(b), server.sent.Load()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := cl.Put(b.Context(), "web/1", value, client.PutOptions{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(server.sent.Load()-sent)/float64(b.N), "writes/op")
}

func processorTime(tb testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func proposeTo(n *consensus.Node) func(context.Context, []byte) (Proposed, error) {
	return func(ctx context.Context, command []byte) (Proposed, error) {
		p, err := n.Propose(ctx, command)
		return Proposed{Index: p.Index, Term: p.Term, Stamp: p.Stamp, Data: p.Data}, err
	}
}

func beginAt(n *consensus.Node) func([]byte, func(Proposed, error)) func(error) {
	return func(command []byte, done func(Proposed, error)) func(error) {
		return n.Begin(command, func(p consensus.Proposed, err error) {
			done(Proposed{Index: p.Index, Term: p.Term, Stamp: p.Stamp, Data: p.Data}, err)
		})
	}
}

// coreOfOne is a node that leads, until the test ends.
func coreOfOne(tb testing.TB) *consensus.Node {
	tb.Helper()
	clk, err := clock.New(clock.Options{Physical: time.Now, Persist: func(clock.Stamp) error { return nil }})
	if err != nil {
		tb.Fatal(err)
	}
	one := uint64(1)
	n, err := consensus.New(consensus.Options{
		ID: one, Clock: clk, Log: noLog{}, Snapshots: noSnapshots{}, Machine: noMachine{},
		Recovered: consensus.Recovered{
			FirstIndex: 2, PrevTerm: 1, HardState: &raftpb.HardState{Term: &one, Commit: &one},
			Snapshot: &consensus.SnapshotRef{Index: 1, Term: 1, ConfState: &raftpb.ConfState{Voters: []uint64{one}}},
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			tb.Errorf("core: %v", err)
		}
	})
	tb.Cleanup(func() { cancel(); running.Wait() })
	for !n.Leads() {
		select {
		case <-n.Changed():
		case <-time.After(10 * time.Second):
			tb.Fatal("no leader")
		}
	}
	return n
}

// noLog writes nothing, at once.
type noLog struct{}

func (noLog) Append([]*raftpb.Entry, *raftpb.HardState, bool) error   { return nil }
func (noLog) Chain(uint64) ([32]byte, bool)                           { return [32]byte{}, true }
func (noLog) Compact(uint64) error                                    { return nil }
func (noLog) Settled() error                                          { return nil }
func (noLog) Reset(uint64, uint64, [32]byte, *raftpb.HardState) error { return nil }

type noSnapshots struct{}

func (noSnapshots) Save(consensus.SnapshotRef, func(io.Writer) error) ([]byte, error) {
	return nil, nil
}
func (noSnapshots) Parse([]byte) (consensus.SnapshotRef, error) { return consensus.SnapshotRef{}, nil }
func (noSnapshots) Open([]byte) (io.ReadCloser, error) {
	return io.NopCloser(new(io.LimitedReader)), nil
}
func (noSnapshots) Install(context.Context, []byte, func(context.Context, [32]byte) ([]byte, error)) error {
	return nil
}

// noMachine has the same answer for all commands.
type noMachine struct{}

func (noMachine) Apply(_, _ uint64, _ clock.Stamp, commands [][]byte) ([][]byte, error) {
	results := make([][]byte, len(commands))
	for i := range results {
		results[i] = []byte{0, 7, 0} // done, at revision 7
	}
	return results, nil
}
func (noMachine) Capture() func(io.Writer) error          { return func(io.Writer) error { return nil } }
func (noMachine) Restore(io.Reader, uint64, uint64) error { return nil }
