package agent

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

func TestBackupPlan(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	names := []string{
		"x.test-a1-20260304T040607Z-12.parley", "x.test-a1-20260303T050607Z-9.parley", "x.test-a2-20260304T050607Z-12.parley",
		"other.test-a1-20260304T050607Z-1.parley", "x.test-a1-20260304T050607Z-12.parley.tmp", "x.test-a1-20260304T050607Z-x.parley", "notes.txt",
	}
	have := ownBackups(names, "x.test", "a1")
	if len(have) != 2 || have[0].index != 9 || have[1].index != 12 || !have[1].taken.Equal(now.Add(-time.Hour)) {
		t.Fatalf("%+v", have)
	}
	if got := leftovers(names, "x.test", "a1"); len(got) != 1 || got[0] != names[4] {
		t.Errorf("left over: %v", got)
	}
	for every, want := range map[time.Duration]time.Duration{2 * time.Hour: time.Hour, time.Hour: 0, time.Minute: 0} {
		if got := backupWait(have, every, now); got != want {
			t.Errorf("every %s: wait %s, want %s", every, got, want)
		}
	}
	if got := backupWait(have, time.Hour, now.Add(-3*time.Hour)); got != 0 {
		t.Errorf("a backup from the future delays the next by %s", got)
	}
	if got := backupWait(nil, time.Hour, now); got != 0 {
		t.Errorf("the first waits %s", got)
	}
	for keep, want := range map[int]int{0: 1, 1: 1, 2: 0, 3: 0} {
		if got := surplus(have, keep); len(got) != want || want > 0 && got[0] != have[0].name {
			t.Errorf("keep %d: %v goes", keep, got)
		}
	}
}

// schedule is a scheduler of backups over a disk in memory and a clock that the test sets.
func schedule(t *testing.T, disk *storage.Mem, told *[]string) (b *backups, clock *time.Time) {
	t.Helper()
	m := state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("ab", 16), TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	})
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	b = &backups{
		cfg: config.Backup{Dir: "/b", Every: time.Hour, Keep: 3}, fs: disk, node: "a1", trust: "x.test",
		catchUp: func(context.Context) error { return nil }, view: m.View, now: func() time.Time { return now }, log: zap.NewNop(),
		write:  func(v *state.View, w io.Writer) error { return writeBackup(w, v, "a1", "v", now) },
		report: func(kind, _, _ string) { *told = append(*told, kind) },
	}
	return b, &now
}

