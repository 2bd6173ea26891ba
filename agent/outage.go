package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/slo"
	"github.com/parley-mesh/parley/security"
)

// What a link of a chain is, and whose chain it is in.
const (
	linkLeaf      = "leaf"
	linkIssuer    = "issuer"
	linkAuthority = "authority" // one that an authority above has signed, and those between
	linkRoot      = "root"

	ofAgent    = "agent"
	ofWorkload = "workload"
	ofCore     = "core" // this core member's own issuer, which signs for others
)

// freshRatio is the part of a certificate's life that has to be left: it is renewed when half is.
const freshRatio = 1.0 / 3

// usedChain is a chain in use, leaf first, without its root.
type usedChain struct {
	of, hint string
	certs    []*x509.Certificate
}

// usedLinks lists every certificate of the chains once, with the roots that they lead to. A root that no chain leads to is
// in use by nobody, and none of them.
func usedLinks(chains []usedChain, roots []*x509.Certificate, now time.Time) []api.CertificateInUse {
	out := []api.CertificateInUse{}
	seen := make(map[string]bool)
	add := func(c *x509.Certificate, of, hint, link string) {
		if seen[string(c.Raw)] {
			return
		}
		seen[string(c.Raw)] = true
		use := api.CertificateInUse{Link: link, Of: of, Hint: hint, Serial: fmt.Sprintf("%x", c.SerialNumber), NotAfter: c.NotAfter.UTC(), Remaining: remaining(c, now)}
		if len(c.URIs) > 0 {
			use.SPIFFEID = c.URIs[0].String()
		}
		out = append(out, use)
	}
	for _, chain := range chains {
		link := linkLeaf
		for i, c := range chain.certs {
			switch {
			case link == linkIssuer:
				link = linkAuthority
			case link == linkLeaf && (i > 0 || c.IsCA):
				link = linkIssuer
			}
			add(c, chain.of, chain.hint, link)
		}
		if root := rootOf(chain.certs, roots); root != nil {
			add(root, chain.of, "", linkRoot)
		}
	}
	return out
}

// rootOf is the root that a chain leads to, nil if it is not among roots.
func rootOf(chain, roots []*x509.Certificate) *x509.Certificate {
	if len(chain) == 0 {
		return nil
	}
	last := chain[len(chain)-1]
	for _, r := range roots {
		if bytes.Equal(r.SubjectKeyId, last.AuthorityKeyId) && bytes.Equal(r.RawSubject, last.RawIssuer) {
			return r
		}
	}
	return nil
}

// remaining is the part of a certificate's life that is left. The time before it was made does not count.
func remaining(c *x509.Certificate, now time.Time) float64 {
	life := c.NotAfter.Sub(c.NotBefore.Add(security.Backdate))
	if life <= 0 {
		return 0
	}
	return min(1, max(0, float64(c.NotAfter.Sub(now))/float64(life)))
}

// firstToEnd is the link that ends before the others, nil without any.
func firstToEnd(links []api.CertificateInUse) *api.CertificateInUse {
	var first *api.CertificateInUse
	for i := range links {
		if first == nil || links[i].NotAfter.Before(first.NotAfter) {
			first = &links[i]
		}
	}
	return first
}

// leastFresh is the least that a certificate which this host renews has left of its life. Of the issuers of others, and of
// roots, only the end counts: a leaf by an issuer that is almost over is as good as its own end.
func leastFresh(links []api.CertificateInUse) float64 {
	least := 1.0
	for _, l := range links {
		if l.Link == linkLeaf || l.Of == ofCore && l.Link == linkIssuer {
			least = min(least, l.Remaining)
		}
	}
	return least
}

// certificatesInUse are those of this agent, of the programs of its host, and of its issuer if it is a core member.
func (a *Agent) certificatesInUse() []api.CertificateInUse {
	chains := []usedChain{{of: ofAgent, certs: a.source.Chain()}}
	for _, i := range a.identities.inUse() {
		chains = append(chains, usedChain{of: ofWorkload, hint: i.Hint, certs: i.Chain})
	}
	if authority := a.issuer.authority.Load(); authority != nil {
		chains = append([]usedChain{{of: ofCore, certs: authority.Chain()}}, chains...)
	}
	return usedLinks(chains, slices.Concat(a.source.AgentRoots(), a.source.Roots()), a.now())
}

func (a *Agent) showIdentities() api.IdentityReport {
	links := a.certificatesInUse()
	r := api.IdentityReport{Certificates: links, First: firstToEnd(links)}
	if r.First != nil {
		r.OutageIn = int64(r.First.NotAfter.Sub(a.now()).Seconds())
	}
	return r
}

