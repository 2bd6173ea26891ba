package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// twins is a cluster of one log and several core members, and the host a1 with its files, which can be copied. Members judge by what
// they have applied: a member that is cut off stays where it was.
type twins struct {
	mu sync.Mutex // of quorum and writes, where goroutines use them

	t       *testing.T
	machine *state.Machine
	quorum  bool
	writes  int
	host    *security.Host
	dir     string
}

var twinCluster = strings.Repeat("ab", 16)

func newTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{t: t, quorum: true, dir: t.TempDir()}
	var err error
	if w.host, err = security.CreateHost(w.dir); err != nil {
		t.Fatal(err)
	}
	w.machine = state.Genesis(state.GenesisOptions{
		ClusterID: twinCluster, TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: w.host.HostKey(), SealKey: w.host.SealKey()},
	})
	return w
}

func (w *twins) apply(commands ...state.Command) error {
	for _, command := range commands {
		c, err := state.Encode(state.Envelope{Command: command, Caller: "agent:c1"}, state.Version)
		if err != nil {
			return err
		}
		v := w.machine.View()
		if _, _, err = w.machine.Apply(v.Index()+1, 1, v.Stamp()+1<<16, [][]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// member is a core member's part.
type member struct {
	*generations
	applied *state.View // of a member that is cut off; nil: it has all
}

func (w *twins) member() *member {
	m := &member{}
	m.generations = &generations{
		clusterID: twinCluster, log: zap.NewNop(), wake: make(chan struct{}, 1), book: newGenerationBook(100),
		view: func() *state.View {
			if m.applied != nil {
				return m.applied
			}
			return w.machine.View()
		},
		propose: func(_ context.Context, c state.NodeGenerations) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.quorum {
				return errors.New("no leader")
			}
			w.writes++
			return w.apply(c)
		},
	}
	return m
}

// write has the log told all that there is, as with a quorum.
func (m *member) write(t *testing.T) {
	for m.tell(t.Context()) {
	}
}

func (m *member) node() state.Node {
	n, _ := m.view().Node("a1")
	return n
}

// open starts the host, or a copy of it.
func (w *twins) open(dir string) *security.Ratchet {
	return security.OpenRatchet(dir, twinCluster, "a1", w.host)
}

func (w *twins) copy(dir string) string {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		w.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(to, "identity", "*"))
	for _, file := range files {
		err = errors.Join(err, os.Chmod(file, 0o600))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return to
}

// ask is a renewal whose answer is lost, renew one that is answered. The code is "" for a certificate.
func (w *twins) ask(r *security.Ratchet, m *member) (code string) {
	w.t.Helper()
	link, err := r.Link()
	if err != nil {
		w.t.Fatal(err)
	}
	recorded, err := m.admit(m.node(), link)
	var refused *security.RekeyError
	if errors.As(err, &refused) {
		if strings.Contains(refused.Message, string(link.Secrets)) && len(link.Secrets) > 0 {
			w.t.Error("the refusal quotes a secret")
		}
		return refused.Code
	}
	if err != nil {
		w.t.Fatal(err)
	}
	r.Recorded(recorded)
	return ""
}

func (w *twins) renew(r *security.Ratchet, m *member) (code string) {
	w.t.Helper()
	if code = w.ask(r, m); code == "" {
		if err := r.Accepted(); err != nil {
			w.t.Fatal(err)
		}
	}
	return code
}

// renews wants certificates, one from each.
func (w *twins) renews(what string, r *security.Ratchet, members ...*member) {
	w.t.Helper()
	for i, m := range members {
		if code := w.renew(r, m); code != "" {
			w.t.Fatalf("%s: refused by member %d: %s", what, i, code)
		}
	}
}

// refuses wants none from any.
func (w *twins) refuses(what, code string, r *security.Ratchet, members ...*member) {
	w.t.Helper()
	for i, m := range members {
		if got := w.renew(r, m); got != code {
			w.t.Errorf("%s: member %d says %q, want %q", what, i, got, code)
		}
	}
}

// TestGenerationsOfHonestHosts: whatever is lost, and whoever is asked, an honest host is renewed: plain renewals by members in turn,
// a lost answer with the retry at another member, a crash at any point, members that are behind, and no quorum for as long as it
// takes. Nothing of that is taken for a copy.
func TestGenerationsOfHonestHosts(t *testing.T) {
	w := newTwins(t)
	a, b := w.member(), w.member()
	r := w.open(w.dir)
	w.renews("the first", r, a, b, a)
	a.write(t)
	b.write(t)
	for i := range 300 {
		if i%3 == 0 && w.ask(r, a) != "" {
			t.Fatalf("renewal %d is refused", i)
		}
		if i%7 == 0 {
			r = w.open(w.dir) // killed before the answer
		}
		if i%11 == 0 {
			b.applied = w.machine.View() // cut off for the next eleven
		}
		w.renews("by turns", r, b, a)
		if i%5 == 0 {
			a.write(t)
			b.write(t)
		}
	}
	b.applied = nil
	known := w.machine.View().Generations(a.node())

	w.quorum = false
	behind := w.machine.View()
	for range 150 { // three days of a core member without the others
		w.renews("without a quorum", r, a)
		a.applied, b.applied = behind, behind
	}
	w.renews("by another member, which has heard nothing of it", r, b)
	w.renews("after its restart", w.open(w.dir), w.member())
	w.quorum, a.applied, b.applied = true, nil, nil
	b.write(t)
	a.write(t)
	w.renews("with a quorum again", r, a, b)
	a.write(t)
	if v := w.machine.View(); len(v.Forks()) != 0 || v.Generations(a.node()).Generation <= known.Generation {
		t.Errorf("forks %v; generation %d after %d", v.Forks(), v.Generations(a.node()).Generation, known.Generation)
	}
	if n := len(a.book.held) + len(b.book.held) + len(a.book.accused) + len(b.book.accused); n > 2 {
		t.Errorf("%d claims are left over", n)
	}
}

// TestGenerationsOfCopies: two copies are found out when the second asks, by whichever member, and neither is renewed from then on by
// any: with a quorum once the log has it; without one, where two members have renewed one copy each, when they meet again.
func TestGenerationsOfCopies(t *testing.T) {
	for name, apart := range map[string]bool{"one log": false, "two halves": true} {
		t.Run(name, func(t *testing.T) {
			w := newTwins(t)
			a, b := w.member(), w.member()
			r := w.open(w.dir)
			w.renews("before", r, a, b)
			a.write(t)
			b.write(t)
			w.renews("before", r, a)
			a.write(t)
			twin := w.open(w.copy(w.dir))
			if apart {
				w.quorum = false
				a.applied, b.applied = w.machine.View(), w.machine.View()
				for range maxHalf {
					w.renews("one half", r, a)
					w.renews("the other half", twin, b)
				}
				w.quorum, a.applied, b.applied = true, nil, nil
				a.write(t)
				w.renews("nobody knows yet", r, a)
				b.write(t)
			} else {
				w.renews("nobody knows yet", r, a)
				w.refuses("the second", security.RekeyCopied, twin, a)
				a.write(t)
			}
			w.refuses("the first", security.RekeyCopied, r, a, b, w.member())
			w.refuses("the second", security.RekeyCopied, twin, a, b)
			a.write(t)
			b.write(t)
			if f, ok := w.machine.View().Fork("a1"); !ok || f.By != "agent:c1" {
				t.Errorf("%+v, %v", f, ok)
			}
			if len(a.book.held)+len(b.book.held)+len(a.book.accused)+len(b.book.accused) != 0 {
				t.Error("something is left to tell of a host that was found out")
			}
			w.decides(r, twin, a, b)
		})
	}
}

// maxHalf is as often as a host goes on without hearing that anything was written down, and once more.
const maxHalf = 33

// decides has the operator decide for the first copy.
func (w *twins) decides(r, twin *security.Ratchet, a, b *member) {
	w.t.Helper()
	if err := w.apply(state.NodeTrust{Node: "a1"}); err != nil {
		w.t.Fatal(err)
	}
	w.renews("the right copy", r, a)
	a.write(w.t)
	w.renews("the right copy", r, b, a)
	b.write(w.t)
	a.write(w.t)
	w.refuses("the wrong copy", security.RekeyCopied, twin, b)
	b.write(w.t)
	if _, ok := w.machine.View().Fork("a1"); !ok {
		w.t.Error("the wrong copy is not found out a second time")
	}
}

// TestGenerationsGoneBack: a host that was stopped and started again from an older copy of its files is found out with its first
// renewal, however old they are; one whose copy was made in the middle of a renewal, with its second. One that lost the file, or
// whose program is older than generations, is refused and accused of nothing.
func TestGenerationsGoneBack(t *testing.T) {
	w := newTwins(t)
	a := w.member()
	r := w.open(w.dir)
	var copies []string
	for i := range 100 {
		if _, err := r.Link(); err != nil {
			t.Fatal(err)
		}
		if i == 97 {
			copies = append(copies, w.copy(w.dir)) // in the middle of a renewal
		}
		w.renews("before", r, a)
		a.write(t)
		if i%40 == 0 {
			copies = append(copies, w.copy(w.dir))
		}
	}
	for i, dir := range slices.Backward(copies) {
		old := w.open(dir)
		code := w.renew(old, a)
		if i == len(copies)-1 {
			if code != security.RekeyOutdated || old.Outdated() != nil {
				t.Errorf("a copy of the middle of a renewal: %s", code)
			}
			if a.write(t); len(w.machine.View().Forks()) != 0 {
				t.Error("an old link alone is taken for a copy: whoever has seen it go by could show it")
			}
			code = w.renew(old, a)
		}
		if code != security.RekeyCopied {
			t.Errorf("copy %d: %q", i, code)
		}
		if a.write(t); len(w.machine.View().Forks()) != 1 {
			t.Errorf("copy %d is not found out", i)
		}
		if err := w.apply(state.NodeTrust{Node: "a1"}); err != nil {
			t.Fatal(err)
		}
		w.renews("the operator's word", r, a)
		a.write(t)
	}
	var refused *security.RekeyError
	if _, err := a.admit(a.node(), nil); !errors.As(err, &refused) || refused.Code != security.RekeyUntold || refused.Hint == "" {
		t.Errorf("nothing shown: %v", err)
	}
	fresh := newTwins(t)
	if _, err := fresh.member().admit(fresh.member().node(), nil); err != nil {
		t.Errorf("an agent of before generations: %v", err)
	}
	stranger := newTwins(t)
	if code := w.renew(stranger.open(stranger.dir), a); code != security.RekeyInvalid || len(w.machine.View().Forks()) != 0 {
		t.Errorf("another host under the name: %q, %v", code, w.machine.View().Forks())
	}
}

// TestGenerationsRestored: after the core was restored from an older state, an honest host is renewed, ten generations on or
// more than it can show, and a copy beside it is found out.
func TestGenerationsRestored(t *testing.T) {
	for _, on := range []int{0, 10, 170} {
		w := newTwins(t)
		a := w.member()
		r := w.open(w.dir)
		step := func(n int) {
			for range n {
				w.renews("before", r, a)
				a.write(t)
			}
		}
		step(40)
		backup := w.machine.View()
		step(on)
		twin := w.open(w.copy(w.dir))
		var err error
		w.machine, err = state.Recover(backup, state.RecoverOptions{
			Node: "a1", EpochID: [16]byte{9}, At: backup.Stamp() + 1<<16, Backup: true, EventID: [16]byte{3}, Message: "from a test",
		})
		if err != nil {
			t.Fatal(err)
		}
		w.renews("after the restore", r, a, w.member(), a)
		a.write(t)
		if len(w.machine.View().Forks()) != 0 || w.machine.View().Generations(a.node()).Jumps {
			t.Errorf("%d on: %v", on, w.machine.View().Forks())
		}
		w.refuses("a copy", security.RekeyCopied, twin, a)
	}
}

// TestGenerationBookFull reaches the limit of what a member holds: who is new there is told to ask another, the others are renewed, and
// with a leader there is room again.
func TestGenerationBookFull(t *testing.T) {
	w := newTwins(t)
	v := w.machine.View()
	b := newGenerationBook(2)
	claim := func(node string, generation uint64) state.GenerationClaim {
		c := state.GenerationClaim{Node: node, Binding: 1, First: 1, Live: true}
		for n := range generation {
			c.Marks = append(c.Marks, state.GenerationMark{byte(n + 1)})
		}
		return c
	}
	for _, c := range []struct {
		node       string
		generation uint64
		want       state.GenerationVerdict
	}{{"a1", 1, state.GenerationBegins}, {"a2", 1, state.GenerationBegins}, {"a3", 1, generationBusy}, {"a1", 2, state.GenerationBegins}} {
		if got := b.admit(state.Generations{}, claim(c.node, c.generation), v); got != c.want {
			t.Errorf("%s: %s, want %s", c.node, got, c.want)
		}
	}
	if claims := b.next(v, 10); len(claims) != 1 || len(b.held) != 1 { // a2 is no node
		t.Errorf("%v", claims)
	}
	long := claim("a1", state.MaxGenerationMarks)
	if got := b.admit(state.Generations{}, long, v); got != state.GenerationBegins || len(b.held["a1"].Marks) != state.MaxGenerationWindow+1 {
		t.Errorf("%s, %d are held", got, len(b.held["a1"].Marks))
	}
	other := long
	other.Marks = slices.Clone(long.Marks)
	other.Marks[len(other.Marks)-1][1] = 1
	for _, node := range []string{"a1", "a1", "a4", "a5"} {
		b.held[node] = lastMarks(long)
		if other.Node = node; b.admit(state.Generations{}, other, v) != state.GenerationForks {
			t.Errorf("%s is not found out", node)
		}
	}
	if len(b.accused) != 2 {
		t.Errorf("%d are accused", len(b.accused))
	}
}

// TestGenerationsAreWrittenTogether: what many hosts tell within a second is as few writes as the size of a command allows; while there
// is no leader nobody waits, and the retry comes after ten seconds.
func TestGenerationsAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwins(t)
		m := w.member()
		m.book.limit = 1000
		const hosts = 3*state.MaxGenerationClaims - 10
		token := state.Token{ID: strings.Repeat("0", 15) + "1", Verify: make([]byte, state.VerifyBytes), Expires: w.machine.View().Stamp() + 1<<40, Uses: hosts, Role: policy.Discovery}
		commands := []state.Command{state.TokenCreate{Token: token}}
		for i := range hosts {
			node := fmt.Sprintf("n%d", i)
			commands = append(commands, state.NodeJoin{
				Token: token.ID, CSRKeyHash: [32]byte{byte(i), byte(i >> 8), 1}, Node: node, HostKey: []byte(node), SealKey: make([]byte, state.SealKeyBytes),
			})
		}
		if err := w.apply(commands...); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.run(ctx) }()
		w.quorum = false
		renew := func() {
			for i := range hosts {
				c := state.GenerationClaim{Node: fmt.Sprintf("n%d", i), Binding: 1, First: 1, Marks: []state.GenerationMark{{byte(i)}}, Live: true}
				m.mu.Lock()
				verdict := m.book.admit(state.Generations{}, c, w.machine.View())
				m.mu.Unlock()
				if verdict != state.GenerationBegins {
					t.Fatalf("%s: %s", c.Node, verdict)
				}
				m.look()
			}
		}
		renew()
		time.Sleep(generationsGather + time.Second)
		synctest.Wait()
		counts := func() (writes, held int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			m.mu.Lock()
			defer m.mu.Unlock()
			return w.writes, len(m.book.held)
		}
		if writes, held := counts(); writes != 0 || held != hosts {
			t.Errorf("without a leader: %d writes, %d held", writes, held)
		}
		w.mu.Lock()
		w.quorum = true
		w.mu.Unlock()
		time.Sleep(generationsRetry)
		synctest.Wait()
		if writes, held := counts(); writes != 3 || w.machine.View().Rows(state.TableGeneration) != hosts || held != 0 {
			t.Errorf("%d writes for %d hosts, %d rows, %d held", writes, hosts, w.machine.View().Rows(state.TableGeneration), held)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestGenerationRefusalsReachTheHost: each refusal has what to do, and a host knows of an answer by certificate that it has gone on
// since, whoever wrapped it, and takes nothing else for that.
func TestGenerationRefusalsReachTheHost(t *testing.T) {
	for code, gone := range map[string]bool{security.RekeyOutdated: true, security.RekeyCopied: false, security.RekeyUntold: false, security.RekeyUnavailable: false} {
		refused := security.NewRekeyError(code, "m")
		err := fmt.Errorf("ask a1: %w", generationWire(refused))
		var wire *transport.Error
		if !errors.As(err, &wire) || wire.Hint == "" || wire.Message != "m" || outdated(err) != gone {
			t.Errorf("%s: %v, outdated %t", code, err, outdated(err))
		}
		if refused.Permanent() == (code == security.RekeyUnavailable) {
			t.Errorf("%s: permanent %t", code, refused.Permanent())
		}
	}
	if outdated(security.NewRekeyError(security.RekeyOutdated, "by a relay")) || outdated(nil) {
		t.Error("what a relay says is taken for a core member's word")
	}
}
