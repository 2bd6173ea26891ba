package consensus

import (
	"strings"
	"testing"
)

// TestWatchGivesUp: a command that does not end is given up after stallTime of looks, one that takes memory as soon as that
// is seen twice; many short ones never are, nor is a heap that grows while nothing is under way.
func TestWatchGivesUp(t *testing.T) {
	w := watched{}
	for i := range uint64(1000) {
		if cause := w.look(2*i+1, 1<<20); cause != StopUnknown {
			t.Fatalf("short commands are given up: %d", cause)
		}
		if cause := w.look(2*i+2, i<<30); cause != StopUnknown {
			t.Fatalf("nothing is under way and is given up: %d", cause)
		}
	}
	looks := 0
	for w = (watched{last: 1 << 20}); w.look(1, 1<<20) == StopUnknown; looks++ {
		if looks > 10_000 {
			t.Fatal("an endless command is never given up")
		}
	}
	if want := int(stallTime / watchEvery); looks != want {
		t.Errorf("given up after %d looks, want %d", looks, want)
	}
	w = watched{last: 1 << 20}
	if first, second := w.look(1, 4<<30), w.look(1, 4<<30); first != StopUnknown || second != StopMemory {
		t.Errorf("a command that takes 4 GiB: %d, %d", first, second)
	}
}

//go:noinline
func crashes(m map[string]int) { m["x"] = 1 }

// TestPanicIsNamed: the signature of a crash is the function that crashed, the same in every process.
func TestPanicIsNamed(t *testing.T) {
	defer func() {
		_ = recover()
		if at := panickedAt(); !strings.HasSuffix(at, "consensus.crashes") {
			t.Errorf("it panicked in %q", at)
		}
	}()
	crashes(nil)
}

// TestCrashIsTriedAgain: once after the process was killed, which need not be the command's fault, and after a panic, which
// another program may not have; never when it was given up, nor the third time.
func TestCrashIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		crash GuardCrash
		again bool
	}{
		{GuardCrash{Times: 1}, true}, {GuardCrash{Times: 2}, false}, {GuardCrash{Times: 5, Cause: StopPanic}, true},
		{GuardCrash{Times: 1, Cause: StopStalled}, false}, {GuardCrash{Times: 1, Cause: StopMemory}, false},
	} {
		if got := c.crash.again(); got != c.again {
			t.Errorf("%+v: tried again %v", c.crash, got)
		}
	}
}
