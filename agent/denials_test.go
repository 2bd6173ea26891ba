package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const rigCluster = "00000000000000000000000000000000"

var webOfRig = state.DenySet{Kind: state.DenyID, Subject: "spiffe://agent.test/svc/web"}

// denyRig is a state with two nodes in the core, a1 and a2, and one that is only allowed there, a3; and an agent that has stayed behind.
type denyRig struct {
	t      *testing.T
	m      *state.Machine
	behind *state.View
	hosts  map[string]*security.Host
	d      *denials // of the agent that stays behind
}

func newDenyRig(t *testing.T) *denyRig {
	r := &denyRig{t: t, hosts: map[string]*security.Host{}}
	for _, node := range []string{"a1", "a2", "a3"} {
		host, err := security.CreateHost(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		r.hosts[node] = host
	}
	a1 := r.hosts["a1"]
	r.m = state.Genesis(state.GenesisOptions{
		ClusterID: rigCluster, TrustDomain: "agent.test", EpochID: [16]byte{1},
		Node: state.Node{Name: "a1", HostKey: a1.HostKey(), SealKey: a1.SealKey()}, Sealed: []byte("s"),
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, At: clock.Stamp(clock.System().UnixMilli()-3600_000) << 16,
	})
	for i, node := range []string{"a2", "a3"} {
		token := state.Token{ID: strings.Repeat(fmt.Sprint(i+1), 16), Verify: make([]byte, state.VerifyBytes), Expires: 1 << 63, Uses: 1, Role: "discovery", Core: node == "a2"}
		join := state.NodeJoin{Token: token.ID, Node: node, HostKey: r.hosts[node].HostKey(), SealKey: r.hosts[node].SealKey()}
		r.apply(state.TokenCreate{Token: token}, join, state.CoreGrant{Node: node, Allow: true})
	}
	r.apply(state.CoreAssign{Node: "a2"})
	r.stay()
	return r
}

func (r *denyRig) apply(commands ...state.Command) *state.View {
	r.t.Helper()
	for _, c := range commands {
		raw, err := state.Encode(state.Envelope{Command: c, Caller: "test"}, state.Version)
		if err != nil {
			r.t.Fatal(err)
		}
		at := r.m.View().Position()
		results, _, err := r.m.Apply(at.Index+1, 1, at.Stamp+1<<16, [][]byte{raw})
		if err != nil {
			r.t.Fatal(err)
		}
		if res, err := state.DecodeResult(results[0]); err != nil || res.Code != state.CodeOK {
			r.t.Fatalf("%+v: %+v, %v", c, res, err)
		}
	}
	return r.m.View()
}

// stay has the agent know what there is now, and nothing of what comes.
func (r *denyRig) stay() {
	r.behind = r.m.View()
	r.d = newDenials("a9", rigCluster, func() *state.View { return r.behind }, clock.System, zap.NewNop())
}

// tell is what a node tells of the state of now.
func (r *denyRig) tell(node string) []byte { return r.tellAs(node, node, rigCluster) }

func (r *denyRig) tellAs(node, signer, cluster string) []byte {
	r.t.Helper()
	s := state.DenyStatement{Node: node, Notices: r.m.View().DenyNotices(0, state.MaxShortNotices)}
	return r.signed(s, signer, cluster)
}

func (r *denyRig) signed(s state.DenyStatement, signer, cluster string) []byte {
	r.t.Helper()
	var err error
	if s.Signature, err = r.hosts[signer].SignStatement(purposeDenials, s.Signed(cluster)); err != nil {
		r.t.Fatal(err)
	}
	return state.EncodeDenyStatement(s)
}

func (r *denyRig) denies(path string) bool {
	return r.d.id(spiffeid.RequireFromString("spiffe://agent.test" + path))
}

// TestDenialsAreHeard: who stays behind goes by what a member of the core has signed, of all kinds, whoever tells it; by a
// removal too; and by the own state as soon as that is as new.
func TestDenialsAreHeard(t *testing.T) {
	r := newDenyRig(t)
	serial := new(big.Int).Lsh(big.NewInt(0x4a), 120)
	r.apply(webOfRig, state.DenySet{Kind: state.DenySerial, Subject: fmt.Sprintf("%x", serial), Seconds: 7200}, state.NodeEvict{Node: "a1", Reason: "stolen"})
	leaf, other := &x509.Certificate{SerialNumber: serial}, &x509.Certificate{SerialNumber: big.NewInt(7)}
	first := r.tell("a2")
	if r.denies("/svc/web") || r.d.serial(leaf) {
		t.Fatal("control: it knows already")
	}
	if !r.d.hear("a3", first) {
		t.Error("a statement that is news is not passed on")
	}
	hostKey := r.hosts["a1"].HostKey()
	if !r.denies("/svc/web") || !r.d.serial(leaf) || !r.d.host(r.behind, hostKey) || r.denies("/svc/db") || r.d.serial(other) || r.d.host(r.behind, r.hosts["a2"].HostKey()) {
		t.Error("what was told does not count, or more than that does")
	}
	if at, yes := r.d.issuer(r.behind, "a1"); !yes || at.IsZero() {
		t.Errorf("the issuer: %s, %v", at, yes)
	}
	if !r.d.cert(spiffeid.RequireFromString("spiffe://agent.test/parley/operator/eve"), leaf) {
		t.Error("the certificate counts for somebody")
	}
	select {
	case <-r.d.changed:
	default:
		t.Error("open connections are not judged again")
	}
	if r.d.version.Load() != 1 || r.d.hear("a3", first) {
		t.Error("the same once more is news")
	}

	r.apply(state.DenyRemove{Kind: state.DenyID, Subject: webOfRig.Subject})
	second := r.tell("a2")
	if !r.d.hear("a3", second) || r.denies("/svc/web") {
		t.Error("a removal is not heard")
	}
	if r.d.hear("a3", first); r.denies("/svc/web") {
		t.Error("an older statement takes the removal back")
	}

	r.behind = r.apply(webOfRig)
	if !r.denies("/svc/web") {
		t.Error("the own state does not count, though it is newer than what was heard")
	}
	version, woken := r.d.version.Load(), 0
	r.d.wake = func() { woken++ }
	if r.d.forget(); r.d.heard.Load() != 0 || r.d.version.Load() != version+1 || woken != 1 {
		t.Errorf("%d are remembered that the state includes; who goes by them looks again %d times", r.d.heard.Load(), woken)
	}
	if r.d.forget(); r.d.version.Load() != version+1 || woken != 1 {
		t.Error("nothing is forgotten, and all look again")
	}
	if r.d.hear("a3", r.tell("a2")); r.d.heard.Load() != 0 || r.d.version.Load() != version+1 {
		t.Error("what the state includes is news")
	}
	if all := r.d.statements(); len(all) != 1 || string(all[0]) == string(second) {
		t.Error("who has a newer state does not pass on what it heard")
	}
}

// TestDenialsAreProven: what nobody may say, or nobody said, changes nothing, and is not passed on.
func TestDenialsAreProven(t *testing.T) {
	r := newDenyRig(t)
	r.apply(webOfRig)
	good := r.tell("a2")
	future := state.DenyStatement{Node: "a2", Notices: r.m.View().DenyNotices(0, 1)}
	future.Notices[0].At = clock.Stamp(clock.System().Add(maxDenyAhead+time.Minute).UnixMilli()) << 16
	flipped := slices.Clone(good)
	flipped[len("n")+5] ^= 1
	for name, b := range map[string][]byte{
		"of no core member":         r.tell("a3"),
		"of nobody":                 r.tellAs("a7", "a2", rigCluster),
		"signed by another":         r.tellAs("a2", "a3", rigCluster),
		"signed by another member":  r.tellAs("a2", "a1", rigCluster),
		"of another cluster":        r.tellAs("a2", "a2", strings.Repeat("1", 32)),
		"of the future":             r.signed(future, "a2", rigCluster),
		"changed":                   flipped,
		"cut off":                   good[:len(good)-1],
		"too long":                  make([]byte, state.MaxDenyStatementBytes+1),
		"empty":                     nil,
		"signed for something else": r.otherPurpose(),
	} {
		if r.d.hear("a3", b) || r.denies("/svc/web") || len(r.d.statements()) != 0 {
			t.Errorf("%s: it counts", name)
		}
	}
	if !r.d.hear("a3", good) || !r.denies("/svc/web") {
		t.Error("control: the good one does not count")
	}
	// Who was evicted tells nothing any more, also where only gossip says so.
	r.apply(state.NodeEvict{Node: "a2"})
	r.d.hear("a3", r.tell("a1"))
	r.apply(state.DenySet{Kind: state.DenyID, Subject: "spiffe://agent.test/svc/db"})
	if r.d.hear("a3", r.tell("a2")) || r.denies("/svc/db") {
		t.Error("an evicted member tells")
	}
	if !r.d.hear("a3", r.tell("a1")) || !r.denies("/svc/db") {
		t.Error("control: the other one does not")
	}
}

func (r *denyRig) otherPurpose() []byte {
	s := state.DenyStatement{Node: "a2", Notices: r.m.View().DenyNotices(0, 1)}
	s.Signature, _ = r.hosts["a2"].SignStatement("parley epoch", s.Signed(rigCluster))
	return state.EncodeDenyStatement(s)
}

// TestDenialsEnd: one that has an end counts until then, in the own state and as others tell it.
func TestDenialsEnd(t *testing.T) {
	r := newDenyRig(t)
	now := clock.System().Add(-time.Hour)
	r.apply(state.DenySet{Kind: state.DenyID, Subject: webOfRig.Subject, Seconds: 60})
	told := r.tell("a2")
	r.d.now = func() time.Time { return now }
	r.d.hear("a1", told)
	until, yes := r.d.idUntil(webOfRig.Subject)
	if !yes || until.Before(now) {
		t.Fatalf("%s, %v", until, yes)
	}
	now = until
	if r.denies("/svc/web") {
		t.Error("what others told counts after its end")
	}
	r.behind = r.m.View()
	if r.denies("/svc/web") {
		t.Error("the own state's counts after its end")
	}
	now = until.Add(-time.Second)
	if !r.denies("/svc/web") {
		t.Error("control: it does not count before")
	}
}

// TestDenialsOfEachTeller: a statement of one member does not keep another's from who does not know the first, nor one with a later stamp
// the others' words; and of too many tellers the oldest word goes.
func TestDenialsOfEachTeller(t *testing.T) {
	r := newDenyRig(t)
	r.apply(webOfRig)
	first := r.tell("a1")
	if !r.d.hear("p", first) {
		t.Fatal("control: the first statement is no news")
	}
	if !r.d.hear("p", r.tell("a2")) || len(r.d.statements()) != 2 {
		t.Errorf("%d statements are told on, want that of each teller", len(r.d.statements()))
	}
	if r.d.hear("p", first) {
		t.Error("the same once more is news")
	}
	for i := range 2 * maxDenyTellers {
		r.d.keep(state.DenyStatement{Node: fmt.Sprint("b", i), Notices: make([]state.DenyNotice, 1)}, clock.Stamp(i+1), []byte("x"))
	}
	if n := len(r.d.mu.short); n != maxDenyTellers {
		t.Errorf("statements of %d tellers are kept", n)
	}
	if n := len(r.d.statements()); n != membership.MaxStatements {
		t.Errorf("%d go along with an exchange", n)
	}
	if r.d.isNews(state.DenyStatement{Node: "a2", Notices: r.m.View().DenyNotices(0, 1)}) {
		t.Error("old words pushed out the newest")
	}
}

// TestDenialsHeardAreBounded: of more than this agent remembers, the newest are left, and of more than a statement holds, the newest
// are told, in one for packets and one for exchanges.
func TestDenialsHeardAreBounded(t *testing.T) {
	r := newDenyRig(t)
	base := r.m.View().Stamp()
	for round := range maxDenyHeard/state.MaxDenyNotices + 1 {
		s := state.DenyStatement{Node: "a2"}
		for i := range state.MaxDenyNotices {
			n := uint64(round*state.MaxDenyNotices + state.MaxDenyNotices - i)
			s.Notices = append(s.Notices, state.DenyNotice{Mark: state.MarkOfID(fmt.Sprint("n", n)), Revision: 1000 + n, At: base + clock.Stamp(n)})
		}
		if r.d.hear("a1", r.signed(s, "a2", rigCluster)) {
			t.Error("what fits into no packet is passed on in one")
		}
	}
	_, oldest := r.d.heardOf(r.behind, state.MarkOfID("n1"))
	_, newest := r.d.heardOf(r.behind, state.MarkOfID(fmt.Sprint("n", maxDenyHeard+state.MaxDenyNotices)))
	if n := r.d.heard.Load(); n != maxDenyHeard || oldest || !newest {
		t.Errorf("%d remembered, the oldest %v, the newest %v", n, oldest, newest)
	}

	for i := range state.MaxDenyNotices + 1 {
		r.apply(state.DenySet{Kind: state.DenyID, Subject: fmt.Sprintf("spiffe://agent.test/svc/s%d", i)})
	}
	r.stay()
	packet, err := r.d.state(r.hosts["a2"].SignStatement)
	if err != nil || packet == nil {
		t.Fatal(err)
	}
	all := r.d.statements()
	var sizes []int
	for _, b := range all {
		s, err := state.DecodeDenyStatement(b)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(s.Notices))
	}
	if !slices.Equal(sizes, []int{state.MaxShortNotices, state.MaxDenyNotices}) || string(packet) != string(all[0]) {
		t.Errorf("told: %v", sizes)
	}
	if again, err := r.d.state(func(string, []byte) ([]byte, error) { return nil, errors.New("signed again") }); err != nil || again != nil {
		t.Errorf("what is told already is told anew: %v", err)
	}
}

