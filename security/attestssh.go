package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxSSHFile bounds the files of SSH that are read.
const maxSSHFile = 64 << 10

// sshSigners are the ways to sign that count: none is by SHA-1, and none is of a kind that OpenSSH has given up.
var sshSigners = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
}

// sshEvidence is a host certificate of OpenSSH (PROTOCOL.certkeys).
type sshEvidence struct{ cert *ssh.Certificate }

func readSSHEvidence(wire []byte) (evidence, error) {
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("host certificate of SSH: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("a key of SSH that nobody has certified: show the host certificate, like ssh_host_ed25519_key-cert.pub")
	}
	return sshEvidence{cert}, nil
}

func (e sshEvidence) possession(content, signature []byte) error {
	var sig ssh.Signature
	if err := ssh.Unmarshal(signature, &sig); err != nil {
		return errors.New("the signature is none of SSH")
	}
	if err := strongSSH(e.cert.Key, sig.Format); err != nil {
		return err
	}
	return e.cert.Key.Verify(content, &sig)
}

// strongSSH refuses weak keys and ways to sign.
func strongSSH(key ssh.PublicKey, format string) error {
	if !slices.Contains(sshSigners, format) {
		return fmt.Errorf("%q is no way to sign that is trusted here", printable(format, 64))
	}
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("the key is of a kind that is not used here")
	}
	switch k := crypto.CryptoPublicKey().(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		return checkRSA(k)
	default:
		return errors.New("the key is of a kind that is not used here: use Ed25519, ECDSA or RSA")
	}
	return nil
}

func (e sshEvidence) certifiedBy(authorities [][]byte, now time.Time) ([]string, error) {
	switch {
	case e.cert.CertType != ssh.HostCert:
		return nil, errors.New("the certificate is for a user, and not for a host")
	case len(e.cert.ValidPrincipals) == 0:
		return nil, errors.New("the certificate is for any host: have it made for the names of this one (ssh-keygen -h -n NAME)")
	case e.cert.Signature == nil:
		return nil, errors.New("the certificate is not signed")
	}
	signer := e.cert.SignatureKey.Marshal()
	if !slices.ContainsFunc(authorities, func(a []byte) bool { return bytes.Equal(a, signer) }) {
		return nil, errors.New("the certificate is by another authority")
	}
	if err := strongSSH(e.cert.SignatureKey, e.cert.Signature.Format); err != nil {
		return nil, fmt.Errorf("the certificate's signature: %w", err)
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	if err := checker.CheckCert(e.cert.ValidPrincipals[0], e.cert); err != nil {
		return nil, err
	}
	return slices.Clone(e.cert.ValidPrincipals), nil
}

// ParseSSHAuthorities reads public keys as in authorized_keys or known_hosts (with @cert-authority or without), at most most of
// them, and returns them in SSH's wire format.
func ParseSSHAuthorities(text []byte, most int) (out [][]byte, err error) {
	if len(text) > maxSSHFile {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), maxSSHFile)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if rest, marked := strings.CutPrefix(line, "@cert-authority "); marked {
			_, line, _ = strings.Cut(strings.TrimSpace(rest), " ") // the hosts that it is for; here the admission says which
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("public keys of SSH: %q: %w", printable(line, 40), err)
		}
		if _, isCert := key.(*ssh.Certificate); isCert {
			return nil, errors.New("public keys of SSH: a certificate is no authority: give the public key that signed it")
		}
		if out = append(out, key.Marshal()); len(out) > most {
			return nil, fmt.Errorf("more than %d authorities", most)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there is no public key of SSH in it")
	}
	return out, nil
}

// LoadSSHIdentity reads the host certificate (like /etc/ssh/ssh_host_ed25519_key-cert.pub) and the host's private key.
func LoadSSHIdentity(certFile, keyFile string) (*HostIdentity, error) {
	text, err := readLimited(certFile, maxSSHFile)
	if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s is a key that nobody has certified: give the host certificate, like ssh_host_ed25519_key-cert.pub", certFile)
	}
	if text, err = readLimited(keyFile, maxSSHFile); err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), cert.Key.Marshal()) {
		return nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return &HostIdentity{kind: AttestSSH, evidence: [][]byte{cert.Marshal()}, sign: func(content []byte) ([]byte, error) { return signSSH(signer, content) }}, nil
}

func signSSH(signer ssh.Signer, content []byte) ([]byte, error) {
	algorithm := signer.PublicKey().Type()
	if algorithm == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA256 // by SHA-1 otherwise
	}
	as, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the key cannot say how it signs")
	}
	sig, err := as.SignWithAlgorithm(rand.Reader, content, algorithm)
	if err != nil {
		return nil, err
	}
	return ssh.Marshal(sig), nil
}

// readLimited reads a file that may be no file of keys at all.
func readLimited(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes or is no file, at most %d bytes are read", path, info.Size(), most)
	}
	return os.ReadFile(path)
}
