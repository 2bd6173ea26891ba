package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

const (
	// backupRetry is the pause after a backup that failed, or while this agent is outside the core.
	backupRetry = time.Minute
	// backupCatchUp bounds the question to the leader; without an answer the backup has what this agent has.
	backupCatchUp = 10 * time.Second
	// verifyAgain is how old the last verification may be before the newest file is read once more: a medium forgets.
	verifyAgain = 24 * time.Hour
)

// backups takes a backup each time that backup.every has passed, while this agent is a member of the core. Each member that
// is configured to does: no host is special, and the file survives any of the others.
type backups struct {
	cfg     config.Backup
	fs      storage.FS
	node    string
	trust   string
	catchUp func(context.Context) error // with every write that was acknowledged before
	view    func() *state.View          // nil outside the core
	write   func(v *state.View, w io.Writer) error
	report  func(kind, subject, message string)
	quiet   func() bool      // in safe mode it takes none; nil: never
	now     func() time.Time // wall: files outlive boots
	log     *zap.Logger

	taken    atomic.Int64 // unix seconds of the newest good backup, 0 for none
	verified atomic.Int64 // of the last time that one was restored in memory
	failed   atomic.Bool  // the last attempt did; told once
}

func newBackups(a *Agent) *backups {
	return &backups{
		cfg: a.cfg.Backup, fs: storage.OS(), node: a.ids.Node, trust: a.ids.TrustDomain,
		catchUp: a.service.CatchUp, write: a.writeSnapshot, report: a.tellTimeline, now: clock.System, quiet: a.safe.quiet, log: a.log.Named("backup"),
		view: func() *state.View {
			if v := a.hub.View(); a.core.member() != nil && v.Classes() == state.AllClasses {
				return v
			}
			return nil
		},
	}
}

// run takes backups until ctx ends.
func (b *backups) run(ctx context.Context) error {
	if b.cfg.Dir == "" {
		<-ctx.Done()
		return nil
	}
	if err := b.find(); err != nil {
		b.fail(err)
	}
	for ctx.Err() == nil {
		pause(ctx, b.step(ctx))
	}
	return nil
}

