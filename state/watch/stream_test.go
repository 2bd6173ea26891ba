package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/state"
	"pgregory.net/rapid"
)

var public = []state.Class{state.ClassPublic}

// link is one connection of a follower: frames go into a channel, as over a network.
type link struct {
	cancel context.CancelFunc
	frames chan []byte
	done   chan error
}

func connect(h *Hub, from Cursor, classes []state.Class) *link {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{cancel: cancel, frames: make(chan []byte, 1000), done: make(chan error, 1)}
	go func() {
		l.done <- h.Stream(ctx, from, classes, func(b []byte) error {
			l.frames <- bytes.Clone(b)
			return nil
		})
	}()
	return l
}

func (l *link) close() error {
	l.cancel()
	return <-l.done
}

// drain returns what has arrived.
func (l *link) drain() (out [][]byte) {
	for {
		select {
		case b := <-l.frames:
			out = append(out, b)
		default:
			return out
		}
	}
}

// A follower of the public class agrees with the core about it, through random writes, reconnects
// at any frame, and replacements of the core's state; it never receives a byte of another class.
func TestFollowerAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { followerAgrees(t, rt) })
	})
}

func followerAgrees(t *testing.T, rt *rapid.T) {
	c := newCore(t, DefaultTiming)
	stop := start(t, c.hub)
	defer stop()
	r := NewReplica(public...)
	l := connect(c.hub, r.Resume(), public)
	feed := func(frames [][]byte) {
		for _, b := range frames {
			if bytes.Contains(b, []byte("secret")) {
				rt.Fatal("a key or value was sent to a public follower")
			}
			if _, err := r.Feed(b); err != nil {
				rt.Fatalf("feed: %v", err)
			}
		}
	}
	for range rapid.IntRange(1, 15).Draw(rt, "steps") {
		switch rapid.IntRange(0, 6).Draw(rt, "step") {
		case 0, 1:
			c.apply(put("secret", "secret value"))
		case 2, 3:
			c.apply(role(rapid.IntRange(0, 3).Draw(rt, "role")), put("secret", "secret value"))
		case 4:
			c.apply() // only the index moves
		case 5:
			synctest.Wait()
			frames := l.drain()
			feed(frames[:rapid.IntRange(0, len(frames)).Draw(rt, "frames before the cut")])
			_ = l.close()
			l = connect(c.hub, r.Resume(), public)
		case 6:
			c.restore()
		}
	}
	time.Sleep(2 * DefaultTiming.Quiet)
	synctest.Wait()
	feed(l.drain())
	_ = l.close()
	got, want := r.View(), c.m.View()
	if got.ClassDigest(state.ClassPublic) != want.ClassDigest(state.ClassPublic) {
		rt.Fatal("the public classes differ")
	}
	if got.Revision() != want.Revision() || got.Index() != want.Index() {
		rt.Fatalf("follower at %+v, core at %+v", got.Position(), want.Position())
	}
	if got.Rows(state.TableKV)+got.Rows(state.TableSeal)+got.Rows(state.TableTombstone) != 0 {
		rt.Fatal("the follower holds rows of other classes")
	}
}

// The control of TestFollowerAgrees: without one delta, the follower refuses the next frame.
func TestLostFrameIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		r := NewReplica(public...)
		l := connect(c.hub, r.Resume(), public)
		for i := range 3 {
			synctest.Wait()
			frames := l.drain()
			if i == 1 {
				frames = frames[:0] // lost
			}
			for _, b := range frames {
				if _, err := r.Feed(b); (i == 2) != errors.Is(err, state.ErrGap) {
					t.Errorf("round %d: got %v", i, err)
				}
			}
			c.apply(role(i + 1))
		}
		_ = l.close()
	})
}

// A stream of whole key/value and public classes carries the rows, the tombstones and the floor.
func TestFollowerOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		classes := []state.Class{state.ClassPublic, state.ClassKV}
		r := NewReplica(classes...)
		l := connect(c.hub, r.Resume(), classes)
		synctest.Wait()
		c.apply(put("a", "1"), put("b", "2"), state.Delete{Key: "a"})
		synctest.Wait()
		for _, b := range l.drain() {
			if _, err := r.Feed(b); err != nil {
				t.Fatal(err)
			}
		}
		_ = l.close()
		if got, want := r.View().ClassDigest(state.ClassKV), c.m.View().ClassDigest(state.ClassKV); got != want {
			t.Fatal("the key/value classes differ")
		}
		if got, want := r.View().PrefixRevision("a"), c.m.View().PrefixRevision("a"); got != want {
			t.Errorf("prefix revision %d, want %d", got, want)
		}
	})
}

