package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
)

const (
	// claimKeyFile holds the secret with which a core member signs what it holds, so that it can believe others who remind
	// it after a restart. It never leaves the host. One that is lost is made anew: what was signed before counts no more.
	claimKeyFile  = "claim.key"
	claimKeyBytes = 32
)

// claimKey returns the secret, made at the first call.
func (d *dataDir) claimKey() ([]byte, error) {
	key, err := os.ReadFile(d.join(claimKeyFile))
	if err == nil && len(key) == claimKeyBytes {
		return key, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", claimKeyFile, err)
	}
	key = make([]byte, claimKeyBytes)
	_, _ = rand.Read(key) // never fails
	if err := d.write(claimKeyFile, key); err != nil {
		return nil, err
	}
	return key, nil
}
