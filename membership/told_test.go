package membership

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// listener is a wall that hears statements.
type listener struct {
	*wall
	said []string // "from: statement"
}

func newListener(t testing.TB) *listener {
	l := &listener{wall: newWall(t)}
	l.heard = func(from string, s []byte) { l.said = append(l.said, from+": "+string(s)) }
	return l
}

func (l *listener) take() []string {
	said := l.said
	l.said = nil
	return said
}

// userState is a state exchange without states that tells something.
func userState(b []byte) []byte {
	return append(encodeMsg(msgPushPull, &wirePushPull{UserStateLen: len(b)}), b...)
}

// TestStatementsPass: what a member tells is heard, by a packet and by an exchange, and memberlist sees none of it.
func TestStatementsPass(t *testing.T) {
	l := newListener(t)
	suspect := accusation(msgSuspect, "v", "x", 3)
	tell := append([]byte{msgUser}, "one"...)
	if out := l.inbound("p", joinPacket([][]byte{tell, suspect})); describe(out) != "suspect v@3 from p" {
		t.Errorf("of the packet, memberlist sees %s", describe(out))
	}
	if got := l.take(); !slices.Equal(got, []string{"p: one"}) {
		t.Errorf("heard %q", got)
	}
	largest := bytes.Repeat([]byte("x"), MaxStatementBytes)
	for _, filter := range []func() ([]byte, error){
		func() ([]byte, error) {
			return l.request("p", bytes.NewReader(userState(encodeStatements([][]byte{[]byte("two"), largest, []byte("3"), []byte("4"), []byte("no more")}))))
		},
		func() ([]byte, error) {
			return l.response("p", bytes.NewReader(userState(encodeStatements([][]byte{[]byte("two"), largest, []byte("3"), []byte("4")}))))
		},
	} {
		out, err := filter()
		if err != nil || bytes.Contains(out, []byte("two")) {
			t.Errorf("memberlist sees %q, %v", out, err)
		}
		if got := l.take(); !slices.Equal(got, []string{"p: two", "p: " + string(largest), "p: 3", "p: 4"}) {
			t.Errorf("heard %.80q", got)
		}
	}
}

// TestStatementsAreBounded: strangers are not heard, nothing that is too large, no more than so many, and nobody too often.
func TestStatementsAreBounded(t *testing.T) {
	l := newListener(t)
	packet := func(n int) []byte { return append([]byte{msgUser}, strings.Repeat("x", n)...) }
	for name, b := range map[string][]byte{"large": packet(MaxPacketStatement + 1), "empty": packet(0)} {
		dropped := l.dropped.Load()
		if out := l.inbound("p", b); out != nil || len(l.take()) != 0 || l.dropped.Load() == dropped {
			t.Errorf("%s: it passes, or is not counted", name)
		}
	}
	if l.inbound("stranger", packet(3)); len(l.take()) != 0 {
		t.Error("a stranger is heard")
	}
	if l.inbound("p", packet(MaxPacketStatement)); len(l.take()) != 1 {
		t.Error("control: the largest is not heard")
	}
	for name, b := range map[string][]byte{
		"cut off": {0, 9, 'x'}, "half a length": {0}, "too large": append([]byte{0xff, 0xff}, make([]byte, 0xffff)...),
		"an empty one": {0, 0},
	} {
		dropped := l.dropped.Load()
		if len(b) > maxUserBytes {
			b = b[:maxUserBytes]
		}
		if _, err := l.request("p", bytes.NewReader(userState(b))); err != nil || len(l.take()) != 0 || l.dropped.Load() == dropped {
			t.Errorf("%s: heard, or not counted, or %v", name, err)
		}
		l.now = l.now.Add(time.Minute) // exchanges are limited too
	}
	many := bytes.Repeat([]byte{0, 1, 'x'}, MaxStatements+3)
	if l.request("p", bytes.NewReader(userState(many))); len(l.take()) != MaxStatements { //nolint:errcheck // what is heard counts
		t.Error("an exchange tells more than it may")
	}
	heard := 0
	for range 3 * int(tellRate.burst) {
		l.inbound("v", packet(1))
		heard += len(l.take())
	}
	if heard != int(tellRate.burst) {
		t.Errorf("%d of one peer were heard at once, want %g", heard, tellRate.burst)
	}
	l.now = l.now.Add(time.Second)
	if l.inbound("v", packet(1)); len(l.take()) != 1 {
		t.Error("control: later it is heard again")
	}
}

