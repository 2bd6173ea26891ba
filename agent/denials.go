package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	purposeDenials = "parley denials v1"

	// maxDenyHeard is how many denials this agent remembers that others told it of, the newest.
	maxDenyHeard = 1024
	// maxDenyAhead is how far a denial may be in the future by this agent's clock: as far as the beginning of a certificate may be, and for that
	// long a member that was evicted since can have spoken for. A clock that is further behind hears later, not never: exchanges repeat it.
	maxDenyAhead = security.Backdate
	// unprovenPause is the least time between two log lines about statements that are not proven: anybody in the gossip may send as many as the firewall
	// lets through.
	unprovenPause = 10 * time.Second
	// denyTellPause is the least time between two statements: when many are denied at once, one tells of all.
	denyTellPause = 250 * time.Millisecond
)

var (
	errTellerEvicted  = errors.New("who signed it was evicted")
	errTellerUnproven = errors.New("it is not signed by the host key of that node")
	errTellerAhead    = errors.New("it is of the future: is the clock of this host behind?")
)

// Any statement that is told in packets fits.
const _ uint = membership.MaxPacketStatement - state.MaxShortStatementBytes

// denials are what this agent knows to be denied: by the applied state, and by what other agents have told of what this agent's
// state does not include yet. An agent that follows the core needs nobody to tell it; one that is cut off from the core hears
// what any agent has heard. Safe for concurrent use.
type denials struct {
	node, cluster string
	view          func() *state.View
	now           func() time.Time
	log           *zap.Logger

	heard   atomic.Int32  // the length of mu.heard, to pass by the lock: nearly always 0
	version atomic.Uint64 // counts what was heard
	changed chan struct{} // capacity 1, a level: connections are to be judged again
	wake    func()        // what else goes by denials looks again
	deaf    atomic.Bool   // tests: nothing that others tell is heard

	mu struct {
		sync.Mutex // a View is read under it, nothing else is done
		heard      map[state.DenyMark]state.DenyNotice
		short      map[string]told // each teller's newest statement that fits into a packet
		long       map[string]told // each teller's newest of more than that

		complained time.Time // when the log said last that a statement is not proven
		unsaid     int       // how many were not since
	}
}

// maxDenyTellers is of how many tellers statements are kept. Each has a place of its own: who hears may not know the one that told first, and none
// can push another's word out by a later time.
const maxDenyTellers = 16

// told is a statement that others are told. Its bytes are never changed.
type told struct {
	newest  clock.Stamp
	encoded []byte
}

func newDenials(node, cluster string, view func() *state.View, now func() time.Time, log *zap.Logger) *denials {
	d := &denials{node: node, cluster: cluster, view: view, now: now, log: log, changed: make(chan struct{}, 1), wake: func() {}}
	d.mu.heard = make(map[state.DenyMark]state.DenyNotice)
	d.mu.short, d.mu.long = make(map[string]told), make(map[string]told)
	return d
}

func (a *Agent) newDenials() *denials {
	return newDenials(a.ids.Node, a.ids.ClusterID, a.hub.View, a.now, a.log.Named("denials"))
}

func unixOf(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }

