package membership

import (
	"bytes"
	"compress/lzw"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// wall is a firewall of node "self" that knows the members p and v.
type wall struct {
	*firewall
	keys  map[string]*ecdsa.PrivateKey
	now   time.Time
	stray []string
}

func (w *wall) hostKeyOf(node string) ([]byte, bool) {
	key := w.keys[node]
	if key == nil {
		return nil, false
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	return spki, err == nil
}

func newWall(t testing.TB) *wall {
	w := &wall{keys: make(map[string]*ecdsa.PrivateKey), now: time.Unix(1e9, 0)}
	for _, name := range []string{"self", "p", "v"} {
		w.keys[name] = newKey()
	}
	o := Options{
		Name: "self", ClusterID: testCluster, Advertise: addrOf(0), HostKey: w.keys["self"],
		HostKeyOf: w.hostKeyOf, Epoch: 5, Now: func() time.Time { return w.now }, Log: zap.NewNop(),
	}
	self, err := newOwn(o)
	if err != nil {
		t.Fatal(err)
	}
	w.firewall = newFirewall(o, self)
	w.unresolved = func(from string) { w.stray = append(w.stray, from) }
	for i, name := range []string{"p", "v"} {
		if w.inbound(name, w.alive(name, addrOf(i+1), 1, 1, 1, 3)) == nil {
			t.Fatalf("the alive of %s was refused", name)
		}
	}
	return w
}

// meta is a record of a node, signed by its key.
func (w *wall) meta(name string, addr netip.AddrPort, epoch uint64, seq, base uint32, leaving bool) []byte {
	spki, _ := w.hostKeyOf(name)
	meta, err := signRecord(record{
		Name: name, Addr: addr, Epoch: epoch, Seq: seq, Base: base, Binding: bindingHash(name, spki), Leaving: leaving,
	}, testCluster, w.keys[name])
	if err != nil {
		panic(err)
	}
	return meta
}

func (w *wall) alive(name string, addr netip.AddrPort, epoch uint64, seq, base, incarnation uint32) []byte {
	return aliveMsg(name, addr, incarnation, w.meta(name, addr, epoch, seq, base, false))
}

func aliveMsg(name string, addr netip.AddrPort, incarnation uint32, meta []byte) []byte {
	return encodeMsg(msgAlive, &wireAliveMsg{
		Incarnation: incarnation, Node: name, Addr: addr.Addr().AsSlice(), Port: addr.Port(), Meta: meta, Vsn: []uint8{5, 5, 5, 5, 5, 5},
	})
}

func accusation(kind byte, node, from string, incarnation uint32) []byte {
	return encodeMsg(kind, &wireAccusation{Incarnation: incarnation, Node: node, From: from})
}

// describe names a message in a few words.
func describe(packet []byte) string {
	if packet == nil {
		return "dropped"
	}
	var out []string
	err := splitPacket(packet, func(kind byte, body []byte) {
		switch kind {
		case msgSuspect, msgDead:
			var m wireAccusation
			_ = decodeMsg(body, &m)
			out = append(out, fmt.Sprintf("%s %s@%d from %s", map[byte]string{msgSuspect: "suspect", msgDead: "dead"}[kind], m.Node, m.Incarnation, m.From))
		case msgAlive:
			var m wireAliveMsg
			_ = decodeMsg(body, &m)
			addr, _ := netip.AddrFromSlice(m.Addr)
			out = append(out, fmt.Sprintf("alive %s@%d %s:%d vsn %v", m.Node, m.Incarnation, addr, m.Port, m.Vsn))
		case msgPing:
			var m wirePing
			_ = decodeMsg(body, &m)
			out = append(out, fmt.Sprintf("ping %d by %s reply to %v:%d", m.SeqNo, m.SourceNode, m.SourceAddr, m.SourcePort))
		case msgIndirectPing:
			var m wireIndirectPing
			_ = decodeMsg(body, &m)
			addr, _ := netip.AddrFromSlice(m.Target)
			out = append(out, fmt.Sprintf("indirect ping %d of %s at %s:%d by %s", m.SeqNo, m.Node, addr, m.Port, m.SourceNode))
		default:
			out = append(out, fmt.Sprintf("type %d", kind))
		}
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(out, "; ")
}

// Each message of peer p comes out as the rules say. v is known at incarnation 3, base 1.
func TestFirewallRules(t *testing.T) {
	w := newWall(t)
	v := addrOf(2)
	foreign, err := signRecord(record{Name: "v", Addr: v, Epoch: 9, Seq: 1, Base: 1, Binding: bindingHash("v", mustSPKI(w, "v"))}, "other cluster", w.keys["v"])
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		in   []byte
		want string
	}{
		{"suspect", accusation(msgSuspect, "v", "x", 3), "suspect v@3 from p"},
		{"suspect above known", accusation(msgSuspect, "v", "x", 4), "dropped"},
		{"suspect at the end", accusation(msgSuspect, "v", "x", math.MaxUint32), "dropped"},
		{"suspect of a stranger", accusation(msgSuspect, "x", "p", 0), "dropped"},
		{"dead", accusation(msgDead, "v", "p", 3), "suspect v@3 from p"},
		{"dead in its name", accusation(msgDead, "v", "v", 3), "suspect v@3 from p"},
		{"own leave", accusation(msgDead, "p", "p", 3), "dead p@3 from p"},
		{"alive", w.alive("v", v, 1, 1, 1, 5), "alive v@5 10.0.0.3:8310 vsn [1 5 2 0 0 0]"},
		{"alive beyond what was signed", w.alive("v", v, 1, 1, 1, 18), "dropped"},
		{"alive at another address", aliveMsg("v", addrOf(9), 6, w.meta("v", v, 1, 1, 1, false)), "alive v@6 10.0.0.3:8310 vsn [1 5 2 0 0 0]"},
		{"alive with another's record", aliveMsg("v", v, 6, w.meta("p", v, 1, 1, 1, false)), "dropped"},
		{"alive with a record of another cluster", aliveMsg("v", v, 6, foreign), "dropped"},
		{"alive without a record", aliveMsg("v", v, 6, nil), "dropped"},
		{"own alive beyond", w.alive("p", addrOf(1), 1, 1, 1, 1000), "alive p@1000 10.0.0.2:8310 vsn [1 5 2 0 0 0]"},
		{"ping", encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "self", SourceNode: "p", SourceAddr: []byte{1, 2, 3, 4}, SourcePort: 9}), "ping 1 by p reply to []:0"},
		{"ping in another name", encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "self", SourceNode: "v"}), "dropped"},
		{"ping of another", encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "v", SourceNode: "p"}), "dropped"},
		{"indirect ping", encodeMsg(msgIndirectPing, &wireIndirectPing{SeqNo: 1, Node: "v", SourceNode: "p", Target: []byte{9, 9, 9, 9}, Port: 1}), "indirect ping 1 of v at 10.0.0.3:8310 by p"},
		{"indirect ping of a stranger", encodeMsg(msgIndirectPing, &wireIndirectPing{SeqNo: 1, Node: "x", SourceNode: "p", Target: []byte{9, 9, 9, 9}}), "dropped"},
		{"ack unasked", encodeMsg(msgAck, &wireAck{SeqNo: 7}), "dropped"},
		{"nack unasked", encodeMsg(msgNack, &wireNack{SeqNo: 7}), "dropped"},
		{"user message", []byte{8, 1, 2}, "dropped"},
		{"state exchange in a packet", encodePushPull(nil, false), "dropped"},
		{"encrypted", []byte{10, 1, 2}, "dropped"},
		{"label", []byte{244, 1, 2}, "dropped"},
		{"unknown type", []byte{77, 1, 2}, "dropped"},
		{"empty", nil, "dropped"},
		{"oversize", make([]byte, maxPacketBytes+1), "dropped"},
		{"suspect self at ours", accusation(msgSuspect, "self", "x", 1), "suspect self@1 from p"},
		{"suspect self in the slack", accusation(msgDead, "self", "x", 17), "suspect self@17 from p"},
		{"suspect self beyond", accusation(msgSuspect, "self", "x", 18), "dropped"},
		{"alive self with a former record", aliveMsg("self", addrOf(7), 400, w.meta("self", addrOf(7), 4, 9, 390, false)), "suspect self@400 from p"},
		{"alive self beyond a former record", aliveMsg("self", addrOf(7), 407, w.meta("self", addrOf(7), 4, 9, 390, false)), "dropped"},
		{"alive self with a later record", aliveMsg("self", addrOf(7), 3, w.meta("self", addrOf(7), 6, 9, 3, false)), "dropped"},
		{"own word coming back", func() []byte { _, meta, _ := w.own.view(); return aliveMsg("self", addrOf(0), 1, meta) }(), "dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := describe(w.inbound("p", test.in)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func mustSPKI(w *wall, name string) []byte {
	spki, _ := w.hostKeyOf(name)
	return spki
}

