package tpm

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrOther is returned when the TPM is not the one that made the key, or was cleared since. Nothing brings the key back
// but that TPM as it was.
var ErrOther = errors.New("the key was made by another TPM, or the TPM was cleared since")

// A Key is a P-256 key whose private half is in a TPM. It implements ecdh.KeyExchanger.
type Key struct {
	device  string
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate // encrypted by the TPM
	pub     *ecdh.PublicKey

	mu sync.Mutex // one question at a time; held while the TPM answers, which is its purpose
}

// storageTemplate is the storage key of the owner hierarchy: the same TPM derives the same key from it until it is
// cleared.
func storageTemplate() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// keyTemplate is a key that agrees on secrets and does nothing else, bound to its TPM and to the storage key.
var keyTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Decrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
}

// Create makes a key in the TPM at path. Errors wrap ErrUnavailable when there is no TPM, or it refuses.
func Create(path string) (*Key, error) {
	k := &Key{device: path}
	err := withStorage(path, func(t transport.TPM, parent *tpm2.CreatePrimaryResponse) error {
		made, err := tpm2.Create{ParentHandle: parentOf(parent), InPublic: tpm2.New2B(keyTemplate)}.Execute(t)
		if err != nil {
			return fmt.Errorf("make a key in the TPM: %w: %w", err, ErrUnavailable)
		}
		k.public, k.private = made.OutPublic, made.OutPrivate
		return nil
	})
	if err != nil {
		return nil, err
	}
	if k.pub, err = publicKey(k.public); err != nil {
		return nil, fmt.Errorf("make a key in the TPM: %w", err)
	}
	return k, nil
}

// PublicKey is the half that others encrypt to.
func (k *Key) PublicKey() *ecdh.PublicKey { return k.pub }

// Curve is P-256.
func (k *Key) Curve() ecdh.Curve { return ecdh.P256() }

// Check asks the TPM to take the key, which only the one that made it does. Errors wrap ErrOther or ErrUnavailable.
func (k *Key) Check() error {
	return k.use(func(transport.TPM, *tpm2.CreatePrimaryResponse, *tpm2.LoadResponse) error { return nil })
}

// ECDH agrees on a secret with the holder of remote; the multiplication is done in the TPM. Errors wrap ErrOther or
// ErrUnavailable, but for a remote key on another curve.
func (k *Key) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	if remote.Curve() != ecdh.P256() {
		return nil, errors.New("the key in the TPM is on P-256, and the other one is not")
	}
	raw := remote.Bytes() // 4, x, y
	const size = 32
	in := tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: raw[1 : 1+size]}, Y: tpm2.TPM2BECCParameter{Buffer: raw[1+size:]}}
	secret := make([]byte, size)
	err := k.use(func(t transport.TPM, parent *tpm2.CreatePrimaryResponse, key *tpm2.LoadResponse) error {
		storage, err := parent.OutPublic.Contents()
		if err != nil {
			return err
		}
		session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(parent.ObjectHandle, *storage))
		answer, err := tpm2.ECDHZGen{
			KeyHandle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: session}, InPoint: tpm2.New2B(in),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("agree on a secret in the TPM: %w: %w", err, ErrUnavailable)
		}
		point, err := answer.OutPoint.Contents()
		if err != nil || len(point.X.Buffer) > size {
			return fmt.Errorf("agree on a secret in the TPM: no point in the answer: %w", ErrUnavailable)
		}
		copy(secret[size-len(point.X.Buffer):], point.X.Buffer)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return secret, nil
}

// use loads the key for the time of do.
func (k *Key) use(do func(transport.TPM, *tpm2.CreatePrimaryResponse, *tpm2.LoadResponse) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return withStorage(k.device, func(t transport.TPM, parent *tpm2.CreatePrimaryResponse) error {
		key, err := tpm2.Load{ParentHandle: parentOf(parent), InPrivate: k.private, InPublic: k.public}.Execute(t)
		if errors.Is(err, tpm2.TPMRCIntegrity) {
			return fmt.Errorf("%s: %w", k.device, ErrOther)
		}
		if err != nil {
			return fmt.Errorf("%s: load the key: %w: %w", k.device, err, ErrUnavailable)
		}
		return errors.Join(do(t, parent, key), flush(t, key.ObjectHandle))
	})
}

// withStorage derives the storage key for the time of do.
func withStorage(path string, do func(transport.TPM, *tpm2.CreatePrimaryResponse) error) (err error) {
	t, err := open(path)
	if err != nil {
		return err
	}
	defer t.Close() //nolint:errcheck // nothing was written that could be lost
	parent, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(storageTemplate())}.Execute(t)
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return fmt.Errorf("%s: the owner hierarchy has a password, which parley does not take: remove it (tpm2_changeauth -c owner -p OLD): %w", path, ErrUnavailable)
	case err != nil:
		return fmt.Errorf("%s: derive the storage key: %w: %w", path, err, ErrUnavailable)
	}
	return errors.Join(do(t, parent), flush(t, parent.ObjectHandle))
}

// flush makes room in the TPM, which has few places and no manager of them behind a socket.
func flush(t transport.TPM, handle tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(t); err != nil {
		return fmt.Errorf("free a place in the TPM: %w: %w", err, ErrUnavailable)
	}
	return nil
}

func parentOf(p *tpm2.CreatePrimaryResponse) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: p.ObjectHandle, Name: p.Name, Auth: tpm2.PasswordAuth(nil)}
}

// publicKey reads the public half of a key of our template.
func publicKey(public tpm2.TPM2BPublic) (*ecdh.PublicKey, error) {
	contents, err := public.Contents()
	if err != nil {
		return nil, err
	}
	if contents.Type != tpm2.TPMAlgECC || contents.ObjectAttributes != keyTemplate.ObjectAttributes {
		return nil, errors.New("it is no key for agreeing on secrets that stays in its TPM")
	}
	parms, err := contents.Parameters.ECCDetail()
	if err != nil || parms.CurveID != tpm2.TPMECCNistP256 {
		return nil, errors.New("it is not on P-256")
	}
	point, err := contents.Unique.ECC()
	if err != nil {
		return nil, err
	}
	const size = 32
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return nil, errors.New("its point is too long")
	}
	raw := make([]byte, 1+2*size)
	raw[0] = 4
	copy(raw[1+size-len(point.X.Buffer):], point.X.Buffer)
	copy(raw[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
	return ecdh.P256().NewPublicKey(raw)
}