// Progress that a follower is not sent costs one small frame for each quiet interval, however many
// writes there were; silence ends with a heartbeat.
func TestStreamPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		l := connect(c.hub, Cursor{Revision: 1}, public)
		synctest.Wait()
		if got := kinds(l.drain()); got != "[heartbeat]" {
			t.Fatalf("a resumed stream began with %s, want the digest to compare", got)
		}
		for range 100 {
			c.apply(put("secret", "v"))
		}
		synctest.Wait()
		if got := kinds(l.drain()); got != "[]" {
			t.Fatalf("at once: %s, want nothing", got)
		}
		time.Sleep(DefaultTiming.Quiet)
		synctest.Wait()
		frames := l.drain()
		if got := kinds(frames); got != "[delta]" || len(frames[0]) > 64 {
			t.Fatalf("after the quiet interval: %s, want one small delta", got)
		}
		c.apply(role(1))
		synctest.Wait()
		if got := kinds(l.drain()); got != "[delta]" {
			t.Fatalf("a change that concerns it: %s, want a delta at once", got)
		}
		c.apply()
		time.Sleep(DefaultTiming.Quiet)
		synctest.Wait()
		if got := kinds(l.drain()); got != "[heartbeat]" {
			t.Fatalf("the index alone moved: %s, want a heartbeat", got)
		}
		time.Sleep(3 * DefaultTiming.Heartbeat)
		synctest.Wait()
		if got := kinds(l.drain()); got != "[heartbeat heartbeat heartbeat]" {
			t.Fatalf("three seconds of silence: %s", got)
		}
		_ = l.close()
	})
}

// Resuming costs the deltas while the ring has them, a snapshot afterwards or for a new follower.
func TestStreamResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		for i := range 10 {
			c.apply(role(i + 1))
		}
		begin := func(from Cursor) string {
			l := connect(c.hub, from, public)
			synctest.Wait()
			frames := l.drain()
			if err := l.close(); !errors.Is(err, context.Canceled) {
				t.Errorf("from %d: ended with %v", from.Revision, err)
			}
			return kinds(frames)
		}
		if got := begin(Cursor{}); got != "[begin chunk end]" {
			t.Errorf("new follower: %s", got)
		}
		if got := begin(Cursor{Revision: 3}); got != "[delta heartbeat]" {
			t.Errorf("resumed: %s", got)
		}
		for i := range MaxRingEntries {
			c.apply(role(i))
		}
		if got := begin(Cursor{Revision: 3}); got != "[begin chunk end]" {
			t.Errorf("fell out of the ring: %s", got)
		}
		err := c.hub.Stream(t.Context(), Cursor{Revision: 1 << 40}, public, nil)
		if !errors.Is(err, ErrBehind) {
			t.Errorf("cursor ahead: got %v, want ErrBehind", err)
		}
	})
}

// A follower that stopped inside an entry (its second delta was lost) gets the rest of it only.
func TestResumeInsideAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		defer stop()
		c.apply(role(0), role(1), role(2)) // revisions 2, 3, 4
		l := connect(c.hub, Cursor{Revision: 3}, public)
		synctest.Wait()
		frames := l.drain()
		_ = l.close()
		f, err := DecodeFrame(frames[0])
		if err != nil || f.Kind != FrameDelta {
			t.Fatalf("got %s, %v, want a delta", kinds(frames), err)
		}
		if d := f.Delta; d.PrevRevision != 3 || d.Revision != 4 || len(d.Changes) != 1 || d.Changes[0].Revision != 4 {
			t.Fatalf("got %+v, want revision 4 alone", d)
		}
	})
}

// What a stream may not or cannot send ends it.
func TestStreamRefuses(t *testing.T) {
	c := newCore(t, DefaultTiming)
	for _, classes := range [][]state.Class{nil, {0}, {99}} {
		if err := c.hub.Stream(t.Context(), Cursor{}, classes, nil); err == nil {
			t.Errorf("classes %v: streamed", classes)
		}
	}
	follower := NewHub(NewReplica(public...).View())
	if err := follower.Stream(t.Context(), Cursor{}, []state.Class{state.ClassKV}, nil); err == nil {
		t.Error("streamed a class that the agent does not hold")
	}
	broken := errors.New("connection reset")
	for n := range 3 {
		err := c.hub.Stream(t.Context(), Cursor{}, public, func([]byte) error {
			if n--; n < 0 {
				return broken
			}
			return nil
		})
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want the error of send", err)
		}
	}
	if n := c.hub.mu.index.count; n != 0 {
		t.Errorf("%d streams left behind", n)
	}
}

// Running out of the hub ends its streams.
func TestStreamEndsWithHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t, DefaultTiming)
		stop := start(t, c.hub)
		l := connect(c.hub, Cursor{}, public)
		synctest.Wait()
		stop()
		if err := <-l.done; !errors.Is(err, ErrStopped) {
			t.Fatalf("got %v, want ErrStopped", err)
		}
	})
}