// The wrappings are taken off, nested as memberlist nests them; what fails to unwrap is dropped.
func TestFirewallUnwraps(t *testing.T) {
	suspect := accusation(msgSuspect, "v", "x", 3)
	user := []byte{8, 1}
	compound := joinPacket([][]byte{suspect, user, suspect})
	const both = "suspect v@3 from p; suspect v@3 from p"
	for _, test := range []struct {
		name string
		in   []byte
		want string
	}{
		{"crc", crcPacket(suspect), "suspect v@3 from p"},
		{"compound", compound, both},
		{"compress", compressPacket(compound), both},
		{"crc of compress of compound", crcPacket(compressPacket(compound)), both},
		{"wrong crc", append(crcPacket(suspect), 0), "dropped"},
		{"truncated compound", compound[:len(compound)-1], "suspect v@3 from p"},
		{"compound header alone", []byte{msgCompound, 9}, "dropped"},
		{"too deep", crcPacket(crcPacket(crcPacket(crcPacket(suspect)))), "dropped"},
		{"decompression bomb", compressPacket(make([]byte, 1<<20)), "dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := describe(newWall(t).inbound("p", test.in)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func crcPacket(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{msgCRC}, crc32.ChecksumIEEE(b)), b...)
}

func compressPacket(b []byte) []byte {
	var buf bytes.Buffer
	w := lzw.NewWriter(&buf, lzw.LSB, 8)
	_, _ = w.Write(b)
	_ = w.Close()
	return encodeMsg(msgCompress, &wireCompress{Buf: buf.Bytes()})
}

// A record signed by its node that it leaves lets anyone pass the leave on; a newer start ends
// that, and older records are refused from then on.
func TestFirewallRecords(t *testing.T) {
	w := newWall(t)
	v := addrOf(2)
	say := func(in []byte) string { return describe(w.inbound("p", in)) }
	if got, want := say(aliveMsg("v", v, 4, w.meta("v", v, 1, 2, 4, true))), "alive v@4 10.0.0.3:8310 vsn [1 5 2 0 0 0]"; got != want {
		t.Fatalf("leaving record: got %s, want %s", got, want)
	}
	if got, want := say(accusation(msgDead, "v", "v", 4)), "dead v@4 from v"; got != want {
		t.Errorf("leave passed on: got %s, want %s", got, want)
	}
	if got, want := say(w.alive("v", addrOf(8), 2, 1, 1, 1)), "alive v@1 10.0.0.9:8310 vsn [1 5 2 0 0 0]"; got != want {
		t.Errorf("new start: got %s, want %s", got, want)
	}
	if got, want := say(accusation(msgDead, "v", "v", 1)), "suspect v@1 from p"; got != want {
		t.Errorf("leave after the new start: got %s, want %s", got, want)
	}
	if got, want := say(accusation(msgSuspect, "v", "v", 4)), "dropped"; got != want {
		t.Errorf("suspect at an incarnation of the former life: got %s, want %s", got, want)
	}
	if got, want := say(w.alive("v", v, 1, 3, 1, 9)), "dropped"; got != want {
		t.Errorf("record of the former life: got %s, want %s", got, want)
	}
	delete(w.keys, "v")
	if got, want := say(w.alive2(t, "v", addrOf(8))), "dropped"; got != want || !reflect.DeepEqual(w.stray, []string{"p"}) {
		t.Errorf("unbound: got %s, strays %v; want dropped, strays [p]", got, w.stray)
	}
}

// alive2 is an alive signed by a key that nobody knows.
func (w *wall) alive2(t *testing.T, name string, addr netip.AddrPort) []byte {
	t.Helper()
	meta, err := signRecord(record{Name: name, Addr: addr, Epoch: 99, Seq: 1, Base: 1}, testCluster, newKey())
	if err != nil {
		t.Fatal(err)
	}
	return aliveMsg(name, addr, 1, meta)
}

// Acks count from the one pinged, and from helpers only when two of them say so.
func TestFirewallAcks(t *testing.T) {
	w := newWall(t)
	ack := func(seq uint32, from string) bool {
		return w.inbound(from, encodeMsg(msgAck, &wireAck{SeqNo: seq})) != nil
	}
	w.outbound("v", crcPacket(encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "v"})))
	if ack(1, "p") || !ack(1, "v") {
		t.Error("a ping's ack must count from its target alone")
	}
	w.outbound("v", encodeMsg(msgPing, &wirePing{SeqNo: 2, Node: "v"}))
	for _, helper := range []string{"p", "q", "r"} {
		w.outbound(helper, encodeMsg(msgIndirectPing, &wireIndirectPing{SeqNo: 2, Node: "v"}))
	}
	first, again, stranger := ack(2, "p"), ack(2, "p"), ack(2, "x")
	if first || again || stranger {
		t.Error("one helper's word counted, or a stranger's")
	}
	if !ack(2, "q") {
		t.Error("two helpers' word did not count")
	}
	w.outbound("p", encodeMsg(msgIndirectPing, &wireIndirectPing{SeqNo: 3, Node: "v"}))
	if !ack(3, "p") {
		t.Error("the only helper's word must count")
	}
	nack := encodeMsg(msgNack, &wireNack{SeqNo: 2})
	if w.inbound("r", nack) == nil || w.inbound("v", nack) != nil {
		t.Error("a nack must count from helpers alone")
	}
	for seq := range uint32(maxProbes) {
		w.probes.sent(100+seq, "v")
	}
	if ack(3, "p") || len(w.probes.mu.open) != maxProbes {
		t.Errorf("%d pings remembered, limit %d", len(w.probes.mu.open), maxProbes)
	}
}

