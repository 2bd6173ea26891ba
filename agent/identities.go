package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	// maxHeld is how many identities this host may have at a time.
	maxHeld = 4096
	// maxWaiting is how many different sets of entries somebody may wait for; one more, and all look again.
	maxWaiting = 4096
	// maxIssuing is how many certificates this agent asks for at a time.
	maxIssuing = 16
)

var errTooManyHeld = fmt.Errorf("programs of this host have %d identities, the most that there can be", maxHeld)

// identities are those of the programs of this host: a workload.Source. It matches what was found with the entries of the
// replicated state, gets certificates from a core member when they are first asked for, and renews them at half of their
// life for as long as somebody asks. Entries are followed by a watch, so a change is seen within milliseconds.
//
// Everybody who waits for the same set of entries waits on one channel, which is closed as soon as one of them, or which of
// them there are, has changed. It is handed out under the lock under which the answer was gathered, so no change is missed.
type identities struct {
	identitiesOptions
	issuing chan struct{} // maxIssuing places
	wake    chan struct{} // capacity 1, a level: something is due earlier than thought

	mu struct {
		sync.Mutex // nothing is asked of others under it; a View is read
		index      *entryIndex
		revision   [4]uint64 // of the entries, of this node's catalog, and of what is denied, by which index was made
		held       map[string]*heldIdentity
		waiting    map[string]*waitingSet
	}
	trust trusted
}

type identitiesOptions struct {
	node     string
	td       spiffeid.TrustDomain
	hub      *watch.Hub
	now      func() time.Time
	denials  *denials
	ready    func() bool // this agent's own certificate is valid
	issue    func(context.Context, security.WorkloadRequest) ([][]byte, error)
	mint     func(context.Context, tokenRequest) (string, error)
	ownRoots func() (sequence uint64, roots [][]byte) // those of before the first View
	log      *zap.Logger
}

var _ workload.Source = (*identities)(nil)

// heldIdentity is one certificate with its key. Its fields are guarded by identities.mu.
type heldIdentity struct {
	entry    state.Entry
	identity *workload.Identity // nil until the first certificate
	notAfter time.Time
	issued   time.Time
	due      time.Time     // when to ask again
	wanted   time.Time     // when somebody last asked for it
	asked    bool          // somebody has asked since it was issued
	attempts int           // that ended
	failures int           // of them, since the last certificate
	err      error         // of the last attempt
	making   chan struct{} // closed when the attempt under way has ended, nil: none is
}

// waitingSet is who waits for the same entries.
type waitingSet struct {
	names   []string
	changed chan struct{}
}

func newIdentities(o identitiesOptions) *identities {
	s := &identities{identitiesOptions: o, issuing: make(chan struct{}, maxIssuing), wake: make(chan struct{}, 1)}
	s.mu.held, s.mu.waiting = make(map[string]*heldIdentity), make(map[string]*waitingSet)
	s.trust.changed = make(chan struct{})
	return s
}

// Identities is that of workload.Source.
func (s *identities) Identities(ctx context.Context, found []workload.Selector) ([]workload.Identity, <-chan struct{}, error) {
	for {
		entries := s.match(found)
		if err := s.obtain(ctx, entries); err != nil {
			return nil, nil, err
		}
		if all, changed, settled, err := s.gather(found, entries); settled {
			return all, changed, err
		}
	}
}

func foundSet(found []workload.Selector) map[string]bool {
	set := make(map[string]bool, len(found))
	for _, f := range found {
		set[string(f)] = true
	}
	return set
}

// match returns the entries that hold, and notes that they are wanted.
func (s *identities) match(found []workload.Selector) []state.Entry {
	set := foundSet(found)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	return s.mu.index.match(set)
}

// FederatesWith is that of workload.Source.
func (s *identities) FederatesWith(found []workload.Selector) (domains []spiffeid.TrustDomain) {
	for _, e := range s.match(found) {
		for _, name := range e.FederatesWith {
			td, err := spiffeid.TrustDomainFromString(name) // it was checked when the entry was applied
			if err == nil && !slices.Contains(domains, td) {
				domains = append(domains, td)
			}
		}
	}
	return domains
}

