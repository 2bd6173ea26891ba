package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/storage"
)

const (
	recordingsDir = "recordings"
	recordingEnd  = ".rec"

	maxRecordings     = 8        // files, by different reasons: another of the same is not kept
	maxRecordingBytes = 64 << 20 // of all of them
	recordingsQueue   = 4        // waiting to be written; one more is dropped
)

// recordings keeps what the recorder gives away when something happened that must not: one file for each reason, until
// somebody has looked and has them forgotten. A reason is an invariant, or the function in which something panicked, so a
// second file of it would tell little that is new, and the first is the one that nobody saw coming.
type recordings struct {
	dir    *dataDir
	queue  chan recordingFile // recordingsQueue; full = dropped
	log    *zap.Logger
	kept   atomic.Int64
	report func(kind, subject, message string)
	node   string
	mu     sync.Mutex // of the directory: one who writes or deletes; nothing else is done under it
}

type recordingFile struct {
	reason  string
	content []byte
}

func newRecordings(a *Agent) *recordings {
	r := &recordings{dir: a.dir, queue: make(chan recordingFile, recordingsQueue), log: a.log.Named("recorder"), report: a.tellTimeline, node: a.ids.Node}
	r.kept.Store(int64(len(r.list())))
	return r
}

func (a *Agent) recordOptions() consensus.RecordOptions {
	return consensus.RecordOptions{Bytes: a.cfg.Debug.RecorderMiB << 20, Build: BuildID(), Save: a.recordings.save}
}

// save is called by the core's loop.
func (r *recordings) save(reason string, content []byte) {
	select {
	case r.queue <- recordingFile{reason, content}:
	default:
		r.log.Warn("recording dropped, others are being written", zap.String("reason", reason))
	}
}

// run writes. What waits when ctx ends is written too: what ended the core is in it.
func (r *recordings) run(ctx context.Context) error {
	for {
		select {
		case f := <-r.queue:
			r.write(f)
			continue
		default:
		}
		select {
		case f := <-r.queue:
			r.write(f)
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *recordings) write(f recordingFile) {
	name, err := r.keep(f)
	switch {
	case err != nil:
		r.log.Error("recording not written", zap.String("reason", f.reason), zap.Error(err))
	case name != "":
		r.log.Error("what led to this was recorded", zap.String("reason", f.reason), zap.String("path", r.dir.join(recordingsDir, name)),
			zap.String("hint", "run: parley runbook run heisenbug"))
		r.report(api.EventRecorded, r.node, truncate(f.reason+": "+name))
	}
}

// keep writes one, unless there is one of its reason or no room.
func (r *recordings) keep(f recordingFile) (name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list()
	name = recordingName(f.reason)
	total := int64(len(f.content))
	for _, has := range list {
		total += has.Bytes
		if has.Name == name {
			return "", nil
		}
	}
	if len(list) >= maxRecordings || total > maxRecordingBytes {
		return "", fmt.Errorf("%d recordings of %d bytes are kept, and no more: look at them and run: parley debug forget", len(list), total-int64(len(f.content)))
	}
	if err := r.dir.fs.MkdirAll(r.dir.join(recordingsDir), 0o700); err != nil {
		return "", err
	}
	// Not by dataDir.write: a disk that is full or fails is not worth the end of the process for the sake of this.
	if err := storage.WriteFileAtomic(r.dir.fs, r.dir.join(recordingsDir, name), f.content, 0o600); err != nil {
		return "", err
	}
	r.kept.Store(int64(len(list)) + 1)
	return name, nil
}

// recordingName says the reason, and by a hash tells apart what reads alike in a file name.
func recordingName(reason string) string {
	plain := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			return c
		}
		return '-'
	}, reason)
	hash := sha256.Sum256([]byte(reason))
	return plain[:min(len(plain), 60)] + "-" + hex.EncodeToString(hash[:4]) + recordingEnd
}

// list is what is on the disk, by name.
func (r *recordings) list() (list []api.Recording) {
	entries, err := os.ReadDir(r.dir.join(recordingsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("recordings cannot be listed", zap.Error(err))
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), recordingEnd) {
			continue
		}
		list = append(list, api.Recording{Name: e.Name(), Bytes: info.Size(), At: info.ModTime().UTC()})
	}
	return list
}

// forget deletes all of them.
func (r *recordings) forget() ([]api.Recording, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list()
	for i, has := range list {
		if err := r.dir.fs.Remove(r.dir.join(recordingsDir, has.Name)); err != nil {
			r.kept.Store(int64(len(list) - i))
			return list[:i], fmt.Errorf("delete %s: %w", has.Name, err)
		}
	}
	r.kept.Store(0)
	return slices.Clip(list), nil
}

func (r *recordings) reading(to ops.Readings) { to[ops.RecordingsKept] = float64(r.kept.Load()) }
