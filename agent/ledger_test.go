package agent

import (
	"os"
	"strings"
	"testing"
	"time"
)

// testClock is a host whose clocks a test moves.
type testClock struct {
	boot string
	up   time.Duration
	wall time.Time
}

func (c *testClock) now() ledgerLine {
	return ledgerLine{Boot: c.boot, MS: c.up.Milliseconds(), Wall: c.wall}
}

func (c *testClock) pass(d time.Duration) { c.up, c.wall = c.up+d, c.wall.Add(d) }

func testDir(t *testing.T) *dataDir {
	t.Helper()
	d, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustOpen(t *testing.T, d *dataDir, c *testClock) *ledger {
	t.Helper()
	l, err := d.openLedger(c.now, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The ledger counts starts over crashes, tells a clean stop from none, and forgets starts after ten minutes: by the
// boottime clock within one boot, so that a wall clock that is set back or ahead changes nothing.
func TestLedgerCountsStarts(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	first := mustOpen(t, d, c)
	if !first.first() || first.clean() || first.starts() != 1 {
		t.Errorf("the first start: first %v, clean %v, %d starts", first.first(), first.clean(), first.starts())
	}
	c.pass(time.Minute) // and it crashes
	if l := mustOpen(t, d, c); l.first() || l.clean() || l.starts() != 2 {
		t.Errorf("after a crash: first %v, clean %v, %d starts, want false, false, 2", l.first(), l.clean(), l.starts())
	} else if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	c.wall = c.wall.Add(-24 * time.Hour)
	c.pass(time.Minute)
	l := mustOpen(t, d, c)
	if !l.clean() || l.starts() != 3 {
		t.Errorf("after a clean stop and a wall clock set back: clean %v, %d starts, want true, 3", l.clean(), l.starts())
	}
	c.pass(8*time.Minute + time.Second)
	if got := l.starts(); got != 2 {
		t.Errorf("ten minutes after the first: %d starts, want 2", got)
	}
	c.pass(time.Hour)
	if got := l.starts(); got != 0 {
		t.Errorf("an hour later: %d starts, want 0", got)
	}
}

// A host that crashes as a whole has a new boot each time: the wall clock decides, in either direction.
func TestLedgerAcrossBoots(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	for i := range 3 {
		c.boot, c.up = "b"+string(rune('2'+i)), time.Second
		c.wall = c.wall.Add(2 * time.Minute)
		if got := mustOpen(t, d, c).starts(); got != i+1 {
			t.Errorf("boot %d: %d starts, want %d", i, got, i+1)
		}
	}
	c.boot, c.wall = "b9", c.wall.Add(-3*time.Minute)
	if got := mustOpen(t, d, c).starts(); got != 4 {
		t.Errorf("booted with a clock that was set back: %d starts, want 4", got)
	}
	c.boot, c.wall = "b10", c.wall.Add(time.Hour)
	if got := mustOpen(t, d, c).starts(); got != 1 {
		t.Errorf("an hour later: %d starts, want 1", got)
	}
}

// A start that was refused leaves the file as it was, byte for byte, or away.
func TestLedgerUndo(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	if err := mustOpen(t, d, c).undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.join(ledgerFile)); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
	mustOpen(t, d, c)
	before, err := os.ReadFile(d.join(ledgerFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, d, c).undo(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(d.join(ledgerFile)); err != nil || string(after) != string(before) {
		t.Errorf("the file is %q, was %q (%v)", after, before, err)
	}
}

// The ledger keeps its last starts, whatever a crash or somebody else left in it.
func TestLedgerIsBounded(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	for range 5 * maxLedgerStarts {
		l := mustOpen(t, d, c)
		if len(l.lines) > 2*maxLedgerStarts || l.starts() < min(len(l.lines)/2, 3) {
			t.Fatalf("%d lines, %d starts", len(l.lines), l.starts())
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(d.join(ledgerFile)); err != nil || strings.Count(string(text), "\n") > 2*maxLedgerStarts+1 {
		t.Errorf("%d lines in the file, %v", strings.Count(string(text), "\n"), err)
	}
	if err := os.WriteFile(d.join(ledgerFile), []byte("junk\n{\"event\":\"start\",\"boot\":\"b1\",\"boottime_ms\":3600000}\n{\"event\":\"sta"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := mustOpen(t, d, c); l.starts() != 2 || l.clean() {
		t.Errorf("after a line cut short: %d starts, clean %v", l.starts(), l.clean())
	}
	if l := mustOpen(t, d, c); l.starts() != 3 {
		t.Errorf("the start behind the cut line: %d starts, want 3", l.starts())
	}
}
