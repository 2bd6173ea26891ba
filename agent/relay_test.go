package agent

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// TestRelayKeys: what one host seals for another verifies there, as its own and for nobody else.
func TestRelayKeys(t *testing.T) {
	names := []string{"a1", "a2", "a3"}
	hosts := make([]*security.Host, len(names))
	for i := range hosts {
		h, err := security.CreateHost(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = h
	}
	view := func(epoch byte) *state.View {
		return viewOfNodes(t, epoch, names, hosts)
	}
	now := view(1)
	nodeOf := func(id uint64) (string, bool) {
		if id == 0 || id > 3 {
			return "", false
		}
		return names[id-1], true
	}
	var keys []*relayKeys
	for i, h := range hosts {
		keys = append(keys, newRelayKeys(h, names[i], func() *state.View { return now }, nodeOf))
	}
	data := []byte("frame")
	mac, ok := keys[0].seal(2, data)
	if !ok || !keys[1].verify(1, data, mac[:]) {
		t.Error("a2 does not believe what a1 made for it")
	}
	if keys[1].verify(3, data, mac[:]) || keys[2].verify(1, data, mac[:]) || keys[1].verify(1, []byte("other"), mac[:]) || keys[1].verify(9, data, mac[:]) {
		t.Error("believed by, or of, another")
	}
	if _, ok := keys[0].seal(9, data); ok {
		t.Error("sealed for nobody")
	}
	now = view(2)
	if keys[1].verify(1, data, mac[:]) {
		t.Error("believed in another epoch")
	}
	if mac, ok = keys[0].seal(2, data); !ok || !keys[1].verify(1, data, mac[:]) {
		t.Error("not believed in the new epoch")
	}
	for i := range 2 * maxPairKeys {
		keys[0].mu.keys[string(rune('b'+i))] = pairKey{}
	}
	now = view(3)
	if _, ok = keys[0].seal(2, data); !ok || len(keys[0].mu.keys) > maxPairKeys {
		t.Errorf("%d keys are kept", len(keys[0].mu.keys))
	}
}

// viewOfNodes is a state in which these hosts are bound to these names.
func viewOfNodes(t *testing.T, epoch byte, names []string, hosts []*security.Host) *state.View {
	t.Helper()
	m := state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "agent.test", EpochID: [16]byte{epoch},
		Node:   state.Node{Name: names[0], HostKey: hosts[0].HostKey(), SealKey: hosts[0].SealKey()},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1 << 16,
	})
	for i, name := range names[1:] {
		token := fmt.Sprintf("%016x", i+1)
		h := hosts[i+1]
		for _, c := range []state.Command{
			state.TokenCreate{Token: state.Token{ID: token, Verify: bytes.Repeat([]byte{1}, state.VerifyBytes), Expires: 1 << 40, Uses: 1, Role: policy.Discovery}},
			state.NodeJoin{Token: token, CSRKeyHash: [32]byte{byte(i + 1)}, Node: name, UID: h.UID(), HostKey: h.HostKey(), SealKey: h.SealKey()},
		} {
			b, err := state.Encode(state.Envelope{Caller: "uid:0@a1", Via: "a1", Command: c}, state.Version)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.Apply(m.View().Index()+1, 1, m.View().Stamp()+1, [][]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if _, known := m.View().Node(name); !known {
			t.Fatalf("%s did not join", name)
		}
	}
	return m.View()
}

// TestRelayChanges: the timeline hears of a relay that begins and of one that ends, not of another hub.
func TestRelayChanges(t *testing.T) {
	got := relayChanges(map[string]string{"a2": "a3", "a4": "a3"}, map[string]string{"a2": "a5", "a1": "a3"})
	want := []memberChange{{"link-relayed", "a1", "by way of a3"}, {"link-straight", "a4", ""}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
