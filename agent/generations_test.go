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
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
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
	outside bool        // it has left the core
	now     time.Duration
	events  []string
}

func (w *twins) member() *member {
	m := &member{}
	m.generations = &generations{
		clusterID: twinCluster, log: zap.NewNop(), wake: make(chan struct{}, 1), book: newGenerationBook(100),
		notices: make(notices), accusing: make(notices), elapsed: func() time.Duration { return m.now }, inCore: func() bool { return !m.outside },
		report: func(kind, node, message string) { m.events = append(m.events, kind+" "+node) },
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
	recorded, err := m.admit(w.t.Context(), m.node(), link)
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
	if _, err := a.admit(t.Context(), a.node(), nil); !errors.As(err, &refused) || refused.Code != security.RekeyUntold || refused.Hint == "" {
		t.Errorf("nothing shown: %v", err)
	}
	fresh := newTwins(t)
	if _, err := fresh.member().admit(t.Context(), fresh.member().node(), nil); err != nil {
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

// later lets the time of the log go by.
func (w *twins) later(d time.Duration) {
	w.t.Helper()
	c, err := state.Encode(state.Envelope{Command: state.Put{Key: "k"}}, state.Version)
	if err != nil {
		w.t.Fatal(err)
	}
	v := w.machine.View()
	if _, _, err := w.machine.Apply(v.Index()+1, 1, v.Stamp()+clock.Stamp(d.Milliseconds())<<16, [][]byte{c}); err != nil {
		w.t.Fatal(err)
	}
}

// trusted is a host that was set back and is let in again by an operator's word, and the copy that went on meanwhile.
func (w *twins) trusted(a *member) (host, twin *security.Ratchet) {
	w.t.Helper()
	host = w.open(w.dir)
	for range 3 {
		w.renews("before", host, a)
		a.write(w.t)
	}
	twin = w.open(w.copy(w.dir))
	w.renews("the copy", twin, a)
	a.write(w.t)
	w.refuses("the host", security.RekeyCopied, host, a)
	a.write(w.t)
	if err := w.apply(state.NodeTrust{Node: "a1"}); err != nil {
		w.t.Fatal(err)
	}
	return host, twin
}

// TestTrustedHostIsWrittenDown: a host that was let in by an operator's word is in the log before it is answered, so that it stays in when
// the core member that let it in is killed at once, and the word is over when it asks again.
func TestTrustedHostIsWrittenDown(t *testing.T) {
	w := newTwins(t)
	a, b := w.member(), w.member()
	host, twin := w.trusted(a)
	link, err := host.Link()
	if err != nil {
		t.Fatal(err)
	}
	if recorded, err := w.member().admit(t.Context(), a.node(), link); recorded != 0 || err != nil {
		t.Errorf("the host is told that its generation %d is written down, which is of its copy; %v", recorded, err)
	}
	w.renews("by the word", host, a)
	w.later(3 * time.Hour)
	w.renews("after the member that let it in was killed", host, b)
	b.write(t)
	if forks := w.machine.View().Forks(); len(forks) != 0 {
		t.Errorf("a host that an operator has trusted: %v", forks)
	}
	w.refuses("the copy", security.RekeyCopied, twin, b)
	if writes := w.writes; w.renew(host, b) != "" || w.writes != writes {
		t.Error("a renewal without a word waits for the log")
	}
}

// TestTrustedHostWithoutQuorum: it is renewed all the same, again and again, and stays in when the log hears of it long after the word is
// over. That helps no copy: neither one that asks the same member, nor one that another member has not let in.
func TestTrustedHostWithoutQuorum(t *testing.T) {
	for _, name := range []string{"the host alone", "its copy asks too", "its copy asks elsewhere"} {
		t.Run(name, func(t *testing.T) {
			w := newTwins(t)
			a, b := w.member(), w.member()
			host, twin := w.trusted(a)
			w.quorum, a.applied = false, w.machine.View()
			before := w.writes
			for range 5 {
				w.renews("by the word", host, a)
			}
			w.quorum, a.applied = true, nil
			w.later(3 * time.Hour)
			w.renews("when the word is over", host, a)
			forks := 0
			switch name {
			case "its copy asks too":
				w.refuses("the copy", security.RekeyCopied, twin, a)
				forks = 1
			case "its copy asks elsewhere":
				w.renews("the copy, whose generations the log has", twin, b)
				b.write(t)
				forks = 1
			}
			a.write(t)
			v := w.machine.View()
			if len(v.Forks()) != forks {
				t.Errorf("%d forks, want %d: %v", len(v.Forks()), forks, v.Forks())
			}
			if g := v.Generations(a.node()); g.BeginBy != 0 || w.writes == before {
				t.Errorf("the word is not used up: %+v", g)
			}
			if forks == 0 {
				w.renews("afterwards", host, b, a)
			}
		})
	}
}

// TestWordIsUsedOnce: a member that has let a host in by a word lets nobody else in by it, were it with generations that have nothing in
// common with those of the host.
func TestWordIsUsedOnce(t *testing.T) {
	w := newTwins(t)
	w.later(time.Hour)
	b := newGenerationBook(10)
	known := state.Generations{Node: "a1", Generation: 2, Marks: []state.GenerationMark{{1}, {2}}, BeginBy: w.machine.View().Stamp() + 1}
	claim := func(first uint64, marks ...byte) state.GenerationClaim {
		c := state.GenerationClaim{Node: "a1", Binding: 1, First: first, Live: true}
		for _, m := range marks {
			c.Marks = append(c.Marks, state.GenerationMark{m})
		}
		return c
	}
	for _, c := range []struct {
		claim state.GenerationClaim
		want  state.GenerationVerdict
	}{
		{claim(1, 7, 8), state.GenerationBegins},
		{claim(1, 7, 8, 9), state.GenerationBegins},
		{claim(30, 5), state.GenerationAhead},
		{claim(1, 1, 2, 3), state.GenerationForks},
		{claim(1, 7), state.GenerationPast},
	} {
		if got := b.admit(known, c.claim, w.machine.View()); got != c.want {
			t.Errorf("%+v: %s, want %s", c.claim, got, c.want)
		}
	}
	if h := b.held["a1"]; h.Last() != 3 || h.Word != known.BeginBy || b.accused["a1"].Word != 0 {
		t.Errorf("held %+v, accused %+v", h, b.accused["a1"])
	}
	b, known.BeginBy = newGenerationBook(10), 1
	if b.admit(known, claim(1, 1, 2, 3), w.machine.View()) != state.GenerationFollows || b.held["a1"].Word != 0 {
		t.Error("a word that is over, and was not used here, lets somebody begin")
	}
}

// TestGenerationBookEnds: what a member has seen does not outlive its time in the core, nor the epoch.
func TestGenerationBookEnds(t *testing.T) {
	for name, end := range map[string]func(w *twins, m *member){
		"it leaves the core": func(_ *twins, m *member) { m.outside = true },
		"another epoch": func(w *twins, m *member) {
			v := w.machine.View()
			var err error
			w.machine, err = state.Recover(v, state.RecoverOptions{Node: "a1", EpochID: [16]byte{9}, At: v.Stamp() + 1<<16, EventID: [16]byte{3}, Message: "m"})
			if err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTwins(t)
			m := w.member()
			w.renews("before", w.open(w.dir), m)
			m.write(t)
			w.quorum = false
			r := w.open(w.dir)
			twin := w.open(w.copy(w.dir))
			w.renews("without a quorum", r, m)
			w.refuses("a copy", security.RekeyCopied, twin, m)
			if len(m.book.held) != 1 || len(m.book.accused) != 1 {
				t.Fatalf("%d held, %d accused", len(m.book.held), len(m.book.accused))
			}
			soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // and no pause of ten seconds
			more := m.tell(soon)
			if cancel(); !more || len(m.book.held) != 1 {
				t.Error("control: a member of the core forgets before it is written down")
			}
			end(w, m)
			w.quorum = true
			writes := w.writes
			if m.tell(t.Context()) || w.writes != writes || len(m.book.held)+len(m.book.accused) != 0 {
				t.Errorf("%d writes, %d held, %d accused", w.writes-writes, len(m.book.held), len(m.book.accused))
			}
		})
	}
}

// TestHeldCanFollow: what a member that is far behind holds reaches back to what the state knows, to the last generation.
func TestHeldCanFollow(t *testing.T) {
	v := newTwins(t).machine.View()
	for first := uint64(1); first <= 40; first += 13 { // the last one is the generation that is known
		b := newGenerationBook(10)
		known := state.Generations{Node: "a1", Generation: 40, Marks: []state.GenerationMark{{40}}}
		c := state.GenerationClaim{Node: "a1", First: first}
		for n := range uint64(state.MaxGenerationMarks) {
			c.Marks = append(c.Marks, state.GenerationMark{byte(first + n)})
		}
		if got := b.admit(known, c, v); got != state.GenerationFollows {
			t.Fatalf("from %d: %s", first, got)
		}
		if got := known.Judge(b.held["a1"], 0); got != state.GenerationFollows {
			t.Errorf("from %d: what is held is %s", first, got)
		}
	}
}

// TestGenerationsNoticed: a host that shows an old generation, and one that shows the same for hours, is told of, once an hour and of so
// many hosts; retries and an honest host are not.
func TestGenerationsNoticed(t *testing.T) {
	w := newTwins(t)
	m := w.member()
	core, lines := observer.New(zap.WarnLevel)
	m.log = zap.New(core)
	told := func() (n int) {
		n = lines.Len()
		if n != len(m.events) {
			t.Errorf("%d lines, %d events", n, len(m.events))
		}
		return n
	}
	r := w.open(w.dir)
	for range 20 {
		w.renews("an honest host", r, m)
		m.write(t)
		m.now += 30 * time.Minute
	}
	if _, err := r.Link(); err != nil {
		t.Fatal(err)
	}
	middle := w.open(w.copy(w.dir))
	w.renews("an honest host", r, m)
	m.write(t)

	for range 10 { // its answers are lost
		if code := w.ask(middle, m); code != "" {
			t.Fatal(code)
		}
		m.now += time.Minute
	}
	if told() != 0 {
		t.Errorf("retries are told of: %v", lines.All())
	}
	for i := range 8 { // a copy that repeats itself, while the host is off
		if code := w.ask(middle, m); code != "" {
			t.Fatal(code)
		}
		if got, want := told(), min(max(0, (i-1)/2), 3); got != want {
			t.Errorf("after %d half hours: told of %d times, want %d", i, got, want)
		}
		m.now += 30 * time.Minute
	}
	lines.TakeAll()
	m.events = nil
	w.renews("the host is back", r, m)
	m.write(t)
	for range 5 {
		if code := w.ask(middle, m); code != security.RekeyOutdated {
			t.Fatal(code)
		}
	}
	if all := lines.All(); told() != 1 || all[0].ContextMap()["node"] != "a1" || m.events[0] != api.EventStale+" a1" {
		t.Errorf("%v, %v", all, m.events)
	}
	m.now += noticeEvery
	for i := range 3 * maxNotices {
		m.notice(state.Generations{}, state.GenerationClaim{Node: fmt.Sprint("n", i), First: 1, Marks: make([]state.GenerationMark, 1)}, state.GenerationPast)
	}
	if n := told(); n != 1+maxNotices {
		t.Errorf("%d are told of", n)
	}
	if w.refuses("a fork is told of all the same", security.RekeyCopied, w.open(w.copy(t.TempDir())), m); lines.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
		t.Error("it is not")
	}
}

// TestOutdatedByAll: a host draws another secret only when each core member that it asked has said that it has gone on since.
func TestOutdatedByAll(t *testing.T) {
	gone := fmt.Errorf("ask a1: %w", generationWire(security.NewRekeyError(security.RekeyOutdated, "m")))
	for name, c := range map[string]struct {
		answers []error
		want    bool
	}{
		"nobody was asked":            {nil, false},
		"this agent issues nothing":   {[]error{errNotIssuing}, false},
		"one":                         {[]error{errNotIssuing, gone}, true},
		"all":                         {[]error{gone, gone, gone}, true},
		"one answer did not come":     {[]error{errNotIssuing, gone, context.DeadlineExceeded}, false},
		"one is behind":               {[]error{generationWire(security.NewRekeyError(security.RekeyUnavailable, "m")), gone, gone}, false},
		"one says that it is a copy":  {[]error{errNotIssuing, gone, generationWire(security.NewRekeyError(security.RekeyCopied, "m"))}, false},
		"an agent that issues itself": {[]error{gone}, true},
	} {
		var r refusals
		for _, err := range c.answers {
			r.add(err)
		}
		if got := r.outdates(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
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
				m.book.enter(w.machine.View())
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