// find learns from the directory what an earlier process took, and reads the newest to see whether it is good. What that
// process was writing when it ended goes.
func (b *backups) find() error {
	names, err := b.fs.List(b.cfg.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range leftovers(names, b.trust, b.node) {
		if err := b.fs.Remove(filepath.Join(b.cfg.Dir, name)); err != nil {
			return fmt.Errorf("remove a half-written backup: %w", err)
		}
	}
	have, err := b.list()
	if err != nil || len(have) == 0 {
		return err
	}
	newest := have[len(have)-1]
	if err := b.verify(newest.name); err != nil {
		return err
	}
	b.taken.Store(newest.taken.Unix())
	return nil
}

func (b *backups) list() ([]backupFile, error) {
	names, err := b.fs.List(b.cfg.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return ownBackups(names, b.trust, b.node), err
}

// verify restores one in memory.
func (b *backups) verify(name string) error {
	report, _, err := openBackup(b.fs, filepath.Join(b.cfg.Dir, name))
	if err == nil && !report.OK {
		err = errors.New(report.Problem)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	b.verified.Store(b.now().Unix())
	return nil
}

// step does what is due and returns how long to wait.
func (b *backups) step(ctx context.Context) time.Duration {
	v := b.view()
	if v == nil || b.quiet != nil && b.quiet() {
		return min(b.cfg.Every, backupRetry)
	}
	have, err := b.list()
	if err == nil {
		if wait := backupWait(have, b.cfg.Every, b.now()); wait > 0 && b.isGood(have[len(have)-1]) {
			return min(wait, verifyAgain)
		}
		err = b.takeSomehow(ctx)
	}
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		b.fail(err)
		return min(b.cfg.Every, backupRetry)
	}
	if b.failed.Swap(false) {
		b.report(api.EventBackupWorks, b.node, "a scheduled backup was taken and verified again")
	}
	return 0
}

// isGood verifies the newest once more when the last time is long ago. Without a good one the next is due at once.
func (b *backups) isGood(newest backupFile) bool {
	if b.now().Sub(time.Unix(b.verified.Load(), 0)) < verifyAgain {
		return true
	}
	if err := b.verify(newest.name); err != nil {
		b.fail(err)
		b.taken.Store(0)
		return false
	}
	return true
}

// takeSomehow takes one. If the disk is full, those that it would push out go first, once the newest was found good: with
// room for as many as are to be kept, and no more, there would never be another one. Fewer than that are not kept for it: a
// backup from before a mistake may be what is needed.
func (b *backups) takeSomehow(ctx context.Context) error {
	err := b.take(ctx)
	if !errors.Is(err, errBackupSpace) {
		return err
	}
	removed, roomErr := b.makeRoom()
	if roomErr == nil && removed > 0 {
		b.log.Warn("no space for a backup, the oldest are removed first", zap.Int("count", removed), zap.Error(err))
		err = b.take(ctx)
	}
	if !errors.Is(err, errBackupSpace) {
		return errors.Join(err, roomErr)
	}
	have, _ := b.list()
	return errors.Join(fmt.Errorf("%w; beside the %d that are kept there is no room for another: free space there, "+
		"set backup.keep lower than %d, or give backup.dir a larger disk", err, len(have), b.cfg.Keep), roomErr)
}

// makeRoom removes the backups that the next one would push out, and returns how many. The newest always stays, and
// nothing goes unless that one restores.
func (b *backups) makeRoom() (removed int, err error) {
	have, err := b.list()
	due := surplus(have, b.cfg.Keep-1)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	if err := b.verify(have[len(have)-1].name); err != nil {
		return 0, err
	}
	for _, name := range due {
		if err := b.fs.Remove(filepath.Join(b.cfg.Dir, name)); err != nil {
			return removed, fmt.Errorf("remove an old backup: %w", err)
		}
		removed++
	}
	return removed, nil
}

// take writes one, and removes what is too many. The old ones go only after the new one is verified.
func (b *backups) take(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, backupCatchUp)
	_ = b.catchUp(asked) // without a leader the backup has what this agent has, which its manifest says
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v := b.view()
	if v == nil {
		return errors.New("this agent has left the core")
	}
	if err := b.fs.MkdirAll(b.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for backups: %w", err)
	}
	now := b.now()
	name := backupName(manifestOf(v.WithoutTokens(), b.node, "", now))
	report, err := saveBackup(b.fs, filepath.Join(b.cfg.Dir, name), func(w io.Writer) error { return b.write(v, w) })
	if err != nil {
		return fmt.Errorf("take a backup: %w", err)
	}
	b.taken.Store(now.Unix())
	b.verified.Store(now.Unix())
	b.log.Info("backup taken and verified", zap.String("path", report.File), zap.Uint64("index", v.Index()), zap.Int64("bytes", report.Bytes))
	return b.prune()
}

func (b *backups) prune() error {
	have, err := b.list()
	if err != nil {
		return err
	}
	for _, name := range surplus(have, b.cfg.Keep) {
		if err := b.fs.Remove(filepath.Join(b.cfg.Dir, name)); err != nil {
			return fmt.Errorf("remove an old backup: %w", err)
		}
	}
	return nil
}

// fail tells of the first failure in a row. A failed sync here is about another disk than the log's: nothing that was
// acknowledged depends on it, so the agent goes on, and the file without a name does not count.
func (b *backups) fail(err error) {
	b.log.Error("backup failed", zap.Error(err))
	if !b.failed.Swap(true) {
		b.report(api.EventBackupFailed, b.node, err.Error())
	}
}

// age is the metric parley_backup_age_seconds. There is none unless backups are configured and this agent is in the core.
// Before the first one it is the time since 1970: none is as late as can be.
func (b *backups) age() (float64, bool) { return b.since(&b.taken) }

// verifiedAge is the metric parley_backup_verified_age_seconds.
func (b *backups) verifiedAge() (float64, bool) { return b.since(&b.verified) }

func (b *backups) since(at *atomic.Int64) (float64, bool) {
	if b.cfg.Dir == "" || b.view() == nil {
		return 0, false
	}
	return max(0, b.now().Sub(time.Unix(at.Load(), 0)).Seconds()), true
}

// lag is the metric parley_backup_lag_ratio: the age of the newest good backup in units of backup.every.
func (b *backups) lag() (float64, bool) {
	age, ok := b.age()
	return age / b.cfg.Every.Seconds(), ok
}
