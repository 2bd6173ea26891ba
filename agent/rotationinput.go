package agent

import (
	"crypto/x509"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// goneAfter is how long gossip has to hold an agent dead before a rotation goes on without it. One that comes back later
// may not know the root that signs by then.
const goneAfter = 72 * time.Hour

// counted names the agents that a rotation waits for: all that have not left, but those that have been dead for long.
func counted(nodes []state.Node, members []membership.Member, now time.Time) (out []string) {
	gone := map[string]bool{}
	for _, m := range members {
		gone[m.Name] = m.State == membership.StateDead && now.Sub(m.Since) > goneAfter
	}
	for _, n := range nodes {
		if !n.Left && !gone[n.Name] {
			out = append(out, n.Name)
		}
	}
	return out
}

// rotationInput is what the planner looks at: the applied state, and what the agents said of themselves.
func rotationInput(v *state.View, agents []string, reports map[string]security.TrustReport, now time.Time) security.RotationInput {
	a := v.Authority()
	in := security.RotationInput{
		Now: now, Signing: a.Signing, Next: a.Next, Since: wallOf(a.Since), NextSince: wallOf(a.NextSince),
		Wanted: a.Wanted, Force: a.Force, Compromised: a.Compromised, Policy: security.DefaultRotationPolicy(),
	}
	if in.SigningRoot = v.RootOf(a.Signing); a.Next != (state.RootHash{}) {
		in.NextRoot = v.RootOf(a.Next)
	}
	if u, ok := v.Upstream(a.Signing); ok {
		in.Leave, in.External = u.Leave, lifeOf(u)
	}
	for _, der := range v.Bundle().Roots {
		if cert, err := x509.ParseCertificate(der); err == nil {
			in.Roots = append(in.Roots, security.RootLife{Hash: security.RootHash(der), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter})
		}
	}
	for _, node := range agents {
		r := reports[node]
		r.Node = node
		in.Agents = append(in.Agents, r)
	}
	return in
}

// lifeOf is the life of an authority that another one has signed: it is over with the first link above it.
func lifeOf(u state.Upstream) *security.RootLife {
	life := security.RootLife{Hash: u.Authority}
	for _, der := range u.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // it was parsed before it was brought in
		}
		if life.NotAfter.IsZero() {
			life.NotBefore = cert.NotBefore
		}
		if life.NotAfter.IsZero() || cert.NotAfter.Before(life.NotAfter) {
			life.NotAfter = cert.NotAfter
		}
	}
	return &life
}

func wallOf(s clock.Stamp) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return s.Wall()
}
