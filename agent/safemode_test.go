package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/transport"
)

// TestSafeLadder: three crashes, five, eight; each start from the third on waits longer, up to a limit.
func TestSafeLadder(t *testing.T) {
	for crashes, want := range []int{0, 0, 0, 1, 1, 2, 2, 2, 3, 3} {
		if got := safeLevel(crashes); got != want {
			t.Errorf("%d crashes: mode %d, want %d", crashes, got, want)
		}
	}
	for crashes, want := range map[int]time.Duration{0: 0, 2: 0, 3: time.Second, 5: 4 * time.Second, 7: 16 * time.Second, 8: 30 * time.Second, 500: 30 * time.Second} {
		if got := safeWait(crashes); got != want {
			t.Errorf("%d crashes: up to %s, want %s", crashes, got, want)
		}
	}
}

// TestAbstain: only while a quorum of other voters is well, and not for longer than a minute without a leader.
func TestAbstain(t *testing.T) {
	for _, c := range []struct {
		voters, well int
		leaderless   time.Duration
		want         bool
	}{
		{1, 0, 0, false}, {3, 2, 0, true}, {3, 1, 0, false}, {5, 3, 59 * time.Second, true}, {5, 2, 0, false},
		{3, 2, time.Minute, false},
	} {
		if got := abstain(c.voters, c.well, c.leaderless); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestUnstableByLedger: clean starts and those that the apply guard explains do not count, nor what is older than the
// window; a boot is no crash more than its own, and the wall clock decides between two of them.
func TestUnstableByLedger(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	mustOpen(t, d, c)
	for range 3 {
		c.pass(time.Minute)
		mustOpen(t, d, c)
	}
	c.pass(time.Minute)
	l, err := d.openLedger(c.now, true)
	if err != nil {
		t.Fatal(err)
	}
	if n, since := l.unstable(10 * time.Minute); n != 3 || since != time.Minute || l.crashes() != 4 {
		t.Errorf("%d crashes, the last %s ago, %d with the explained one", n, since, l.crashes())
	}
	if n, _ := l.unstable(90 * time.Second); n != 1 {
		t.Errorf("%d within 90 s", n)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if l = mustOpen(t, d, c); l.lines[len(l.lines)-1].Explained {
		t.Error("a clean stop was explained")
	} else if n, _ := l.unstable(10 * time.Minute); n != 3 {
		t.Errorf("a clean start counts: %d", n)
	}
	c.boot, c.up = "b2", time.Second
	c.wall = c.wall.Add(2 * time.Minute)
	if n, since := mustOpen(t, d, c).unstable(10 * time.Minute); n != 4 || since != 0 {
		t.Errorf("after a boot that crashed: %d, the last %s ago", n, since)
	}
	c.pass(10 * time.Minute)
	if n, _ := l.unstable(10 * time.Minute); n != 0 {
		t.Errorf("later: %d", n)
	}
}

// crashed writes a ledger of so many crashes, the newest that long ago, and a clean stop.
func crashed(t *testing.T, cfg config.Config, crashes int, ago time.Duration) {
	t.Helper()
	at := machineTime()
	at.MS, at.Wall = at.MS-ago.Milliseconds(), at.Wall.Add(-ago)
	at.Event = ledgerStart
	lines := make([]ledgerLine, crashes+1)
	for i := range lines {
		lines[i] = at
	}
	stop := at
	stop.Event = ledgerStop
	text := encodeLedger(append(lines, stop))
	if err := os.WriteFile(filepath.Join(cfg.DataDir, ledgerFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSafeModes: an agent starts in the mode that its ledger asks for, serves what that mode leaves, says so, and does all of
// its work again in the same process when it was stable for long enough. Control: two crashes leave nothing out.
func TestSafeModes(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) { put(t, c, "k") })
	for _, m := range []struct{ crashes, mode int }{{2, 0}, {3, 1}, {5, 2}, {8, 3}} {
		left := 5 * time.Second
		crashed(t, cfg, m.crashes, cfg.SafeMode.Window-left)
		began := clock.Boottime()
		runFor(t, cfg, nil, func(c *client.Client) {
			st, err := c.Status(t.Context())
			if err != nil || st.SafeMode != m.mode {
				t.Fatalf("%d crashes: safe mode %d, want %d (%v)", m.crashes, st.SafeMode, m.mode, err)
			}
			if node, err := c.Node(t.Context(), "a1"); err != nil && m.mode < 2 || err == nil && node.SafeMode != m.mode {
				t.Errorf("%d crashes: node status says %+v, %v", m.crashes, node, err)
			}
			serves, writes := servesHTTP(cfg), writesOnce(t, c)
			if serves != (m.mode < 3) || writes != (m.mode < 2) {
				t.Errorf("mode %d: serves on http %v, takes writes %v", m.mode, serves, writes)
			}
			if lasted := clock.Boottime() - began; lasted > left {
				t.Fatalf("this machine is too slow: the look took %s", lasted)
			}
			within(t, "safe mode ends", func(ctx context.Context) error {
				if st, err := c.Status(ctx); err != nil || st.SafeMode != 0 || !st.Ready {
					return fmt.Errorf("%+v, %w", st, err)
				}
				return nil
			})
			put(t, c, "after")
			if m.mode > 0 && clock.Boottime()-began < left-time.Second {
				t.Errorf("mode %d ended after %s, want %s", m.mode, clock.Boottime()-began, left)
			}
		})
	}
}

func servesHTTP(cfg config.Config) bool {
	c, err := client.New("http://" + cfg.HTTP.Bind)
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = c.Members(ctx)
	return err == nil
}

func writesOnce(t *testing.T, c *client.Client) bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Put(ctx, "k", []byte("v"), client.PutOptions{})
	return err == nil
}

// TestRefusedStartIsNoCrash: a start that is refused, here because its port is taken, leaves the ledger as it was.
func TestRefusedStartIsNoCrash(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(*client.Client) {})
	before, err := os.ReadFile(filepath.Join(cfg.DataDir, ledgerFile))
	if err != nil {
		t.Fatal(err)
	}
	taken := cfg
	other := single(t)
	runFor(t, other, nil, func(*client.Client) {
		taken.HTTP.Bind = other.HTTP.Bind
		a, err := New(taken, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(t.Context()); err == nil {
			t.Error("it started on a port that is taken")
		}
	})
	if after, err := os.ReadFile(filepath.Join(cfg.DataDir, ledgerFile)); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the ledger is %q, was %q (%v)", after, before, err)
	}
}

// TestPaceTellsTheSafeMode: a voter of an earlier version, which says nothing of it, is well.
func TestPaceTellsTheSafeMode(t *testing.T) {
	var answer paceAnswer
	if err := json.Unmarshal([]byte(`{"fsync_ns":1,"late_ns":1,"may_lead":true}`), &answer); err != nil || answer.SafeMode != 0 {
		t.Errorf("%+v, %v", answer, err)
	}
	a := &Agent{core: &coreRunner{}, space: &spaceKeeper{}}
	a.safe.at.Store(safeQuiet)
	if raw, err := a.servePing(t.Context(), transport.Peer{}, nil); err != nil || len(raw) != 1 || raw[0] != safeQuiet {
		t.Errorf("a ping is answered %v, %v", raw, err)
	}
}

// TestOneLookIsNotEnough: who stands at once when others do not answer in time leads in safe mode on a busy host.
func TestOneLookIsNotEnough(t *testing.T) {
	var looks abstention
	for i, step := range []struct{ abstain, want bool }{
		{true, true}, {false, true}, {true, true}, {false, true}, {false, false}, {false, false}, {true, true}, {false, true},
	} {
		if got := looks.look(step.abstain); got != step.want {
			t.Errorf("look %d: abstains %v, want %v", i, got, step.want)
		}
	}
}
