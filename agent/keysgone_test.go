package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
)

func TestKeysGone(t *testing.T) {
	now := time.Duration(0)
	g := &keysGone{now: func() time.Duration { return now }}
	for _, step := range []struct {
		after time.Duration
		keys  int
		want  float64
	}{
		{0, 99, 0},
		{time.Minute, 0, 0}, // too few to say anything
		{time.Minute, 1000, 0},
		{5 * time.Second, 950, 0.05},
		{5 * time.Minute, 850, 0.15},
		{time.Second, 2000, 0}, // as many have come
		{time.Second, 900, 0.1},
		{keysGoneWindow, 900, 0}, // it is how it is now
	} {
		if now += step.after; g.ratio(step.keys) != step.want {
			t.Errorf("%d keys at %v: %v gone, want %v", step.keys, now, g.ratio(step.keys), step.want)
		}
	}
	for range 1000 {
		now += keysGoneEvery
		g.ratio(1)
	}
	if len(g.counts) > int(keysGoneWindow/keysGoneEvery)+1 {
		t.Errorf("%d counts are kept", len(g.counts))
	}
}

// TestKeysGoneAlert: a tenth of the keys deleted pages. The control are the same deletions but one.
func TestKeysGoneAlert(t *testing.T) {
	t.Parallel()
	r := start(t, single(t), 0)
	for i := range 200 {
		put(t, r.Client, fmt.Sprintf("k/%03d", i))
	}
	remove := func(n int) {
		if _, err := r.Delete(t.Context(), fmt.Sprintf("k/%03d", n), client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	state := func(ctx context.Context) (string, error) {
		alerts, err := r.Alerts(ctx)
		for _, a := range alerts {
			if a.ID == "keys-gone" {
				return a.State, err
			}
		}
		return "", fmt.Errorf("no alert keys-gone: %w", err)
	}
	within(t, "the keys are counted", func(context.Context) error {
		if n := r.agent.hub.View().KeyCount(); n != 200 || r.agent.gone.ratio(n) != 0 {
			return fmt.Errorf("%d keys", n)
		}
		return nil
	})
	g := r.agent.gone
	g.mu.Lock()
	g.counts = append(g.counts, keyCount{g.now(), 200}) // as it will in ten seconds at the latest
	g.mu.Unlock()
	for i := range 20 {
		remove(i)
	}
	time.Sleep(2 * time.Second) // the alert is judged each second
	if s, err := state(t.Context()); err != nil || s == "firing" {
		t.Errorf("control: after a tenth it is %q, %v", s, err)
	}
	remove(20)
	within(t, "the alert fires", func(ctx context.Context) error {
		s, err := state(ctx)
		if err == nil && s != "firing" {
			err = fmt.Errorf("it is %q", s)
		}
		return err
	})
}
