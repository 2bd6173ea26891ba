package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// memoryFaults spoil the state of one replica, as bad memory or a processor that miscomputes do.
var memoryFaults = []fault{
	{"memory flip", (*cluster).flipMemory},
	{"miscomputed command", (*cluster).skewNext},
}

// noticed is how long a wrong replica may go on after the faults have ended.
const noticed = 10 * time.Second

// taint reports whether the state of some replica is wrong, or about to be.
func (c *cluster) taint() bool {
	for _, h := range c.hosts {
		if h.tainted || h.skewed {
			return true
		}
	}
	return false
}

// mayTaint draws a host whose state may be spoiled: one at a time, so that a majority stays right.
func (c *cluster) mayTaint() *host {
	h := c.anyHost()
	if h == nil || h == c.leader() || c.taint() || !c.poisons.quiet() || !c.votes(h) || !c.mayLose(h) {
		return nil
	}
	return h
}

// flipMemory changes a value under its row.
func (c *cluster) flipMemory() {
	h := c.mayTaint()
	if h == nil {
		return
	}
	rows := h.machine.View().List("k/", 0)
	if len(rows) == 0 {
		return
	}
	kv := rows[c.rnd.IntN(len(rows))]
	kv.Value[c.rnd.IntN(len(kv.Value))] ^= byte(1 << c.rnd.IntN(8))
	h.tainted, h.flipped, h.flippedAt = true, kv.Key, kv.ModRevision
	h.wrong()
	c.note("memory flipped")
	c.trace("%s: the value of %s is flipped in memory", h.name, kv.Key)
}

// skewNext makes a host apply the next put with another value.
func (c *cluster) skewNext() {
	if h := c.mayTaint(); h != nil {
		h.skewed = true
		c.trace("%s miscomputes the next put", h.name)
	}
}

func (h *host) miscompute(commands [][]byte) [][]byte {
	if !h.skewed {
		return commands
	}
	for i, command := range commands {
		e, err := state.Decode(command)
		put, ok := e.Command.(state.Put)
		if err != nil || !ok || put.Compare != nil || !strings.HasPrefix(put.Key, "k/") {
			continue
		}
		put.Value = append([]byte(nil), put.Value...)
		put.Value[len(put.Value)-1] ^= 1
		e.Command = put
		wrong, err := state.Encode(e, state.Version)
		if err != nil {
			continue
		}
		h.skewed, h.tainted, h.flipped = false, true, ""
		h.wrong()
		h.c.note("command miscomputed")
		commands = append([][]byte(nil), commands...)
		commands[i] = wrong
		break
	}
	return commands
}

// overwritten notes that the row that was flipped is gone, also from the history of its key. What was read of it meanwhile may
// be wrong too, which the digests of what is applied from now on show: see outlived.
func (h *host) overwritten(touched state.Touched) {
	for _, change := range touched.Changes {
		if change.Table == state.TableKV && change.Key == h.flipped && !h.remembers() {
			h.flipped = ""
		}
	}
}

// remembers reports whether the history of the flipped key has the flipped value still.
func (h *host) remembers() bool {
	versions, _ := h.machine.View().History(h.flipped)
	return slices.ContainsFunc(versions, func(kv state.KV) bool { return kv.ModRevision == h.flippedAt })
}

// outlived notes whether the state is right again, once nothing in it is flipped.
func (h *host) outlived(equal bool) {
	if h.flipped == "" {
		h.tainted = !equal
	}
}

// wrong notes that the state has gone wrong.
func (h *host) wrong() {
	h.spoiled++
	h.spoiledLife = h.life
}

// digest is what the host's replica tells at a checkpoint.
func (h *host) digest() ([32]byte, error) {
	v := h.machine.View()
	rows := 250
	if h.c.memory {
		rows = 2500
	}
	if _, err := h.sweep.Next(v, rows); err != nil {
		h.caught = h.tainted
		return [32]byte{}, err
	}
	h.caught = h.caught || h.tainted // what was told may be judged after the row was overwritten
	return v.Digest(), nil
}

// rebuild sets the host's snapshots aside, which may be wrong too, and starts it again from one of the majority's.
func (c *cluster) rebuild(h *host, need *consensus.RebuildNeed) {
	c.trace("%s: %s", h.name, need.Reason)
	if need.Beyond > 0 || need.Gate > 0 {
		c.note("rebuilt behind a command")
		c.rebuildBehind(h, need)
		return
	}
	c.note("rebuilt from the majority")
	if !h.tainted && !h.caught {
		c.fail("%s is fenced though its state is right: %s", h.name, need.Reason)
		return
	}
	h.crash(storage.KeepUnsynced)
	h.dropSnapshots()
	h.tainted, h.caught, h.probation = false, false, true
	c.heal(h, consensus.ErrNoSnapshot, nil, 0)
}

func (h *host) dropSnapshots() {
	for _, path := range h.disk.Paths() {
		if strings.HasPrefix(path, dataDir+"/snap/") {
			if err := h.disk.Remove(path); err != nil {
				h.c.fail("%s: %v", h.name, err)
			}
		}
	}
}

// fetchSnapshot takes a peer's snapshot in place of the host's own, which are lost or wrong.
func (c *cluster) fetchSnapshot(h *host) repairOutcome {
	snaps, _ := storage.OpenSnapshots(h.snapshotOptions())
	if snaps == nil { // that its own are damaged is why it asks
		return never
	}
	_, own, err := storage.OpenLog(h.logOptions())
	if err != nil {
		return never
	}
	for _, p := range c.hosts {
		if p == h || !p.up || p.paused || p.tainted || c.isCut(h, p) || c.isCut(p, h) {
			continue
		}
		meta, manifest, ok := p.snaps.Latest()
		if h.beyond > 0 && (!ok || meta.Index < h.beyond) {
			p.do(p.rep.RenewSnapshot)
			continue
		}
		if ok && meta.Index+1 < own.FirstIndex {
			continue // our log does not continue it; a newer one will come
		}
		fetch := func(_ context.Context, name [32]byte) ([]byte, error) { return p.snaps.Chunk(name) }
		if ok && snaps.Install(context.Background(), manifest, fetch) == nil {
			h.unusable = nil // it is gone
			c.note("snapshot fetched to begin with")
			return repaired
		}
	}
	return later
}