// TestTellerGoesAlong: what is told goes along where there is room, so often and no more, and the newest alone.
func TestTellerGoesAlong(t *testing.T) {
	var l teller
	if l.take(1000) != nil {
		t.Error("nothing goes along")
	}
	l.set([]byte("old"), 3)
	l.set([]byte("newest"), retransmits(5))
	if l.take(5) != nil {
		t.Error("there is no room for it")
	}
	n := 0
	for l.take(6) != nil {
		n++
	}
	if n != retransmitMult {
		t.Errorf("it went along %d times, want %d", n, retransmitMult)
	}
	if got := retransmits(100); got != 3*retransmitMult {
		t.Errorf("among a hundred: %d", got)
	}
}

// TestTellerGoesAlone: what found no room three times goes by itself, to so many and no more, and what found room does not.
func TestTellerGoesAlone(t *testing.T) {
	var l teller
	l.set([]byte("news"), retransmitMult)
	miss := func(n int) {
		for range n {
			l.take(1)
		}
	}
	alone := func(members, want int) {
		t.Helper()
		if packet, to := l.alone(members); to != want || (packet != nil) != (want > 0) {
			t.Errorf("%q goes to %d of %d, want %d", packet, to, members, want)
		}
	}
	if miss(tellerMisses - 1); l.starved() {
		t.Error("it goes by itself too soon")
	}
	alone(9, 0)
	l.take(100)
	miss(tellerMisses - 1)
	alone(9, 0) // one packet had room
	miss(1)
	if !l.starved() {
		t.Error("it waits for room")
	}
	alone(0, 0)
	alone(2, 2)
	alone(9, 0) // once
	miss(tellerMisses)
	alone(9, tellAloneTo)
	miss(tellerMisses)
	alone(9, retransmitMult-1-2-tellAloneTo)
	if miss(tellerMisses); l.starved() {
		t.Error("it goes without end")
	}
}

// TestStatementsInACrowd: where packets have no room for a statement, all hear it within seconds. The control is that nothing goes by itself.
func TestStatementsInACrowd(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		heard := map[string]string{}
		c.tune = func(o *Options) {
			name := o.Name
			o.crowded = true
			o.Heard = func(_ string, s []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				news := heard[name] < string(s)
				heard[name] = max(heard[name], string(s))
				return news
			}
		}
		c.startN(6)
		c.eventually(30*time.Second, "all alive", c.converged)
		others := func(want string, least int) func() bool {
			return func() bool {
				mu.Lock()
				defer mu.Unlock()
				n := 0
				for name, s := range heard {
					if name != "n1" && s == want {
						n++
					}
				}
				return n >= least
			}
		}
		n1 := c.nodes["n1"]
		n1.Tell([]byte("a"))
		n1.told.mu.Lock()
		n1.told.mu.misses = -1 << 20
		n1.told.mu.Unlock()
		c.never(10*time.Second, "control: somebody hears it", others("a", 1))
		n1.Tell([]byte("b"))
		took := c.eventually(10*time.Second, "all others have heard", others("b", 5))
		t.Logf("6 members have heard after %s", took)
	})
}

// TestStatementsReachAll: what one tells all hear within seconds; who comes later hears it by the exchange in which it joins. The
// control is one that nobody passes on by packets: that takes long.
func TestStatementsReachAll(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		heard, packets := map[string]string{}, true
		c.tune = func(o *Options) {
			name := o.Name
			o.Heard = func(_ string, s []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				news := heard[name] < string(s)
				if news {
					heard[name] = string(s)
				}
				return news && packets
			}
			o.Told = func() [][]byte {
				mu.Lock()
				defer mu.Unlock()
				if heard[name] == "" {
					return nil
				}
				return [][]byte{[]byte(heard[name])}
			}
		}
		all := func(want string, n int) func() bool {
			return func() bool {
				mu.Lock()
				defer mu.Unlock()
				count := 0
				for _, s := range heard {
					if s == want {
						count++
					}
				}
				return count == n
			}
		}
		c.startN(8)
		c.eventually(30*time.Second, "all alive", c.converged)
		mu.Lock()
		heard["n1"] = "a"
		mu.Unlock()
		c.nodes["n1"].Tell([]byte("a"))
		took := c.eventually(5*time.Second, "all have heard", all("a", 8))
		t.Logf("8 members have heard after %s", took)
		c.start("n9", addrOf(9), "n2")
		c.eventually(5*time.Second, "who joins later has heard", all("a", 9))

		mu.Lock()
		heard["n1"], packets = "b", false
		mu.Unlock()
		c.never(2*time.Second, "control: all hear what nobody tells by packets", all("b", 9))
		c.eventually(5*time.Minute, "by exchanges all hear in the end", all("b", 9))
	})
}
