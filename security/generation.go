package security

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// generationSecretBytes is the length of a generation's secret.
	generationSecretBytes = 16
	// maxLinkSecrets is how many secrets of the past a link shows. At the usual life of a certificate those are of three days,
	// which is for how long a core member may have heard nothing of the others and still renews.
	maxLinkSecrets = 160
)

const generationPurpose = "generation link v1"

// GenerationMark stands for the secret of one generation of a host, and does not tell it.
type GenerationMark [16]byte

// GenerationLink is what a host says of its generations when it asks for a certificate. It has a new secret for each, keeps
// that of the last one for itself, and shows those of before. Who has a copy of the host's files shows other ones from then on,
// or the ones that were shown already: see decision 97.
//
// The link is signed apart from the request that it comes in, so that core members that know of no generations may leave it
// unread. It is worth nothing to others: it names the host, and asks for nothing.
type GenerationLink struct {
	Generation uint64 `json:"generation"`
	Secrets    []byte `json:"secrets"` // of the generations just before, the oldest first, of generationSecretBytes each
	Mark       []byte `json:"mark"`    // of Generation
	Signature  []byte `json:"signature"`
}

// markOf binds a secret to its place.
func markOf(clusterID, node string, generation uint64, secret []byte) GenerationMark {
	sum := sha256.Sum256(canonical("parley generation v1", []byte(clusterID), []byte(node), binary.BigEndian.AppendUint64(nil, generation), secret))
	return GenerationMark(sum[:16])
}

func (l *GenerationLink) content(clusterID, node string) []byte {
	return canonical(generationPurpose, []byte(clusterID), []byte(node), binary.BigEndian.AppendUint64(nil, l.Generation), l.Secrets, l.Mark)
}

// check says what is wrong with the form of l.
func (l *GenerationLink) check() error {
	shown := len(l.Secrets) / generationSecretBytes
	switch {
	case l.Generation == 0 || l.Generation > 1<<62:
		return fmt.Errorf("generation %d: they are counted from 1", l.Generation)
	case len(l.Secrets)%generationSecretBytes != 0 || shown > maxLinkSecrets:
		return fmt.Errorf("generation link with %d bytes of secrets: use %d for each of at most %d", len(l.Secrets), generationSecretBytes, maxLinkSecrets)
	case uint64(shown) >= l.Generation:
		return fmt.Errorf("generation link with %d secrets before generation %d", shown, l.Generation)
	case len(l.Mark) != len(GenerationMark{}):
		return fmt.Errorf("generation link with a mark of %d bytes, want %d", len(l.Mark), len(GenerationMark{}))
	case len(l.Signature) == 0 || len(l.Signature) > maxHostSignature:
		return errors.New("generation link without a signature")
	}
	return nil
}

// Marks are those of all generations of the link, from first on, if the host with that key (SPKI DER) has signed it for this
// node of this cluster.
func (l *GenerationLink) Marks(clusterID, node string, hostKey []byte) (first uint64, marks []GenerationMark, err error) {
	if err := l.check(); err != nil {
		return 0, nil, err
	}
	if !VerifyStatement(hostKey, generationPurpose, l.content(clusterID, node), l.Signature) {
		return 0, nil, errors.New("the generation link is not signed by the host key of node " + node)
	}
	secrets := splitSecrets(l.Secrets)
	first = l.Generation - uint64(len(secrets))
	for i, secret := range secrets {
		marks = append(marks, markOf(clusterID, node, first+uint64(i), secret))
	}
	return first, append(marks, GenerationMark(l.Mark)), nil
}

func splitSecrets(all []byte) (secrets [][]byte) {
	for ; len(all) >= generationSecretBytes; all = all[generationSecretBytes:] {
		secrets = append(secrets, all[:generationSecretBytes])
	}
	return secrets
}

func joinSecrets(secrets [][]byte) []byte { return bytes.Join(secrets, nil) }
