package state

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// someState has rows in every table.
func someState(t testing.TB) *Machine {
	m := testGenesis()
	apply(t, m, stampAt(1000), TokenCreate{Token: testToken(1)}, testJoin(1, "a2"),
		Put{Key: "k", Value: []byte("value")}, Put{Key: "gone"}, Delete{Key: "gone"})
	m.s.apply(Change{Class: ClassKV, Table: TableFloor, Row: encodeFloor(1), Revision: m.s.at.Revision})
	m.view = nil
	return m
}

// A snapshot brings back the same state, whatever the size of the pieces that it is read in.
func TestSnapshotRestores(t *testing.T) {
	v := someState(t).View()
	b := snapshotOf(t, v, AllClasses)
	m := NewMachine()
	if err := m.Restore(iotest.OneByteReader(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	if got := m.View(); got.Digest() != v.Digest() || got.Position() != v.Position() || got.Rows(TableFloor) != 1 {
		t.Fatalf("restored %+v, want %+v with an equal digest", got.Position(), v.Position())
	}
	if !bytes.Equal(snapshotOf(t, m.View(), AllClasses), b) {
		t.Fatal("the restored state writes another snapshot")
	}
	if kv, _ := m.View().Get("k"); string(kv.Value) != "value" {
		t.Fatalf("restored value %q", kv.Value)
	}
}

// Any damaged byte and any cut is refused, and leaves the machine as it was.
func TestSnapshotDamage(t *testing.T) {
	good := snapshotOf(t, someState(t).View(), AllClasses)
	m := testGenesis()
	before := m.View().Digest()
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if err := m.Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d is damaged: restored", i, len(good))
		}
		if err := m.Restore(bytes.NewReader(good[:i])); err == nil {
			t.Fatalf("cut at %d of %d: restored", i, len(good))
		}
	}
	if err := m.Restore(bytes.NewReader(append(bytes.Clone(good), 0))); err == nil {
		t.Fatal("restored with a byte too many")
	}
	broken := iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(good)))
	if err := m.Restore(broken); !errors.Is(err, iotest.ErrTimeout) {
		t.Fatalf("got %v, want the reader's error", err)
	}
	if m.View().Digest() != before || m.View().Index() != 1 {
		t.Fatal("a refused snapshot changed the machine")
	}
	if err := m.Restore(bytes.NewReader(good)); err != nil {
		t.Fatalf("control: the undamaged one is refused: %v", err)
	}
}

// A snapshot of some classes holds no byte of the others, and is refused by who wants others.
func TestSnapshotOfClasses(t *testing.T) {
	v := someState(t).View()
	public := NewClassSet(ClassPublic)
	b := snapshotOf(t, v, public)
	for _, secret := range []string{"value", "gone", "sealed to", testToken(1).ID} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("the public snapshot contains %q", secret)
		}
		if !bytes.Contains(snapshotOf(t, v, AllClasses), []byte(secret)) {
			t.Errorf("control: the whole snapshot does not contain %q", secret)
		}
	}
	if err := NewMachine().Restore(bytes.NewReader(b)); !errors.Is(err, ErrClass) {
		t.Errorf("machine: got %v, want ErrClass", err)
	}
	f := NewFollower(ClassPublic)
	load(t, f, v)
	if f.View().DigestOf(public) != v.DigestOf(public) {
		t.Error("the follower's digest differs")
	}
	if err := f.View().WriteSnapshot(&bytes.Buffer{}); err == nil {
		t.Error("a follower wrote a snapshot of classes that it does not hold")
	}
	f.LoadBegin()
	if err := f.LoadChunk(snapshotOf(t, v, AllClasses)); !errors.Is(err, ErrClass) {
		t.Errorf("follower: got %v, want ErrClass", err)
	}
}

// A loader takes no more than its limit, and a writer's error comes out.
func TestSnapshotLimits(t *testing.T) {
	b := snapshotOf(t, someState(t).View(), AllClasses)
	l := newLoader(AllClasses)
	l.left = int64(len(b)) - 1
	if err := l.write(b); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if err := l.write(nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("after an error: got %v, want the same", err)
	}
	huge := []byte{0xff, 0xff, 0xff, 0x7f, itemRow}
	if err := newLoader(AllClasses).write(huge); !errors.Is(err, ErrMalformed) {
		t.Errorf("huge item: got %v, want ErrMalformed", err)
	}
	full := errors.New("disk full")
	if err := someState(t).View().WriteSnapshot(failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("got %v, want the writer's error", err)
	}
}

