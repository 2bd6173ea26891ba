package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// The ring knows the last entries and no others.
func TestDigestRing(t *testing.T) {
	r := &digestRing{}
	if _, ok := r.at(0); ok || r.newest() != 0 {
		t.Error("an empty ring knows index 0")
	}
	for i := range uint64(digestRoom + 10) {
		r.note(i+5, [32]byte{byte(i + 5)})
	}
	last := uint64(digestRoom + 14)
	for index, want := range map[uint64]bool{0: false, 5: false, last - digestRoom: false, last - digestRoom + 1: true, last: true, last + 1: false} {
		digest, ok := r.at(index)
		if ok != want || ok && digest != [32]byte{byte(index)} {
			t.Errorf("index %d: got %x, %v, want %v", index, digest[:1], ok, want)
		}
	}
}

// Who a majority contradicts is the minority; without a majority it is everyone. Members that say nothing have no vote.
func TestGroupDigests(t *testing.T) {
	for _, test := range []struct {
		digests                       string // one letter a member; "-" has none, "x" does not answer
		groups                        int
		minority, unreachable, behind []string
	}{
		{"aaa", 1, nil, nil, nil},
		{"a", 1, nil, nil, nil},
		{"aba", 2, []string{"a2"}, nil, nil},
		{"ab", 2, []string{"a1", "a2"}, nil, nil},
		{"abc", 3, []string{"a1", "a2", "a3"}, nil, nil},
		{"aabb", 2, []string{"a1", "a2", "a3", "a4"}, nil, nil},
		{"aabca", 3, []string{"a3", "a4"}, nil, nil},
		{"xaa", 1, nil, []string{"a1"}, nil},
		{"xab", 2, []string{"a2", "a3"}, []string{"a1"}, nil},
		{"a-a", 1, nil, nil, []string{"a2"}},
		{"xx", 0, nil, []string{"a1", "a2"}, nil},
	} {
		var answers []memberAnswer
		for i, d := range test.digests {
			m := memberAnswer{node: fmt.Sprintf("a%d", i+1), answer: digestAnswer{Applied: 7, Digest: string(d)}}
			switch d {
			case 'x':
				m.err = errors.New("no answer")
			case '-':
				m.answer.Digest = ""
			}
			answers = append(answers, m)
		}
		got := groupDigests(7, answers)
		if got.Groups != test.groups || !slices.Equal(got.Minority, test.minority) ||
			!slices.Equal(got.Unreachable, test.unreachable) || !slices.Equal(got.Behind, test.behind) {
			t.Errorf("%s: got %+v", test.digests, got)
		}
	}
}

// Who should be in the core and is not has no copy to compare, and is named: the members that are there agreed, and a
// voter was missing. When the core has its size nobody is, and who may not be in it never is.
func TestAbsentFromCore(t *testing.T) {
	nodes := []state.Node{{Name: "a1", CoreGrant: true}, {Name: "a2", CoreGrant: true}, {Name: "a3", CoreGrant: true}, {Name: "a4"}, {Name: "a5", CoreGrant: true, Left: true}}
	for _, test := range []struct {
		core []string
		size int
		want []string
	}{
		{[]string{"a1", "a3"}, 3, []string{"a2"}},
		{[]string{"a1"}, 3, []string{"a2", "a3"}},
		{[]string{"a1", "a2", "a3"}, 5, nil},
		{[]string{"a1", "a3"}, 2, nil},
		{[]string{"a1", "a2", "a3"}, 3, nil},
	} {
		if got := absentFromCore(test.core, test.size, nodes); !slices.Equal(got, test.want) {
			t.Errorf("%v of %d: got %v, want %v", test.core, test.size, got, test.want)
		}
	}
}

func TestAppliedRange(t *testing.T) {
	answers := []memberAnswer{
		{answer: digestAnswer{Applied: 9}}, {answer: digestAnswer{Applied: 4}}, {},
		{answer: digestAnswer{Applied: 99}, err: errors.New("no answer")},
	}
	if low, high := lowestApplied(answers), highestApplied(answers); low != 4 || high != 9 {
		t.Errorf("got %d to %d, want 4 to 9", low, high)
	}
	if low, high := lowestApplied(nil), highestApplied(nil); low != 0 || high != 0 {
		t.Errorf("of nobody: %d to %d", low, high)
	}
}

