package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// member is a log as it was before the damage, which a peer still has.
type member struct {
	disk     *Mem
	entries  []*raftpb.Entry // entries[i] has index i+1
	chains   []hash          // chains[i] is at index i
	hard     hardState
	snapshot *SnapshotMeta
}

// newMember makes a log of several segments with overwritten tails and changes of the hard state. clean closes it;
// otherwise it is killed, with the anchor a few frames behind.
func newMember(t *testing.T, clean bool) *member {
	t.Helper()
	m := &member{disk: NewMem()}
	log, _ := openTestLog(t, m.disk)
	random := rand.New(rand.NewPCG(7, 7))
	term := uint64(1)
	add := func(from uint64, count int) {
		m.entries = m.entries[:from-1]
		var batch []*raftpb.Entry
		for i := range count {
			e := newEntry(term, from+uint64(i), bytes.Repeat([]byte{byte(random.Uint32())}, 200+random.IntN(3000)))
			batch, m.entries = append(batch, e), append(m.entries, e)
		}
		m.hard = hardState{term, 1 + term%3, max(m.hard.commit, from-1)}
		mustNil(t, log.Append(batch, &raftpb.HardState{Term: &m.hard.term, Vote: &m.hard.vote, Commit: &m.hard.commit}, true))
	}
	for range 12 {
		add(uint64(len(m.entries))+1, 1+random.IntN(3))
		if random.IntN(4) == 0 {
			term++
			add(max(m.hard.commit+1, uint64(len(m.entries))), 2)
		}
	}
	mustNil(t, log.syncAnchor())
	add(uint64(len(m.entries))+1, 1)
	add(uint64(len(m.entries))+1, 2)
	chainer := newChainer()
	m.chains = []hash{{}}
	for i, e := range m.entries {
		m.chains = append(m.chains, chainer.next(m.chains[i], e))
	}
	m.snapshot = &SnapshotMeta{Index: 5, Term: m.entries[4].GetTerm(), Chain: m.chains[5]}
	if clean {
		mustClose(t, log)
	}
	m.disk = m.disk.Crash(KeepUnsynced, 0)
	return m
}

// answer is what an honest peer says about a gap, at most limit entries at a time.
func (m *member) answer(gap Gap, limit uint64) (Point, []*raftpb.Entry) {
	if gap.Last > uint64(len(m.entries)) || m.chains[gap.Last] != gap.Chain {
		return Point{}, nil
	}
	low := max(gap.After, gap.Last-min(gap.Last, limit))
	prev := Point{Index: low, Chain: m.chains[low]}
	if low > 0 {
		prev.Term = m.entries[low-1].GetTerm()
	}
	return prev, m.entries[low:gap.Last]
}

// heal salvages a disk, fills the gaps from the peer, and repairs it.
func (m *member) heal(t *testing.T, disk *Mem) (*Salvaged, error) {
	t.Helper()
	s, err := Salvage(logOptions(disk), m.snapshot)
	if err != nil {
		return nil, err
	}
	for gap, more := s.Missing(); more; gap, more = s.Missing() {
		prev, entries := m.answer(gap, 3)
		if len(entries) == 0 {
			return s, fmt.Errorf("a gap that no peer can fill: %+v", gap)
		}
		lie := slices.Clone(entries)
		lie[0] = newEntry(lie[0].GetTerm(), lie[0].GetIndex(), []byte("a lie"))
		if err := s.Offer(prev, lie); !errors.Is(err, ErrNotReproduced) {
			t.Fatalf("forged entries: %v, want ErrNotReproduced", err)
		}
		if err := s.Repair(logOptions(disk)); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("repair with a gap: %v, want ErrIncomplete", err)
		}
		mustNil(t, s.Offer(prev, entries))
	}
	return s, s.Repair(logOptions(disk))
}

