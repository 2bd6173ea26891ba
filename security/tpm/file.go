package tpm

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

const (
	pemLabel = "TSS2 PRIVATE KEY"
	// maxText bounds what Parse reads; a key has about 500 bytes.
	maxText = 4 << 10
)

// loadableOID says that the key is loaded below a parent (TCG, 2.23.133.10.1.3).
var loadableOID = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// keyFile is what the PEM block holds.
type keyFile struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool  `asn1:"optional,explicit,tag:0"`
	Parent    int64 // the owner hierarchy: its storage key of the usual template
	Public    []byte
	Private   []byte
}

// PEM is the key for a file. It is of no use without the TPM.
func (k *Key) PEM() ([]byte, error) {
	der, err := asn1.Marshal(keyFile{
		Type: loadableOID, EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner), Public: tpm2.Marshal(k.public), Private: tpm2.Marshal(k.private),
	})
	if err != nil {
		return nil, fmt.Errorf("encode the key of the TPM: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemLabel, Bytes: der}), nil
}

// Parse reads what PEM wrote. It does not ask the TPM at path.
func Parse(path string, text []byte) (*Key, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), maxText)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemLabel {
		return nil, errors.New("there is no PEM block " + pemLabel)
	}
	var f keyFile
	if rest, err := asn1.Unmarshal(block.Bytes, &f); err != nil || len(rest) > 0 {
		return nil, errors.New("the PEM block is damaged")
	}
	if !f.Type.Equal(loadableOID) || f.Parent != int64(tpm2.TPMRHOwner) || !f.EmptyAuth {
		return nil, errors.New("it is not a key below the storage key of the owner hierarchy, without a password")
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return nil, errors.New("its public half is damaged")
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](f.Private)
	if err != nil {
		return nil, errors.New("its private half is damaged")
	}
	pub, err := publicKey(*public)
	if err != nil {
		return nil, err
	}
	return &Key{device: path, public: *public, private: *private, pub: pub}, nil
}