// fakeCore answers as members with these indexes do: each remembers digestRoom entries, and holds the same state but
// for the node bad.
func fakeCore(applied map[string]uint64, bad string) digestAsker {
	return func(_ context.Context, node string, index uint64) (digestAnswer, error) {
		newest, alive := applied[node]
		if !alive {
			return digestAnswer{}, errors.New("no answer")
		}
		answer := digestAnswer{Applied: newest}
		if index > 0 && index <= newest && newest-index < digestRoom {
			answer.Digest = fmt.Sprint(index)
			if node == bad {
				answer.Digest += " bad"
			}
		}
		return answer, nil
	}
}

// Members at different indexes are compared at one that all have; one that is so far behind that the others have
// forgotten it does not keep those from being compared.
func TestCompareAll(t *testing.T) {
	nodes := []string{"a1", "a2", "a3"}
	for _, test := range []struct {
		what            string
		applied         map[string]uint64
		bad             string
		index           uint64
		groups, members int
		minority        string
	}{
		{"equal", map[string]uint64{"a1": 9, "a2": 9, "a3": 9}, "", 9, 1, 3, ""},
		{"at different indexes", map[string]uint64{"a1": 900, "a2": 700, "a3": 800}, "", 700, 1, 3, ""},
		{"one is bad", map[string]uint64{"a1": 900, "a2": 700, "a3": 800}, "a1", 700, 2, 3, "a1"},
		{"one is down", map[string]uint64{"a1": 900, "a3": 800}, "", 800, 1, 2, ""},
		{"one is far behind", map[string]uint64{"a1": 9000, "a2": 7, "a3": 9000}, "a3", 9000, 2, 2, "a1 a3"},
		{"all are far apart", map[string]uint64{"a1": 5000, "a2": 7, "a3": 20000}, "", 7, 1, 1, ""},
	} {
		got, err := compareAll(t.Context(), nodes, fakeCore(test.applied, test.bad))
		if err != nil || got.Index != test.index || got.Groups != test.groups || len(got.Members) != test.members || strings.Join(got.Minority, " ") != test.minority {
			t.Errorf("%s: got %+v, %v", test.what, got, err)
		}
		if told := len(got.Members) + len(got.Unreachable) + len(got.Behind); told != len(nodes) {
			t.Errorf("%s: %d members are accounted for: %+v", test.what, told, got)
		}
	}
	if _, err := compareAll(t.Context(), nodes, fakeCore(nil, "")); api.AsError(err).Code != api.CodeUnavailable {
		t.Errorf("of nobody: %v", err)
	}
}

