package agent

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/security/workload"
)

// maxWideFiles bounds what the check of file modes lists; one is enough to act.
const maxWideFiles = 10

// check gathers the facts about this agent and has them judged.
func (a *Agent) check(context.Context) ops.CheckReport {
	core, view := a.coreStatus(), a.hub.View()
	leaf := a.source.Leaf()
	f := ops.CheckFacts{
		CertificateLeft: leaf.NotAfter.Sub(a.now()), CertificateLife: leaf.NotAfter.Sub(leaf.NotBefore),
		Epoch: a.epochs.current().Counter, EpochAtOdds: a.epochs.odds(),
		LeaderKnown: core.Leader != nil, Size: core.Size, AnonymousRole: a.cfg.HTTP.AnonymousRole,
		WideFiles:  wideFiles(a.dir.path),
		ClockAhead: view.Stamp().Wall().Sub(a.opts.Physical()), Versions: map[string]int{},
	}
	a.certificateFacts(&f)
	f.SafeMode, f.SafeWindow = a.safe.level(), a.cfg.SafeMode.Window
	f.DiskFreeBytes, f.DiskKnown = diskFree(a.dir.path)
	alive := a.aliveNodes()
	behind := a.learnersBehind()
	for _, v := range core.Voters {
		row, _ := view.Node(v.Name)
		f.Voters = append(f.Voters, ops.CheckMember{Name: v.Name, Zone: row.Zone, Healthy: v.Healthy, Alive: alive[v.Name]})
	}
	for _, l := range core.Learners {
		n, known := behind[l.RaftID]
		f.Learners = append(f.Learners, ops.CheckMember{Name: l.Name, Healthy: l.Healthy, Alive: alive[l.Name], Behind: n, BehindKnown: known})
	}
	for _, n := range view.Nodes() {
		if n.CoreGrant && !n.Left {
			f.AllowedInCore++
		}
	}
	members := a.memberList()
	for _, m := range members {
		if m.State == membership.StateAlive {
			f.Versions[m.Version]++
		}
	}
	f.Dead = deadOutside(members, a.coreRoles())
	if last := a.scrubber.last.Load(); last != nil {
		f.Scrubbed, f.ScrubErrors = true, last.report.Errors
		if len(last.report.Problems) > 0 {
			f.ScrubFirstFile = last.report.Problems[0].File
		}
	}
	return ops.Check(f)
}

// deadOutside names the agents that gossip holds dead and that are not in the core, whose members have checks of
// their own.
func deadOutside(members []membership.Member, coreRoles map[string]string) (dead []string) {
	for _, m := range members {
		if _, inCore := coreRoles[m.Name]; m.State == membership.StateDead && !inCore {
			dead = append(dead, m.Name)
		}
	}
	slices.Sort(dead)
	return dead
}

// learnersBehind is how far each learner's log is behind, by Raft id; only the leader knows.
func (a *Agent) learnersBehind() map[string]uint64 {
	behind := map[string]uint64{}
	n := a.core.member()
	if n == nil {
		return behind
	}
	st := n.Status()
	for _, id := range st.Learners {
		if p, ok := st.Progress[id]; ok {
			behind[strconv.FormatUint(id, 16)] = st.Commit - min(p.Match, st.Commit)
		}
	}
	return behind
}

// diskFree is what an ordinary user may still write on the file system of path.
func diskFree(path string) (uint64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	return uint64(st.Bavail) * uint64(st.Bsize), true //nolint:unconvert // of other types elsewhere
}

// wideFiles lists what others than its user can read or write in a data directory. Its log directories
// are looked at as such: they may hold many files, and nobody gets through a closed directory.
func wideFiles(dir string) []string {
	var wide []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || len(wide) == maxWideFiles {
			return nil //nolint:nilerr // a file that is gone meanwhile has no mode
		}
		if entry.Type() == fs.ModeSocket && entry.Name() == workload.SocketName {
			return nil // it is for every process, and each is attested
		}
		if info, err := entry.Info(); err == nil && info.Mode().Perm()&0o077 != 0 && info.Mode().Type() != fs.ModeSymlink {
			name, _ := filepath.Rel(dir, path)
			wide = append(wide, fmt.Sprintf("%s (%04o)", name, info.Mode().Perm()))
		}
		if entry.IsDir() && path != dir && entry.Name() != "identity" {
			return fs.SkipDir
		}
		return nil
	})
	return wide
}

// fileSystem names the kinds of file system that do not do for a data directory, "" for the others.
func fileSystem(path string) string {
	const tmpfs, ramfs, nfs = 0x01021994, 0x858458f6, 0x6969
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return ""
	}
	switch uint32(st.Type) {
	case tmpfs, ramfs:
		return "tmpfs"
	case nfs:
		return "nfs"
	}
	return ""
}

// nearest is path, or the nearest directory above it that exists.
func nearest(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
