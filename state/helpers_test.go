package state

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

const testEpochMs = 1_700_000_000_000

// stampAt is the stamp of ms milliseconds into the tests.
func stampAt(ms int) clock.Stamp { return clock.Stamp(testEpochMs+ms) << 16 }

func testGenesis() *Machine {
	return Genesis(GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.test",
		EpochID: [16]byte{1},
		Node: Node{
			Name: "a1", UID: [16]byte{0xa1}, HostKey: hostKey("a1"), SealKey: sealKey("a1"), Zone: "z1",
		},
		Bundle: Bundle{Sequence: 1, Roots: [][]byte{[]byte("root")}},
		Sealed: []byte("sealed to a1"), At: stampAt(0),
	})
}

func hostKey(name string) []byte { return []byte("host key of " + name) }

func sealKey(name string) []byte { return fmt.Appendf(nil, "%-32.32s", "seal key of "+name) }

func testToken(id int) Token {
	return Token{
		ID: fmt.Sprintf("%016x", id), Verify: bytes.Repeat([]byte{byte(id)}, VerifyBytes),
		Expires: stampAt(600_000), Uses: 1, Role: policy.Discovery,
	}
}

func testJoin(token int, node string) NodeJoin {
	return NodeJoin{
		Token: fmt.Sprintf("%016x", token), CSRKeyHash: [32]byte{byte(len(node)), node[len(node)-1]},
		Node: node, UID: [16]byte{7}, HostKey: hostKey(node), SealKey: sealKey(node),
	}
}

// testSession is bound to a1, has a TTL of 10 s and a lock-delay of 15 s.
func testSession(id int) Session {
	return Session{
		ID: SessionID{15: byte(id)}, Name: "s", Node: "a1", TTL: 10 * time.Second, Lease: 20 * time.Second,
		Behavior: BehaviorRelease, LockDelay: 15 * time.Second,
	}
}

func encode(t testing.TB, c Command) []byte {
	t.Helper()
	b, err := Encode(Envelope{Caller: "uid:0@a1", Via: "a1", Command: c}, Version)
	if err != nil {
		t.Fatalf("encode %T: %v", c, err)
	}
	return b
}

// apply performs the commands as the machine's next entry.
func apply(t testing.TB, m *Machine, at clock.Stamp, commands ...Command) ([]Result, Touched) {
	t.Helper()
	encoded := make([][]byte, len(commands))
	for i, c := range commands {
		encoded[i] = encode(t, c)
	}
	out, touched, err := m.Apply(m.View().Index()+1, 1, at, encoded)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	results := make([]Result, len(out))
	for i := range out {
		if results[i], err = DecodeResult(out[i]); err != nil {
			t.Fatalf("result %d: %v", i, err)
		}
	}
	return results, touched
}

// do performs one command and wants its code.
func do(t testing.TB, m *Machine, c Command, want Code) Result {
	t.Helper()
	res, _ := apply(t, m, stampAt(int(m.View().Index())), c)
	if res[0].Code != want {
		t.Fatalf("%T: got code %q (%s), want %q", c, res[0].Code, res[0].Message, want)
	}
	return res[0]
}

func snapshotOf(t testing.TB, v *View, set ClassSet) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.WriteSnapshotOf(set, &b); err != nil {
		t.Fatalf("write snapshot: %v", err)
	}
	return b.Bytes()
}

func ptr(n uint64) *uint64 { return &n }