// mustHave fails unless the log on disk opens and is a part of the member's from the snapshot to at least index.
func (m *member) mustHave(t *testing.T, disk *Mem, index uint64) Recovered {
	t.Helper()
	log, r, err := OpenLog(logOptions(disk))
	mustNil(t, err)
	if r.FirstIndex > m.snapshot.Index+1 || r.LastIndex < index {
		t.Fatalf("entries %d to %d, want %d to at least %d", r.FirstIndex, r.LastIndex, m.snapshot.Index+1, index)
	}
	if chain, ok := log.Chain(r.LastIndex); !ok || chain != m.chains[r.LastIndex] {
		t.Fatalf("chain at %d is not that of the others", r.LastIndex)
	}
	for _, e := range r.Entries {
		if want := m.entries[e.GetIndex()-1]; !bytes.Equal(e.GetData(), want.GetData()) || e.GetTerm() != want.GetTerm() {
			t.Fatalf("entry %d is another one", e.GetIndex())
		}
	}
	put(t, log, 3, 2000) // it goes on
	mustClose(t, log)
	_, _, err = OpenLog(logOptions(disk.Crash(KeepUnsynced, 0)))
	mustNil(t, err)
	return r
}

// logDamages are what a disk does to a log. Each names what of the log it hits.
func logDamages(m *member) map[string]func(t *testing.T, d *Mem) {
	newest := walPath(4)
	anchor := filepath.Join(dataDir, anchorName)
	end := func(t *testing.T, d *Mem, path string) int64 {
		scan, err := readSegment(d, path, 4, identity{traceCluster, 7})
		mustNil(t, err)
		at := int64(pageBytes)
		for offset := at; offset < traceSegment-pageBytes; offset += pageBytes {
			if f, ok := decodeFrameHeader(scan.data[offset:], 4, scan.salt); ok {
				at = offset + int64(f.bytes())
			}
		}
		return at
	}
	return map[string]func(t *testing.T, d *Mem){
		"one byte flipped":       func(_ *testing.T, d *Mem) { d.Flip(walPath(2), 2*pageBytes+700, 4) },
		"a frame header flipped": func(_ *testing.T, d *Mem) { d.Flip(walPath(1), pageBytes+20, 1) },
		"512 bytes zeroed":       func(t *testing.T, d *Mem) { overwrite(t, d, walPath(2), 3*pageBytes+512, make([]byte, 512)) },
		"4 KiB zeroed":           func(t *testing.T, d *Mem) { overwrite(t, d, walPath(3), 2*pageBytes, make([]byte, pageBytes)) },
		"zeroed to the end":      func(t *testing.T, d *Mem) { overwrite(t, d, newest, pageBytes, make([]byte, 7*pageBytes)) },
		"garbage tail": func(t *testing.T, d *Mem) {
			overwrite(t, d, newest, end(t, d, newest)-3*pageBytes, bytes.Repeat([]byte{0xa5, 3}, 3*pageBytes/2))
		},
		"both headers of the last": func(t *testing.T, d *Mem) { wipeHeaders(t, d, newest) },
		"both headers of another":  func(t *testing.T, d *Mem) { wipeHeaders(t, d, walPath(2)) },
		"a lost segment":           func(t *testing.T, d *Mem) { mustNil(t, d.Remove(walPath(2))) },
		"the last segment lost":    func(t *testing.T, d *Mem) { mustNil(t, d.Remove(newest)) },
		"all segments lost":        func(t *testing.T, d *Mem) { removeAll(t, d, walPath(1), walPath(2), walPath(3), newest) },
		"a segment cut short":      func(t *testing.T, d *Mem) { shorten(t, d, walPath(3), 3*pageBytes) },
		"a segment emptied":        func(t *testing.T, d *Mem) { shorten(t, d, walPath(1), 0) },
		"anchor lost":              func(t *testing.T, d *Mem) { mustNil(t, d.Remove(anchor)) },
		"anchor zeroed":            func(t *testing.T, d *Mem) { overwrite(t, d, anchor, 0, make([]byte, anchorBytes)) },
		"unreadable":               func(_ *testing.T, d *Mem) { d.FailReads(walPath(2)) },
	}
}

