package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxProgramBytes is the largest program that is hashed; a larger one has no sha256 selector.
	maxProgramBytes = 256 << 20
	// hashTurns is how many programs are read at a time: one of a user, so that none waits for another's large programs.
	hashTurns = 64
	// maxHashes is how many programs' hashes are kept; beyond, all are forgotten and found again.
	maxHashes = 1024
	// settled is how long ago a file must have changed for its hash to be kept: two changes in one tick of the file system's
	// clock would look like one.
	settled = 2 * time.Second
)

// fileKey identifies a file and its content.
type fileKey struct {
	device, inode uint64
	ctime, size   int64
}

// hashes knows the SHA-256 of programs.
type hashes struct {
	now   func() time.Time
	turns [hashTurns]chan struct{} // by user, capacity 1 each
	mu    struct {
		sync.Mutex // no file is read under it
		known      map[fileKey]string
	}
}

func newHashes(now func() time.Time) *hashes {
	h := &hashes{now: now}
	for i := range h.turns {
		h.turns[i] = make(chan struct{}, 1)
	}
	h.mu.known = make(map[fileKey]string)
	return h
}

// of returns the hash of the content of a file that a user runs in hexadecimal, "" for a file that is too large.
func (h *hashes) of(ctx context.Context, uid uint32, file *os.File) (string, error) {
	key, _, err := fileIdentity(file)
	if err != nil {
		return "", err
	}
	if hash, ok := h.get(key); ok {
		return hash, nil
	}
	if key.size > maxProgramBytes {
		return "", nil
	}
	turn := h.turns[uid%hashTurns]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if hash, ok := h.get(key); ok {
		return hash, nil // another one has read it meanwhile
	}
	sum := sha256.New()
	if err := copyAll(ctx, sum, file); err != nil {
		return "", fmt.Errorf("hash the program: %w", err)
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	after, changed, err := fileIdentity(file)
	if err != nil {
		return "", err
	}
	if after != key {
		return "", fmt.Errorf("the program's file changed while it was read: ask again")
	}
	if h.now().Sub(time.Unix(0, changed)) >= settled {
		h.put(key, hash)
	}
	return hash, nil
}

// copyAll copies until the end of the file, the limit, or that of ctx.
func copyAll(ctx context.Context, to io.Writer, file *os.File) error {
	for {
		_, err := io.CopyN(to, file, 4<<20)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (h *hashes) get(key fileKey) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hash, ok := h.mu.known[key]
	return hash, ok
}

func (h *hashes) put(key fileKey, hash string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.mu.known) >= maxHashes {
		clear(h.mu.known)
	}
	h.mu.known[key] = hash
}

// readLimited reads a small file.
func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return text, nil
}
