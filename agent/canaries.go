package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

const (
	canaryFile  = "canaries"
	canaryEvery = time.Minute
	// canaryFirst is when an agent looks for the first time after its start: what is gone was lost before it.
	canaryFirst   = 10 * time.Second
	canaryTimeout = 5 * time.Second // for a write, and for a read
)

// canaries has the leader write a row a minute that nobody needs, and a few agents look whether those that they have seen
// are still there; see canaryBook. What an agent remembers lies in a file apart from its log, and survives whatever is done
// to that.
type canaries struct {
	dir     *dataDir
	node    string
	haste   func(time.Duration) time.Duration // of a lab
	leads   func() bool
	write   func(context.Context) error
	catchUp func(context.Context) error // with every write that was acknowledged before
	view    func() *state.View          // nil while this agent's state is not to be trusted, or there is none
	report  func(kind, subject, message string)
	log     *zap.Logger

	book  canaryBook // of the goroutine of run
	count atomic.Int64
}

func newCanaries(a *Agent) *canaries {
	return &canaries{
		dir: a.dir, node: a.ids.Node, haste: a.watcher.hasten, report: a.tellTimeline, log: a.log.Named("canary"),
		leads: func() bool { _, self, _ := a.leader(); return self },
		write: func(ctx context.Context) error {
			_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), state.WriteCanary{Node: a.ids.Node})
			return err
		},
		catchUp: a.service.CatchUp,
		view: func() *state.View {
			if v := a.hub.View(); v.Index() > 0 && a.core.isFenced.Load() == nil {
				return v
			}
			return nil
		},
	}
}

// run writes and looks until ctx ends.
func (c *canaries) run(ctx context.Context) error {
	c.open()
	pause(ctx, c.haste(canaryFirst))
	c.look(ctx)
	for ctx.Err() == nil {
		pause(ctx, c.haste(canaryEvery))
		c.put(ctx)
		c.look(ctx)
	}
	return nil
}

// open reads what an earlier process remembered. A file that is damaged is no reason not to start: it is begun anew.
func (c *canaries) open() {
	book, err := c.read()
	if err != nil {
		c.log.Warn("remembered canaries cannot be read, beginning anew", zap.Error(err))
	}
	c.book = book
	c.count.Store(int64(len(book.Lost)))
}

func (c *canaries) read() (canaryBook, error) {
	f, err := c.dir.fs.OpenRead(c.dir.join(canaryFile))
	if errors.Is(err, os.ErrNotExist) {
		return canaryBook{}, nil
	}
	if err != nil {
		return canaryBook{}, err
	}
	defer func() { _ = f.Close() }() // only read
	file, err := io.ReadAll(io.NewSectionReader(f, 0, maxCanaryBytes+1))
	if err != nil {
		return canaryBook{}, fmt.Errorf("read %s: %w", canaryFile, err)
	}
	return decodeCanaryBook(file)
}

// put writes a canary while this agent leads. A core that takes no writes takes none of these either; who finds out why is
// not this.
func (c *canaries) put(ctx context.Context) {
	if !c.leads() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	if err := c.write(ctx); err != nil {
		c.log.Debug("canary not written", zap.Error(err))
	}
}

// look compares what is remembered with the state. Without a linearizable read there is nothing to say: what is missing
// may only not have arrived.
func (c *canaries) look(ctx context.Context) {
	v := c.view()
	if v == nil || !c.keeps(v) && len(c.book.Seen)+len(c.book.Lost) == 0 {
		return
	}
	asked, cancel := context.WithTimeout(ctx, canaryTimeout)
	err := c.catchUp(asked)
	cancel()
	if v = c.view(); err != nil || v == nil {
		return
	}
	next, missed := c.book.look(canarySight{canaries: v.Canaries(), epoch: v.Cluster().Epoch.Counter, at: v.Stamp()}, c.keeps(v))
	if len(missed) > 0 {
		c.log.Error("acknowledged writes are gone", zap.Int("count", len(missed)), zap.Uint64("index", missed[0].Index))
		c.report(api.EventCanaryLost, c.node, canaryLoss(missed))
	}
	if !next.equal(c.book) {
		c.save(next)
	}
	c.book = next
	c.count.Store(int64(len(next.Lost)))
}

// save writes the file. Without it a restart knows less, which is no reason to stop.
func (c *canaries) save(b canaryBook) {
	file, err := b.encode()
	if err == nil {
		err = c.dir.write(canaryFile, file)
	}
	if err != nil {
		c.log.Warn("remembered canaries could not be written", zap.Error(err))
	}
}

func (c *canaries) keeps(v *state.View) bool {
	var core, nodes []string
	for _, m := range v.Core() {
		core = append(core, m.Node)
	}
	for _, n := range v.Nodes() {
		if !n.Left {
			nodes = append(nodes, n.Name)
		}
	}
	return keepsCanaries(c.node, core, nodes)
}

// lost is the metric parley_canaries_lost.
func (c *canaries) lost() (float64, bool) { return float64(c.count.Load()), true }
