package consensus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

// runApply owns the machine. An entry that cannot be applied (an unknown command, a panic) stops
// it: skipping the entry would make this replica differ from the others. The log goes on. With a guard a panic stops it
// only until the core has decided. A disk that does not give a snapshot back ends the node.
func (n *Node) runApply(ctx context.Context) error {
	running := func() bool { return ctx.Err() == nil }
	for running() {
		select {
		case <-ctx.Done():
			return nil
		case <-n.applies.signal:
		case <-n.resumes.signal:
		}
		if err := n.applyWaiting(running); unreadable(err) {
			return err
		} else if err != nil {
			n.halt(err)
			<-ctx.Done()
			return nil
		}
	}
	return nil
}

func (n *Node) halt(err error) {
	n.log.Error("applying stopped", zap.Uint64("index", n.waits.applied.Load()+1), zap.Error(err))
	n.waits.fail(fmt.Errorf("%w: %w", ErrStopped, err))
	n.events.put(input{kind: inputHalt, err: err})
}

func (n *Node) apply(t *applyTask) error {
	stamp := clock.Stamp(0)
	if t.restore != nil {
		var err error
		if stamp, err = restoreMachine(n.opts, *t.restore); err != nil {
			return err
		}
		n.waits.advance(t.index)
	}
	for i, e := range t.entries {
		if t.capture && i == len(t.entries)-1 && mutant.On(mutant.NonatomicApplied) {
			t.write = n.opts.Machine.Capture()
		}
		if err := n.applyEntry(e, t.batches[i], t.skip(i)); err != nil {
			var stop *stopError
			if errors.As(err, &stop) {
				stop.from = i
				return stop
			}
			n.giveUp(t.batches[i:], err)
			return err
		}
		n.waits.advance(e.GetIndex())
	}
	if t.capture && t.write == nil {
		t.write = n.opts.Machine.Capture()
	}
	n.events.put(input{kind: inputApplied, task: t, stamp: stamp})
	return nil
}

// applyEntry applies one entry and answers its proposers.
func (n *Node) applyEntry(e *raftpb.Entry, b *batch, skip []int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("apply entry %d: the state machine panicked: %v\n%s", e.GetIndex(), p, debug.Stack())
		}
	}()
	var stamp clock.Stamp
	var commands [][]byte
	told, body := control(e)
	if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 && told == 0 {
		if stamp, commands, err = decodeBatch(e.GetData()); err != nil {
			return fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
	}
	if told == controlQuarantine {
		if err := n.leftOut(e); err != nil {
			return err
		}
	}
	var results [][]byte
	if n.opts.Guard != nil {
		results, err = n.applyGuarded(e, stamp, commands, skip)
	} else {
		results, err = n.opts.Machine.Apply(e.GetIndex(), e.GetTerm(), stamp, commands)
	}
	if err == nil && len(results) != len(commands) {
		err = fmt.Errorf("%d results for %d commands", len(results), len(commands))
	}
	if err != nil {
		return fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
	}
	switch told {
	case controlCheckpoint:
		n.checkpoint(e.GetIndex())
	case controlAccept:
		n.events.put(input{kind: inputAccepted, body: body})
	}
	if b == nil {
		return nil
	}
	for i, r := range b.requests {
		r.reply(outcome{done: Proposed{Index: e.GetIndex(), Term: e.GetTerm(), Stamp: stamp, Data: results[i]}})
	}
	return nil
}

// checkpoint tells the core what this replica is at a checkpoint.
func (n *Node) checkpoint(index uint64) {
	if n.opts.Digest == nil {
		return
	}
	digest, err := n.opts.Digest()
	if err != nil {
		n.events.put(input{kind: inputContradicted, text: err.Error()})
		return
	}
	if chain, known := n.opts.Log.Chain(index); known {
		n.events.put(input{kind: inputCheckpoint, id: index, mark: &mark{chain: chain, state: digest}})
	}
}

// giveUp answers proposers whose entries are committed but will not be applied here.
func (n *Node) giveUp(batches []*batch, cause error) {
	for _, b := range batches {
		if b == nil {
			continue
		}
		for _, r := range b.requests {
			r.reply(outcome{err: &OutcomeUnknownError{Cause: cause}})
		}
	}
}

// runSave writes captured states, one at a time, beside everything else.
func (n *Node) runSave(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.saves.signal:
		}
		for _, t := range n.saves.take() {
			if err := n.save(t); err != nil {
				return err
			}
		}
	}
}

// save writes one. The error is final: a sync failed, and what is on disk is unknown.
func (n *Node) save(t *saveTask) error {
	ref := t.ref
	manifest, err := []byte(nil), errRare
	if !n.rarely(rareSaveFails) {
		manifest, err = n.opts.Snapshots.Save(ref, t.write)
	}
	if err != nil {
		n.log.Error("snapshot not written", zap.Uint64("index", ref.Index), zap.Error(err))
	}
	ref.Manifest = manifest
	if written, parseErr := n.opts.Snapshots.Parse(manifest); err == nil && parseErr == nil {
		ref.Size = written.Size
	}
	n.events.put(input{kind: inputSaved, ref: &ref, err: err})
	return n.ifFinal(err)
}

// ifFinal ends the process on an error of the snapshots after which nothing on disk is to be trusted.
func (n *Node) ifFinal(err error) error {
	if err == nil || !n.opts.Final(err) {
		return nil
	}
	return n.fatal(err)
}

// runInstall fetches snapshots that peers offer, one at a time.
func (n *Node) runInstall(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.installs.signal:
		}
		for _, t := range n.installs.take() {
			if err := n.fetch(ctx, t); err != nil {
				return err
			}
		}
	}
}

func (n *Node) fetch(ctx context.Context, t *installTask) error {
	err := n.install(ctx, t)
	if err != nil {
		n.log.Warn("snapshot not installed", zap.Uint64("peer", t.from), zap.Uint64("index", t.ref.Index), zap.Error(err))
	}
	n.events.put(input{kind: inputInstalled, install: t, err: err})
	return n.ifFinal(err)
}

// errRare is the failure of something that seldom fails, see Options.Rare.
var errRare = errors.New("it was made to fail")

var errForged = errors.New("the manifest is not of the snapshot that the message names")

// installTimeout bounds a fetch: a gigabyte over a slow link takes longer than a sender waits, and
// what arrives late still counts.
const installTimeout = 10 * time.Minute

func (n *Node) install(ctx context.Context, t *installTask) error {
	if n.rarely(rareFetchFails) {
		return errRare
	}
	ref, err := n.opts.Snapshots.Parse(t.ref.Manifest)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if ref.Index != t.ref.Index || ref.Term != t.ref.Term || ref.ConfState.Equivalent(t.ref.ConfState) != nil {
		return fmt.Errorf("%w: index %d, term %d", errForged, ref.Index, ref.Term)
	}
	if chain, known := n.opts.Log.Chain(ref.Index); t.behind && known && chain != ref.Chain {
		return fmt.Errorf("%w: the log up to entry %d is another one here", errForged, ref.Index)
	}
	if n.opts.Fetch == nil {
		return errors.New("this node has no way to fetch chunks")
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	err = n.opts.Snapshots.Install(ctx, t.ref.Manifest, func(ctx context.Context, hash [32]byte) ([]byte, error) {
		return n.opts.Fetch(ctx, t.from, hash)
	})
	if err != nil {
		return fmt.Errorf("fetch from %x: %w", t.from, err)
	}
	t.ref.Chain, t.ref.Size = ref.Chain, ref.Size
	return nil
}