// TestDenialsOfTheFuture: of a statement that tells of the future as well, the rest counts and is passed on, once; what is of the future counts when its
// time has come; and it keeps nothing away that its teller tells later.
func TestDenialsOfTheFuture(t *testing.T) {
	r := newDenyRig(t)
	now := clock.System()
	r.d.now = func() time.Time { return now }
	r.apply(webOfRig)
	s := state.DenyStatement{Node: "a2", Notices: r.m.View().DenyNotices(0, state.MaxShortNotices)}
	ahead := clock.Stamp(now.Add(maxDenyAhead+time.Minute).UnixMilli()) << 16
	s.Notices = slices.Insert(s.Notices, 0, state.DenyNotice{Mark: state.MarkOfID("spiffe://agent.test/svc/db"), Revision: 1 << 40, At: ahead})
	mixed := r.signed(s, "a2", rigCluster)
	if !r.d.hear("a3", mixed) || !r.denies("/svc/web") || r.denies("/svc/db") {
		t.Errorf("the part that is of now: %v, of the future: %v", r.denies("/svc/web"), r.denies("/svc/db"))
	}
	if r.d.hear("a3", mixed) {
		t.Error("it is passed on again and again")
	}
	r.apply(state.DenyRemove{Kind: state.DenyID, Subject: webOfRig.Subject})
	if !r.d.hear("a3", r.tell("a2")) || r.denies("/svc/web") {
		t.Error("what its teller tells later does not count")
	}
	now = now.Add(2 * time.Minute)
	if !r.d.hear("a3", mixed) || !r.denies("/svc/db") || r.denies("/svc/web") {
		t.Error("its time has come, and it does not count")
	}
}

