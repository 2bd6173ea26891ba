package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
)

const (
	// fencedFile says that the state of this member was wrong and is not trusted again yet. It outlives a restart: who
	// starts with it answers nothing before a few checkpoints were found equal.
	fencedFile = "fenced.json"
	// evidenceDir holds what the wrong states were, for people; the newest evidenceKept, of at most evidenceBytes each.
	evidenceDir   = "fenced"
	evidenceKept  = 2
	evidenceBytes = 256 << 20

	// rebuildTries is how often a state is rebuilt that is wrong again each time, before it stays fenced: then it is not
	// the memory but the program, or the machine.
	rebuildTries = 3
)

// fencing is why this member answers nothing at present. It is fencedFile.
type fencing struct {
	Index  uint64 `json:"index"`
	Reason string `json:"reason"`
	Tries  int    `json:"tries"` // rebuilds so far that did not help
}

// hopeless reports whether this member stays fenced until its process is started anew.
func (f *fencing) hopeless() bool { return f != nil && f.Tries >= rebuildTries }

// neededRebuild returns what a node ended with if its state has to be rebuilt.
func neededRebuild(err error) *consensus.RebuildNeed {
	var needed *consensus.RebuildNeededError
	if errors.As(err, &needed) {
		return &needed.RebuildNeed
	}
	return nil
}

// fence ends the service of a state that is wrong: the own log feeds the View no longer, so that this agent answers as one
// outside the core does, from the change stream, and asks others for the rest.
func (c *coreRunner) fence(n *bootedCore) {
	n.machine.distrust()
	c.views.toStream()
}

// rebuild prepares the next life of a node whose state is wrong. What it was is kept aside. The next one begins with the
// own snapshot where that is known to be right, else with one of a member that the majority agrees with.
func (c *coreRunner) rebuild(n *bootedCore, need *consensus.RebuildNeed) error {
	c.fence(n)
	c.stoppedAt.Store(nil) // it does not go on there: nothing was left out
	f := &fencing{Index: need.Index, Reason: truncate(need.Reason)}
	if c.fencing != nil && need.Again {
		f.Tries = c.fencing.Tries + 1
	}
	c.log.Error("the state of this member is wrong, it is fenced and rebuilt", zap.Uint64("index", need.Index), zap.Int("count", f.Tries),
		zap.String("reason", need.Reason))
	c.fencings.Add(1)
	c.report(api.EventFenced, c.self, f.Reason)
	if err := c.setFencing(f); err != nil {
		c.log.Warn("that this member is fenced could not be written down", zap.Error(err))
	}
	if err := c.dir.keepEvidence(need.Index, n.machine.evidence()); err != nil {
		c.log.Warn("the wrong state could not be kept aside", zap.Error(err))
	}
	if f.hopeless() {
		c.report(api.EventFenced, c.self, "it was rebuilt and is wrong again each time: it stays fenced until the agent is started anew")
		return c.again()
	}
	meta, _, ok := n.store.snapshots.Latest()
	right := ok && f.Tries == 0 && (need.Own || meta.Index <= need.Agreed) || len(c.others()) == 0
	if c.beyond, c.gate = need.Beyond, need.Gate; need.Beyond > 0 {
		right = ok && meta.Index >= need.Beyond
	}
	if !right {
		if err := c.dir.dropSnapshots(); err != nil {
			return err
		}
	}
	switch {
	case need.Log: // what it has to be is known; where that cannot be had, the Raft id is given up
		c.damage = &logDamage{err: &consensus.RebuildNeededError{RebuildNeed: *need}, need: &consensus.RepairNeed{Index: need.Index, Chain: need.Chain, Reason: need.Reason}}
		return nil
	case right:
		return c.again()
	}
	c.sources = nil
	for _, id := range need.From {
		if node, known := c.nodeOf(id); known {
			c.sources = append(c.sources, node)
		}
	}
	c.lost = fmt.Errorf("%w: the state was wrong at entry %d", consensus.ErrNoSnapshot, need.Index)
	return nil
}