// refresh brings the index up to the newest View, and has everybody look again if it changed. The caller holds mu.
func (s *identities) refresh() {
	v := s.hub.View()
	now := [4]uint64{v.TableRevision(state.TableEntry), v.CatalogRevision(s.node), v.TableRevision(state.TableDeny), s.denials.version.Load()}
	if s.mu.index != nil && now == s.mu.revision && (s.mu.index.until.IsZero() || s.now().Before(s.mu.index.until)) {
		return
	}
	s.mu.index, s.mu.revision = indexEntries(v, s.node, s.denials.idUntil), now
	for name, h := range s.mu.held {
		e, ok := v.Entry(name)
		if !ok || e.Generation != h.entry.Generation || !v.EntryAllows(e, s.node) || s.deniedNow(h) {
			delete(s.mu.held, name)
		}
	}
	s.wakeAll()
}

// deniedNow reports whether what is held is denied. Where that is the certificate alone, another one is made for another key.
func (s *identities) deniedNow(h *heldIdentity) bool {
	if _, yes := s.denials.idUntil(h.entry.SPIFFEID); yes {
		return true
	}
	return h.identity != nil && s.denials.serial(h.identity.Chain[0])
}

// wakeAll has everybody who waits look again. The caller holds mu.
func (s *identities) wakeAll() {
	for _, w := range s.mu.waiting {
		close(w.changed)
	}
	clear(s.mu.waiting)
}

// obtain sees that every entry has a certificate, as far as one is to be had. The error is that of ctx.
func (s *identities) obtain(ctx context.Context, entries []state.Entry) error {
	if !s.ready() {
		return nil
	}
	var group errgroup.Group
	group.SetLimit(maxIssuing)
	for _, e := range entries {
		if h, tried := s.want(e); h != nil {
			group.Go(func() error { return s.attempt(ctx, h, tried) })
		}
	}
	return group.Wait()
}

// want notes that an entry is asked for, and returns it if it has no certificate and one should be asked for.
func (s *identities) want(e state.Entry) (due *heldIdentity, tried int) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.mu.held[e.Name]
	if !ok || h.entry.Generation != e.Generation {
		if !ok && len(s.mu.held) >= maxHeld {
			return nil, 0
		}
		h = &heldIdentity{entry: e}
		s.mu.held[e.Name] = h
	}
	h.wanted = now
	if h.valid(now) || h.err != nil && now.Before(h.due) && h.making == nil {
		return nil, 0
	}
	return h, h.attempts
}

func (h *heldIdentity) valid(now time.Time) bool { return h.identity != nil && now.Before(h.notAfter) }

