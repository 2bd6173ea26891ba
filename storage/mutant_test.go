//go:build mutants

package storage

import (
	"testing"

	"github.com/parley-mesh/parley/mutant"
)

// killed runs a test of what must hold with a mistake planted, and wants it to fail.
func killed(t *testing.T, name mutant.Name, holds func() bool) {
	t.Helper()
	if !holds() {
		t.Fatal("does not hold without the mutant")
	}
	mutant.Plant(name)
	defer mutant.Plant("")
	if holds() {
		t.Errorf("%s is not found", name)
	}
}

func TestMutantTruncateMidlog(t *testing.T) {
	// A log that is cut at damage in its middle opens, with acknowledged entries gone.
	m := newMember(t, false)
	killed(t, mutant.TruncateMidlog, func() bool {
		disk := m.disk.Crash(KeepUnsynced, 0)
		logDamages(m)["zeroed to the end"](t, disk)
		_, r, err := OpenLog(logOptions(disk))
		return err != nil || r.LastIndex == uint64(len(m.entries))
	})
}

func TestMutantNoAnchor(t *testing.T) {
	// Without the anchor, durable frames that vanish from the end are taken for never written.
	killed(t, mutant.NoAnchor, func() bool {
		disk := NewMem()
		log, _ := openTestLog(t, disk)
		put(t, log, 3, 100)
		mustNil(t, log.syncAnchor())
		overwrite(t, disk, walPath(1), log.active.offset-pageBytes, make([]byte, pageBytes))
		_, r, err := OpenLog(logOptions(disk.Crash(KeepUnsynced, 0)))
		return err != nil || r.LastIndex == 3
	})
}
