package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certLife is longer than any run.
const certLife = 24 * time.Hour

// certs are the files that servers are started with, and what clients show. P-256, as Parley's own.
type certs struct {
	ca, cert, key string // paths
	client        *tls.Config
}

// makeCerts makes an authority, one certificate for servers at these addresses, for both directions of the peers' links,
// and one for clients.
func makeCerts(dir string, addrs []net.IP) (*certs, error) {
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench root"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootKey, rootDER, err := sign(root, root, nil)
	if err != nil {
		return nil, err
	}
	// Peers call from 127.0.0.1, whatever they listen on, and etcd checks the caller's address.
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench server"}, IPAddresses: append([]net.IP{net.IPv4(127, 0, 0, 1)}, addrs...),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	serverKey, serverDER, err := sign(server, root, rootKey)
	if err != nil {
		return nil, err
	}
	caller := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "bench client"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	callerKey, callerDER, err := sign(caller, root, rootKey)
	if err != nil {
		return nil, err
	}
	c := &certs{ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "server.pem"), key: filepath.Join(dir, "server.key")}
	keyDER, err := x509.MarshalECPrivateKey(serverKey)
	if err != nil {
		return nil, err
	}
	for path, block := range map[string]*pem.Block{
		c.ca:   {Type: "CERTIFICATE", Bytes: rootDER},
		c.cert: {Type: "CERTIFICATE", Bytes: serverDER},
		c.key:  {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	parsed, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	c.client = &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{callerDER}, PrivateKey: callerKey}},
	}
	return c, nil
}

// sign makes a key and a certificate for it; parentKey nil is a root, which signs itself.
func sign(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parentKey == nil {
		parentKey = key
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(certLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	return key, der, err
}
