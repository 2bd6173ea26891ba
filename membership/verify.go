package membership

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
)

// maxVerified bounds the cache of checked records; when full it is emptied, which costs one
// signature check a record.
const maxVerified = 16384

// errUnknownBinding: the record names a host key that we do not know (yet).
var errUnknownBinding = errors.New("member record of an unknown host key")

// errSignature: the record was not signed by the host key that it names.
var errSignature = errors.New("member record with a wrong signature")

// verifier checks records against the bindings. A record is checked once: the signature of the
// same bytes by the same key does not change. Safe for concurrent use.
type verifier struct {
	clusterID string
	hostKeyOf func(node string) ([]byte, bool)

	mu struct {
		sync.Mutex
		done map[[32]byte]struct{} // by hash of host key and record
	}
}

func newVerifier(clusterID string, hostKeyOf func(string) ([]byte, bool)) *verifier {
	v := &verifier{clusterID: clusterID, hostKeyOf: hostKeyOf}
	v.mu.done = make(map[[32]byte]struct{})
	return v
}

// bound reports whether the node's name is still bound to the key that signed r.
func (v *verifier) bound(r record) bool {
	spki, ok := v.hostKeyOf(r.Name)
	return ok && bindingHash(r.Name, spki) == r.Binding
}

// verify returns the record in meta once its binding is known and its signature right. Errors:
// errRecord, errUnknownBinding, errSignature.
func (v *verifier) verify(meta []byte) (record, error) {
	r, body, sig, err := decodeRecord(meta)
	if err != nil {
		return record{}, err
	}
	spki, ok := v.hostKeyOf(r.Name)
	if !ok || bindingHash(r.Name, spki) != r.Binding {
		return record{}, errUnknownBinding
	}
	hash := sha256.New()
	hash.Write(spki)
	hash.Write(meta)
	key := [32]byte(hash.Sum(nil))
	if v.cached(key) {
		return r, nil
	}
	if !signedBy(spki, recordDigest(v.clusterID, body), sig) {
		return record{}, errSignature
	}
	v.remember(key)
	return r, nil
}

func signedBy(spki []byte, digest [32]byte, sig []byte) bool {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return false
	}
	key, ok := public.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(key, digest[:], sig)
}

func (v *verifier) cached(key [32]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.mu.done[key]
	return ok
}

func (v *verifier) remember(key [32]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.mu.done) >= maxVerified {
		clear(v.mu.done)
	}
	v.mu.done[key] = struct{}{}
}