// TestUnprovenIsLoggedSeldom: who sends forged statements does not fill the log; how many there were is not lost.
func TestUnprovenIsLoggedSeldom(t *testing.T) {
	r := newDenyRig(t)
	r.apply(webOfRig)
	logged, all := observer.New(zap.InfoLevel)
	r.d.log = zap.New(logged)
	now := clock.System()
	r.d.now = func() time.Time { return now }
	forged := r.tellAs("a2", "a3", rigCluster)
	for range 100 {
		r.d.hear("a3", forged)
	}
	if n := all.Len(); n != 1 {
		t.Errorf("%d lines", n)
	}
	now = now.Add(unprovenPause)
	r.d.hear("a3", forged)
	if lines := all.All(); len(lines) != 2 || lines[1].ContextMap()["unlogged"] != int64(99) {
		t.Errorf("later: %+v", lines)
	}
	now = now.Add(-time.Hour) // a clock that is set back silences nothing
	if r.d.hear("a3", forged); all.Len() != 3 {
		t.Errorf("%d lines after the clock was set back", all.Len())
	}
}

// TestEvictionsHeardStay: no flood of denials that end pushes out what was heard of an eviction, nor the other way round.
func TestEvictionsHeardStay(t *testing.T) {
	for name, flood := range map[string]uint64{"with an end": 1 << 39, "for good": 0} {
		r := newDenyRig(t)
		r.apply(state.NodeEvict{Node: "a1"}, state.DenySet{Kind: state.DenyID, Subject: webOfRig.Subject, Seconds: 7200})
		r.d.hear("a3", r.tell("a2"))
		for i := range 2 * maxDenyHeard {
			r.d.take(r.behind, []state.DenyNotice{{
				Mark: state.MarkOfID(fmt.Sprint(i)), Revision: 1 << 40, At: r.m.View().Stamp() + clock.Stamp(i+1), Until: flood,
			}})
		}
		evicted, web := r.d.host(r.behind, r.hosts["a1"].HostKey()), r.denies("/svc/web")
		if n := r.d.heard.Load(); n != maxDenyHeard || evicted != (flood != 0) || web != (flood == 0) {
			t.Errorf("a flood of denials %s leaves %d, the eviction: %v, the one with an end: %v", name, n, evicted, web)
		}
	}
}