func wipeHeaders(t *testing.T, d *Mem, path string) {
	t.Helper()
	overwrite(t, d, path, 0, make([]byte, 512))
	overwrite(t, d, path, traceSegment-pageBytes, make([]byte, 512))
}

func TestDamageMatrix(t *testing.T) {
	// Every damage is detected, and repaired under the same id from a peer that still has the entries. What may be
	// lost for good is at most what the anchor did not cover, and the member knows that it may be.
	for _, clean := range []bool{true, false} {
		m := newMember(t, clean)
		if !strings.Contains(strings.Join(m.disk.Paths(), " "), segmentName(4)) {
			t.Fatalf("the log has other segments than the damages need: %v", m.disk.Paths())
		}
		anchor, _, err := readAnchor(m.disk, filepath.Join(dataDir, anchorName), identity{traceCluster, 7})
		mustNil(t, err)
		last := uint64(len(m.entries))
		for what, damage := range logDamages(m) {
			t.Run(fmt.Sprintf("%s, clean %v", what, clean), func(t *testing.T) {
				disk := m.disk.Crash(KeepUnsynced, 0)
				damage(t, disk)
				_ = wantDamage(t, disk, what)
				s, err := m.heal(t, disk)
				mustNil(t, err)
				if len(s.Damage) == 0 {
					t.Error("the damage is not named")
				}
				if what == "unreadable" {
					disk = disk.Crash(KeepUnsynced, 0) // the bad sectors went with the file
				}
				index := min(last, anchor.tip.index)
				if s.InDoubt == "" {
					index = last
				}
				r := m.mustHave(t, disk, index)
				if (r.InDoubt != "") != (s.InDoubt != "") {
					t.Errorf("in doubt %q after the repair, %q before", r.InDoubt, s.InDoubt)
				}
				if r.HardState.GetTerm() < anchor.tip.hard.term {
					t.Errorf("term %d, the anchor knew %d", r.HardState.GetTerm(), anchor.tip.hard.term)
				}
				if clean && !strings.HasPrefix(what, "anchor") && (r.LastIndex != last || r.InDoubt != "") {
					t.Errorf("a log that was closed ends at %d of %d, in doubt %q", r.LastIndex, last, r.InDoubt)
				}
			})
		}
	}
}

func TestRepairWithoutItsSegments(t *testing.T) {
	// A record whose segments a disk has lost, or that names more than anybody wrote, takes nothing of the damaged log.
	w := writtenLog(t)
	for what, r := range map[string]repairRecord{
		"lost":            {first: 2, count: 1, keep: []uint64{1}},
		"one of two lost": {first: 1, count: 2},
		"more than exist": {first: 1, count: 1 << 40},
		"none":            {first: 2},
		"too large":       {first: ^uint64(0), count: 2},
	} {
		r.anchor = anchorState{id: w.header.id, generation: 6, tip: w.tip}
		disk := w.disk(t, w.segment, true)
		path := filepath.Join(dataDir, "wal", repairName)
		mustNil(t, WriteFileAtomic(disk, path, r.encode(), filePerm))
		var damage *DamageError
		if _, _, err := OpenLog(writtenOptions(disk)); !errors.As(err, &damage) || damage.Path != path {
			t.Errorf("%s: %v, want damage of the record", what, err)
		}
		if data, err := ReadFile(disk, walPath(1), 1<<20); err != nil || !bytes.Equal(data, w.segment) {
			t.Errorf("%s: the log is changed: %v", what, err)
		}
		_, err := w.heal(t, disk)
		mustNil(t, err)
		if r, err := w.open(t, disk, true); err != nil || r.LastIndex != 3 {
			t.Errorf("%s: after a new repair: %v, entries to %d", what, err, r.LastIndex)
		}
	}
}

