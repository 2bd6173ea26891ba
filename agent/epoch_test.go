package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// epochWorld is one cluster before and after two recoveries on a1, and once more recovered from the first epoch, by a
// split; all signed by the host key of a1 but the last, by that of a host that the cluster does not know.
type epochWorld struct{ first, second, third, split, forged *state.View }

func makeEpochs(t *testing.T) (w epochWorld) {
	t.Helper()
	keys := func() *security.Host {
		host, err := security.CreateHost(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return host
	}
	host, other := keys(), keys()
	m := state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "agent.test", EpochID: [16]byte{1},
		Node:   state.Node{Name: "a1", HostKey: host.HostKey(), SealKey: host.SealKey()},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1 << 16,
	})
	next := func(v *state.View, id byte, signer *security.Host) *state.View {
		o := state.RecoverOptions{Node: "a1", EpochID: [16]byte{id}, EventID: [16]byte{id}, Message: "test"}
		o.Sign = func(signed []byte) ([]byte, error) { return signer.SignStatement(epochPurpose, signed) }
		recovered, err := state.Recover(v, o)
		if err != nil {
			t.Fatal(err)
		}
		return recovered.View()
	}
	w.first = m.View()
	w.second = next(w.first, 2, host)
	w.third = next(w.second, 3, host)
	w.split = next(w.first, 7, host)
	w.forged = next(w.first, 8, other)
	return w
}

func epochsOf(t *testing.T, v *state.View) *epochs {
	t.Helper()
	dir := &dataDir{path: t.TempDir(), fs: storage.OS()}
	return newEpochs(dir, state.Epoch{}, func() *state.View { return v }, zap.NewNop())
}

