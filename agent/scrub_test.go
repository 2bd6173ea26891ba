package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/storage"
)

// A running agent verifies its own files; an offline scrub is for one that does not run, and finds what
// was flipped meanwhile. Before the flip it finds nothing, which is the control.
func TestScrubRunningAndStopped(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k")
		report, err := c.ScrubStorage(t.Context(), 100)
		if err != nil || report.Errors != 0 || report.Segments != 1 || report.Entries < 2 || report.Bytes == 0 {
			t.Errorf("running: %+v, %v", report, err)
		}
		_, err = ScrubOffline(t.Context(), cfg.DataDir, 0)
		if !errors.Is(err, storage.ErrLocked) || !strings.Contains(Hint(err), "without --offline") {
			t.Errorf("offline beside the agent: %v, hint %q", err, Hint(err))
		}
	})
	report, err := ScrubOffline(t.Context(), cfg.DataDir, 0)
	if err != nil || report.Errors != 0 || report.Segments != 1 {
		t.Errorf("stopped: %+v, %v", report, err)
	}
	segments, err := filepath.Glob(filepath.Join(cfg.DataDir, "wal", "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	flipAt(t, segments[0], 4096+100)
	report, err = ScrubOffline(t.Context(), cfg.DataDir, 0)
	if err != nil || report.Errors == 0 || report.Problems[0].File != segments[0] || report.Problems[0].Offset != 4096 {
		t.Errorf("after the flip: %+v, %v", report, err)
	}
	if _, err := ScrubOffline(t.Context(), t.TempDir(), 0); err == nil || !strings.Contains(Hint(err), "--data-dir") {
		t.Errorf("a directory of no cluster: %v", err)
	}
}

func flipAt(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // written with an error of its own
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x20
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// The check of a single agent says what one voter lacks, and what a scrub found is in it.
func TestCheckOfARunningAgent(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k") // there is a leader from here on
		report, err := c.Check(t.Context())
		if err != nil || !report.OK {
			t.Fatalf("%+v, %v", report, err)
		}
		want := map[string]string{"leader": "ok", "certificate": "ok", "files": "ok", "disk": "ok", "quorum-margin": "warn", "core-size": "warn", "core-allowed": "warn"}
		for _, check := range report.Checks {
			if status, ok := want[check.ID]; ok && status != check.Status {
				t.Errorf("%+v, want %s", check, status)
			}
		}
		if err := os.Chmod(filepath.Join(cfg.DataDir, "identity", "host.key"), 0o644); err != nil {
			t.Fatal(err)
		}
		report, err = c.Check(t.Context())
		if err != nil || report.OK {
			t.Errorf("with a key that others can read: %+v, %v", report, err)
		}
	})
}

// The agent scrubs a minute after the start and then each day; the metric has no value before.
func TestScrubEachDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scrubber{core: &coreRunner{}, log: zap.NewNop(), turn: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		if _, known := s.scrubErrors(); known {
			t.Error("a number of errors before the first scrub")
		}
		for _, wait := range []time.Duration{scrubFirst, scrubEvery, scrubEvery} {
			s.last.Store(nil)
			time.Sleep(wait - time.Second)
			synctest.Wait()
			if s.last.Load() != nil {
				t.Errorf("scrubbed earlier than after %s", wait)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if n, known := s.scrubErrors(); !known || n != 0 {
				t.Errorf("after %s: %v, %t", wait, n, known)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A result speaks for the files that it was about, and for a day: not for those of an earlier Raft id, nor for ever when
// no scrub gets through any more. Fresh, of the present files, it counts: that is the control.
func TestScrubResultAges(t *testing.T) {
	for name, test := range map[string]struct {
		last  *scrubbed
		known bool
	}{
		"fresh":               {&scrubbed{at: clock.Boottime()}, true},
		"older than a day":    {&scrubbed{at: clock.Boottime() - scrubStale - time.Second}, false},
		"of another Raft id":  {&scrubbed{node: &coreNode{}, at: clock.Boottime()}, false},
		"none, or one failed": {nil, false},
	} {
		s := &scrubber{core: &coreRunner{}}
		s.last.Store(test.last)
		if _, known := s.scrubErrors(); known != test.known {
			t.Errorf("%s: known %t", name, known)
		}
	}
}

// One scrub at a time: a second one is refused, not queued.
func TestScrubOneAtATime(t *testing.T) {
	s := &scrubber{core: &coreRunner{}, log: zap.NewNop(), turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	_, err := s.scrub(t.Context(), scrubRate)
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Code != api.CodeBusy {
		t.Errorf("got %v, want busy", err)
	}
	<-s.turn
	if _, err := s.scrub(t.Context(), scrubRate); err != nil {
		t.Errorf("control: %v", err)
	}
}