func TestSeveralDamagesAtOnce(t *testing.T) {
	// Any two of them, at the same time.
	m := newMember(t, false)
	damages := logDamages(m)
	names := make([]string, 0, len(damages))
	for name := range damages {
		names = append(names, name)
	}
	slices.Sort(names)
	healed, hopeless := 0, 0
	for i, a := range names {
		for _, b := range names[i+1:] {
			if gone := a + b; strings.Contains(gone, "unreadable") || strings.Contains(gone, "lost") || strings.Contains(gone, "empt") || strings.Contains(gone, "cut") {
				continue // what is gone cannot be damaged as well
			}
			disk := m.disk.Crash(KeepUnsynced, 0)
			damages[b](t, disk)
			damages[a](t, disk)
			if _, _, err := OpenLog(logOptions(disk.Crash(KeepUnsynced, 0))); err == nil {
				t.Fatalf("%s and %s: not detected", a, b)
			}
			disk = disk.Crash(KeepUnsynced, 0)
			s, err := m.heal(t, disk)
			if err != nil {
				t.Fatalf("%s and %s: %v", a, b, err)
			}
			healed++
			if !strings.HasPrefix(a, "anchor") {
				_ = m.mustHave(t, disk, m.snapshot.Index)
			} else if _, _, err := OpenLog(logOptions(disk)); err != nil || s.InDoubt == "" {
				// Without the anchor a former state of the log may be all that is left.
				t.Errorf("%s and %s: %v, in doubt %q", a, b, err, s.InDoubt)
			}
		}
	}
	// Without anchor and segments nothing is known, and that is said.
	disk := m.disk.Crash(KeepUnsynced, 0)
	damages["all segments lost"](t, disk)
	damages["anchor lost"](t, disk)
	if _, err := m.heal(t, disk); !errors.Is(err, ErrNotSalvaged) {
		t.Errorf("everything lost: %v, want ErrNotSalvaged", err)
	} else {
		hopeless++
	}
	if healed < 30 || hopeless != 1 {
		t.Errorf("%d healed, %d hopeless", healed, hopeless)
	}
}

func TestRepairIsCutAtEveryOperation(t *testing.T) {
	// A crash at each operation of a repair leaves a log that can be repaired still, or the repaired one.
	m := newMember(t, false)
	damage := logDamages(m)["512 bytes zeroed"]
	for _, mode := range crashModes {
		for n, done := 0, false; !done; n++ {
			disk := m.disk.Crash(KeepUnsynced, 0)
			damage(t, disk)
			disk = disk.Crash(KeepUnsynced, 0)
			disk.Inject(n, FaultTorn)
			_, err := m.heal(t, disk)
			if done = err == nil; !done && !errors.Is(err, ErrCrashed) {
				t.Fatalf("operation %d: %v", n, err)
			}
			after := disk.Crash(mode, uint64(n))
			_, _, err = OpenLog(logOptions(after.Crash(KeepUnsynced, 0)))
			if after = after.Crash(KeepUnsynced, 0); err != nil {
				if done {
					t.Fatalf("mode %d: repaired, and %v", mode, err)
				}
				if _, err := m.heal(t, after); err != nil {
					t.Fatalf("mode %d, operation %d: cannot be repaired any more: %v", mode, n, err)
				}
			}
			_ = m.mustHave(t, after, uint64(len(m.entries)))
		}
	}
}

func TestSwitchIsCutAtEveryOperation(t *testing.T) {
	// The start that completes a repair is cut in turn.
	m := newMember(t, false)
	for first := 0; first < 40; first++ {
		disk := m.disk.Crash(KeepUnsynced, 0)
		logDamages(m)["a lost segment"](t, disk)
		disk = disk.Crash(KeepUnsynced, 0)
		disk.Inject(first, FaultCrash)
		_, _ = m.heal(t, disk)
		disk = disk.Crash(LosePart, uint64(first))
		if !slices.Contains(disk.Paths(), filepath.Join(dataDir, "wal", repairName)) {
			continue
		}
		for n := 0; ; n++ {
			again := disk.Crash(KeepUnsynced, 0)
			again.Inject(n, FaultCrash)
			log, _, err := OpenLog(logOptions(again))
			_ = m.mustHave(t, again.Crash(LosePart, uint64(n)), uint64(len(m.entries)))
			if err == nil {
				_ = log.closeFiles()
				break
			}
		}
	}
}