// pipe is a connection with buffers, as TCP has and net.Pipe has not.
func pipe(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it has done its work
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// meet greets between two agents, and returns what each makes of it.
func meet(t *testing.T, one, other *epochs, core bool) (agreed state.Epoch, byOne, byOther error) {
	t.Helper()
	a, b := pipe(t)
	done := make(chan error, 1)
	go func() {
		_, err := other.greet(t.Context(), b, "one", core)
		if err != nil {
			_ = b.Close()
		}
		done <- err
	}()
	agreed, byOne = one.greet(t.Context(), a, "other", core)
	if byOne != nil {
		_ = a.Close()
	}
	return agreed, byOne, <-done
}

// TestGreeting: only agents of one epoch talk. Who lives in an older one is refused, learns so by a proof, and is then of the
// newer one, after a restart too; who cannot check the proof, or lives in a split, stays what it is, and is told what to do.
func TestGreeting(t *testing.T) {
	w := makeEpochs(t)
	newer, old := epochsOf(t, w.third), epochsOf(t, w.first)
	news := old.learned()
	_, byNewer, byOld := meet(t, newer, old, false)
	var refused *EpochError
	if !errors.As(byNewer, &refused) || refused.Verdict != state.EpochOlder || !strings.Contains(byNewer.Error(), "keeps its old log aside") {
		t.Errorf("the newer one says %v", byNewer)
	}
	if !errors.As(byOld, &refused) || !refused.Learned || !strings.Contains(byOld.Error(), "follows the newer one") {
		t.Errorf("the old one says %v", byOld)
	}
	select {
	case <-news:
	default:
		t.Error("nobody is told that the epoch has passed")
	}
	if old.current() != w.third.Cluster().Epoch || !old.passed(w.first.Cluster().Epoch) || old.passed(w.third.Cluster().Epoch) {
		t.Errorf("the old one is of epoch %s", old.current())
	}
	again := newEpochs(old.dir, w.first.Cluster().Epoch, old.view, zap.NewNop())
	if again.current() != w.third.Cluster().Epoch {
		t.Errorf("after a restart it is of epoch %s", again.current())
	}
	if agreed, one, other := meet(t, newer, again, true); one != nil || other != nil || agreed != w.third.Cluster().Epoch {
		t.Errorf("then: %v, %v in %s", one, other, agreed)
	}
	// It passes on what it learned, although its own state does not have it.
	third := epochsOf(t, w.second)
	if _, _, byThird := meet(t, again, third, true); !third.passed(w.second.Cluster().Epoch) {
		t.Errorf("the news does not go on: %v", byThird)
	}
	for _, test := range []struct {
		what  string
		other *state.View
		text  string
	}{
		{"a forged recovery", w.forged, "not signed by the host key of a1"},
		{"a split", w.split, ""},
	} {
		e := epochsOf(t, w.first)
		_, _, err := meet(t, epochsOf(t, test.other), e, false)
		if !strings.Contains(err.Error(), test.text) || (test.text != "") != (e.current() == w.first.Cluster().Epoch) {
			t.Errorf("%s: %v, then of %s", test.what, err, e.current())
		}
	}
	e := epochsOf(t, w.second)
	_, one, other := meet(t, e, epochsOf(t, w.split), false)
	if !errors.As(one, &refused) {
		t.Fatal(one)
	}
	e.tell("a9", refused)
	e.tell("a8", &EpochError{Peer: "a8", Own: w.second.Cluster().Epoch, Verdict: state.EpochOlder})
	if e.odds() != refused.Error() || e.refused.Load() != 2 {
		t.Errorf("at odds: %q", e.odds())
	}
	if e.agreed("a9"); e.odds() != "" {
		t.Errorf("still at odds: %q", e.odds())
	}
	for _, err := range []error{one, other} {
		if !errors.As(err, &refused) || refused.Verdict != state.EpochSplit || !strings.Contains(err.Error(), "decide which goes on") {
			t.Errorf("two recoveries from one epoch: %v", err)
		}
	}
}

// TestGreetingOfAFreshAgent: who knows no epoch is let in to learn of one, and takes no part in the core.
func TestGreetingOfAFreshAgent(t *testing.T) {
	w := makeEpochs(t)
	fresh := func() *epochs { return epochsOf(t, state.NewFollower(publicOnly...).View()) }
	if agreed, one, other := meet(t, fresh(), epochsOf(t, w.second), false); one != nil || other != nil || agreed != w.second.Cluster().Epoch {
		t.Errorf("%v, %v, in %s", one, other, agreed)
	}
	if _, one, other := meet(t, fresh(), epochsOf(t, w.second), true); !errors.Is(one, errNoEpoch) || !errors.Is(other, errNoEpoch) {
		t.Errorf("for Raft: %v, %v", one, other)
	}
	home := newEpochs(&dataDir{path: t.TempDir(), fs: storage.OS()}, w.first.Cluster().Epoch, state.NewFollower(publicOnly...).View, zap.NewNop())
	if _, _, err := meet(t, epochsOf(t, w.second), home, false); err == nil {
		t.Error("a member whose View is empty is taken for a fresh agent")
	}
}

// TestGreetingIsBounded: no peer makes an agent read more than a proof, wait longer than its patience, or believe noise.
func TestGreetingIsBounded(t *testing.T) {
	w := makeEpochs(t)
	newer := w.second.Cluster().Epoch
	hello := newer.Append([]byte{greetVersion})
	for what, test := range map[string]struct {
		says []byte
		text string
	}{
		"another version":  {append([]byte{9}, hello[1:]...), "version 9 is unknown"},
		"a huge proof":     {binary.BigEndian.AppendUint32(hello[:len(hello):len(hello)], state.MaxEpochProofBytes+1), "at most"},
		"noise as proof":   {append(binary.BigEndian.AppendUint32(hello[:len(hello):len(hello)], 4), 1, 2, 3, 4), "no newer epoch is proven"},
		"an empty proof":   {append(binary.BigEndian.AppendUint32(hello[:len(hello):len(hello)], 1), 0), "no newer epoch is proven"},
		"half a greeting":  {hello[:9], "read greeting"},
		"half a proof":     {append(binary.BigEndian.AppendUint32(hello[:len(hello):len(hello)], 100), 1), "read the proof"},
		"a claim, no more": {hello, "read the proof"},
	} {
		e := epochsOf(t, w.first)
		a, b := pipe(t)
		if _, err := b.Write(test.says); err != nil {
			t.Fatal(err)
		}
		if err := b.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := e.greet(t.Context(), a, "b", false); err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", what, err)
		}
		if e.current() != w.first.Cluster().Epoch {
			t.Errorf("%s: of epoch %s now", what, e.current())
		}
	}
	a, _ := pipe(t) // silent
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := epochsOf(t, w.first).greet(ctx, a, "b", false); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent peer: %v", err)
	}
}

