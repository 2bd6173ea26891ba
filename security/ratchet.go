package security

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
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
// Safe for concurrent use; it writes files under its lock, which is what the lock is for.
type Ratchet struct {
	redacted
	path, clusterID, node string
	host                  *Host
	broken                error // why the file cannot be used

	mu sync.Mutex
	s  ratchetState
}

// ratchetState is the file.
type ratchetState struct {
	Host     string `json:"host"`              // UID, in hex: another host key has other generations
	Last     uint64 `json:"last"`              // the newest generation that was answered
	Secrets  []byte `json:"secrets"`           // of Last and those before it, the oldest first
	Pending  []byte `json:"pending,omitempty"` // of the generation after Last, if an answer is waited for
	Recorded uint64 `json:"recorded"`          // the newest that is known to be in the replicated state
}

// OpenRatchet reads what the data directory dir holds, which is nothing before the first renewal. A file that is damaged is no
// reason not to start: Link says so.
func OpenRatchet(dir, clusterID, node string, host *Host) *Ratchet {
	r := &Ratchet{path: identityPath(dir, generationFile), clusterID: clusterID, node: node, host: host}
	uid := host.UID()
	fresh := ratchetState{Host: hex.EncodeToString(uid[:])}
	data, err := readKeyFile(r.path)
	switch {
	case isNotExist(err):
		r.s = fresh
		return r
	case err == nil:
		err = r.decode(data)
	}
	switch {
	case err != nil:
		r.broken = fmt.Errorf("%w: remove it, and run `parley agent trust %s` on another agent", err, node)
	case r.s.Host != fresh.Host:
		r.s = fresh
	}
	return r
}

func (r *Ratchet) decode(data []byte) error {
	var s ratchetState
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s holds no generations", r.path) // the parser's error may quote a secret
	}
	kept := uint64(len(s.Secrets) / generationSecretBytes)
	whole := len(s.Secrets)%generationSecretBytes == 0 && kept <= maxLinkSecrets && kept <= s.Last && (kept > 0) == (s.Last > 0)
	if !whole || len(s.Pending) != 0 && len(s.Pending) != generationSecretBytes || s.Last > 1<<61 {
		return fmt.Errorf("%s holds no generations", r.path)
	}
	r.s = s
	return nil
}

// Link is what to ask for the next certificate with. It is the same until Accepted. Without a disk to write on it repeats the last
// one that was answered, which is a retry for whoever knows it; if there was none, it is an error, and the host asks without.
func (r *Ratchet) Link() (*GenerationLink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, r.broken
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
	data, err := json.Marshal(s)
	if err == nil {
		err = writeFile(r.path, data)
	}
	if err != nil {
		return fmt.Errorf("save generations: %w", err)
	}
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
	l.Signature, err = r.host.SignStatement(generationPurpose, l.content(r.clusterID, r.node))
	return l, err
}

// Accepted is told that a certificate came for the last link.
func (r *Ratchet) Accepted() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil || r.s.Pending == nil {
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
	if r.broken != nil {
		return nil
	}
	return r.draw()
}
