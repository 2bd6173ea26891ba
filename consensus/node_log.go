package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	// groupBytes ends a group commit: beyond it, waiting for one more append gains nothing.
	groupBytes = 4 << 20

	retryPauseMin = 50 * time.Millisecond
	retryPauseMax = 2 * time.Second
)

var (
	errNoChain = errors.New("the log has no chain at that index")
	errGivenUp = errors.New("the node stopped before the log could be written")
)

// logTask is one job of the log writer: exactly one field is set.
type logTask struct {
	append  *appendTask
	save    *saveTask // look up the chain, then write the snapshot
	compact uint64
	settled bool // the end of the log is in doubt no more
}

// runLog owns Log. All appends that wait become one: while one sync runs the next group gathers,
// so the group grows with the load by itself.
func (n *Node) runLog(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.logTasks.signal:
		}
		switch err := n.writeAll(ctx, n.logTasks.take()); {
		case errors.Is(err, errGivenUp):
			return nil
		case err != nil:
			return err
		}
	}
}

func (n *Node) writeAll(ctx context.Context, tasks []logTask) error {
	var g group
	for _, t := range tasks {
		if t.append != nil && t.append.snapshot == nil && g.bytes < groupBytes && (g.tasks == 0 || !n.rarely(rareLoneWrite)) {
			g.add(t.append)
			continue
		}
		if err := n.writeGroup(ctx, &g); err != nil {
			return err
		}
		if err := n.writeAlone(ctx, &g, t); err != nil {
			return err
		}
	}
	return n.writeGroup(ctx, &g)
}

// writeAlone does what cannot be merged into the group before it. g is empty.
func (n *Node) writeAlone(ctx context.Context, g *group, t logTask) error {
	switch {
	case t.append != nil:
		if s := t.append.snapshot; s != nil {
			reset := func() error { return n.opts.Log.Reset(s.Index, s.Term, s.Chain, t.append.hard) }
			if err := n.persist(ctx, "restart log behind snapshot", reset); err != nil {
				return err
			}
		}
		g.add(t.append)
	case t.save != nil:
		chain, ok := n.opts.Log.Chain(t.save.ref.Index)
		if !ok {
			ref := t.save.ref
			n.events.put(input{kind: inputSaved, ref: &ref, err: errNoChain})
			n.log.Error("snapshot skipped", zap.Uint64("index", ref.Index), zap.Error(errNoChain))
			return nil
		}
		t.save.ref.Chain = chain
		n.saves.put(t.save)
	case t.settled:
		if err := n.opts.Log.Settled(); err != nil && !n.opts.Retryable(err) {
			return n.fatal(fmt.Errorf("note that the end of the log is settled: %w", err))
		}
	default:
		if err := n.opts.Log.Compact(t.compact); err != nil && !n.opts.Retryable(err) {
			return n.fatal(fmt.Errorf("compact log to %d: %w", t.compact, err))
		}
	}
	return nil
}

// group is appends merged into one write.
type group struct {
	entries []*raftpb.Entry
	hard    *raftpb.HardState
	sync    bool
	bytes   int
	local   []*raftpb.Message
	remote  []*raftpb.Message
	tasks   int
}

// add merges the next append. Where it overlaps what is in the group it replaces it, as it would
// in the log.
func (g *group) add(t *appendTask) {
	if len(t.entries) > 0 {
		first := t.entries[0].GetIndex()
		if len(g.entries) > 0 {
			if start := g.entries[0].GetIndex(); first < start {
				g.entries = nil
			} else {
				g.entries = g.entries[:first-start]
			}
		}
		g.entries = append(g.entries, t.entries...)
		for _, e := range t.entries {
			g.bytes += int(entrySize(e))
		}
	}
	if t.hard != nil {
		g.hard = t.hard
	}
	g.sync = g.sync || t.sync
	g.local = append(g.local, t.local...)
	g.remote = append(g.remote, t.remote...)
	g.tasks++
}

// writeGroup writes and syncs the group, sends the acknowledgements, and empties it.
func (n *Node) writeGroup(ctx context.Context, g *group) error {
	if g.tasks == 0 {
		return nil
	}
	if len(g.entries) > 0 || g.hard != nil || g.sync { // a sync alone is for a hard state that was written before
		write := func() error { return n.opts.Log.Append(g.entries, plantedHard(g.hard), g.sync) }
		if g.sync {
			unmeasured := write
			write = func() error { return n.paces.timeSync(unmeasured) }
		}
		if err := n.persist(ctx, "append to log", write); err != nil {
			return err
		}
	}
	if g.hard != nil {
		n.stored = g.hard
	}
	if g.sync {
		n.synced = n.stored
	}
	n.peers.send(g.remote...)
	n.peers.ring(false)
	if local := g.local; len(local) > 0 {
		n.events.put(input{kind: inputAppended, messages: local})
	}
	*g = group{}
	return nil
}

// sleep waits for d and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// persist repeats an operation that failed for a passing reason, such as a full disk, until it
// works. Meanwhile proposals are refused, this node acknowledges nothing, and heartbeats go on.
// Any other error ends the process: after a failed sync nobody knows what the disk holds.
func (n *Node) persist(ctx context.Context, what string, op func() error) error {
	for pause := retryPauseMin; ; pause = min(2*pause, retryPauseMax) {
		err := op()
		if err == nil {
			if n.full.Swap(nil) != nil {
				n.log.Info("log is written again")
			}
			return nil
		}
		err = fmt.Errorf("%s: %w", what, err)
		if !n.opts.Retryable(err) {
			return n.fatal(err)
		}
		if n.full.Swap(&err) == nil {
			n.log.Error("log cannot be written, writes are refused", zap.Error(err))
		}
		if !n.pause(ctx, pause) {
			return errGivenUp
		}
	}
}