// again opens the node once more, from its own snapshot and the log behind it.
func (c *coreRunner) again() (err error) {
	c.booted, err = c.build(c.ids.RaftID)
	if damage := damagedLog(err); damage != nil && c.hasOthers() {
		c.damage, err = damage, nil
	} else if c.mayRefetch(err) {
		c.lost, err = err, nil
	}
	return err
}

// setFencing writes down why this member is fenced, or with nil that it is not.
func (c *coreRunner) setFencing(f *fencing) error {
	c.fencing = f
	c.isFenced.Store(f)
	if f == nil {
		err := os.Remove(c.dir.join(fencedFile))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return c.dir.write(fencedFile, append(b, '\n'))
}

// loadFencing reads what an earlier process left. A new process is a new chance: it may be another program.
func (c *coreRunner) loadFencing() {
	b, err := os.ReadFile(c.dir.join(fencedFile))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	f := &fencing{}
	if err == nil {
		err = json.Unmarshal(b, f)
	}
	if err != nil {
		f = &fencing{Reason: fmt.Sprintf("%s cannot be read: %v", fencedFile, err)} // better once too often
	}
	f.Tries = 0
	c.fencing = f
	c.isFenced.Store(f)
}

// lookAtProbation ends the fence once enough checkpoints were found equal.
func (c *coreRunner) lookAtProbation(n *bootedCore) {
	st := n.node.Status()
	if neededRebuild(st.Stopped) != nil {
		c.fence(n)
		return
	}
	if c.fencing == nil || c.fencing.hopeless() || st.Probation > 0 || st.Stopped != nil {
		return
	}
	c.log.Info("the rebuilt state of this member equals that of the others, it answers again", zap.Uint64("index", st.Applied))
	c.endFencing()
	c.rebuilds.Add(1)
	c.report(api.EventRebuilt, c.self, "its state was rebuilt and equals that of the others again")
	n.machine.trust()
}

// endFencing forgets why this member was fenced, and what its next state had to be: it was found equal, or its Raft id has
// ended, and with it the state.
func (c *coreRunner) endFencing() {
	c.sources, c.beyond, c.gate = nil, 0, 0
	if c.fencing == nil {
		return
	}
	if err := c.setFencing(nil); err != nil {
		c.log.Warn("that this member is not fenced any more could not be written down", zap.Error(err))
	}
}

// mayServe reports whether another member may take snapshots of this one.
func (c *coreRunner) mayServe() bool { return c.isFenced.Load() == nil }

// from reports whether a snapshot may be fetched from a node.
func (c *coreRunner) from(node string) bool {
	return node != c.self && (len(c.sources) == 0 || slices.Contains(c.sources, node))
}

// dropSnapshots removes the snapshots of a state that is wrong, and leaves the log.
func (d *dataDir) dropSnapshots() error {
	if err := os.RemoveAll(d.join(snapDir)); err != nil {
		return fmt.Errorf("remove %s: %w", snapDir, err)
	}
	return nil
}

// keepEvidence writes what a wrong state was.
func (d *dataDir) keepEvidence(index uint64, write func(io.Writer) error) error {
	if err := os.MkdirAll(d.join(evidenceDir), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(d.join(evidenceDir, fmt.Sprintf("state-%016x.snap", index)), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(write(&limitedWriter{file, evidenceBytes}), file.Close())
	return errors.Join(err, d.dropEvidence())
}

// dropEvidence keeps the newest few.
func (d *dataDir) dropEvidence() error {
	names, err := filepath.Glob(d.join(evidenceDir, "state-*.snap"))
	if err != nil {
		return err
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names[min(evidenceKept, len(names)):] {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

var errEvidenceLimit = fmt.Errorf("what is beyond %d MiB was left out", evidenceBytes>>20)

// limitedWriter writes so many bytes and no more.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > l.left {
		n, err := l.w.Write(p[:l.left])
		l.left -= n
		return n, errors.Join(err, errEvidenceLimit)
	}
	l.left -= len(p)
	return l.w.Write(p)
}
