package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/state"
	"pgregory.net/rapid"
)

// start runs the hub until the returned function is called, which waits for it.
func start(t testing.TB, h *Hub) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func woken(s *Subscription) bool {
	select {
	case <-s.C():
		return true
	default:
		return false
	}
}

// A subscription is woken by each change that its selector names, and by no other.
func TestWakesOnlyForWhatChanged(t *testing.T) {
	keys := []string{"a", "a/1", "a/2", "ab", "b/1", "none"}
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCore(t, DefaultTiming)
			stop := start(t, c.hub)
			defer stop()
			selectors := []Selector{{All: true}, {Table: state.TableNode, Prefix: true}, {Table: state.TableNode, Key: "a1"}}
			for _, k := range keys {
				selectors = append(selectors, Selector{Key: k}, Selector{Key: k[:1], Prefix: true}, Selector{Key: k, Prefix: true})
			}
			var subs []*Subscription
			for _, sel := range selectors {
				s, err := c.hub.Subscribe(sel)
				if err != nil {
					t.Fatal(err)
				}
				subs = append(subs, s)
			}
			defer func() {
				for _, s := range subs {
					s.Close()
				}
			}()
			synctest.Wait()
			for range rapid.IntRange(1, 10).Draw(rt, "entries") {
				touched := c.apply(drawEntry(rt, keys)...)
				synctest.Wait()
				for i, s := range subs {
					if got, want := woken(s), names(selectors[i], touched); got != want {
						rt.Fatalf("%+v: woken %v, want %v, after %+v", selectors[i], got, want, touched)
					}
				}
			}
		})
	})
}

func drawEntry(rt *rapid.T, keys []string) []state.Command {
	var out []state.Command
	for range rapid.IntRange(0, 3).Draw(rt, "commands") {
		key := rapid.SampledFrom(keys).Draw(rt, "key")
		switch rapid.IntRange(0, 4).Draw(rt, "command") {
		case 0, 1:
			out = append(out, put(key, "v"))
		case 2:
			out = append(out, state.Delete{Key: key})
		case 3:
			out = append(out, state.DeletePrefix{Prefix: key})
		case 4:
			out = append(out, role(rapid.IntRange(0, 3).Draw(rt, "role")))
		}
	}
	return out
}

// names is what a selector means, the slow way.
func names(s Selector, t state.Touched) bool {
	for _, c := range t.Changes {
		switch {
		case s.All, c.Table == s.table() && c.Key == s.Key,
			c.Table == s.table() && s.Prefix && strings.HasPrefix(c.Key, s.Key):
			return true
		}
	}
	return false
}

// Wait never misses a change: whoever waits from what it was told sees every later write, however
// the two interleave.
func TestWaitNeverMisses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCore(t, DefaultTiming)
			stop := start(t, c.hub)
			defer stop()
			ctx, cancel := context.WithCancel(context.Background())
			sel := Selector{Key: "k/", Prefix: rapid.Bool().Draw(rt, "prefix")}
			var seen uint64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					v, err := c.hub.Wait(ctx, sel, seen)
					if err != nil {
						return
					}
					seen = sel.Changed(v)
				}
			}()
			for range rapid.IntRange(1, 12).Draw(rt, "writes") {
				c.apply(rapid.SampledFrom([]state.Command{
					put("k/", "x"), put("k/1", "x"), state.Delete{Key: "k/"}, put("other", "x"),
				}).Draw(rt, "write"))
				if rapid.Bool().Draw(rt, "pause") {
					synctest.Wait()
				}
			}
			synctest.Wait()
			if want := sel.Changed(c.m.View()); seen != want {
				rt.Fatalf("saw revision %d, the last is %d", seen, want)
			}
			cancel()
			<-done
		})
	})
}

// A change elsewhere does not end a wait, a change before it ends it at once, and a replaced state
// makes everyone look.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		c.apply(put("a", "1"))
		if v, err := c.hub.Wait(t.Context(), Selector{Key: "a"}, 1); err != nil || v.Revision() != 2 {
			t.Fatalf("a change of before: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			for range 10 {
				time.Sleep(time.Second)
				c.apply(put("b", "x"))
			}
		}()
		if _, err := c.hub.Wait(ctx, Selector{Key: "a"}, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		s, err := c.hub.Subscribe(Selector{Key: "never"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c.restore()
		synctest.Wait()
		if !woken(s) {
			t.Fatal("a replaced state woke nobody")
		}
	})
}

// WaitFor ends when the index has come, in any order of the waits, and with ErrStopped when the hub
// does. Nothing is left behind.
func TestWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		errs := make(chan error, 100)
		for _, index := range []uint64{5, 3, 9, 3, 1, 4} {
			go func() {
				err := c.hub.WaitFor(t.Context(), index)
				if got := c.hub.View().Index(); err == nil && got < index {
					err = fmt.Errorf("index %d has not come, it is %d", index, got)
				}
				errs <- err
			}()
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { errs <- c.hub.WaitFor(ctx, 100) }()
		synctest.Wait()
		cancel()
		if err := <-errs; err != nil { // index 1 was there
			t.Error(err)
		}
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
		for range 4 {
			c.apply()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		stop()
		if err := <-errs; !errors.Is(err, ErrStopped) {
			t.Errorf("got %v, want ErrStopped", err)
		}
		if _, err := c.hub.Wait(t.Context(), Selector{Key: "a"}, 99); !errors.Is(err, ErrStopped) {
			t.Errorf("got %v, want ErrStopped", err)
		}
		if n := len(c.hub.mu.waiting) + c.hub.mu.index.count; n != 0 {
			t.Errorf("%d waits left behind", n)
		}
	})
}