// TestDenialsByGossip: an agent that no member of the core reaches, and one outside of the core does, hears what is denied within
// seconds, ends what is open, and hears when it is let in again. The control is the same agent when it does not listen.
func TestDenialsByGossip(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0, 0, 0)
	status, err := agents[0].Core(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inCore := func(node string) bool {
		return slices.ContainsFunc(status.Voters, func(m client.CoreMember) bool { return m.Name == node })
	}
	i := slices.IndexFunc(agents, func(r *running) bool { return !inCore(r.name) })
	far, a1 := agents[i], agents[slices.IndexFunc(agents, func(r *running) bool { return inCore(r.name) })]
	id := spiffeid.RequireFromString("spiffe://agent.test/parley/operator/eve")
	eve := addOperatorTo(t, a1, far, "eve")
	ended := endOf(greetedBy(t, far.agent.cfg.Mesh.Bind, eve))
	others := endOf(greetedBy(t, far.agent.cfg.Mesh.Bind, addOperatorTo(t, a1, far, "adam")))

	far.agent.cutFrom.Store(&inCore)
	put(t, a1.Client, "k")
	within(t, "the far agent hears nothing of the core any more", func(context.Context) error {
		before := far.agent.hub.View().Revision()
		put(t, a1.Client, "k")
		time.Sleep(300 * time.Millisecond)
		if before == a1.agent.hub.View().Revision() || far.agent.hub.View().Revision() != before {
			return errors.New("it follows")
		}
		return nil
	})
	deny := func() time.Duration {
		if _, err := a1.SetDeny(t.Context(), id.Path(), 0, ""); err != nil {
			t.Fatal(err)
		}
		return clock.Boottime()
	}
	hears := func(want bool) func(context.Context) error {
		return func(context.Context) error {
			if far.agent.denials.id(id) != want {
				return fmt.Errorf("eve is denied: %v", !want)
			}
			return nil
		}
	}
	began := deny()
	within(t, "the far agent hears of it", hears(true))
	heard := clock.Boottime() - began
	<-ended
	t.Logf("heard by gossip %s after the commit, the open connection ended after %s", heard, clock.Boottime()-began)
	open(t, "control: the connection of another operator", others)
	if far.agent.hub.View().Rows(state.TableDeny) != 0 {
		t.Error("it knows by its state: nothing was tested")
	}
	if err := a1.RemoveDeny(t.Context(), id.Path()); err != nil {
		t.Fatal(err)
	}
	within(t, "it hears of the removal", hears(false))

	far.agent.denials.deaf.Store(true)
	deny()
	time.Sleep(5 * time.Second)
	if far.agent.denials.id(id) {
		t.Error("control: it hears without listening")
	}
	far.agent.denials.deaf.Store(false)
	within(t, "it hears by an exchange of states, the packets being long gone", hears(true))

	far.agent.cutFrom.Store(nil)
	within(t, "its state catches up", func(context.Context) error {
		if far.agent.hub.View().Rows(state.TableDeny) == 0 || far.agent.denials.heard.Load() != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if !far.agent.denials.id(id) {
		t.Error("by its own state it is not denied")
	}
}

// addOperatorTo makes an operator whom another agent knows as well.
func addOperatorTo(t *testing.T, a1, other *running, name string) *client.Identity {
	t.Helper()
	id := addOperator(t, a1, name, "discovery")
	within(t, "the other agent knows the operator", func(context.Context) error {
		if _, ok := other.agent.operatorKey(name); !ok {
			return errors.New("it does not")
		}
		return nil
	})
	return id
}

// greetedBy opens a connection of an operator to a mesh port, up to where requests may begin.
func greetedBy(t *testing.T, addr string, id *client.Identity) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, id.TLS(transport.ALPNRPC))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	hello := make([]byte, greetBytes)
	hello[0] = greetVersion
	_, err = conn.Write(hello)
	if err == nil {
		_, err = io.ReadFull(conn, hello)
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// endOf is closed when a connection has ended.
func endOf(conn net.Conn) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return ended
}
