package security

import (
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"time"
)

// BundleTLS is for a bundle endpoint that proves itself by this agent's SPIFFE ID. Clients show nothing: the bundle is public.
func (s *Source) BundleTLS() *tls.Config {
	c := s.baseTLS()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// WebTLS is for a bundle endpoint that proves itself by a certificate of the Web's authorities, in PEM files that somebody else
// renews: they are read again when they have changed. It reads them once, to say what is wrong with them.
func WebTLS(certFile, keyFile string) (*tls.Config, error) {
	w := &webCertificate{certFile: certFile, keyFile: keyFile}
	if _, err := w.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: w.get,
	}, nil
}

// webCertificate is a certificate in files.
type webCertificate struct {
	certFile, keyFile string
	mu                sync.Mutex // the files are read under it, so that one handshake does it for all
	loaded            *tls.Certificate
	stamp             [2]time.Time
}

// get returns the certificate. While the files are no good, or between their two renewals, it is the last one that was.
func (w *webCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cert, certErr := os.Stat(w.certFile)
	key, keyErr := os.Stat(w.keyFile)
	if err := errors.Join(certErr, keyErr); err != nil {
		return w.loaded, w.unlessLoaded(err)
	}
	stamp := [2]time.Time{cert.ModTime(), key.ModTime()}
	if w.loaded != nil && stamp == w.stamp {
		return w.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(w.certFile, w.keyFile)
	if err != nil {
		return w.loaded, w.unlessLoaded(err)
	}
	w.loaded, w.stamp = &pair, stamp
	return w.loaded, nil
}

func (w *webCertificate) unlessLoaded(err error) error {
	if w.loaded != nil {
		return nil
	}
	return err
}