func TestDamagedFilesAreKeptAside(t *testing.T) {
	// For people, of the newest repair only.
	m := newMember(t, false)
	disk := m.disk.Crash(KeepUnsynced, 0)
	for _, what := range []string{"one byte flipped", "4 KiB zeroed", "512 bytes zeroed"} {
		logDamages(m)[what](t, disk)
	}
	for round := range 3 {
		_, err := m.heal(t, disk)
		mustNil(t, err)
		var kept []string
		for _, path := range disk.Paths() {
			if name := filepath.Base(path); strings.HasPrefix(name, damagedPrefix) {
				kept = append(kept, name)
			}
		}
		if want := 1 + min(2, 2-round+max(0, round-1)); len(kept) > 1+maxDamagedFiles || len(kept) < 2 || !slices.Contains(kept, damagedAnchor) {
			t.Errorf("round %d: %v, want about %d", round, kept, want)
		}
		numbers, err := segmentNumbers(disk, filepath.Join(dataDir, "wal"))
		mustNil(t, err)
		disk.Flip(walPath(numbers[0]), pageBytes+300, 1)
	}
}

func TestDoubtLastsUntilItIsSettled(t *testing.T) {
	// A member that may have lost what it acknowledged says so at each start until it has heard the others.
	m := newMember(t, false)
	disk := m.disk.Crash(KeepUnsynced, 0)
	logDamages(m)["anchor lost"](t, disk)
	_, err := m.heal(t, disk)
	mustNil(t, err)
	for range 2 {
		log, r := openTestLog(t, disk)
		if r.InDoubt == "" {
			t.Fatal("the doubt is forgotten")
		}
		mustClose(t, log)
	}
	log, _ := openTestLog(t, disk)
	mustNil(t, log.Settled())
	_ = log.closeFiles()
	if _, r := openTestLog(t, disk.Crash(LoseUnsynced, 0)); r.InDoubt != "" {
		t.Errorf("settled, and in doubt: %s", r.InDoubt)
	}
}

func TestTornTailIsInDoubt(t *testing.T) {
	// A last frame that is not whole after an unclean stop: nothing says whether it was acknowledged. A log that
	// ends with a whole frame is not in doubt, or each kill would stop a voter.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 3, 100)
	whole := fsys.Crash(KeepUnsynced, 0)
	if _, r := openTestLog(t, whole); r.InDoubt != "" || !r.Unclean {
		t.Errorf("after a kill: in doubt %q, unclean %v", r.InDoubt, r.Unclean)
	}
	torn := fsys.Crash(KeepUnsynced, 0)
	torn.Flip(walPath(1), log.active.offset-pageBytes+250, 1)
	if _, r := openTestLog(t, torn); r.InDoubt == "" || r.LastIndex != 2 {
		t.Errorf("after a torn frame: in doubt %q, last %d", r.InDoubt, r.LastIndex)
	}
}

func TestReachHealsALogThatIsTooShort(t *testing.T) {
	// What others know that we acknowledged is fetched, and replaces what does not lead there.
	m := newMember(t, true)
	disk := m.disk.Crash(KeepUnsynced, 0)
	log, r := openTestLog(t, disk)
	fork := newEntry(r.HardState.GetTerm(), r.LastIndex-1, []byte("never acknowledged"))
	mustNil(t, log.Append([]*raftpb.Entry{fork}, nil, true))
	mustClose(t, log)
	s, err := Salvage(logOptions(disk), m.snapshot)
	mustNil(t, err)
	last := uint64(len(m.entries))
	s.Reach(Point{Index: last, Term: m.entries[last-1].GetTerm(), Chain: m.chains[last]})
	for gap, more := s.Missing(); more; gap, more = s.Missing() {
		mustNil(t, s.Offer(m.answer(gap, 100)))
	}
	mustNil(t, s.Repair(logOptions(disk)))
	if got := m.mustHave(t, disk, last); got.LastIndex != last {
		t.Errorf("last %d of %d", got.LastIndex, last)
	}
}

