package agent

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-mesh/parley/storage"
)

// backupFile is a scheduled backup, by its name.
type backupFile struct {
	name  string
	taken time.Time
	index uint64
}

// ownBackups finds, among the names in a directory, the backups of a cluster that a node took, oldest first. Everything
// else in the directory is somebody else's.
func ownBackups(names []string, trustDomain, node string) []backupFile {
	var out []backupFile
	for _, name := range names {
		middle, found := strings.CutPrefix(name, trustDomain+"-"+node+"-")
		middle, suffixed := strings.CutSuffix(middle, backupSuffix)
		when, index, split := strings.Cut(middle, "-")
		taken, err := time.Parse(backupTime, when)
		n, numberErr := strconv.ParseUint(index, 10, 64)
		if found && suffixed && split && err == nil && numberErr == nil {
			out = append(out, backupFile{name, taken, n})
		}
	}
	slices.SortFunc(out, func(a, b backupFile) int { return cmp.Or(a.taken.Compare(b.taken), cmp.Compare(a.name, b.name)) })
	return out
}

// leftovers names the files of own backups that were being written when a process ended.
func leftovers(names []string, trustDomain, node string) []string {
	var out []string
	for _, name := range names {
		if whole, cut := strings.CutSuffix(name, storage.TmpSuffix); cut && len(ownBackups([]string{whole}, trustDomain, node)) > 0 {
			out = append(out, name)
		}
	}
	return out
}

// surplus names those that go once so many are to be kept. The newest stays whatever keep is.
func surplus(have []backupFile, keep int) []string {
	var out []string
	for _, f := range have[:max(0, len(have)-max(1, keep))] {
		out = append(out, f.name)
	}
	return out
}

// backupWait is how long the next backup has to wait: until every has passed since the newest, whatever the process was
// meanwhile. One that lies in the future, by a clock that was set back, does not count.
func backupWait(have []backupFile, every time.Duration, now time.Time) time.Duration {
	if len(have) == 0 {
		return 0
	}
	age := now.Sub(have[len(have)-1].taken)
	if age < 0 || age >= every {
		return 0
	}
	return every - age
}
