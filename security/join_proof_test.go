package security

import (
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/security/policy"
)

// An agent that relays joins cannot give a joiner roots, members or a role of its own: the core's proof
// covers every field of the answer and the request that it answers.
func TestJoinAnswerProofCoversEveryField(t *testing.T) {
	req, token, _ := testRequest(t)
	key := token.VerifyKey()
	good := JoinResponse{
		ClusterID: token.ClusterID, Chain: [][]byte{{1, 2}, {3}}, BundleSequence: 7, Roots: [][]byte{{4}, {5, 6}},
		Role: policy.Local, Members: []JoinMember{{Name: "a1", Address: "127.0.0.1:8310", Core: true}},
	}
	good.Prove(req, key)
	if !good.provedFor(req, key) {
		t.Fatal("control: the proof does not hold")
	}
	for name, change := range map[string]func(*JoinResponse){
		"cluster_id":      func(r *JoinResponse) { r.ClusterID = strings.Repeat("0", 32) },
		"chain":           func(r *JoinResponse) { r.Chain = [][]byte{{1}, {2, 3}} },
		"bundle_sequence": func(r *JoinResponse) { r.BundleSequence++ },
		"roots":           func(r *JoinResponse) { r.Roots = append(slices.Clone(r.Roots), []byte{9}) },
		"chain to roots":  func(r *JoinResponse) { r.Chain, r.Roots = r.Chain[:1], append([][]byte{{3}}, r.Roots...) },
		"role":            func(r *JoinResponse) { r.Role = policy.Operator },
		"core_grant":      func(r *JoinResponse) { r.CoreGrant = true },
		"member name":     func(r *JoinResponse) { r.Members = []JoinMember{{Name: "x", Address: "127.0.0.1:8310", Core: true}} },
		"member address":  func(r *JoinResponse) { r.Members = []JoinMember{{Name: "a1", Address: "127.0.0.9:8310", Core: true}} },
		"member core":     func(r *JoinResponse) { r.Members = []JoinMember{{Name: "a1", Address: "127.0.0.1:8310"}} },
		"no members":      func(r *JoinResponse) { r.Members = nil },
		"no proof":        func(r *JoinResponse) { r.Proof = nil },
	} {
		r := good
		change(&r)
		if r.provedFor(req, key) {
			t.Errorf("%s: the proof still holds", name)
		}
	}
	other, _, _ := testRequest(t)
	if good.provedFor(other, key) || good.provedFor(req, testToken(t, 1, "", false).VerifyKey()) {
		t.Error("the proof holds for another request or another token")
	}
}

// A relay that holds a valid certificate, but not the token's verify key, cannot admit anybody.
func TestJoinRefusesAnAnswerOfTheRelay(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	d.answer = func(_ int, r JoinRequest) (JoinResponse, error) {
		resp, err := d.admit(r)
		resp.Roots = append(resp.Roots, newWorld(t, testTD).gen.Roots...) // its own root beside the right one
		return resp, err
	}
	o := d.options()
	if err := o.prepare(); err != nil {
		t.Fatal(err)
	}
	key, err := LeafKey(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.attempt(t.Context(), d.addr, key)
	if err == nil || !strings.Contains(err.Error(), "not made by the core") {
		t.Errorf("got %v", err)
	}
}