// The limit counts subscriptions, waits and streams together; Close makes room.
func TestTooMany(t *testing.T) {
	c := newCore(t, DefaultTiming)
	subs := make([]*Subscription, MaxSubscriptions)
	for i := range subs {
		s, err := c.hub.Subscribe(Selector{Key: "k", Prefix: i%2 == 0})
		if err != nil {
			t.Fatalf("subscription %d: %v", i, err)
		}
		subs[i] = s
	}
	if _, err := c.hub.Subscribe(Selector{Key: "k"}); !errors.Is(err, ErrTooMany) {
		t.Errorf("subscribe: got %v, want ErrTooMany", err)
	}
	if _, err := c.hub.Wait(t.Context(), Selector{Key: "k"}, 5); !errors.Is(err, ErrTooMany) {
		t.Errorf("wait: got %v, want ErrTooMany", err)
	}
	if err := c.hub.WaitFor(t.Context(), 5); !errors.Is(err, ErrTooMany) {
		t.Errorf("wait for: got %v, want ErrTooMany", err)
	}
	send := func([]byte) error { return nil }
	if err := c.hub.Stream(t.Context(), Cursor{}, []state.Class{state.ClassPublic}, send); !errors.Is(err, ErrTooMany) {
		t.Errorf("stream: got %v, want ErrTooMany", err)
	}
	subs[0].Close()
	subs[0].Close()
	s, err := c.hub.Subscribe(Selector{All: true})
	if err != nil {
		t.Fatalf("after close: %v", err)
	}
	for _, s := range append(subs, s) {
		s.Close()
	}
	x := c.hub.mu.index
	nodes := 0
	for _, tree := range x.prefixes {
		nodes += len(tree.root.kids)
	}
	if x.count != 0 || len(x.keys)+nodes != 0 {
		t.Errorf("left behind: %d, %d keys, %d prefixes", x.count, len(x.keys), nodes)
	}
}

// The ring forgets by count and by bytes; who comes too late is told that something is gone.
func TestRingIsBounded(t *testing.T) {
	c := newCore(t, DefaultTiming)
	begin := c.hub.ring.start(1)
	for i := range MaxRingEntries {
		c.apply(role(i))
	}
	if now := c.hub.ring.since(begin); now.gone || len(now.entries) != MaxRingEntries {
		t.Fatalf("gone %v, %d entries, want %d", now.gone, len(now.entries), MaxRingEntries)
	}
	c.apply(role(MaxRingEntries))
	if now := c.hub.ring.since(begin); !now.gone {
		t.Fatal("an entry too many was kept")
	}
	mid := c.hub.ring.start(c.m.View().Revision())
	big := strings.Repeat("x", state.MaxValueBytes)
	for range MaxRingBytes/state.MaxValueBytes + 1 {
		c.apply(put("k", big))
	}
	if now := c.hub.ring.since(mid); !now.gone || c.hub.ring.mu.all.bytes > MaxRingBytes {
		t.Fatalf("gone %v, %d bytes kept", now.gone, c.hub.ring.mu.all.bytes)
	}
	here := c.hub.ring.start(c.m.View().Revision())
	c.restore()
	if now := c.hub.ring.since(here); !now.gone {
		t.Fatal("a place survived that the state was replaced")
	}
}

// Readers of any View run beside the writer without a lock, and each View is of one piece: both
// keys of an entry are equal. The race detector is the other half of this test.
func TestReadersBesideTheWriter(t *testing.T) {
	c := newCore(t, DefaultTiming)
	stop := start(t, c.hub)
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			for ctx.Err() == nil {
				v := c.hub.View()
				first, _ := v.Get("a")
				if rows := v.List("", 0); len(rows) > 1 && string(rows[1].Value) != string(first.Value) {
					done <- fmt.Errorf("half an entry: %q and %q", first.Value, rows[1].Value)
					return
				}
				v.Digest()
			}
			done <- nil
		}()
	}
	for i := range 500 {
		value := fmt.Sprint(i)
		c.apply(put("a", value), put("b", value))
	}
	cancel()
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkPublish is one published put with 100,000 subscriptions to other keys.
func BenchmarkPublish(b *testing.B) {
	c := newCore(b, DefaultTiming)
	for i := range 100_000 {
		if _, err := c.hub.Subscribe(Selector{Key: fmt.Sprintf("w/%d/", i), Prefix: true}); err != nil {
			b.Fatal(err)
		}
	}
	touched := c.apply(put("k", "v"))
	news := recent{view: c.m.View(), entries: []entry{{changes: touched.Changes}}}
	for b.Loop() {
		c.hub.woken(news)
	}
}
