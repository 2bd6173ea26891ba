package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// MaxUpstream is how many certificates there may be from the authority of this cluster up to its root, both included.
const MaxUpstream = 4

// Upstream is an authority of this cluster that an authority above it has signed: what in a cluster of its own is the
// root. The bundle has the root that it chains to.
type Upstream struct {
	Authority RootHash // of Chain[0]; what Authority.Signing and Next name
	Chain     [][]byte // DER: the authority, those between, the root
	Leave     bool     // a root of the cluster's own is to take its place
}

// Root is the hash of the root that it chains to.
func (u Upstream) Root() RootHash { return sha256.Sum256(u.Chain[len(u.Chain)-1]) }

// UpstreamPrepare is RootPrepare for an authority that an authority above it has signed: the root of Chain comes into the
// bundle, unless it is there, and the authority is the next one to sign. Seals and RecoverySealed hold its key.
type UpstreamPrepare struct {
	Chain          [][]byte // DER: the authority, those between, the root
	Seals          []Seal
	RecoverySealed []byte
}

// UpstreamLeave asks for a root of the cluster's own in place of an authority that another one has signed.
type UpstreamLeave struct{}

func (UpstreamPrepare) kind() kind { return kindUpstreamPrepare }
func (UpstreamLeave) kind() kind   { return kindUpstreamLeave }

func (c UpstreamPrepare) check() error {
	if len(c.Chain) < 2 || len(c.Chain) > MaxUpstream {
		return fmt.Errorf("a chain of %d certificates: 2 to %d are allowed", len(c.Chain), MaxUpstream)
	}
	for _, cert := range c.Chain {
		if len(cert) == 0 || len(cert) > MaxRootBytes {
			return fmt.Errorf("a certificate of %d bytes: use 1 to %d", len(cert), MaxRootBytes)
		}
	}
	return RootPrepare{Root: c.Chain[0], Seals: c.Seals, RecoverySealed: c.RecoverySealed}.check()
}

func (c UpstreamLeave) check() error { return nil }

func (c UpstreamPrepare) append(b []byte) []byte {
	b = appendChain(b, c.Chain)
	return RootPrepare{Seals: c.Seals, RecoverySealed: c.RecoverySealed}.append(b)
}

func readUpstreamPrepare(r *reader) Command {
	c := UpstreamPrepare{Chain: readChain(r)}
	rest, _ := readRootPrepare(r).(RootPrepare) // nothing else
	c.Seals, c.RecoverySealed = rest.Seals, rest.RecoverySealed
	return c
}

func (c UpstreamLeave) append(b []byte) []byte { return b }
func readUpstreamLeave(*reader) Command        { return UpstreamLeave{} }

func appendChain(b []byte, chain [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(chain)))
	for _, cert := range chain {
		b = appendBytes(b, cert)
	}
	return b
}

func readChain(r *reader) (chain [][]byte) {
	for range r.count(MaxUpstream, "certificates") {
		chain = append(chain, r.bytes(MaxRootBytes, "certificate"))
	}
	return chain
}

func (c UpstreamPrepare) apply(a *applying) Result {
	u := Upstream{Authority: sha256.Sum256(c.Chain[0]), Chain: c.Chain}
	if res := a.prepareNext(u.Authority, c.Chain[len(c.Chain)-1], c.Seals, c.RecoverySealed); res.Code != CodeOK {
		return res
	}
	a.replace(TableUpstream, string(u.Authority[:]), encodeUpstream(u))
	return Result{}
}

func (c UpstreamLeave) apply(a *applying) Result {
	authority := a.s.authority()
	u, ok := a.s.upstream(a.s.signing())
	switch {
	case !ok:
		return refuse(CodeConflict, "the root that signs is the cluster's own")
	case authority.Next != RootHash{}:
		return refuse(CodeConflict, "another authority is being brought in: wait until it signs")
	}
	u.Leave, authority.Wanted, authority.Signing = true, true, a.s.signing()
	a.replace(TableUpstream, string(u.Authority[:]), encodeUpstream(u))
	a.replace(TableAuthority, "", encodeAuthority(authority))
	return Result{}
}

// dropUpstreams forgets the authorities that neither sign nor are about to: who has a certificate below one shows the
// chain itself.
func (a *applying) dropUpstreams() {
	signing, next := a.s.signing(), a.s.authority().Next
	for _, u := range a.s.upstreams() {
		if u.Authority != signing && u.Authority != next {
			a.set(TableUpstream, string(u.Authority[:]), nil)
		}
	}
}

func encodeUpstream(u Upstream) []byte {
	return appendBool(appendChain(append(newRow(2048), u.Authority[:]...), u.Chain), u.Leave)
}

func decodeUpstream(row []byte) (Upstream, error) {
	r := openRow(row)
	u := Upstream{Authority: r.fixed32("authority"), Chain: readChain(&r), Leave: r.bool("leave")}
	if err := r.done(); err != nil {
		return u, err
	}
	if len(u.Chain) < 2 {
		return u, fmt.Errorf("%w: an authority without a root", ErrMalformed)
	}
	return u, nil
}

func (s *store) upstreams() []Upstream {
	return rows(s, TableUpstream, func(r *record) (Upstream, error) { return decodeUpstream(r.row) })
}

func (s *store) upstream(authority RootHash) (Upstream, bool) {
	r, ok := s.get(TableUpstream, string(authority[:]))
	if !ok {
		return Upstream{}, false
	}
	return must(decodeUpstream(r.row)), true
}

// rootOf is the root of the bundle that an authority chains to: itself, if it is the cluster's own.
func (s *store) rootOf(authority RootHash) RootHash {
	if u, ok := s.upstream(authority); ok {
		return u.Root()
	}
	return authority
}

// Upstream returns how an authority chains to its root; false for a root of the cluster's own.
func (v *View) Upstream(authority RootHash) (Upstream, bool) { return v.s.upstream(authority) }

// RootOf returns which root of the bundle an authority chains to: itself, if it is the cluster's own.
func (v *View) RootOf(authority RootHash) RootHash { return v.s.rootOf(authority) }

// authorities are the certificates that may speak for the cluster: its roots, and authorities that others have signed.
func (v *View) authorities() [][]byte {
	out := slices.Clone(v.Bundle().Roots)
	for _, u := range v.s.upstreams() {
		out = append(out, u.Chain[0])
	}
	return out
}