// attempt asks for a certificate, or waits for the answer to one that was asked for already, and asks itself if that gave
// up because its caller had no more time. tried is how many attempts had ended when the caller saw that one is due: if
// another has ended since, that was it. A failure is noted beside the identity; the error is that of ctx.
func (s *identities) attempt(ctx context.Context, h *heldIdentity, tried int) error {
	for {
		making, settled := s.begin(h, tried)
		if settled {
			return nil
		}
		if making == nil {
			return s.ask(ctx, h)
		}
		select {
		case <-making:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin makes the caller the one who asks, or returns what to wait for; settled says that an attempt has ended meanwhile.
func (s *identities) begin(h *heldIdentity, tried int) (making chan struct{}, settled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case h.attempts != tried:
		return nil, true
	case h.making != nil:
		return h.making, false
	}
	h.making = make(chan struct{})
	return nil, false
}

// ask gets a certificate; the caller has begun.
func (s *identities) ask(ctx context.Context, h *heldIdentity) error {
	identity, leaf, err := s.certify(ctx, h.entry)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(h.making)
	h.making = nil
	if err != nil && ctx.Err() != nil && h.identity == nil {
		return ctx.Err()
	}
	h.attempts++
	if err != nil {
		s.failed(h, err)
		return nil
	}
	first := h.identity == nil && h.err == nil
	h.identity, h.err, h.failures, h.asked = identity, nil, 0, false
	h.issued, h.notAfter = s.now(), leaf.NotAfter
	h.due = security.HalfLife(h.issued, h.notAfter)
	if !first {
		s.changedOne(h.entry.Name)
	}
	s.hurry()
	return nil
}

// failed notes a failure and when to try again. The caller holds mu.
func (s *identities) failed(h *heldIdentity, err error) {
	h.err = err
	h.failures++
	h.due = s.now().Add(security.RetryPause(h.failures, time.Duration(h.entry.TTL())*time.Second)) //nolint:gosec // a few hours
	if h.failures == 1 {
		s.log.Warn("no certificate for a program of this host, trying again", zap.String("spiffe_id", h.entry.SPIFFEID), zap.Error(err))
	}
	s.hurry()
}

// hurry has run look at what is due.
func (s *identities) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// changedOne wakes those who wait for sets with an entry. The caller holds mu.
func (s *identities) changedOne(name string) {
	for key, w := range s.mu.waiting {
		for _, n := range w.names {
			if n == name {
				close(w.changed)
				delete(s.mu.waiting, key)
				break
			}
		}
	}
}

// certify gets one certificate for a new key.
func (s *identities) certify(ctx context.Context, e state.Entry) (*workload.Identity, *x509.Certificate, error) {
	select {
	case s.issuing <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-s.issuing }()
	id, err := spiffeid.FromString(e.SPIFFEID)
	if err != nil {
		return nil, nil, err
	}
	key, err := security.NewWorkloadKey()
	if err != nil {
		return nil, nil, err
	}
	req, err := security.NewWorkloadRequest(s.node, e.Name, key)
	if err != nil {
		return nil, nil, err
	}
	chain, err := s.issue(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	certs, err := s.verify(chain, id, key)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate of %s that a core member signed: %w", id, err)
	}
	return &workload.Identity{ID: id, Hint: e.Hint, Chain: certs, Key: key}, certs[0], nil
}

func (s *identities) verify(chain [][]byte, id spiffeid.ID, key *ecdsa.PrivateKey) ([]*x509.Certificate, error) {
	_, roots := s.roots()
	return security.VerifyWorkload(chain, id, &key.PublicKey, roots, s.now())
}

// gather makes the answer, and the channel that tells when another one is due, in one moment. settled is false if the
// entries are others meanwhile than those that were obtained.
func (s *identities) gather(found []workload.Selector, obtained []state.Entry) (all []workload.Identity, changed <-chan struct{}, settled bool, err error) {
	set, now := foundSet(found), s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	entries := s.mu.index.match(set)
	if !sameEntries(entries, obtained) {
		return nil, nil, false, nil
	}
	changed = s.channel(entries)
	if !s.ready() || s.hub.View().Index() == 0 {
		return nil, changed, true, workload.ErrNotReady
	}
	if len(entries) == 0 {
		return nil, changed, true, s.mu.index.none(set)
	}
	why := errTooManyHeld
	for _, e := range entries {
		h := s.mu.held[e.Name]
		if h != nil {
			h.asked = true
		}
		switch {
		case h == nil:
		case h.valid(now):
			all = append(all, *h.identity)
		case h.err != nil:
			why = h.err
		}
	}
	if len(all) == 0 {
		return nil, changed, true, fmt.Errorf("%w: %w", workload.ErrNotReady, why)
	}
	return all, changed, true, nil
}

func sameEntries(a, b []state.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].Generation != b[i].Generation {
			return false
		}
	}
	return true
}

// channel is the one on which those wait who have these entries. The caller holds mu.
func (s *identities) channel(entries []state.Entry) <-chan struct{} {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	key := strings.Join(names, "\n")
	w, ok := s.mu.waiting[key]
	if !ok {
		if len(s.mu.waiting) >= maxWaiting {
			s.wakeAll()
		}
		w = &waitingSet{names: names, changed: make(chan struct{})}
		s.mu.waiting[key] = w
	}
	return w.changed
}

// MintJWT is that of workload.Source.
func (s *identities) MintJWT(ctx context.Context, found []workload.Selector, id spiffeid.ID, audience []string) (string, error) {
	if err := security.CheckAudience(audience); err != nil {
		return "", err
	}
	if !s.ready() || s.hub.View().Index() == 0 {
		return "", workload.ErrNotReady
	}
	for _, e := range s.match(found) {
		if e.SPIFFEID != id.String() {
			continue
		}
		token, err := s.mint(ctx, tokenRequest{Entry: e.Name, Audience: audience})
		switch {
		case err == nil:
			return token, nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		}
		return "", errors.Join(workload.ErrNotReady, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return "", s.mu.index.none(foundSet(found))
}
