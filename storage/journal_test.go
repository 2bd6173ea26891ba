package storage

import (
	"testing"
)

func journalOptions(fsys FS, boot string) JournalOptions {
	return JournalOptions{FS: fsys, Dir: "/data", ClusterID: [16]byte{1}, RaftID: 7, Boot: boot}
}

func openJournalT(t *testing.T, fsys FS, boot string) (*Journal, JournalFound) {
	t.Helper()
	j, found, err := OpenJournal(journalOptions(fsys, boot))
	if err != nil {
		t.Fatal(err)
	}
	return j, found
}

func journalDisk(t *testing.T) *Mem {
	t.Helper()
	m := NewMem()
	if err := m.MkdirAll("/data", 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestJournalKnowsWhatKilledTheProcess: after a process died while it applied, the next one knows the entry and the
// command, and how often in a row; nothing was synced for it.
func TestJournalKnowsWhatKilledTheProcess(t *testing.T) {
	disk := journalDisk(t)
	j, found := openJournalT(t, disk, "boot1")
	if found.Known || found.Crash != nil {
		t.Errorf("a new journal knows %+v, want nothing", found)
	}
	for times := 1; times <= 3; times++ {
		j.Begin(9, 2)
		j.Step(0)
		j.Applied(9)
		j.Begin(10, 2)
		j.Step(4)
		if times == 3 {
			j.Blame(CauseMemory)
		}
		disk = disk.Crash(KeepUnsynced, 1)
		j, found = openJournalT(t, disk, "boot1")
		if !found.Known || found.Applied != 9 {
			t.Errorf("crash %d: found %+v, want applied 9", times, found)
		}
		want := JournalCrash{Index: 10, Term: 2, Place: 4, Times: times}
		if times == 3 {
			want.Cause = CauseMemory
		}
		if found.Crash == nil || *found.Crash != want {
			t.Errorf("crash %d: found %+v, want %+v", times, found.Crash, want)
		}
	}
	j.Begin(10, 2)
	j.Applied(10)
	if _, found = openJournalT(t, disk.Crash(KeepUnsynced, 1), "boot1"); found.Crash != nil || found.Applied != 10 {
		t.Errorf("after the entry was applied: %+v", found)
	}
}

// TestAnotherProgramMayTryAgain: a command that ended one build of the program, however often, counts as tried once by another
// one. Else no program could ever go on behind a command that is never left out.
func TestAnotherProgramMayTryAgain(t *testing.T) {
	disk := journalDisk(t)
	for _, test := range []struct {
		program string
		times   int // that the command has ended this program
		cause   int
	}{{"one", 0, 0}, {"one", 1, CauseStalled}, {"one", 2, CauseStalled}, {"another", 1, CauseUnknown}, {"another", 2, CauseStalled}} {
		o := journalOptions(disk, "boot1")
		o.Program = test.program
		j, found, err := OpenJournal(o)
		if err != nil {
			t.Fatal(err)
		}
		if (found.Crash != nil) != (test.times > 0) || test.times > 0 && *found.Crash != (JournalCrash{Index: 10, Term: 2, Place: 4, Times: test.times, Cause: test.cause}) {
			t.Errorf("%+v: found %+v", test, found.Crash)
		}
		j.Begin(10, 2)
		j.Step(4)
		j.Blame(CauseStalled)
		disk = disk.Crash(KeepUnsynced, 1)
	}
}

// TestJournalForgetsWithTheMachine: after a loss of power nobody knows what was applied, unless the journal was closed in
// order before. A crash that was known before the loss stays known.
func TestJournalForgetsWithTheMachine(t *testing.T) {
	disk := journalDisk(t)
	j, _ := openJournalT(t, disk, "boot1")
	j.Begin(5, 1)
	disk = disk.Crash(KeepUnsynced, 1)
	j, _ = openJournalT(t, disk, "boot1")
	j.Applied(4)
	next := disk.Crash(KeepUnsynced, 1)
	lost := disk.Crash(LoseUnsynced, 1)
	if _, found := openJournalT(t, lost, "boot2"); found.Known || found.Crash == nil || found.Crash.Index != 5 {
		t.Errorf("after a loss of power: %+v, want unknown, and the crash at 5", found)
	}
	written := disk.Crash(KeepUnsynced, 1) // the kernel wrote the page once more before
	if _, found := openJournalT(t, written, "boot2"); found.Known || found.Applied != 4 || found.Held != 0 {
		t.Errorf("after a loss of power with the page on the disk: %+v, want unknown, and surely 4", found)
	}
	j, _ = openJournalT(t, next, "boot1")
	j.Hold(6, 3)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, found := openJournalT(t, next.Crash(LoseUnsynced, 1), "boot2")
	if !found.Known || found.Applied != 4 || found.Held != 6 || found.HeldBy != 3 {
		t.Errorf("after a clean stop and a loss of power: %+v, want applied 4 and the promise", found)
	}
}

// TestEndedApplying: the mark of a command under way explains the end of a process on the same boot, and nothing else does.
func TestEndedApplying(t *testing.T) {
	disk := journalDisk(t)
	if EndedApplying(journalOptions(disk, "boot1")) {
		t.Error("without a journal")
	}
	j, _ := openJournalT(t, disk, "boot1")
	if EndedApplying(journalOptions(disk.Crash(KeepUnsynced, 1), "boot1")) {
		t.Error("before anything was applied")
	}
	j.Begin(5, 1)
	killed := disk.Crash(KeepUnsynced, 1)
	other := journalOptions(killed, "boot1")
	other.RaftID++
	if !EndedApplying(journalOptions(killed, "boot1")) || EndedApplying(journalOptions(killed, "boot2")) || EndedApplying(other) {
		t.Error("in a command: want yes on this boot, no on another one and for another id")
	}
	j.Applied(5)
	if EndedApplying(journalOptions(disk.Crash(KeepUnsynced, 1), "boot1")) {
		t.Error("after the command")
	}
}

// TestJournalForgetsNothingOverTwoStarts: what is not known at one start is not known at the next because the first one
// wrote a journal; and what was applied once stays applied while a later life replays the log from its beginning.
func TestJournalForgetsNothingOverTwoStarts(t *testing.T) {
	disk := journalDisk(t)
	kill := func() { disk = disk.Crash(KeepUnsynced, 1) }
	open := func() (*Journal, JournalFound) {
		o := journalOptions(disk, "boot2")
		o.Last = 20
		j, found, err := OpenJournal(o)
		mustNil(t, err)
		return j, found
	}
	j, _ := openJournalT(t, disk, "boot1") // of 20 entries it applies 12
	j.Applied(12)
	disk = disk.Crash(LoseUnsynced, 1) // the power fails
	if _, found := open(); found.Known {
		t.Fatalf("after a loss of power: %+v", found)
	}
	kill() // before it has applied anything
	j, found := open()
	if found.Known {
		t.Errorf("killed before it applied anything, it claims that nothing was ever applied: %+v", found)
	}
	j.Applied(5)
	j.Hold(17, 3)
	kill()
	j, found = open()
	if found.Known || found.Applied != 5 || found.Held != 17 {
		t.Errorf("killed in the replay: %+v, want not known, at least 5, and the promise", found)
	}
	j.Applied(20) // all that was on the disk
	kill()
	j, found = open()
	if !found.Known || found.Applied != 20 {
		t.Errorf("after the whole replay: %+v, want applied 20", found)
	}
	j.Begin(3, 1) // the next life replays it again
	j.Applied(3)
	j.Begin(4, 1)
	kill()
	_, found = open()
	if !found.Known || found.Applied != 20 || found.Crash == nil || found.Crash.Index != 4 {
		t.Errorf("killed in another replay: %+v, want applied 20, and the crash at 4", found)
	}
}

// TestJournalOfAShorterLog: where the log ends before what was surely applied, its end says nothing about what else was.
func TestJournalOfAShorterLog(t *testing.T) {
	disk := journalDisk(t)
	j, _ := openJournalT(t, disk, "boot1")
	j.Applied(12)
	for start := range 3 {
		o := journalOptions(disk.Crash(KeepUnsynced, 1), "boot2")
		o.Last = 9
		disk = o.FS.(*Mem)
		_, found, err := OpenJournal(o)
		mustNil(t, err)
		if found.Known || found.Applied != 12 {
			t.Errorf("start %d after a loss of power: %+v, want unknown, and surely 12", start, found)
		}
	}
}

// TestJournalDamageIsNotKnowledge: a flipped bit anywhere makes the journal say that it does not know, or changes nothing.
func TestJournalDamageIsNotKnowledge(t *testing.T) {
	disk := journalDisk(t)
	j, _ := openJournalT(t, disk, "boot1")
	j.Begin(3, 1)
	j.Step(2)
	j.Applied(3)
	j.Hold(8, 1)
	j.Begin(4, 1)
	for at := range int64(journalBytes) {
		copied := disk.Crash(KeepUnsynced, 1)
		copied.Flip("/data/apply", at, 0x10)
		_, found := openJournalT(t, copied, "boot1")
		if !found.Known {
			continue
		}
		if found.Applied != 3 || found.Held != 8 || found.HeldBy != 1 || found.Crash != nil && (found.Crash.Index != 4 || found.Crash.Place != 0) {
			t.Errorf("flip at %d: %+v %+v", at, found, found.Crash)
		}
	}
}

// TestJournalIsOneMembers: another member's journal is not believed.
func TestJournalIsOneMembers(t *testing.T) {
	disk := journalDisk(t)
	j, _ := openJournalT(t, disk, "boot1")
	j.Applied(4)
	o := journalOptions(disk.Crash(KeepUnsynced, 1), "boot1")
	o.RaftID = 8
	if _, found, err := OpenJournal(o); err != nil || found.Known {
		t.Errorf("another id's journal: %+v, %v", found, err)
	}
}

// TestJournalOnTheRealDisk: the mapped page is the file's.
func TestJournalOnTheRealDisk(t *testing.T) {
	o := JournalOptions{FS: OS(), Dir: t.TempDir(), RaftID: 7, Boot: "b"}
	j, _, err := OpenJournal(o)
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(4, 1)
	j.Step(3)
	again, found, err := OpenJournal(o) // as after a kill: nothing was closed
	if err != nil || found.Crash == nil || found.Crash.Index != 4 || found.Crash.Place != 3 {
		t.Errorf("found %+v, %v", found, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkJournal is what the journal costs an entry of one command.
func BenchmarkJournal(b *testing.B) {
	j, _, err := OpenJournal(JournalOptions{FS: OS(), Dir: b.TempDir(), RaftID: 7, Boot: "b"})
	if err != nil {
		b.Fatal(err)
	}
	for i := range uint64(b.N) {
		j.Begin(i, 1)
		j.Step(0)
		j.Applied(i)
	}
}
