package membership

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"sync"
)

// own is our record as the others should see it, and the incarnation that memberlist has reached.
// Safe for concurrent use.
type own struct {
	clusterID string
	key       crypto.Signer
	spki      []byte

	mu struct {
		sync.Mutex
		record      record
		meta        []byte
		incarnation uint32
	}
}

// newOwn signs the first record of this start.
func newOwn(o Options) (*own, error) {
	spki, err := x509.MarshalPKIXPublicKey(o.HostKey.Public())
	if err != nil {
		return nil, fmt.Errorf("membership: host key: %w", err)
	}
	s := &own{clusterID: o.ClusterID, key: o.HostKey, spki: spki}
	s.mu.record = record{
		Name: o.Name, Addr: o.Advertise, Epoch: o.Epoch, Binding: bindingHash(o.Name, spki),
		Zone: o.Zone, Version: o.Version,
	}
	s.mu.incarnation = 1 // memberlist's first
	return s, s.resign(1, false)
}

// resign replaces the record by a newer one that vouches for incarnations from base on. Signing
// may be slow (a TPM), so it runs without the lock; one goroutine at a time calls resign.
func (s *own) resign(base uint32, leaving bool) error {
	s.mu.Lock()
	next := s.mu.record
	s.mu.Unlock()
	next.Seq++
	next.Base = base
	next.Leaving = leaving
	meta, err := signRecord(next, s.clusterID, s.key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.record, s.mu.meta = next, meta
	return nil
}

// view returns the record, its encoding (never modified), and our incarnation.
func (s *own) view() (r record, meta []byte, incarnation uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.record, s.mu.meta, s.mu.incarnation
}

// reached notes an incarnation that memberlist used for us.
func (s *own) reached(incarnation uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.incarnation = max(s.mu.incarnation, incarnation)
}

// due reports whether refutations have used up half of what the record vouches for.
func (s *own) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.mu.incarnation) >= uint64(s.mu.record.Base)+incarnationSlack/2
}
