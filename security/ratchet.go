package security

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// maxUnrecorded is how many generations a host draws of which it does not know that the cluster has written them down. From then
// on, which is when there has been no quorum for long, it repeats the last one. It is not more than the cluster remembers of a
// node, so that what two core members without a quorum have seen of two copies can be compared when they meet again.
const maxUnrecorded = 32

// Ratchet is a host's own part in its generations: a secret for each, drawn when the certificate is renewed, in a file beside
// the host key. What it promises is that the host never shows two secrets for one generation, whatever fails: a secret is on
// disk before anybody hears of it, and an attempt that got no answer is repeated with the same one.
//
//  1. The host draws secret 8, writes {7, 8 pending}, and asks with a link that shows 7 and the mark of 8.
//  2. The core member signs; the answer is lost, or the host crashes.
//  3. The host asks again, with the same link: it is a retry, and is answered.
//  4. The host writes {7, 8}. The next time it shows 8.
//
// A file that cannot be read is no new beginning: the host asks without until it can. Where none can be written it shows the last one
// again. Both end by themselves, see Run.
//
// Safe for concurrent use; it writes files under its lock, which is what the lock is for.
type Ratchet struct {
	redacted
	files           generationFiles
	clusterID, node string
	host            *Host
	troubled        chan struct{} // there is something for Run; capacity 1
	trouble         atomic.Pointer[ratchetTrouble]

	mu   sync.Mutex
	s    ratchetState
	read bool // there is a file, and it was read or written: from then on what is in memory counts
}

// ratchetTrouble is why generations cannot be read, or not written.
type ratchetTrouble struct {
	err    error
	unread bool
}

// ratchetRetry is how often Run tries again to read or to write.
const ratchetRetry = 10 * time.Second

// OpenRatchet reads what the data directory dir holds, which is nothing before the first renewal. A file that cannot be used is no
// reason not to start: Err and Link say so.
func OpenRatchet(dir, clusterID, node string, host *Host) *Ratchet {
	r := &Ratchet{files: generationFiles{dir}, clusterID: clusterID, node: node, host: host, troubled: make(chan struct{}, 1)}
	_ = r.load() // Err says so
	return r
}

// load reads until there is something to read, so that a file that comes back late is not taken for none.
func (r *Ratchet) load() error {
	if r.read {
		return nil
	}
	uid := r.host.UID()
	s, err := r.files.read(hex.EncodeToString(uid[:]))
	if err != nil {
		err = fmt.Errorf("%w: mend or put back what this names, as it was last, and it is read again; if that is lost, remove it, "+
			"and run `parley agent trust %s` on another agent", err, r.node)
		r.troubledBy(err, true)
		return err
	}
	r.s, r.read = s, s.Last > 0 || s.Pending != nil
	if t := r.trouble.Load(); t != nil && t.unread {
		r.trouble.Store(nil)
	}
	return nil
}

func (r *Ratchet) troubledBy(err error, unread bool) {
	r.trouble.Store(&ratchetTrouble{err, unread})
	select {
	case r.troubled <- struct{}{}:
	default:
	}
}

// Err says why this host cannot read its generations, in which case it asks without, or why it cannot write the next one. It is nil
// when it can. It never waits for a disk.
func (r *Ratchet) Err() (unread bool, err error) {
	if t := r.trouble.Load(); t != nil {
		return t.unread, t.err
	}
	return false, nil
}

// Run tries again what could not be read or written, until ctx ends, and logs when that begins and when it is over.
func (r *Ratchet) Run(ctx context.Context, log *zap.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.troubled:
		}
		t := r.trouble.Load()
		if t == nil {
			continue
		}
		level := zap.WarnLevel
		if t.unread {
			level = zap.ErrorLevel
		}
		log.Log(level, "cannot read or write the generations of this host, trying again", zap.Error(t.err))
		for r.trouble.Load() != nil {
			if sleep(ctx, ratchetRetry) != nil {
				return
			}
			r.retry()
		}
		log.Info("the generations of this host are read and written again")
	}
}

// retry draws no secret, which is for the next renewal to do, but writes what there is, to see whether that is possible.
func (r *Ratchet) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load() == nil && r.trouble.Load() != nil {
		_ = r.save(r.s) // Err says so
	}
}

// Link is what to ask for the next certificate with. It is the same until Accepted. Without a disk to write on it repeats the last
// one that was answered, which is a retry for whoever knows it; if there was none, it is an error, and the host asks without.
func (r *Ratchet) Link() (*GenerationLink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return nil, err
	}
	if r.s.Pending == nil && (r.s.Last < maxUnrecorded || r.s.Last-maxUnrecorded < r.s.Recorded) {
		if err := r.draw(); err != nil && r.s.Last == 0 {
			return nil, err
		}
	}
	return r.link()
}

// draw makes the secret of the next generation, durable before it is used.
func (r *Ratchet) draw() error {
	next := r.s
	next.Pending = make([]byte, generationSecretBytes)
	if _, err := rand.Read(next.Pending); err != nil {
		return fmt.Errorf("draw the secret of a generation: %w", err)
	}
	if err := r.save(next); err != nil {
		return err
	}
	r.s = next
	return nil
}

func (r *Ratchet) save(s ratchetState) error {
	if err := r.files.write(s); err != nil {
		r.troubledBy(err, false)
		return err
	}
	r.read = true
	r.trouble.Store(nil)
	return nil
}

func (r *Ratchet) link() (*GenerationLink, error) {
	l := &GenerationLink{Generation: r.s.Last + 1, Secrets: slices.Clone(r.s.Secrets)}
	newest := r.s.Pending
	if newest == nil { // the last one once more
		shown := len(r.s.Secrets) - generationSecretBytes
		l.Generation, l.Secrets, newest = r.s.Last, l.Secrets[:shown], r.s.Secrets[shown:]
	}
	mark := markOf(r.clusterID, r.node, l.Generation, newest)
	l.Mark = mark[:]
	var err error
	if l.Signature, err = r.host.SignStatement(generationPurpose, l.content(r.clusterID, r.node)); err != nil {
		return nil, err
	}
	return l, nil
}

// Accepted is told that a certificate came for the last link.
func (r *Ratchet) Accepted() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.read || r.s.Pending == nil {
		return nil
	}
	secrets := append(splitSecrets(r.s.Secrets), r.s.Pending)
	r.s.Secrets = joinSecrets(secrets[max(0, len(secrets)-maxLinkSecrets):])
	r.s.Last, r.s.Pending = r.s.Last+1, nil
	return r.save(r.s) // or the next start repeats the link, which is a retry
}

// Recorded is told which generation of this host a core member has in its applied state. It is written down with the next secret.
func (r *Ratchet) Recorded(generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Recorded = max(r.s.Recorded, min(generation, r.s.Last+1))
}

// Outdated is told, by a core member and not by a relay, that the link was true once and the host has gone on since. That was
// another copy then: this one draws another secret, so that the next attempt shows that there are two.
func (r *Ratchet) Outdated() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.read {
		return nil
	}
	return r.draw()
}
