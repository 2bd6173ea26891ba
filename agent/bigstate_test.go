package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
)

// bigValue is the size of the values that a big state is made of.
const bigValue = 256

// stateMiB is how large the state of the tests here is: 64, or what PARLEY_TEST_STATE_MIB says.
func stateMiB(t *testing.T) int {
	raw := os.Getenv("PARLEY_TEST_STATE_MIB")
	if raw == "" {
		return 64
	}
	n, err := strconv.Atoi(raw)
	if err != nil || n < 1 {
		t.Fatalf("PARLEY_TEST_STATE_MIB=%q is no number of MiB", raw)
	}
	return n
}

// bigReplica is a replica that applies puts to a state of many keys.
type bigReplica struct {
	*replica
	t     *testing.T
	keys  int
	index uint64
}

func newBigReplica(t *testing.T, mib int) *bigReplica {
	m := state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.test",
		Node:   state.Node{Name: "a1", HostKey: []byte("host key"), SealKey: make([]byte, state.SealKeyBytes)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{[]byte("root")}}, Sealed: []byte("sealed"), At: 1 << 16,
	})
	r := &replica{
		machine: m, views: &viewSwitch{hub: watch.NewHub(m.View())}, digests: &digestRing{},
		spoil: new(atomic.Pointer[func([][]byte) [][]byte]),
	}
	b := &bigReplica{replica: r, t: t, keys: mib << 20 / bigValue, index: m.View().Index()}
	for from := 0; from < b.keys; from += 1000 {
		b.put(from, min(from+1000, b.keys))
	}
	return b
}

// put writes keys in one entry.
func (b *bigReplica) put(from, to int) {
	commands := make([][]byte, 0, to-from)
	for k := from; k < to; k++ {
		value := make([]byte, bigValue)
		binary.BigEndian.PutUint64(value, b.index)
		for i := 8; i < len(value); i += 8 { // as little compressible as most values
			binary.BigEndian.PutUint64(value[i:], uint64(k*i)*0x9e3779b97f4a7c15)
		}
		c, err := state.Encode(state.Envelope{Caller: "uid:0@a1", Via: "a1", Command: state.Put{Key: fmt.Sprintf("big/%08d", k), Value: value}}, state.Version)
		if err != nil {
			b.t.Fatal(err)
		}
		commands = append(commands, c)
	}
	b.index++
	if _, err := b.Apply(b.index, 1, clock.Stamp(b.index)<<16, commands); err != nil {
		b.t.Fatal(err)
	}
}

// longestGap applies entries of 20 puts, with a checkpoint each second, until done is closed, and returns the longest time
// between the ends of two, and the longest of that which is our own: in which the system had a processor for this thread.
// Each waits a little for the next, as a core that is not at its limit does.
func (b *bigReplica) longestGap(done <-chan struct{}) (longest, own time.Duration, entries int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	last, checkpoint, waited := time.Now(), time.Now(), waitedForProcessor(b.t)
	for at := 0; ; at = (at + 7919) % (b.keys - 20) {
		select {
		case <-done:
			return longest, own, entries
		default:
		}
		b.put(at, at+20)
		if time.Since(checkpoint) > time.Second {
			if _, err := b.digest(); err != nil {
				b.t.Fatal(err)
			}
			checkpoint = time.Now()
		}
		gap := time.Since(last)
		longest, own = max(longest, gap), max(own, gap-(waitedForProcessor(b.t)-waited))
		entries++
		time.Sleep(200 * time.Microsecond)
		waited, last = waitedForProcessor(b.t), time.Now()
	}
}

// waitedForProcessor is how long the system had no processor for this thread so far, 0 where it does not say.
func waitedForProcessor(t *testing.T) time.Duration {
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		return 0
	}
	var ran, waited int64
	if _, err := fmt.Sscan(string(text), &ran, &waited); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return time.Duration(waited)
}

// longestGapBesideWork is longestGap for a time in which another goroutine computes something of no concern: what the
// machine does to the loop when it is not alone.
func (b *bigReplica) longestGapBesideWork(span time.Duration) time.Duration {
	done := make(chan struct{})
	time.AfterFunc(span, func() { close(done) })
	var worker sync.WaitGroup
	worker.Go(func() {
		page := make([]byte, 1<<20)
		for {
			select {
			case <-done:
				return
			default:
				page[0] = sha256.Sum256(page)[0]
			}
		}
	})
	longest, _, _ := b.longestGap(done)
	worker.Wait()
	return longest
}

// A snapshot of a large state is written beside the applying of entries: no entry waits over 10 ms for it, nor for the
// garbage collection of such a state. In CI the bound is five times that, or three times what the machine does to the same
// loop beside as much work of another kind. The control writes the snapshot where entries are applied, and is over it.
//
//	PARLEY_TEST_STATE_MIB=1024 go test -count=1 -run TestSnapshotPausesNoApply -v ./agent
func TestSnapshotPausesNoApply(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a state")
	}
	b := newBigReplica(t, stateMiB(t))
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: storage.OS(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	save := func(write func(io.Writer) error) time.Duration {
		began := time.Now()
		v := b.machine.View()
		if _, err := snapshots.Save(storage.SnapshotMeta{Index: v.Index(), Term: v.Term()}, write); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}

	write, done := b.Capture(), make(chan struct{})
	meta := storage.SnapshotMeta{Index: b.machine.View().Index(), Term: 1}
	saved, took := error(nil), time.Duration(0)
	go func() {
		defer close(done)
		began := time.Now()
		_, saved = snapshots.Save(meta, write)
		took = time.Since(began)
	}()
	beside, own, entries := b.longestGap(done)
	if saved != nil {
		t.Fatal(saved)
	}
	alone := b.longestGapBesideWork(took)
	control := save(b.Capture())

	bound := max(50*time.Millisecond, 3*alone)
	t.Logf("%d MiB of values, %d keys: longest gap %v, %v of it our own at most, in the %v of a snapshot with %d entries, %v beside as much other work; control %v",
		b.keys*bigValue>>20, b.keys, beside, own, took, entries, alone, control)
	if entries < 100 {
		t.Errorf("only %d entries were applied while the snapshot was written", entries)
	}
	if beside > bound {
		t.Errorf("an entry waited %v while a snapshot was written, over %v", beside, bound)
	}
	if control <= bound {
		t.Errorf("the control waited %v, within %v: the state is too small to show anything", control, bound)
	}
}
