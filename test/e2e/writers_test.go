package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// writers put unique keys through every agent of a lab and remember what was acknowledged.
type writers struct {
	stop context.CancelFunc
	wait sync.WaitGroup
	via  []string // the agents written through

	mu     sync.Mutex
	acked  map[string]string // key to value
	tries  int
	failed []string // what the others met
}

// startWriters begins a steady load: one writer for each agent, one put each pause.
func startWriters(t testing.TB, l *lab.Lab, pause time.Duration) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{stop: cancel, acked: make(map[string]string)}
	for _, a := range l.Agents {
		c := clientOf(t, a)
		w.via = append(w.via, a.Name)
		w.wait.Go(func() { w.run(ctx, c, a.Name, pause) })
	}
	t.Cleanup(func() { w.end() })
	return w
}

func (w *writers) run(ctx context.Context, c *client.Client, via string, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		key, value := fmt.Sprintf("load/%s/%06d", via, n), fmt.Sprintf("%s-%d", via, n)
		putCtx, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := c.Put(putCtx, key, []byte(value), client.PutOptions{})
		cancel()
		w.mu.Lock()
		w.tries++
		switch {
		case err == nil:
			w.acked[key] = value
		case ctx.Err() == nil: // a write that our own end cut off says nothing
			w.failed = append(w.failed, fmt.Sprintf("%s via %s: %v", key, via, err))
		}
		w.mu.Unlock()
	}
}

// end stops the load; it may be called twice.
func (w *writers) end() {
	w.stop()
	w.wait.Wait()
}

func (w *writers) count() (acked, tries int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked), w.tries
}

// missing reads everything back through one agent and returns what was acknowledged and is not there.
func (w *writers) missing(ctx context.Context, c *client.Client) ([]string, error) {
	found := make(map[string]string)
	for _, via := range w.via {
		pairs, err := c.List(ctx, "load/"+via+"/", client.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			found[p.Key] = string(p.Value)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var missing []string
	for key, value := range w.acked {
		if found[key] != value {
			missing = append(missing, key)
		}
	}
	return missing, nil
}

// sameDigest wants equal rows on every agent: of all classes inside the core, of the public one outside.
func sameDigest(ctx context.Context, clients map[string]*client.Client) error {
	var first client.Status
	full := ""
	for name, c := range clients {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if s.Digest.Public == "" {
			return errors.New(name + " reports no digest")
		}
		if first.Name == "" {
			first = s
		}
		if s.Digest.Revision != first.Digest.Revision || s.Digest.Public != first.Digest.Public {
			return fmt.Errorf("%s has public digest %s at revision %d, %s has %s at %d",
				s.Name, s.Digest.Public, s.Digest.Revision, first.Name, first.Digest.Public, first.Digest.Revision)
		}
		if s.Digest.All != "" && full == "" {
			full = s.Digest.All
		}
		if s.Digest.All != "" && s.Digest.All != full {
			return fmt.Errorf("%s has digest %s, another core member has %s", s.Name, s.Digest.All, full)
		}
	}
	if full == "" {
		return errors.New("no agent holds the whole state")
	}
	return nil
}