// What one peer says about one node is limited by rate, and the limiter's memory is bounded.
func TestFirewallRates(t *testing.T) {
	w := newWall(t)
	count := func(in []byte) (n int) {
		for range 100 {
			if w.inbound("p", in) != nil {
				n++
			}
		}
		return n
	}
	if got, want := count(accusation(msgSuspect, "v", "x", 3)), int(claimRate.burst)-0; got != want {
		t.Errorf("%d accusations of v passed, want %d", got, want)
	}
	if got, want := count(accusation(msgSuspect, "self", "x", 1)), int(selfRate.burst); got != want {
		t.Errorf("%d accusations of self passed, want %d", got, want)
	}
	w.now = w.now.Add(time.Second)
	if got, want := count(accusation(msgSuspect, "v", "x", 3)), int(claimRate.perSecond); got != want {
		t.Errorf("a second later %d passed, want %d", got, want)
	}
	l := newLimiter(func() time.Time { return w.now })
	for i := range maxBuckets {
		l.allow(claimRate, fmt.Sprint(i), "v")
	}
	if l.allow(claimRate, "one more", "v") {
		t.Error("the limiter has no bound")
	}
	w.now = w.now.Add(time.Minute)
	if !l.allow(claimRate, "one more", "v") || len(l.mu.buckets) != 1 {
		t.Errorf("idle buckets stayed: %d", len(l.mu.buckets))
	}
}