func TestRandomDamage(t *testing.T) {
	// One to three random damages of a killed member's log: afterwards it holds all that was acknowledged, or knows
	// that it may not.
	m := newMember(t, false)
	last := uint64(len(m.entries))
	repaired, doubted, whole, unseen := 0, 0, 0, 0
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 1))
		disk := m.disk.Crash(KeepUnsynced, 0)
		var what []string
		for range 1 + random.IntN(3) {
			what = append(what, damageAtRandom(t, disk, random))
		}
		probe := disk.Crash(KeepUnsynced, 0)
		disk = disk.Crash(KeepUnsynced, 0)
		anchor, anchored, _ := readAnchor(disk, filepath.Join(dataDir, anchorName), identity{traceCluster, 7})
		_, r, err := OpenLog(logOptions(probe))
		if err != nil {
			s, err := m.heal(t, disk)
			if err != nil {
				t.Fatalf("seed %d, %v: %v", seed, what, err)
			}
			repaired++
			log, found, err := OpenLog(logOptions(disk))
			if err != nil || found.InDoubt != "" != (s.InDoubt != "") {
				t.Fatalf("seed %d, %v: %v, in doubt %q and %q", seed, what, err, found.InDoubt, s.InDoubt)
			}
			r = found
			_ = log.closeFiles()
		}
		switch {
		case r.InDoubt != "":
			doubted++
		case r.LastIndex != last && anchored && r.LastIndex >= anchor.tip.index:
			unseen++ // the very last frames, which the anchor does not cover, are gone without a trace
		case r.LastIndex != last || r.HardState.GetTerm() != m.hard.term || r.HardState.GetVote() != m.hard.vote:
			t.Fatalf("seed %d, %v: ends at %d of %d, %v, and is not in doubt", seed, what, r.LastIndex, last, r.HardState)
		default:
			whole++
		}
	}
	t.Logf("%d repaired, %d in doubt, %d whole, %d lost without a trace", repaired, doubted, whole, unseen)
	if repaired < 100 || doubted < 5 || whole < 100 || unseen > 20 {
		t.Error("the damages are not worth it")
	}
}

func damageAtRandom(t *testing.T, disk *Mem, random *rand.Rand) string {
	paths := slices.DeleteFunc(disk.Paths(), func(path string) bool { return strings.Contains(path, sparePrefix) })
	path := paths[random.IntN(len(paths))]
	data, err := ReadFile(disk, path, 1<<20)
	mustNil(t, err)
	offset := random.Int64N(int64(len(data)))
	switch random.IntN(3) {
	case 0:
		disk.Flip(path, offset, 1<<random.IntN(8))
		return fmt.Sprintf("flip %s at %d", path, offset)
	case 1:
		overwrite(t, disk, path, offset&^511, make([]byte, 512))
		return fmt.Sprintf("zero %s at %d", path, offset&^511)
	}
	garbage := make([]byte, min(pageBytes, len(data)-int(offset)))
	for i := range garbage {
		garbage[i] = byte(random.Uint32())
	}
	overwrite(t, disk, path, offset, garbage)
	return fmt.Sprintf("garbage in %s at %d", path, offset)
}

func TestEntriesOnTheWire(t *testing.T) {
	m := newMember(t, true)
	prev, entries := m.answer(Gap{After: 3, Last: 9, Chain: m.chains[9]}, 100)
	b := AppendEntries(nil, prev, entries)
	gotPrev, got, err := DecodeEntries(b)
	if err != nil || gotPrev != prev || len(got) != 6 || got[5].GetIndex() != 9 {
		t.Fatalf("%v, %d entries, %v", gotPrev, len(got), err)
	}
	for n := range len(b) {
		if _, _, err := DecodeEntries(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes decode", n, len(b))
		}
	}
}