func backupFiles(t *testing.T, disk *storage.Mem) []string {
	t.Helper()
	names, err := disk.List("/b")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestScheduledBackups: one each hour, verified; so many are kept, and the oldest goes only after the next is good; a
// restart goes on with the schedule and reads the newest.
func TestScheduledBackups(t *testing.T) {
	disk, told := storage.NewMem(), []string{}
	b, now := schedule(t, disk, &told)
	for hour := range 5 {
		if wait := b.step(t.Context()); wait != 0 {
			t.Fatalf("hour %d: nothing was due, wait %s", hour, wait)
		}
		if wait := b.step(t.Context()); wait != time.Hour {
			t.Errorf("hour %d: the next is due in %s", hour, wait)
		}
		if age, ok := b.age(); age != 0 || !ok {
			t.Errorf("age %g, %v", age, ok)
		}
		*now = now.Add(time.Hour)
	}
	have := backupFiles(t, disk)
	if len(have) != 3 || len(told) != 0 {
		t.Errorf("%v are kept, told %v", have, told)
	}
	if lag, ok := b.lag(); lag != 1 || !ok {
		t.Errorf("an hour later: lag %g, %v", lag, ok)
	}
	again, clock := schedule(t, disk, &told)
	*clock = *now
	if err := again.find(); err != nil {
		t.Fatal(err)
	}
	if age, _ := again.age(); age != 3600 {
		t.Errorf("after a restart the newest is %g s old", age)
	}
	if age, _ := again.verifiedAge(); age != 0 {
		t.Errorf("after a restart it was verified %g s ago", age)
	}
}

// TestBackupThatFails: a full disk loses no older backup, is told once, and the next one that works says so. A newest one
// that rotted is found by its daily reading and replaced.
func TestBackupThatFails(t *testing.T) {
	disk, told := storage.NewMem(), []string{}
	b, now := schedule(t, disk, &told)
	b.step(t.Context())
	first := backupFiles(t, disk)
	*now = now.Add(2 * time.Hour)
	disk.Limit(disk.Used() + 10)
	for range 3 {
		if wait := b.step(t.Context()); wait != backupRetry {
			t.Errorf("after a failure: wait %s", wait)
		}
	}
	if have := backupFiles(t, disk); !slices.Equal(have, first) || !slices.Equal(told, []string{"backup-failed"}) {
		t.Errorf("%v are left of %v, told %v", have, first, told)
	}
	disk.Limit(0)
	if b.step(t.Context()); len(backupFiles(t, disk)) != 2 || !slices.Equal(told, []string{"backup-failed", "backup-works"}) {
		t.Errorf("%v, told %v", backupFiles(t, disk), told)
	}
	b.cfg.Every = 7 * 24 * time.Hour
	*now = now.Add(25 * time.Hour)
	if wait := b.step(t.Context()); wait != verifyAgain || len(backupFiles(t, disk)) != 2 {
		t.Errorf("control: a good one was replaced, wait %s", wait)
	}
	*now = now.Add(25 * time.Hour)
	have := backupFiles(t, disk)
	disk.Flip("/b/"+have[1], 300, 1)
	if b.step(t.Context()); len(backupFiles(t, disk)) != 3 || told[len(told)-1] != "backup-works" || told[len(told)-2] != "backup-failed" {
		t.Errorf("a rotten one: %v, told %v", backupFiles(t, disk), told)
	}
}

// TestBackupsOnATightDisk: on a disk with room for as many as are kept, and no more, the schedule goes on: the oldest goes
// first. Nothing goes while the newest does not restore, or when fewer would be left than are to be kept; then the backup is late,
// and the event says what to do.
func TestBackupsOnATightDisk(t *testing.T) {
	disk, told := storage.NewMem(), []string{}
	b, now := schedule(t, disk, &told)
	message := ""
	b.report = func(kind, _, text string) { told, message = append(told, kind), text }
	hours := func(n int) {
		for range n {
			b.step(t.Context())
			*now = now.Add(time.Hour)
		}
	}
	hours(3)
	one := disk.Used() / 3
	disk.Limit(3*one + one/2)
	hours(3)
	have := ownBackups(backupFiles(t, disk), "x.test", "a1")
	if len(have) != 3 || !have[0].taken.Equal(now.Add(-3*time.Hour)) || len(told) != 0 {
		t.Fatalf("with room for three: %v are kept, told %v", have, told)
	}
	disk.Flip("/b/"+have[2].name, 300, 1)
	if hours(1); len(backupFiles(t, disk)) != 3 || len(told) != 1 {
		t.Errorf("the newest does not restore: %v are kept, told %v", backupFiles(t, disk), told)
	}
	disk.Flip("/b/"+have[2].name, 300, 1)
	disk.Limit(2*one + one/2) // somebody else fills it
	told = nil
	b.failed.Store(false)
	hours(3)
	left := ownBackups(backupFiles(t, disk), "x.test", "a1")
	if len(left) != 2 || left[1] != have[2] || !slices.Equal(told, []string{"backup-failed"}) {
		t.Errorf("with room for two: %v are left of %v, told %v", left, have, told)
	}
	if !strings.Contains(message, "backup.keep") || !strings.Contains(message, "the 2 that are kept") {
		t.Errorf("it says %q", message)
	}
	if lag, _ := b.lag(); lag <= 2 {
		t.Errorf("the alert does not fire: lag %g", lag)
	}
	if names := backupFiles(t, disk); slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, storage.TmpSuffix) }) {
		t.Errorf("half a file is left: %v", names)
	}
	b.cfg.Keep = 2
	if hours(1); len(backupFiles(t, disk)) != 2 || told[len(told)-1] != "backup-works" {
		t.Errorf("after backup.keep was set to 2: %v, told %v", backupFiles(t, disk), told)
	}
	b.cfg.Keep = 1
	hours(1)
	last := backupFiles(t, disk)
	disk.Limit(disk.Used())
	if hours(1); len(last) != 1 || !slices.Equal(backupFiles(t, disk), last) {
		t.Errorf("the only one, %v, made room for none: %v", last, backupFiles(t, disk))
	}
}

// TestNoBackupsOutsideTheCore: there is no reading, and nothing is written, without the whole state or a directory.
func TestNoBackupsOutsideTheCore(t *testing.T) {
	disk, told := storage.NewMem(), []string{}
	b, _ := schedule(t, disk, &told)
	b.view = func() *state.View { return nil }
	if wait := b.step(t.Context()); wait != backupRetry || len(disk.Ops()) != 0 {
		t.Errorf("wait %s after %v", wait, disk.Ops())
	}
	if _, ok := b.lag(); ok {
		t.Error("there is a lag")
	}
	b, _ = schedule(t, disk, &told)
	b.cfg.Dir = ""
	if _, ok := b.verifiedAge(); ok {
		t.Error("there is an age of what was not asked for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.run(ctx); err != nil || len(disk.Ops()) != 0 {
		t.Errorf("it did %v, %v", disk.Ops(), err)
	}
	if b.fail(errors.New("x")); len(told) != 1 {
		t.Errorf("told %v", told)
	}
}