// heardOf returns what others have told of a mark, if the applied state does not know better.
func (d *denials) heardOf(v *state.View, mark state.DenyMark) (state.DenyNotice, bool) {
	if d.heard.Load() == 0 {
		return state.DenyNotice{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.mu.heard[mark]
	return n, ok && !v.Includes(n)
}

// denied reports whether an identity or a certificate is denied, and until when; the zero time: for good.
func (d *denials) denied(mark state.DenyMark) (until time.Time, yes bool) {
	v := d.view()
	if v.Rows(state.TableDeny) == 0 && d.heard.Load() == 0 {
		return until, false // nearly always
	}
	end, now := uint64(0), unixOf(d.now())
	if n, ok := d.heardOf(v, mark); ok {
		end, yes = n.Until, n.Counts(now)
	} else if row, ok := v.Deny(mark); ok {
		end, yes = row.Until, row.Counts(now)
	}
	if yes && end != 0 {
		until = time.Unix(int64(end), 0) //nolint:gosec // it was checked
	}
	return until, yes
}

// id reports whether a SPIFFE ID is denied.
func (d *denials) id(id spiffeid.ID) bool {
	_, yes := d.denied(state.MarkOfID(id.String()))
	return yes
}

// idUntil is id for an entry's.
func (d *denials) idUntil(id string) (time.Time, bool) { return d.denied(state.MarkOfID(id)) }

// serial reports whether one certificate is denied.
func (d *denials) serial(leaf *x509.Certificate) bool {
	if leaf.SerialNumber == nil {
		return false
	}
	_, yes := d.denied(state.MarkOfSerial(leaf.SerialNumber.Bytes()))
	return yes
}

// cert is what security asks in each handshake.
func (d *denials) cert(id spiffeid.ID, leaf *x509.Certificate) bool {
	if d.view().Rows(state.TableDeny) == 0 && d.heard.Load() == 0 {
		return false
	}
	return d.id(id) || d.serial(leaf)
}

// host reports whether a host was evicted, as others tell: by the applied state its node has left.
func (d *denials) host(v *state.View, hostKey []byte) bool {
	if d.heard.Load() == 0 {
		return false
	}
	n, ok := d.heardOf(v, state.MarkOfHost(sha256.Sum256(hostKey)))
	return ok && n.Counts(unixOf(d.now()))
}

// issuer is when a core member was evicted with its issuer, as others tell.
func (d *denials) issuer(v *state.View, node string) (at time.Time, yes bool) {
	n, ok := d.heardOf(v, state.MarkOfIssuer(node))
	return n.At.Wall(), ok && n.Counts(unixOf(d.now()))
}

// run has a core member tell the others what its state says, whenever that changes, and forgets what this agent's own state
// has come to know.
func (d *denials) run(ctx context.Context, hub *watch.Hub, sign func(purpose string, data []byte) ([]byte, error), member func() bool, tell func([]byte)) error {
	group := hub.Group()
	var subs []*watch.Subscription
	defer func() {
		for _, sub := range subs {
			sub.Close()
		}
	}()
	for _, table := range []state.Table{state.TableDeny, state.TableDenial, state.TableCore} {
		sub, err := group.Subscribe(watch.Selector{Table: table, Prefix: true}, uint64(table))
		if err != nil {
			return err
		}
		subs = append(subs, sub)
	}
	var taken []watch.Woken
	for ctx.Err() == nil {
		if member() {
			news, err := d.state(sign)
			if err != nil {
				d.log.Error("denials are not told by gossip", zap.Error(err))
			}
			if news != nil {
				tell(news)
			}
		}
		d.forget()
		pause(ctx, denyTellPause)
		select {
		case <-group.C():
			taken = group.Take(taken)
		case <-ctx.Done():
		}
	}
	return nil
}

// state makes the statements of the applied state, if it has something newer than what is told already, and returns the one for
// packets if it is new.
func (d *denials) state(sign func(purpose string, data []byte) ([]byte, error)) (packet []byte, err error) {
	v, now := d.view(), unixOf(d.now())
	for _, most := range []int{state.MaxShortNotices, state.MaxDenyNotices} {
		notices := v.DenyNotices(now, most)
		if len(notices) == 0 || most == state.MaxDenyNotices && len(notices) <= state.MaxShortNotices {
			break
		}
		s := state.DenyStatement{Node: d.node, Notices: notices}
		if !d.isNews(s) {
			continue
		}
		signature, err := sign(purposeDenials, s.Signed(d.cluster))
		if err != nil {
			return packet, err
		}
		s.Signature = signature
		encoded := state.EncodeDenyStatement(s)
		d.keep(s, s.Newest(), encoded)
		if most == state.MaxShortNotices {
			packet = encoded
		}
	}
	return packet, nil
}

// slots are where statements of its kind are kept, by teller. The caller holds mu.
func (d *denials) slots(s state.DenyStatement) map[string]told {
	if len(s.Notices) <= state.MaxShortNotices {
		return d.mu.short
	}
	return d.mu.long
}

// isNews reports whether its teller has told nothing as new.
func (d *denials) isNews(s state.DenyStatement) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.Newest() > d.slots(s)[s.Node].newest
}

// keep keeps a statement, with the newest of it that counts, and reports whether that is newer than what was kept. Of too many tellers the one goes
// whose word is oldest.
func (d *denials) keep(s state.DenyStatement, newest clock.Stamp, encoded []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	slots := d.slots(s)
	if newest <= slots[s.Node].newest {
		return false
	}
	slots[s.Node] = told{newest: newest, encoded: encoded}
	for len(slots) > maxDenyTellers {
		oldest := s.Node
		for node, t := range slots {
			if t.newest < slots[oldest].newest || t.newest == slots[oldest].newest && node < oldest {
				oldest = node
			}
		}
		delete(slots, oldest)
	}
	return true
}

// statements are what an exchange of states with another agent carries: of more tellers than fit, some, and others the next time.
func (d *denials) statements() (all [][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.mu.short { // in another order each time
		all = append(all, t.encoded)
	}
	all = all[:min(len(all), membership.MaxStatements-min(len(d.mu.long), 1))]
	for _, t := range d.mu.long {
		return append(all, t.encoded)
	}
	return all
}

// hear takes in a statement that another agent told, whoever made it, and reports whether it is to be passed on in packets. What is no news,
// is forged or comes from who may not tell, changes nothing.
func (d *denials) hear(from string, encoded []byte) (passOn bool) {
	s, err := state.DecodeDenyStatement(encoded)
	if err != nil || !d.isNews(s) || d.deaf.Load() {
		return false
	}
	v := d.view()
	known, why := d.proven(v, s)
	if why != nil {
		d.complain(from, s.Node, why)
	}
	if len(known) == 0 {
		return false
	}
	news := d.keep(s, known[0].At, slices.Clone(encoded))
	if d.take(v, known) {
		d.version.Add(1)
		d.log.Info("heard of denials that the applied state does not know yet", zap.String("peer", from), zap.String("node", s.Node), zap.Int("count", len(known)))
		select {
		case d.changed <- struct{}{}:
		default: // a signal is waiting already
		}
		d.wake()
	}
	return news && len(s.Notices) <= state.MaxShortNotices
}

// proven returns what of a statement counts, the newest first, and why not all of it does. What is of the future does not yet, and does once its
// time has come; the rest counts.
func (d *denials) proven(v *state.View, s state.DenyStatement) ([]state.DenyNotice, error) {
	key, err := v.MayTellDenials(s.Node)
	switch {
	case err != nil:
		return nil, err
	case d.host(v, key):
		return nil, errTellerEvicted
	case !security.VerifyStatement(key, purposeDenials, s.Signed(d.cluster), s.Signature):
		return nil, errTellerUnproven
	}
	latest := d.now().Add(maxDenyAhead)
	for i, n := range s.Notices { // the newest come first
		if !n.At.Wall().After(latest) {
			if i > 0 {
				err = errTellerAhead
			}
			return s.Notices[i:], err
		}
	}
	return nil, errTellerAhead
}

// complain has the log say why a statement does not count, now and then.
func (d *denials) complain(from, node string, why error) {
	now := d.now()
	d.mu.Lock()
	since := now.Sub(d.mu.complained)
	if since >= 0 && since < unprovenPause {
		d.mu.unsaid++
		d.mu.Unlock()
		return
	}
	unsaid := d.mu.unsaid
	d.mu.complained, d.mu.unsaid = now, 0
	d.mu.Unlock()
	d.log.Info("what another agent tells of denials is not proven", zap.String("peer", from), zap.String("node", node), zap.Int("unlogged", unsaid), zap.Error(why))
}

// take remembers what the applied state does not include, and reports whether that was anything.
func (d *denials) take(v *state.View, notices []state.DenyNotice) (news bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range notices {
		if old, ok := d.mu.heard[n.Mark]; !v.Includes(n) && (!ok || old.At < n.At) {
			d.mu.heard[n.Mark], news = n, true
		}
	}
	for len(d.mu.heard) > maxDenyHeard {
		d.forgetOldest()
	}
	d.heard.Store(int32(len(d.mu.heard))) //nolint:gosec // bounded
	return news
}

// forgetOldest makes room, among those with an end or among those for good, of whichever there are more: a flood of one kind leaves the other, and
// evictions are for good. The caller holds mu.
func (d *denials) forgetOldest() {
	lasting := 0
	for _, n := range d.mu.heard {
		if n.Until == 0 {
			lasting++
		}
	}
	ofLasting := lasting > len(d.mu.heard)/2
	var oldest state.DenyMark
	at, found := clock.Stamp(0), false
	for mark, n := range d.mu.heard {
		if n.Until == 0 == ofLasting && (!found || n.At < at) {
			oldest, at, found = mark, n.At, true
		}
	}
	delete(d.mu.heard, oldest)
}

// forget drops what the applied state includes by now. Who goes by denials looks again: the state may say otherwise.
func (d *denials) forget() {
	if d.heard.Load() == 0 || !d.drop(d.view()) {
		return
	}
	d.version.Add(1)
	d.wake()
}

func (d *denials) drop(v *state.View) (dropped bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for mark, n := range d.mu.heard {
		if v.Includes(n) {
			delete(d.mu.heard, mark)
			dropped = true
		}
	}
	d.heard.Store(int32(len(d.mu.heard))) //nolint:gosec // bounded
	return dropped
}

// tellDenials has this agent tell others by gossip what is denied, while it is in the core.
func (a *Agent) tellDenials(ctx context.Context) error {
	member := func() bool { return a.core.node() != nil }
	return a.denials.run(ctx, a.hub, a.host.SignStatement, member, a.gossip.Tell)
}
