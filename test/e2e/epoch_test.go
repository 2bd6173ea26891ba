package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/state"
)

// leaveWithin is how long after it can reach the new core a member of the old one may still acknowledge a write of its own.
// What it takes is about a second.
const leaveWithin = 10 * time.Second

// TestEpochFence: two of three members are frozen, the third is recovered into a new epoch and serves; then the two thaw,
// with a majority of the old core between them, beside clients that write to them all the time. They learn that their epoch
// has passed: from then on they acknowledge nothing of it, they keep their logs aside, take part in the new core under new
// Raft ids by themselves, and all states are equal. No two leaders share an epoch and a term.
func TestEpochFence(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	kept, err := clients["a1"].Put(t.Context(), "kept", []byte("v"), client.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	survivor := named(t, l, agentInRole(t, clients, "voter"))
	// The other two suffice to acknowledge a write, and a recovery keeps what is in the survivor's log, no more.
	eventually(t, 20*time.Second, survivor.Name+" has applied what was acknowledged", func(ctx context.Context) error {
		s, err := clients[survivor.Name].Status(ctx)
		if err == nil && (s.Digest.All == "" || s.Digest.Revision < kept.Revision) {
			err = fmt.Errorf("it holds %+v, the write has revision %d", s.Digest, kept.Revision)
		}
		return err
	})
	outsider := named(t, l, agentInRole(t, clients, "none"))
	var pair []*lab.Agent
	for _, a := range l.Agents {
		if a.Name != survivor.Name && a.Name != outsider.Name {
			pair = append(pair, a)
		}
	}
	leaders := recordLeaders(t, clients)
	for _, a := range pair {
		signal(t, l, a.Name, syscall.SIGSTOP)
	}
	signal(t, l, survivor.Name, syscall.SIGKILL)
	parley(t, "disaster", "recover", "--data-dir", survivor.DataDir, "--yes", "--expect", ".epoch==2").mustWork(t)
	restart(t, l, survivor.Name)
	eventually(t, 30*time.Second, "the recovered core serves, also by the agent outside", func(ctx context.Context) error {
		for _, name := range []string{survivor.Name, outsider.Name} {
			if _, err := clients[name].Put(ctx, "new/"+name, []byte("v"), client.PutOptions{}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if core, err := clients[name].Core(ctx); err != nil || core.Epoch != 2 {
				return fmt.Errorf("%s: epoch %d (%w)", name, core.Epoch, err)
			}
		}
		return nil
	})
	acks := writeTo(t, pair)
	thawed := time.Now()
	for _, a := range pair {
		signal(t, l, a.Name, syscall.SIGCONT)
	}
	whole(t, clients)
	eventually(t, 40*time.Second, "all live in the new epoch, with equal digests", func(ctx context.Context) error {
		for name, c := range clients {
			if core, err := c.Core(ctx); err != nil || core.Epoch != 2 {
				return fmt.Errorf("%s: epoch %d (%w)", name, core.Epoch, err)
			}
		}
		return nil
	})
	eventually(t, 20*time.Second, "the clients of the two write to the new core", func(context.Context) error { return acks.inNewEpoch(pair) })
	acks.end()
	eventually(t, 20*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
	last := acks.check(t, thawed)
	t.Logf("the old pair acknowledged %d writes of its epoch, the last %s after it thawed; %d in the new one", acks.old, last.Round(time.Millisecond), acks.fresh)
	for _, a := range pair {
		if kept, err := filepath.Glob(filepath.Join(a.DataDir, "before-epoch-2-*", "wal", "*.wal")); err != nil || len(kept) == 0 {
			t.Errorf("%s has not kept its old log aside (%v)", a.Name, err)
		}
		told(t, clients[outsider.Name], a.Name, "epoch-passed")
	}
	for name, c := range clients {
		for _, key := range []string{"kept", "new/" + survivor.Name} {
			if _, err := c.Get(t.Context(), key, client.ReadOptions{}); err != nil {
				t.Errorf("%s: %s: %v", name, key, err)
			}
		}
	}
	leaders.check(t)
}

// ackLog is what clients of the old pair were told.
type ackLog struct {
	stop context.CancelFunc
	wait sync.WaitGroup

	mu         sync.Mutex
	lastOld    time.Time         // when a write of the old epoch was last acknowledged
	seenNew    map[string]uint64 // acknowledgements of the new one, by agent
	old, fresh int
	backwards  []string // old ones that came after new ones, of one agent
}

// writeTo writes to each agent all the time.
func writeTo(t *testing.T, agents []*lab.Agent) *ackLog {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := &ackLog{stop: cancel, seenNew: make(map[string]uint64)}
	for _, a := range agents {
		c := clientOf(t, a)
		log.wait.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				putCtx, done := context.WithTimeout(ctx, time.Second)
				w, err := c.Put(putCtx, fmt.Sprintf("load/%s/%d", a.Name, n%100), []byte("v"), client.PutOptions{})
				done()
				if err == nil {
					log.acknowledged(a.Name, w.Revision)
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(log.end)
	return log
}

func (a *ackLog) acknowledged(name string, revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if revision >= state.RecoverRevisions { // the new epoch begins there
		a.seenNew[name]++
		a.fresh++
		return
	}
	a.old++
	a.lastOld = time.Now()
	if a.seenNew[name] > 0 {
		a.backwards = append(a.backwards, fmt.Sprintf("%s: revision %d", name, revision))
	}
}

func (a *ackLog) inNewEpoch(agents []*lab.Agent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, agent := range agents {
		if a.seenNew[agent.Name] < 10 {
			return fmt.Errorf("%s: %d", agent.Name, a.seenNew[agent.Name])
		}
	}
	return nil
}

func (a *ackLog) end() {
	a.stop()
	a.wait.Wait()
}

// check returns how long after the thaw the old epoch was last heard of.
func (a *ackLog) check(t *testing.T, thawed time.Time) (last time.Duration) {
	t.Helper()
	if a.old > 0 {
		last = a.lastOld.Sub(thawed)
	}
	if last > leaveWithin {
		t.Errorf("the old epoch acknowledged a write %s after the thaw", last)
	}
	for _, line := range a.backwards {
		t.Errorf("acknowledged in the old epoch after the new one: %s", line)
	}
	return last
}

// leaderLog is who led, by epoch and term, as any agent told it.
type leaderLog struct {
	stop context.CancelFunc
	wait sync.WaitGroup

	mu   sync.Mutex
	seen map[[2]uint64]string
	two  []string
}

func recordLeaders(t *testing.T, clients map[string]*client.Client) *leaderLog {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := &leaderLog{stop: cancel, seen: make(map[[2]uint64]string)}
	for name, c := range clients {
		log.wait.Go(func() {
			for ctx.Err() == nil {
				askCtx, done := context.WithTimeout(ctx, time.Second)
				core, err := c.Core(askCtx)
				done()
				if err == nil && core.Leader != nil {
					log.note(name, [2]uint64{core.Epoch, core.Term}, *core.Leader)
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); log.wait.Wait() })
	return log
}

func (l *leaderLog) note(by string, when [2]uint64, leader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.seen[when]; ok && was != leader {
		l.two = append(l.two, fmt.Sprintf("epoch %d, term %d: %s and, by %s, %s", when[0], when[1], was, by, leader))
	}
	l.seen[when] = leader
}

func (l *leaderLog) check(t *testing.T) {
	t.Helper()
	l.stop()
	l.wait.Wait()
	for _, line := range l.two {
		t.Errorf("two leaders: %s", line)
	}
	epochs := map[uint64]bool{}
	for when := range l.seen {
		epochs[when[0]] = true
	}
	if !epochs[1] || !epochs[2] {
		t.Errorf("leaders were seen in the epochs %v, want 1 and 2", epochs)
	}
}