// A state exchange comes out under the same rules, whoever began it.
func TestFirewallExchange(t *testing.T) {
	v := addrOf(2)
	state := func(w *wall, name string, kind int, incarnation uint32) wireState {
		return wireState{Name: name, Addr: v.Addr().AsSlice(), Port: v.Port(), Meta: w.meta(name, v, 1, 1, 1, false), Incarnation: incarnation, State: kind, Vsn: []uint8{9, 9, 9, 9, 9, 9}}
	}
	w := newWall(t)
	in := encodePushPull([]wireState{
		state(w, "v", wireAlive, 17),
		state(w, "v", wireAlive, 18),
		state(w, "v", wireDead, 17),
		state(w, "v", wireLeft, 17),
		state(w, "p", wireLeft, 3),
		state(w, "v", wireSuspect, 99),
		state(w, "self", wireAlive, 1),
		state(w, "self", wireDead, 12),
		state(w, "v", 7, 1),
	}, true)
	for name, filter := range map[string]func(string, []byte) ([]byte, error){
		"request":  func(from string, b []byte) ([]byte, error) { return w.request(from, bytes.NewReader(b)) },
		"response": func(from string, b []byte) ([]byte, error) { return w.response(from, bytes.NewReader(b)) },
	} {
		for _, packed := range []bool{false, true} {
			stream := in
			if packed {
				stream = compressPacket(in)
			}
			out, err := filter("p", stream)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var got []string
			for _, s := range decodeStates(t, out) {
				got = append(got, fmt.Sprintf("%s@%d %d %v", s.Name, s.Incarnation, s.State, s.Vsn[:3]))
			}
			want := []string{"v@17 0 [1 5 2]", "v@17 1 [1 5 2]", "v@17 1 [1 5 2]", "p@3 3 [1 5 2]", "self@1 1 [1 5 2]", "self@12 1 [1 5 2]"}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got  %v\nwant %v", name, got, want)
			}
		}
	}
}