// Many callers cost one round of questions, and a failed one is not given again.
func TestSharedAnswer(t *testing.T) {
	s, asked := newShared[int](), 0 // guarded by the turn
	fails := func(context.Context) (int, error) { asked++; return 0, errors.New("nobody") }
	works := func(context.Context) (int, error) { asked++; return 7, nil }
	for range 2 {
		if _, err := s.get(t.Context(), fails); err == nil {
			t.Error("got no error")
		}
	}
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			if got, err := s.get(t.Context(), works); got != 7 || err != nil {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	callers.Wait()
	if asked < 3 || asked > 4 { // a fourth, should a hundred calls take a second
		t.Errorf("asked %d times, want 3", asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.turn <- struct{}{}
	if _, err := s.get(ctx, works); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v while another asks", err)
	}
}

func testMachine() *state.Machine {
	return state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "agent.test",
		Node:   state.Node{Name: "a1", HostKey: []byte{1}, SealKey: make([]byte, 32)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1 << 16,
	})
}

func testReplica() *replica {
	m := testMachine()
	return &replica{machine: m, views: &viewSwitch{hub: watch.NewHub(m.View())}, digests: &digestRing{}, spoil: new(atomic.Pointer[func([][]byte) [][]byte])}
}

func putCommand(t testing.TB, key, value string) []byte {
	t.Helper()
	b, err := state.Encode(state.Envelope{Command: state.Put{Key: key, Value: []byte(value)}}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Three replicas apply the same log; in one of them a single row came out otherwise. It is found and named at every
// index from there on, and at none before, which is the control.
func TestOneFlippedRowIsFound(t *testing.T) {
	replicas := []*replica{testReplica(), testReplica(), testReplica()}
	for index := uint64(2); index <= 20; index++ {
		for i, r := range replicas {
			value := "v"
			if index == 10 && i == 1 {
				value = "w" // a bit that flipped on its way
			}
			if _, err := r.Apply(index, 1, clock.Stamp(index)<<16, [][]byte{putCommand(t, fmt.Sprintf("k%d", index), value)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for index := uint64(2); index <= 20; index++ {
		var answers []memberAnswer
		for i, r := range replicas {
			digest, ok := r.digests.at(index)
			if !ok {
				t.Fatalf("index %d is not in the ring", index)
			}
			answers = append(answers, memberAnswer{node: fmt.Sprintf("a%d", i+1), answer: digestAnswer{Applied: 20, Digest: fmt.Sprintf("%x", digest)}})
		}
		got := groupDigests(index, answers)
		switch {
		case index < 10 && (got.Groups != 1 || len(got.Minority) != 0):
			t.Errorf("control, index %d: got %+v, want one group", index, got)
		case index >= 10 && (got.Groups != 2 || !slices.Equal(got.Minority, []string{"a2"})):
			t.Errorf("index %d: got %+v, want a2 alone", index, got)
		}
	}
}

// replicaLocator answers from replicas by name.
func replicaLocator(replicas map[string]*replica) locator {
	return locator{
		sums: func(_ context.Context, node string) (sums []byte, err error) {
			for _, sum := range replicas[node].machine.View().Buckets() {
				sums = append(sums, sum[:]...)
			}
			return sums, nil
		},
		rows: func(_ context.Context, node string, bucket int) (bucketRows, error) {
			v := replicas[node].machine.View()
			out := bucketRows{Revision: v.Revision()}
			for _, m := range v.BucketRows([]int{bucket}, maxBucketRows) {
				out.Rows = append(out.Rows, rowMark{Table: m.Table, Key: []byte(m.Key), Revision: m.Revision, Hash: m.Hash})
			}
			return out, nil
		},
	}
}

// The row that differs is named by table and key, also while the bad member lags behind; agreeing members have none.
func TestLocate(t *testing.T) {
	replicas := map[string]*replica{"a1": testReplica(), "a2": testReplica(), "a3": testReplica()}
	for index := uint64(2); index <= 50; index++ {
		for name, r := range replicas {
			value := "v"
			if index == 10 && name == "a2" {
				value = "w"
			}
			if name == "a2" && index > 45 {
				continue // it lags behind
			}
			if _, err := r.Apply(index, 1, clock.Stamp(index)<<16, [][]byte{putCommand(t, fmt.Sprintf("k%d", index), value)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	members := []api.MemberDigest{{Name: "a1"}, {Name: "a2"}, {Name: "a3"}}
	l := replicaLocator(replicas)
	got := l.locate(t.Context(), api.DigestComparison{Members: members, Minority: []string{"a2"}})
	if want := []api.RowDifference{{Member: "a2", Table: "kv", Key: "k10"}}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := l.locate(t.Context(), api.DigestComparison{Members: members, Minority: []string{"a1", "a2", "a3"}}); len(got) != 1 || got[0].Member != "a2" {
		t.Errorf("without a majority: got %+v", got)
	}
	if got := l.locate(t.Context(), api.DigestComparison{Members: members, Minority: []string{"a3"}}); len(got) != 0 {
		t.Errorf("control: a3 agrees with a1 and differs in %+v", got)
	}
	l.rows = func(context.Context, string, int) (bucketRows, error) { return bucketRows{}, errors.New("no answer") }
	if got := l.locate(t.Context(), api.DigestComparison{Members: members, Minority: []string{"a2"}}); len(got) != 0 {
		t.Errorf("nobody tells, and got %+v", got)
	}
}

// TestDiff: the rows that differ are named with what they are at both, as many as there is room for; a member that tells
// nothing is named, and what core members alone may hold shows no hash.
func TestDiff(t *testing.T) {
	replicas := map[string]*replica{"a1": testReplica(), "a2": testReplica(), "a3": testReplica()}
	for name, r := range replicas {
		index := uint64(1)
		for i := range 400 {
			index++
			value := "v"
			if name == "a3" || name == "a2" && i == 7 {
				value = "w"
			}
			key := fmt.Sprintf("k%d", i)
			if name == "a2" && i == 8 {
				key = "k9"
			}
			if _, err := r.Apply(index, 1, clock.Stamp(index)<<16, [][]byte{putCommand(t, key, value)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := replicaLocator(replicas)
	members := []api.MemberDigest{{Name: "a1"}, {Name: "a2"}, {Name: "a3"}}
	all := api.DigestComparison{Index: 401, Members: members, Minority: []string{"a1", "a2", "a3"}}
	got, err := l.diff(t.Context(), all, api.DigestPlan{Node: "a2"})
	if err != nil || got.Reference != "a1" || got.More || !slices.Equal(got.Members, []string{"a2"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	kinds := make(map[string]string)
	for _, d := range got.Differences {
		kinds[d.Key] = d.Kind
		if (d.Hash == "") != (d.Kind == "missing") || d.Hash == d.ReferenceHash || d.ReferenceRevision == 0 {
			t.Errorf("%+v", d)
		}
	}
	if kinds["k7"] != "differs" || kinds["k8"] != "missing" || len(kinds) != 3 {
		t.Errorf("found %v", kinds)
	}
	got, err = l.diff(t.Context(), all, api.DigestPlan{Reference: "a1"})
	if err != nil || !got.More || len(got.Members) != 2 || len(got.Differences) > 2*maxDiffRows || len(got.Differences) < maxDiffBuckets {
		t.Errorf("bounded: %d rows of %q, more %v, %v", len(got.Differences), got.Members, got.More, err)
	}
	if got, err = l.diff(t.Context(), api.DigestComparison{Members: members}, api.DigestPlan{}); err != nil || len(got.Members) != 0 {
		t.Errorf("nobody differs: %+v, %v", got, err)
	}
	for _, plan := range []api.DigestPlan{{Node: "a9"}, {Reference: "a9"}, {Node: "a1", Reference: "a1"}} {
		if _, err := l.diff(t.Context(), all, plan); err == nil {
			t.Errorf("%+v was done", plan)
		}
	}
	l.rows = func(context.Context, string, int) (bucketRows, error) { return bucketRows{}, errors.New("no answer") }
	if got, err = l.diff(t.Context(), all, api.DigestPlan{Node: "a2"}); err != nil || !slices.Equal(got.Unanswered, []string{"a2"}) {
		t.Errorf("nobody tells: %+v, %v", got, err)
	}
	secret := rowPair{table: state.TableToken, key: "id", own: &state.RowMark{Revision: 3, Hash: [32]byte{1}}}
	if d := secret.shown("a2"); d.Hash != "" || d.Kind != "extra" || d.Revision != 3 {
		t.Errorf("a token shows %+v", d)
	}
}

// TestChoiceNeedsARole: a choice that comes by way of an agent which may not choose is refused.
func TestChoiceNeedsARole(t *testing.T) {
	for role, want := range map[policy.Role]bool{policy.Discovery: false, policy.Local: false, policy.Operator: true} {
		if err := mayChoose(role, "a2"); (err == nil) != want {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestPrintableKey(t *testing.T) {
	for in, want := range map[string]string{"web/1": "web/1", "\x00\x01": "0x0001", "\xff": "0xff", "ü": "ü"} {
		if got := printableKey(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// What noting the digest adds to an entry; it has to stay below 2 us.
func BenchmarkDigestNote(b *testing.B) {
	r := testReplica()
	for i := range 1000 {
		index := r.machine.View().Index() + 1
		if _, err := r.Apply(index, 1, clock.Stamp(index)<<16, [][]byte{putCommand(b, fmt.Sprint(i), "v")}); err != nil {
			b.Fatal(err)
		}
	}
	v := r.machine.View()
	for b.Loop() {
		r.digests.note(v.Index(), v.Digest())
	}
}
