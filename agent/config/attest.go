package config

import (
	"encoding/hex"
	"fmt"
)

// AttestToken is the value of attest.kind for a host that joins by a token.
const AttestToken = "token"

// checkAttest wants all or nothing of what it takes to join by a certificate.
func (c *Config) checkAttest(p *problems) {
	a := c.Attest
	byToken := a.Kind == AttestToken
	for _, f := range []struct {
		key, hint string
		set       bool
	}{
		{"attest.cert_file", "the certificate that this host shows, like /etc/ssh/ssh_host_ed25519_key-cert.pub", a.CertFile != ""},
		{"attest.key_file", "the certificate's private key", a.KeyFile != ""},
		{"attest.trust_domain", "the trust domain of the cluster, which parley status prints", a.TrustDomain != ""},
		{"attest.roots", "the hash of the cluster's root, which parley init and parley ca status print: this host talks to nobody else", len(a.Roots) > 0},
	} {
		switch {
		case !byToken && !f.set:
			p.add(Problem{Key: f.key, Message: "attest.kind = " + a.Kind + " needs it", Hint: f.hint})
		case byToken && f.set:
			p.add(Problem{Key: f.key, Message: "it is for hosts that join by a certificate, and attest.kind is token", Hint: "set attest.kind to x509 or ssh, or remove it"})
		}
	}
	for _, root := range a.Roots {
		if b, err := hex.DecodeString(root); err != nil || len(b) != 32 {
			p.add(Problem{Key: "attest.roots", Message: fmt.Sprintf("%.80q is not the hash of a root, 64 hex digits", root), Hint: "parley ca status prints it"})
		}
	}
	if !byToken && c.TokenFile != "" {
		p.add(Problem{Key: "token_file", Message: "a host joins by a token or by a certificate, and attest.kind is " + a.Kind, Hint: "remove one of the two"})
	}
	if !byToken && c.Identity.Source == SourceWorkloadAPI {
		p.add(Problem{Key: "attest.kind", Message: "it does not go with identity.source = \"workload-api\"", Hint: "join by a token"})
	}
}
