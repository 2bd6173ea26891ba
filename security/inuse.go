package security

import "crypto/x509"

// Chain is this agent's certificate in use and those of its issuers, leaf first, without the root. It must not be changed.
func (s *Source) Chain() []*x509.Certificate {
	cert := s.leaf.Load()
	chain := []*x509.Certificate{cert.Leaf}
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			break // it was parsed when it was put into use
		}
		chain = append(chain, c)
	}
	if s.external {
		return ownExternal(chain)
	}
	return chain
}

// AgentRoots are the roots of the authority outside of the cluster that certifies agents, nil if there is none. They must not be
// changed.
func (s *Source) AgentRoots() []*x509.Certificate {
	if t := s.agents.Load(); t != nil {
		return t.roots
	}
	return nil
}

// Roots are those of the bundle in use. They must not be changed.
func (s *Source) Roots() []*x509.Certificate {
	certs, err := parseCerts(s.bundle.Load().ders)
	if err != nil {
		return nil // they were parsed when the bundle was put into use
	}
	return certs
}

// Chain is the intermediate in use and what is above it, without the root of the bundle. It must not be changed.
func (a *Authority) Chain() []*x509.Certificate {
	by := a.current.Load()
	chain := []*x509.Certificate{by.cert}
	if above, err := parseCerts(by.above); err == nil { // they were parsed when they were put into use
		chain = append(chain, above...)
	}
	return chain
}