// TestConnectionEndsWithItsEpoch: what was agreed on before a recovery was learned of does not outlive that.
func TestConnectionEndsWithItsEpoch(t *testing.T) {
	w := makeEpochs(t)
	e := epochsOf(t, w.first)
	standing, fresh := e.standing(w.first.Cluster().Epoch), e.standing(state.Epoch{})
	if err := standing.Check(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := e.within(t.Context(), w.first.Cluster().Epoch)
	defer cancel()
	if _, err := e.learn(state.EncodeEpochProof(w.second.EpochStatements())); err != nil {
		t.Fatal(err)
	}
	if err := standing.Check(); err == nil {
		t.Error("the connection stays")
	}
	if err := fresh.Check(); err != nil {
		t.Errorf("one with an agent that knew no epoch ends: %v", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Error("what was done within the epoch goes on")
	}
}

// TestLeaveEpoch: a crash before any step of leaving an epoch is repaired by the next start; the log is never deleted, and
// is in place or aside; the Raft id is not run again.
func TestLeaveEpoch(t *testing.T) {
	w := makeEpochs(t)
	crash := errors.New("crash")
	for at := 0; ; at++ {
		c := testRunner(t, testMachine(), nil)
		c.ids.RaftEpoch = w.first.Cluster().Epoch.String()
		n, err := c.enlist(1, w.first.Cluster().Epoch)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.store.close(); err != nil {
			t.Fatal(err)
		}
		start := func() {
			c.epochs = newEpochs(c.dir, c.ids.raftEpoch(), func() *state.View { return w.first }, zap.NewNop())
		}
		start()
		if c.overtaken() {
			t.Fatal("it is overtaken before anything was proven")
		}
		if _, err := c.epochs.learn(state.EncodeEpochProof(w.second.EpochStatements())); err != nil {
			t.Fatal(err)
		}
		left := at
		c.beforeStep = func() error {
			if left--; left < 0 {
				return crash
			}
			return nil
		}
		leave := c.leaveEpoch
		if at%2 == 1 { // who is told first that its id is retired does the same
			leave = func() error { return c.discharge(t.Context(), 1) }
		}
		err = leave()
		if err != nil && !errors.Is(err, crash) {
			t.Fatal(err)
		}
		ids, readErr := c.dir.readCluster()
		if readErr != nil {
			t.Fatal(readErr)
		}
		c.ids, c.beforeStep, c.booted = *ids, nil, nil
		start()
		if err := c.open(); err != nil || c.booted != nil {
			t.Fatalf("crash before step %d: the next start: %v", at, err)
		}
		if ids, err = c.dir.readCluster(); err != nil || ids.RaftID != 0 || ids.PastRaftID != 1 || ids.RaftEpoch != "" {
			t.Errorf("crash before step %d: cluster.toml %+v, %v", at, ids, err)
		}
		if kept, err := filepath.Glob(c.dir.join("before-epoch-2-1", "wal", "*.wal")); err != nil || len(kept) == 0 {
			t.Errorf("crash before step %d: the log is not kept aside (%v)", at, err)
		}
		if has, err := c.dir.hasLog(); err != nil || has {
			t.Errorf("crash before step %d: there is a log in place, %v", at, err)
		}
		if id, _ := c.assignedID(); id != 0 {
			t.Errorf("crash before step %d: it would run Raft id %x again", at, id)
		}
		if c.epochs.current() != w.second.Cluster().Epoch {
			t.Errorf("crash before step %d: of epoch %s", at, c.epochs.current())
		}
		if left >= 0 {
			break // that run was not cut
		}
	}
}

// TestDamagedEpochFile: what cannot be read is learned again, and no recovery begins on what is not known.
func TestDamagedEpochFile(t *testing.T) {
	w := makeEpochs(t)
	e := epochsOf(t, w.first)
	if err := os.WriteFile(e.dir.join(epochFile), []byte("{\"epoch\":\"x\"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.dir.writeCluster(testRunner(t, testMachine(), nil).ids); err != nil {
		t.Fatal(err)
	}
	if _, err := openRebirth(e.dir.path, ""); err == nil || !strings.Contains(err.Error(), epochFile) || Hint(err) == "" {
		t.Errorf("a recovery: %v, hint %q", err, Hint(err))
	}
	again := newEpochs(e.dir, state.Epoch{}, e.view, zap.NewNop())
	if again.current() != w.first.Cluster().Epoch {
		t.Errorf("of epoch %s", again.current())
	}
	if _, err := again.learn(state.EncodeEpochProof(w.second.EpochStatements())); err != nil {
		t.Error(err)
	}
	if p, err := e.dir.readEpoch(); err != nil || p.epoch != w.second.Cluster().Epoch {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestOlderThan: a View of a later epoch is newer, and one of an earlier epoch is never shown after it.
func TestOlderThan(t *testing.T) {
	w := makeEpochs(t)
	if olderThan(w.second, w.first) || !olderThan(w.first, w.second) || olderThan(w.first, w.first) || olderThan(w.third, w.second) {
		t.Error("Views are not ordered by their epochs")
	}
}
