package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// hatched makes canaries at the given indexes.
func hatched(epoch uint64, indexes ...uint64) []state.Canary {
	var out []state.Canary
	for _, i := range indexes {
		out = append(out, state.Canary{Index: i, At: clock.Stamp(i) << 16, Epoch: epoch, Node: "a1"})
	}
	return out
}

func upTo(epoch, from, to uint64) []state.Canary {
	var out []state.Canary
	for i := from; i <= to; i++ {
		out = append(out, hatched(epoch, i)...)
	}
	return out
}

// TestCanaryBook: what is remembered and is neither there nor pushed out by newer ones is lost; a change of a row is a loss,
// a state that grew is none.
func TestCanaryBook(t *testing.T) {
	changed := hatched(1, 7)
	changed[0].Node = "a2"
	const full = state.MaxCanaries
	for _, test := range []struct {
		name         string
		seen, there  []state.Canary
		epoch        uint64
		keep         bool
		lost         []uint64
		remembers    int
		knownAsGiven bool // up, by a recovery
	}{
		{"nothing yet", nil, nil, 1, true, nil, 0, false},
		{"learns", nil, hatched(1, 5, 7), 1, true, nil, 2, false},
		{"learns nothing if it is not one of those", nil, hatched(1, 5, 7), 1, false, nil, 0, false},
		{"control: all there, and more", hatched(1, 5, 7), hatched(1, 5, 7, 9), 1, true, nil, 3, false},
		{"looks after what it has", hatched(1, 5, 7), hatched(1, 5, 9), 1, false, []uint64{7}, 1, false},
		{"the newest is gone", hatched(1, 5, 7), hatched(1, 5), 1, true, []uint64{7}, 1, false},
		{"all are gone", hatched(1, 5, 7), nil, 1, true, []uint64{5, 7}, 0, false},
		{"one in the middle", hatched(1, 5, 7, 9), hatched(1, 5, 9), 1, true, []uint64{7}, 2, false},
		{"another row in its place", hatched(1, 7), changed, 1, true, []uint64{7}, 1, false},
		{"given up by a recovery", hatched(1, 5, 7), append(hatched(1, 5), hatched(2, 1000)...), 2, true, []uint64{7}, 2, true},
		{"a recovery that lost nothing", hatched(1, 5, 7), append(hatched(1, 5, 7), hatched(2, 1000)...), 2, true, nil, 3, false},
		{"pushed out", hatched(1, 5, 7), upTo(1, 6, 5+full), 1, true, nil, full, false},
		{"older than all there, and those are few", hatched(1, 5), hatched(1, 7), 1, true, []uint64{5}, 1, false},
		{"not pushed out: newer than the oldest", hatched(1, 7), append(hatched(1, 5), upTo(1, 8, 6+full)...), 1, true, []uint64{7}, full, false},
	} {
		sight := canarySight{canaries: test.there, epoch: test.epoch, at: clock.Stamp(5000) << 16}
		next, missed := canaryBook{Seen: test.seen}.look(sight, test.keep)
		var lost []uint64
		for _, l := range missed {
			lost = append(lost, l.Index)
		}
		if !slices.Equal(lost, test.lost) || len(next.Seen) != test.remembers || !slices.Equal(next.Lost, missed) {
			t.Errorf("%s: lost %v, want %v; it remembers %d, want %d", test.name, lost, test.lost, len(next.Seen), test.remembers)
		}
		if len(missed) > 0 {
			text := canaryLoss(missed)
			if got := strings.Contains(text, fmt.Sprintf("the recovery into epoch %d gave them up", test.epoch)); got != test.knownAsGiven ||
				got == strings.Contains(text, "the core has lost them") || len(text) > state.MaxEventMessageBytes {
				t.Errorf("%s: %s", test.name, text)
			}
		}
		if again, more := next.look(sight, test.keep); len(more) > 0 || !again.equal(next) {
			t.Errorf("%s: looking once more finds %v", test.name, more)
		}
	}
}

// TestCanaryLossEnds: a loss is told of for a day by the cluster's time, and the newest MaxCanaries of them.
func TestCanaryLossEnds(t *testing.T) {
	at := func(d time.Duration) canarySight {
		return canarySight{epoch: 1, at: clock.Stamp(d.Milliseconds()) << 16}
	}
	b, _ := canaryBook{Seen: upTo(1, 1, state.MaxCanaries)}.look(at(0), true)
	b.Seen = hatched(1, 1000)
	b, _ = b.look(at(time.Hour), true)
	if len(b.Lost) != state.MaxCanaries || b.Lost[state.MaxCanaries-1].Index != 1000 {
		t.Errorf("%d are lost, the last %+v", len(b.Lost), b.Lost[len(b.Lost)-1])
	}
	if b, _ = b.look(at(canaryMemory), true); len(b.Lost) != 1 {
		t.Errorf("a day after the first: %d", len(b.Lost))
	}
	if b, _ = b.look(at(canaryMemory+time.Hour), true); len(b.Lost) != 0 {
		t.Errorf("a day after the last: %d", len(b.Lost))
	}
}

