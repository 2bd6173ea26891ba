package security

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// RenewerOptions is what a Renewer needs.
type RenewerOptions struct {
	Source *Source
	// Renew asks an issuer for the certificate. It returns the chain (DER, leaf first) and the
	// bundle that the issuer holds now; roots may be empty when it has nothing newer.
	Renew func(ctx context.Context, r LeafRequest) (chain [][]byte, bundleSeq uint64, roots [][]byte, err error)
	// Rekey asks for the certificate by the host key alone, when Renew fails and the certificate has
	// expired, is about to, or is shunned. It returns the chain. nil: there is no such way.
	Rekey func(ctx context.Context, r LeafRequest) (chain [][]byte, err error)
	// Ratchet has this host's generations. nil: it has none, and asks without.
	Ratchet *Ratchet
	// Stale tells whether the certificate in use is to be replaced soon, within ten seconds, because the root that it
	// chains to is compromised. nil: never.
	Stale func() bool
	// Shunned tells whether peers refuse the certificate in use, which is denied: it is replaced as one that is stale, and by the
	// host key if it has to be. nil: never.
	Shunned func() bool
	// TTL of the certificates asked for; 0 means DefaultLeafTTL.
	TTL time.Duration
	Now func() time.Time
	Log *zap.Logger // nil: silent
}

// Renewer keeps the certificate of a Source fresh: a new key and a new certificate at half of the
// life of the one in use, +-10 %. While renewals fail the old one stays in use and attempts go on: an
// issuer may come back. One that has expired stays in place as well, but nobody accepts it; from then on,
// and a little before, a failed renewal is followed by one by the host key.
type Renewer struct {
	o RenewerOptions
	u *upkeep

	saidBare bool // that requests go without a generation; owned by Run
}

// NewRenewer prepares a Renewer; Run starts it. It panics when TTL is out of bounds, which the
// configuration has checked before.
func NewRenewer(o RenewerOptions) *Renewer {
	if o.TTL == 0 {
		o.TTL = DefaultLeafTTL
	}
	if o.TTL < MinLeafTTL || o.TTL > MaxLeafTTL {
		panic(fmt.Sprintf("security: leaf TTL %s is outside %s..%s", o.TTL, MinLeafTTL, MaxLeafTTL))
	}
	o.Log = orNop(o.Log).Named("leaf")
	r := &Renewer{o: o}
	r.u = &upkeep{now: o.Now, log: o.Log, life: r.life, renew: r.renew, stale: func() bool { return o.Stale != nil && o.Stale() || r.shunned() }}
	return r
}

// Run renews until ctx ends and returns ctx.Err().
func (r *Renewer) Run(ctx context.Context) error {
	var tending sync.WaitGroup
	defer tending.Wait()
	if r.o.Ratchet != nil {
		tending.Go(func() { r.o.Ratchet.Run(ctx, r.o.Log) })
	}
	return r.u.run(ctx)
}

// Err is why the last renewal failed, nil while renewals work. Safe for concurrent use.
func (r *Renewer) Err() error { return r.u.err() }

func (r *Renewer) life() (issued, notAfter time.Time) {
	leaf := r.o.Source.Leaf()
	return leaf.NotBefore.Add(Backdate), leaf.NotAfter
}

// renew takes the bundle before the certificate, because the certificate may be signed below a root
// that only the new bundle has.
func (r *Renewer) renew(ctx context.Context) error {
	src := r.o.Source
	key, err := newKey()
	if err != nil {
		return err
	}
	req, err := NewLeafRequest(src.host, src.node, src.td, &key.PublicKey, r.o.Now().Add(r.o.TTL))
	if err != nil {
		return err
	}
	r.link(&req)
	chain, seq, roots, err := r.ask(ctx, req)
	if err != nil {
		return err
	}
	if err := r.linked(req); err != nil {
		r.o.Log.Warn("generation of this host is in use but not on disk", zap.Error(err))
	}
	if len(roots) > 0 {
		if err := r.unlessUnsaved(src.SetBundle(seq, roots)); err != nil && !errors.Is(err, ErrBundleOlder) {
			return err
		}
	}
	return r.unlessUnsaved(src.SetLeaf(chain, key))
}

// link adds the host's generation. Without one the request is that of an older agent, and it is for the cluster to judge whether
// that will do.
func (r *Renewer) link(req *LeafRequest) {
	if r.o.Ratchet == nil {
		return
	}
	link, err := r.o.Ratchet.Link()
	if err != nil && !r.saidBare {
		r.o.Log.Warn("asking for a certificate without a generation", zap.Error(err))
	}
	req.Generation, r.saidBare = link, err != nil
}

// linked tells the ratchet that the request was answered.
func (r *Renewer) linked(req LeafRequest) error {
	if req.Generation == nil {
		return nil
	}
	return r.o.Ratchet.Accepted()
}

// ask goes the ordinary way first: a core member signs for itself, expired or not.
func (r *Renewer) ask(ctx context.Context, req LeafRequest) (chain [][]byte, seq uint64, roots [][]byte, err error) {
	chain, seq, roots, err = r.o.Renew(ctx, req)
	if err == nil || r.o.Rekey == nil || !r.dying() && !r.shunned() {
		return chain, seq, roots, err
	}
	chain, byKey := r.o.Rekey(ctx, req)
	if byKey != nil {
		return nil, 0, nil, fmt.Errorf("%w; by certificate: %w", byKey, err)
	}
	return chain, 0, nil, nil
}

func (r *Renewer) shunned() bool { return r.o.Shunned != nil && r.o.Shunned() }

// dying is the last tenth of a certificate's life, and after. A tenth, because who refuses a certificate
// as expired goes by his own clock, which may be ahead, and does not say why.
func (r *Renewer) dying() bool {
	issued, notAfter := r.life()
	return r.o.Now().After(notAfter.Add(-notAfter.Sub(issued) / 10))
}

// unlessUnsaved turns "in use, but not on disk" into a warning: asking for another certificate would
// not make room on the disk.
func (r *Renewer) unlessUnsaved(err error) error {
	if errors.Is(err, ErrNotSaved) {
		r.o.Log.Warn("renewed identity is in use but not on disk", zap.Error(err))
		return nil
	}
	return err
}