// A replica whose rows do not add up asks for a snapshot, and takes nothing else.
func TestReplicaHealsByDigest(t *testing.T) {
	c := newCore(t, DefaultTiming)
	r := NewReplica(public...)
	load := func() {
		ctx, cancel := context.WithCancel(t.Context())
		_ = c.hub.Stream(ctx, r.Resume(), public, func(b []byte) error {
			if _, err := r.Feed(b); err != nil {
				t.Fatal(err)
			}
			if FrameKind(b[0]) == FrameSnapshotEnd {
				cancel()
			}
			return nil
		})
		cancel()
	}
	load()
	at := c.m.View().Position()
	if _, err := r.Feed(frame(t, Frame{Kind: FrameHeartbeat, Position: at, Digest: [32]byte{1}})); !errors.Is(err, state.ErrDigest) {
		t.Fatalf("got %v, want ErrDigest", err)
	}
	if r.Cursor() != (Cursor{}) {
		t.Fatal("the replica does not ask for a snapshot")
	}
	delta := Frame{Kind: FrameDelta, Delta: state.Delta{PrevRevision: at.Revision, Revision: at.Revision + 1}}
	if _, err := r.Feed(frame(t, delta)); !errors.Is(err, state.ErrGap) {
		t.Fatalf("delta: got %v, want ErrGap", err)
	}
	load()
	if r.Cursor().Revision != at.Revision {
		t.Fatal("the snapshot did not heal it")
	}
}

// Frames out of place are refused, and the last good View stays.
func TestReplicaRefuses(t *testing.T) {
	c := newCore(t, DefaultTiming)
	var whole, public1 bytes.Buffer
	if err := c.m.View().WriteSnapshot(&whole); err != nil {
		t.Fatal(err)
	}
	if err := c.m.View().WriteSnapshotOf(state.NewClassSet(public...), &public1); err != nil {
		t.Fatal(err)
	}
	beginFrame := Frame{Kind: FrameSnapshotBegin}
	for name, tc := range map[string]struct {
		frames []Frame
		want   error
	}{
		"chunk first":    {[]Frame{{Kind: FrameSnapshotChunk}}, state.ErrMalformed},
		"end first":      {[]Frame{{Kind: FrameSnapshotEnd}}, state.ErrMalformed},
		"delta inside":   {[]Frame{beginFrame, {Kind: FrameDelta}}, state.ErrMalformed},
		"begin inside":   {[]Frame{beginFrame, beginFrame}, state.ErrMalformed},
		"cut off":        {[]Frame{beginFrame, {Kind: FrameSnapshotEnd}}, state.ErrMalformed},
		"other classes":  {[]Frame{beginFrame, {Kind: FrameSnapshotChunk, Data: whole.Bytes()}}, state.ErrClass},
		"other revision": {[]Frame{beginFrame, {Kind: FrameSnapshotChunk, Data: public1.Bytes()}, {Kind: FrameSnapshotEnd}}, state.ErrGap},
		"other digest": {[]Frame{beginFrame, {Kind: FrameSnapshotChunk, Data: public1.Bytes()},
			{Kind: FrameSnapshotEnd, Position: c.m.View().Position()}}, state.ErrDigest},
	} {
		r := NewReplica(public...)
		for i, f := range tc.frames {
			_, err := r.Feed(frame(t, f))
			if last := i == len(tc.frames)-1; last && !errors.Is(err, tc.want) || !last && err != nil {
				t.Errorf("%s, frame %d: got %v, want %v at the last", name, i, err, tc.want)
			}
		}
		if r.Resume() != (Cursor{}) {
			t.Errorf("%s: the replica claims to have something", name)
		}
	}
	if _, err := NewReplica(public...).Feed(nil); !errors.Is(err, state.ErrMalformed) {
		t.Errorf("empty frame: got %v", err)
	}
}

// BenchmarkQuietStreams is the cost of one write to 1,000 followers that it does not concern.
func BenchmarkQuietStreams(b *testing.B) {
	c := newCore(b, DefaultTiming)
	streams := make([]*stream, 1000)
	for i := range streams {
		streams[i] = &stream{
			hub: c.hub, classes: state.NewClassSet(public...), place: c.hub.ring.start(1),
			at: c.m.View().Position(), send: func([]byte) error { return nil },
		}
	}
	for i := 0; b.Loop(); i++ {
		c.apply(put("k", fmt.Sprint(i)))
		for _, s := range streams {
			if err := s.catchUp(true); err != nil {
				b.Fatal(err)
			}
		}
	}
}