func decodeStates(t testing.TB, b []byte) []wireState {
	t.Helper()
	r := bytes.NewReader(b[1:])
	var head wirePushPull
	if b[0] != msgPushPull || decodeFrom(r, &head) != nil {
		t.Fatalf("not a state exchange: %x", b)
	}
	out := make([]wireState, head.Nodes)
	for i := range out {
		if err := decodeFrom(r, &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Streams that are not what their direction allows are refused, and none makes us allocate what it
// only announces.
func TestFirewallStreamLimits(t *testing.T) {
	header := func(nodes, user int) []byte {
		return encodeMsg(msgPushPull, &wirePushPull{Nodes: nodes, UserStateLen: user})
	}
	bin := append([]byte{msgPushPull, 0x81}, append([]byte{0xa5}, "Nodes"...)...)
	bin = append(bin, 0xdb, 0xff, 0xff, 0xff, 0xff)
	for name, b := range map[string][]byte{
		"empty":                 {},
		"user message":          {8, 0x80},
		"error as a request":    encodeMsg(msgErr, &wireErr{Error: "x"}),
		"ping in another name":  encodeMsg(msgPing, &wirePing{Node: "self", SourceNode: "v"}),
		"too many states":       header(maxStates+1, 0),
		"negative":              header(-1, 0),
		"too much user state":   header(0, maxUserBytes+1),
		"states missing":        header(maxStates, 0),
		"user state missing":    header(0, maxUserBytes),
		"huge string announced": bin,
		"bomb":                  compressPacket(make([]byte, maxStateBytes+1)),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			w := newWall(t)
			runtime.ReadMemStats(&before)
			if out, err := w.request("p", bytes.NewReader(b)); err == nil {
				t.Errorf("accepted: %x", out)
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
				t.Errorf("allocated %d bytes", got)
			}
		})
	}
	w := newWall(t)
	allowed := 0
	for range 100 {
		if _, err := w.request("p", bytes.NewReader(encodePushPull(nil, false))); err == nil {
			allowed++
		}
	}
	if allowed != int(exchangeRate.burst) {
		t.Errorf("%d exchanges at once, want %d", allowed, int(exchangeRate.burst))
	}
}

// Nothing that a peer sends comes out against the rules, and nothing panics.
func FuzzFirewallPacket(f *testing.F) {
	w := newWall(f)
	w.heard = heardWithin(f, MaxPacketStatement)
	w.outbound("p", encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "p"}))
	suspect := accusation(msgSuspect, "v", "x", 3)
	for _, seed := range [][]byte{
		suspect, accusation(msgDead, "p", "p", 3), w.alive("v", addrOf(2), 1, 1, 1, 4),
		encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "self", SourceNode: "p"}), encodeMsg(msgAck, &wireAck{SeqNo: 1}),
		encodeMsg(msgIndirectPing, &wireIndirectPing{SeqNo: 1, Node: "v", SourceNode: "p"}),
		crcPacket(compressPacket(joinPacket([][]byte{suspect, suspect}))), {msgCompound, 255, 0}, {msgUser, 'x'},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		w.now = w.now.Add(time.Minute)
		out := w.inbound("p", packet)
		if out == nil {
			return
		}
		err := splitMessage(out, maxPacketDepth, func(kind byte, body []byte) { checkPassed(t, w, kind, body) })
		if err != nil {
			t.Errorf("passed a packet that does not parse: %v", err)
		}
	})
}

