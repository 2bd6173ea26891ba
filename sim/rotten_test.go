package sim

import (
	crand "crypto/rand"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/parley-mesh/parley/storage"
)

// rot puts snapshots in the place of a host's own whose files are whole and which hold no state: of its newest, or of all.
func (c *cluster) rot(t *testing.T, h *host, all bool) {
	t.Helper()
	snaps, err := storage.OpenSnapshots(h.snapshotOptions())
	if err != nil {
		t.Fatal(err)
	}
	meta, _, ok := snaps.Latest()
	if !ok {
		t.Fatal("there is no snapshot")
	}
	if all {
		h.dropSnapshots()
		if snaps, err = storage.OpenSnapshots(h.snapshotOptions()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := snaps.Save(meta, func(w io.Writer) error { _, err := io.WriteString(w, "no rows"); return err }); err != nil {
		t.Fatal(err)
	}
	h.rotten = true
}

// A member whose newest snapshot holds what cannot be restored starts from the one before and its log, and one that has no other
// from a snapshot of another member. It keeps its Raft id, and nothing that was acknowledged is lost.
func TestRottenSnapshot(t *testing.T) {
	old := crand.Reader
	defer func() { crand.Reader = old }()
	for _, all := range []bool{false, true} {
		crand.Reader = rand.NewChaCha8([32]byte{1}) // raft's timeouts
		o := Options{Seed: 1, Nodes: 3, Calm: true, Think: 25 * time.Millisecond}
		c, err := newCluster(o, rand.New(rand.NewPCG(o.Seed, 1)))
		if err != nil {
			t.Fatal(err)
		}
		c.clients.start()
		c.watchers.start()
		c.control()
		h := c.hosts[1]
		c.until(20*time.Second, func() bool { return h.up && len(h.filesOf("manifest")) == 2 })
		id := h.id
		h.crash(storage.KeepUnsynced)
		c.rot(t, h, all)
		c.boot(h)
		c.until(c.now+healTime, c.whole)
		c.until(c.now+time.Second, func() bool { return false })
		c.clients.stopped, c.frozen = true, true
		c.until(c.now+patience+time.Second, func() bool { return c.clients.waits() == 0 })
		c.finish()
		switch {
		case c.err != nil:
			t.Errorf("all %v: %v", all, c.err)
		case h.id != id || !h.up:
			t.Errorf("all %v: %s came back as %d, was %d", all, h.name, h.id, id)
		case c.fired["snapshot passed over"] == 0 || (c.fired["snapshot fetched to begin with"] > 0) != all:
			t.Errorf("all %v: %v", all, c.fired)
		}
	}
}

// Control: where nobody has put it there, a snapshot that cannot be restored is a mistake of the program, and ends the run.
func TestRottenSnapshotIsAMistake(t *testing.T) {
	o := Options{Seed: 1, Nodes: 3, Calm: true, Think: 25 * time.Millisecond}
	c, err := newCluster(o, rand.New(rand.NewPCG(o.Seed, 1)))
	if err != nil {
		t.Fatal(err)
	}
	h := c.hosts[1]
	h.crash(storage.KeepUnsynced)
	c.rot(t, h, false)
	h.rotten = false
	if c.boot(h); c.err == nil {
		t.Error("it started")
	}
}