// readCertificates notes how long everything here stays valid if nothing is renewed, and what is least fresh.
func (a *Agent) readCertificates(r ops.Readings) {
	links := a.certificatesInUse()
	first := firstToEnd(links)
	if first == nil {
		return
	}
	r[ops.IdentityOutage] = max(0, first.NotAfter.Sub(a.now()).Seconds())
	r[ops.IdentityLeast] = leastFresh(links)
	for _, l := range links {
		if l.Link == linkAuthority {
			if old, ok := r[ops.IdentityAuthority]; !ok || l.Remaining < old {
				r[ops.IdentityAuthority] = l.Remaining
			}
		}
		if l.Link == linkRoot && !a.othersRoot(l) {
			left := max(0, l.NotAfter.Sub(a.now()).Seconds())
			if old, ok := r[ops.IdentityRootLeft]; !ok || left < old {
				r[ops.IdentityRootLeft] = left
			}
		}
	}
}

// othersRoot tells whether a root is one of the authority outside of the cluster, which replaces it and pushes the next: SPIRE's
// last a day. Its end counts as an outage like any other; it is nothing that anybody here rotates.
func (a *Agent) othersRoot(l api.CertificateInUse) bool {
	return a.certifiedOutside() && l.Of == ofAgent
}

// countFresh judges one minute after the other by how fresh the certificates are at its end. A minute in which this agent
// stood still is judged by what it woke up to, and counts once.
func (w *watcher) countFresh(now time.Duration, r ops.Readings) {
	least, known := r[ops.IdentityLeast]
	if !known || w.freshUntil == 0 {
		w.freshUntil = now + time.Minute
		return
	}
	if now < w.freshUntil {
		return
	}
	w.freshUntil = now + time.Minute
	if least >= freshRatio {
		w.fresh.Add(slo.SourceAgent, 1, 0)
	} else {
		w.fresh.Add(slo.SourceAgent, 0, 1)
	}
}

// certificateFacts are what check says about the certificates in use.
func (a *Agent) certificateFacts(f *ops.CheckFacts) {
	f.SealTrouble = a.sealKeeper.troubled()
	for _, c := range copiedHosts(a.hub.View()) {
		f.Copied = append(f.Copied, c.Node)
	}
	if unread, err := a.generationsErr(); err != nil {
		f.Generations, f.Unread = err.Error(), unread
	}
	links := a.certificatesInUse()
	first := firstToEnd(links)
	if first == nil {
		return
	}
	f.OutageLeft, f.CertificateLeast = first.NotAfter.Sub(a.now()), leastFresh(links)
	f.OutageOf = fmt.Sprintf("the %s certificate of %s", first.Link, first.SPIFFEID)
	for _, l := range links {
		if l.Link == linkAuthority && (!f.HasAuthority || l.Remaining < f.AuthorityLeast) {
			f.HasAuthority, f.AuthorityLeast = true, l.Remaining
		}
		if left := l.NotAfter.Sub(a.now()); l.Link == linkRoot && !a.othersRoot(l) && (f.RootLeft == 0 || left < f.RootLeft) {
			f.RootLeft = left
		}
	}
}

// explainIdentity says which entries hold for a process of this host, and how the nearest others differ.
func (a *Agent) explainIdentity(ctx context.Context, pid int) (api.Explanation, error) {
	server := a.workloadAPI.server
	if server == nil {
		return api.Explanation{}, api.Errorf(api.CodeUnavailable, "this agent attests no programs: it serves no Workload API").
			WithHint("set identity.workload_socket in its configuration")
	}
	found, err := server.Inspect(ctx, pid)
	if err != nil {
		return api.Explanation{}, api.Errorf(api.CodeNotFound, "process %d cannot be looked at: %v", pid, err).
			WithHint("is it running on this host? ps -p %d", pid)
	}
	selectors := make([]string, len(found))
	for i, s := range found {
		selectors[i] = string(s)
	}
	return explain(pid, selectors, nearEntries(a.hub.View(), a.ids.Node, selectors, a.denials.idUntil)), nil
}

func explain(pid int, selectors []string, near []nearness) api.Explanation {
	out := api.Explanation{PID: pid, Selectors: selectors, Entries: []api.EntryInfo{}, Nearest: []api.NearEntry{}}
	for _, n := range near {
		switch {
		case len(n.lines) == 0:
			out.Entries = append(out.Entries, api.NewEntryInfo(n.entry))
		case len(out.Nearest) < api.MaxNearest:
			out.Nearest = append(out.Nearest, api.NearEntry{EntryInfo: api.NewEntryInfo(n.entry), Differences: n.lines})
		}
	}
	return out
}