// heardWithin hears statements of a size that there may be.
func heardWithin(t testing.TB, limit int) func(string, []byte) {
	return func(from string, s []byte) {
		if from != "p" || len(s) == 0 || len(s) > limit {
			t.Errorf("heard %d bytes of %s", len(s), from)
		}
	}
}

func checkPassed(t *testing.T, w *wall, kind byte, body []byte) {
	switch kind {
	case msgPing, msgIndirectPing, msgAck, msgNack:
	case msgSuspect, msgDead:
		var m wireAccusation
		if decodeMsg(body, &m) != nil || m.From != "p" || kind == msgDead && m.Node != "p" {
			t.Errorf("passed an accusation %d %+v", kind, m)
		}
		if k, ok := w.known.get(m.Node); m.Node != "self" && (!ok || uint64(m.Incarnation) > max(uint64(k.incarnation), k.ceiling())) {
			t.Errorf("passed an accusation above the known incarnation: %+v", m)
		}
	case msgAlive:
		var m wireAliveMsg
		if decodeMsg(body, &m) != nil {
			t.Error("passed an alive that does not parse")
		}
		if r, err := w.records.verify(m.Meta); err != nil || r.Name != m.Node || m.Node == "self" {
			t.Errorf("passed an alive without its record: %v", err)
		}
	default:
		t.Errorf("passed message type %d", kind)
	}
}

// The same for streams, in both directions.
func FuzzFirewallStream(f *testing.F) {
	w := newWall(f)
	w.heard = heardWithin(f, MaxStatementBytes)
	meta := w.meta("v", addrOf(2), 1, 1, 1, false)
	states := []wireState{
		{Name: "v", Meta: meta, Incarnation: 3}, {Name: "v", Incarnation: 3, State: wireLeft},
		{Name: "p", Incarnation: 3, State: wireLeft}, {Name: "self", Incarnation: 1, State: wireDead},
	}
	f.Add(encodePushPull(states, true))
	f.Add(compressPacket(encodePushPull(states, false)))
	f.Add(encodeMsg(msgPing, &wirePing{SeqNo: 1, Node: "self", SourceNode: "p"}))
	f.Add(encodeMsg(msgErr, &wireErr{Error: "x"}))
	f.Add(userState(encodeStatements([][]byte{[]byte("one"), []byte("two")})))
	f.Fuzz(func(t *testing.T, stream []byte) {
		w.now = w.now.Add(time.Minute)
		for _, filter := range []func() ([]byte, error){
			func() ([]byte, error) { return w.request("p", bytes.NewReader(stream)) },
			func() ([]byte, error) { return w.response("p", bytes.NewReader(stream)) },
		} {
			out, err := filter()
			if err != nil || out[0] != msgPushPull {
				continue
			}
			for _, s := range decodeStates(t, out) {
				if s.State == wireDead || s.State == wireLeft && s.Name != "p" || s.Name == "self" && s.State != wireSuspect {
					t.Errorf("passed state %+v", s)
				}
			}
		}
	})
}