// inPieces is a snapshot that comes in pieces of so many bytes, as chunks of a disk do.
type inPieces struct {
	io.Reader
	text []byte
	size int
}

func (p inPieces) WriteTo(w io.Writer) (written int64, err error) {
	for at := 0; at < len(p.text); at += p.size {
		piece := bytes.Clone(p.text[at:min(at+p.size, len(p.text))])
		n, err := w.Write(piece)
		clear(piece) // nobody may keep it
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

// A snapshot that is written into the loader brings back the same state, wherever its pieces end.
func TestSnapshotRestoresInPieces(t *testing.T) {
	v := someState(t).View()
	b := snapshotOf(t, v, AllClasses)
	for size := 1; size <= len(b); size += 1 + size/8 {
		m := NewMachine()
		if err := m.RestoreVerified(inPieces{text: b, size: size}, inTurn); err != nil {
			t.Fatalf("pieces of %d bytes: %v", size, err)
		}
		if got := m.View(); got.Digest() != v.Digest() || got.Position() != v.Position() || !bytes.Equal(snapshotOf(t, got, AllClasses), b) {
			t.Fatalf("pieces of %d bytes: restored something else", size)
		}
		if err := m.Restore(inPieces{text: b[:len(b)-1], size: size}); err == nil {
			t.Fatalf("pieces of %d bytes: cut, and restored", size)
		}
	}
}

// Where storage has verified the bytes, their checksum is not made again, and a fault in between changes no row all the same:
// of a snapshot with a wrong byte at most what is said beside the rows is taken, the position and the checksum itself.
func TestVerifiedSnapshotDamage(t *testing.T) {
	v := someState(t).View()
	good := snapshotOf(t, v, AllClasses)
	taken := 0
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		m := NewMachine()
		if err := m.RestoreVerified(bytes.NewReader(bad), inTurn); err != nil {
			continue
		}
		taken++
		if m.View().Digest() != v.Digest() || m.View().Revision() != v.Revision() {
			t.Fatalf("byte %d of %d is damaged, and another state was restored", i, len(good))
		}
		if err := NewMachine().Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("control: byte %d of %d is damaged, and Restore takes it", i, len(good))
		}
	}
	if most := 32 + 3*10; taken > most || taken < 32 {
		t.Errorf("%d bytes of %d may be wrong, want those of the checksum, and of index, term and stamp: %d at most", taken, len(good), most)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A load with work beside it is the same load: the same state, the same refusals, and nothing under way once it has ended.
func TestRestoreBeside(t *testing.T) {
	m := testGenesis()
	fill256(t, m, 5_000) // several hands full
	good := snapshotOf(t, m.View(), AllClasses)
	var under atomic.Int32
	var times int
	beside := func(work func()) func() {
		times++
		under.Add(1)
		return inGoroutine(func() {
			defer under.Add(-1)
			work()
		})
	}
	again := NewMachine()
	if err := again.RestoreBeside(bytes.NewReader(good), beside); err != nil || again.View().Digest() != m.View().Digest() {
		t.Fatalf("a good snapshot: %v", err)
	}
	if err := again.View().WriteSnapshot(io.Discard); err != nil { // looks at the hash of each row
		t.Error(err)
	}
	if times < 4 {
		t.Errorf("the work was handed over %d times", times)
	}
	for _, at := range []int{100, len(good) / 3, len(good) / 2, len(good) - 200, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if err := NewMachine().RestoreBeside(bytes.NewReader(bad), beside); err == nil {
			t.Errorf("a snapshot with a wrong byte at %d was taken", at)
		}
		if err := NewMachine().RestoreBeside(bytes.NewReader(good[:at]), beside); err == nil {
			t.Errorf("a snapshot that ends at %d was taken", at)
		}
		if n := under.Load(); n != 0 {
			t.Errorf("%d pieces of work outlived the load", n)
		}
	}
}