// TestKeepsCanaries: every core member remembers, and as many others as were agreed on, the same for all who ask.
func TestKeepsCanaries(t *testing.T) {
	core := []string{"a1", "a2", "a3"}
	var nodes, outside []string
	for i := range 200 {
		nodes = append(nodes, fmt.Sprintf("a%d", i+1))
	}
	for _, n := range nodes {
		if keeps := keepsCanaries(n, core, nodes); slices.Contains(core, n) && !keeps {
			t.Errorf("%s of the core does not", n)
		} else if keeps && !slices.Contains(core, n) {
			outside = append(outside, n)
		}
	}
	if len(outside) != canaryKeepers {
		t.Errorf("%v outside the core remember, want %d", outside, canaryKeepers)
	}
	if keepsCanaries("stranger", core, nil) {
		t.Error("an agent that is no member remembers")
	}
}

// TestCanaryFile: what was written is read; anything else is refused, also a file that something else made large. The
// largest book fits.
func TestCanaryFile(t *testing.T) {
	long := strings.Repeat("n", state.MaxNameBytes)
	var b canaryBook
	for i := range uint64(state.MaxCanaries) {
		c := state.Canary{Index: 1<<64 - 1 - i, Place: 1<<31 - 1, At: 1<<63 - 1, Epoch: 1<<64 - 1, Node: long}
		b.Seen, b.Lost = append(b.Seen, c), append(b.Lost, lostCanary{c, 1<<64 - 1, 1<<63 - 1})
	}
	file, err := b.encode()
	if err != nil || len(file) > maxCanaryBytes {
		t.Fatalf("%d bytes, %v", len(file), err)
	}
	if got, err := decodeCanaryBook(file); err != nil || !got.equal(b) {
		t.Errorf("read back: %v", err)
	}
	for i := range file {
		damaged := bytes.Clone(file)
		damaged[i] ^= 1
		if _, err := decodeCanaryBook(damaged); err == nil {
			t.Fatalf("a flipped bit in byte %d is not noticed", i)
		}
	}
	for _, bad := range [][]byte{nil, []byte("\n"), file[:len(file)-1], make([]byte, maxCanaryBytes+1)} {
		if _, err := decodeCanaryBook(bad); err == nil {
			t.Errorf("%d other bytes are a book", len(bad))
		}
	}
}

// aviary is the canaries of one core of one member, whose state the test holds.
type aviary struct {
	*canaries
	machine *state.Machine
	disk    *storage.Mem
	leading bool
	refused error // of reads
	told    []string
}

func newAviary(t *testing.T, disk *storage.Mem) *aviary {
	t.Helper()
	a := &aviary{disk: disk, leading: true, machine: state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("ab", 16), TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	})}
	a.canaries = &canaries{
		dir: &dataDir{path: "/d", fs: disk}, node: "a1", log: zap.NewNop(),
		leads: func() bool { return a.leading }, catchUp: func(context.Context) error { return a.refused },
		view:   func() *state.View { return a.machine.View() },
		report: func(kind, subject, message string) { a.told = append(a.told, kind+" "+subject+": "+message) },
		write: func(context.Context) error {
			c, err := state.Encode(state.Envelope{Command: state.WriteCanary{Node: "a1"}}, state.Version)
			if err == nil {
				v := a.machine.View()
				_, _, err = a.machine.Apply(v.Index()+1, 1, v.Stamp()+1<<16, [][]byte{c})
			}
			return err
		},
	}
	a.open()
	return a
}

// TestCanaryLost: after the state went back, an agent that remembers says so once, and again by its metric after a restart;
// while it cannot read it says nothing. The control is the time before, in which nothing is lost.
func TestCanaryLost(t *testing.T) {
	disk := storage.NewMem()
	if err := disk.MkdirAll("/d", 0o700); err != nil {
		t.Fatal(err)
	}
	a := newAviary(t, disk)
	lost := func(a *aviary) float64 { n, _ := a.lost(); return n }
	for range state.MaxCanaries + 10 {
		a.put(t.Context())
		a.look(t.Context())
	}
	a.leading = false
	if a.put(t.Context()); len(a.machine.View().Canaries()) != state.MaxCanaries || len(a.book.Seen) != state.MaxCanaries {
		t.Fatalf("%d canaries, %d remembered", len(a.machine.View().Canaries()), len(a.book.Seen))
	}
	if len(a.told) > 0 || lost(a) != 0 {
		t.Fatalf("control: %v of all are lost: %v", lost(a), a.told)
	}

	back := newAviary(t, disk) // the same file, and a state without a canary
	back.refused = errors.New("no leader")
	if back.look(t.Context()); len(back.told) > 0 || lost(back) != 0 {
		t.Errorf("without a read: %v", back.told)
	}
	back.refused = nil
	back.look(t.Context())
	back.look(t.Context())
	if len(back.told) != 1 || !strings.HasPrefix(back.told[0], api.EventCanaryLost+" a1: 64 canaries") || lost(back) != state.MaxCanaries {
		t.Errorf("%v are lost: %v", lost(back), back.told)
	}
	again := newAviary(t, disk)
	if again.look(t.Context()); len(again.told) > 0 || lost(again) != state.MaxCanaries {
		t.Errorf("after a restart %v are lost: %v", lost(again), again.told)
	}
}
