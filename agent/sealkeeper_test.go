package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/security/tpm/tpmtest"
	"github.com/parley-mesh/parley/state"
)

// sealedTo waits until the root is sealed for an agent to a key of the kind (file or tpm) other than before, and opens.
// It returns the key.
func sealedTo(t *testing.T, r *running, kind, before string) string {
	t.Helper()
	var name string
	within(t, r.name+": the root is sealed to a key in: "+kind, func(context.Context) error {
		v := r.agent.hub.View()
		key, _ := v.SealKey(r.name)
		row, _ := v.Seal(r.name)
		name = security.SealKeyName(key)
		if !strings.HasPrefix(name, kind) || name == before {
			return fmt.Errorf("sealed to %s", name)
		}
		if want := map[string]byte{"file": 1, "tpm": 2}[kind]; len(row.Sealed) == 0 || row.Sealed[0] != want {
			return fmt.Errorf("format %v, want %d", row.Sealed[:min(1, len(row.Sealed))], want)
		}
		_, err := r.agent.issuer.openSigning(r.agent.keys.OpenRoot)
		return err
	})
	return name
}

// forgetIssuer has the next start of an agent open the root.
func forgetIssuer(t *testing.T, cfg config.Config) {
	t.Helper()
	for _, name := range []string{"issuer.key", "issuer.pem"} {
		if err := os.Remove(filepath.Join(cfg.DataDir, "identity", name)); err != nil {
			t.Fatal(err)
		}
	}
}

func issues(t *testing.T, r *running) {
	t.Helper()
	within(t, r.name+" issues identities", func(context.Context) error {
		if r.agent.issuer.authority.Load() == nil {
			return errors.New("it has no issuer")
		}
		return nil
	})
}

// TestFoundedInTPM: the root of a cluster that was founded with a TPM was never sealed to a file, and the first agent
// opens it by the TPM at each start that has to. Without the TPM, and after it was cleared, it says so and serves on.
func TestFoundedInTPM(t *testing.T) {
	device := tpmtest.New(t)
	cfg := single(t)
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	cfg.Identity.KeyStore, cfg.Identity.TPM = security.KeyStoreTPM, device.Path
	found := InitOptions{DataDir: cfg.DataDir, TrustDomain: "agent.test", Name: "a1", Address: cfg.Mesh.Bind}
	found.Keys = security.KeyStoreOptions{Kind: security.KeyStoreTPM, Device: filepath.Join(cfg.DataDir, "none")}
	if _, err := Init(t.Context(), found); !errors.Is(err, tpm.ErrUnavailable) || Hint(err) == "" {
		t.Fatalf("without a TPM: %v, hint %q", err, Hint(err))
	}
	found.Keys.Device = device.Path
	made, err := Init(t.Context(), found)
	if err != nil {
		t.Fatal(err)
	}
	forgetIssuer(t, cfg)
	r := start(t, cfg, 0)
	issues(t, r)
	first := sealedTo(t, r, "tpm", "")
	seal, _ := r.agent.hub.View().Seal("a1")

	device.Stop()
	if _, err := r.agent.issuer.openSigning(r.agent.keys.OpenRoot); !errors.Is(err, tpm.ErrUnavailable) {
		t.Errorf("without the TPM: %v", err)
	}
	device.Start()
	if _, err := r.agent.issuer.openSigning(r.agent.keys.OpenRoot); err != nil {
		t.Errorf("with the TPM again: %v", err)
	}
	r.stop()

	device.Clear()
	forgetIssuer(t, cfg)
	r = start(t, cfg, 0)
	within(t, "it says that the TPM was cleared", func(context.Context) error {
		if _, err := r.agent.issuer.openSigning(r.agent.keys.OpenRoot); !errors.Is(err, security.ErrTPMChanged) || !strings.Contains(err.Error(), "recovery key") {
			return fmt.Errorf("it says %w", errors.Join(err))
		}
		return nil
	})
	put(t, r.Client, "k") // its certificate counts for a while
	if err := r.agent.sealKeeper.lookWithin(t.Context()); !errors.Is(err, security.ErrTPMChanged) {
		t.Errorf("nobody else can open the root: %v", err)
	}
	if now, _ := r.agent.hub.View().Seal("a1"); string(now.Sealed) != string(seal.Sealed) {
		t.Error("what the TPM could open if it came back was given up, with nothing in its place")
	}
	if key, _ := r.agent.hub.View().SealKey("a1"); security.SealKeyName(key) != first {
		t.Error("the key was replaced")
	}

	other, err := security.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := other.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string][]byte{"another recovery key": text, "no key": []byte("k")} {
		if err := r.ResealByRecoveryKey(t.Context(), key); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if err := r.ResealByRecoveryKey(t.Context(), made.RecoveryKey); err != nil {
		t.Fatal(err)
	}
	sealedTo(t, r, "tpm", first)
	issues(t, r)
}

// TestTPMOfAMember: a member that gets a TPM takes the root out of its file; one whose TPM was cleared is given the root
// again by another member, without anybody's doing.
func TestTPMOfAMember(t *testing.T) {
	agents := startCluster(t, 0, 0, 0)
	two := agents[1]
	cfg := two.agent.cfg
	fileKey := sealedTo(t, two, "file", "")
	two.stop()
	device := tpmtest.New(t)
	cfg.Identity.KeyStore, cfg.Identity.TPM = security.KeyStoreTPM, device.Path
	two = start(t, cfg, 0)
	first := sealedTo(t, two, "tpm", fileKey)
	two.stop()

	device.Clear()
	forgetIssuer(t, cfg)
	two = start(t, cfg, 0)
	second := sealedTo(t, two, "tpm", first)
	issues(t, two)
	if second == first {
		t.Error("the key is still the one that is gone")
	}
	two.stop()
	forgetIssuer(t, cfg)
	two = start(t, cfg, 0)
	issues(t, two)
	if again := sealedTo(t, two, "tpm", ""); again != second {
		t.Errorf("after another start the key is %s, it was %s", again, second)
	}

	// Cleared while it runs: the next time that the root has to open.
	device.Clear()
	if _, err := two.agent.issuer.openRoot(); !errors.Is(err, security.ErrTPMChanged) {
		t.Errorf("cleared while it runs: %v", err)
	}
	sealedTo(t, two, "tpm", second)
	two.stop()
	cfg.Identity.KeyStore = security.KeyStoreFile
	two = start(t, cfg, 0)
	sealedTo(t, two, "file", "")
}

// TestJoinWithTPM: the root is never sealed to the file of an agent that joins with a TPM.
func TestJoinWithTPM(t *testing.T) {
	one := startCluster(t, 0)[0]
	token, err := one.CreateToken(t.Context(), client.TokenSpec{Uses: 1, Core: true})
	if err != nil {
		t.Fatal(err)
	}
	device := tpmtest.New(t)
	dir, err := os.MkdirTemp("", "parley-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := one.agent.cfg
	cfg.DataDir, cfg.Name, cfg.Mesh.Bind, cfg.HTTP.Bind = filepath.Join(dir, "d"), "a2", freeAddr(t), freeAddr(t)
	cfg.Join, cfg.Token = []string{one.agent.cfg.Mesh.Bind}, token.Token
	cfg.Identity.KeyStore, cfg.Identity.TPM = security.KeyStoreTPM, device.Path
	watched, stop := make(chan []byte, 1), make(chan struct{})
	go func() { // the first seal that there is for it
		defer close(watched)
		for {
			if s, ok := one.agent.hub.View().Seal("a2"); ok {
				watched <- s.Sealed
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	two := start(t, cfg, 0)
	sealedTo(t, two, "tpm", "")
	close(stop)
	if sealed := <-watched; len(sealed) == 0 || sealed[0] != 2 {
		t.Errorf("the first seal for it has the format %v", sealed[:min(1, len(sealed))])
	}
}

// TestSealOfAnOlderKey: a seal to the file of an agent with a TPM, as a leader makes it that looked a moment too early, is
// replaced, although it opens.
func TestSealOfAnOlderKey(t *testing.T) {
	device := tpmtest.New(t)
	cfg := single(t)
	cfg.Identity.KeyStore, cfg.Identity.TPM = security.KeyStoreTPM, device.Path
	r := start(t, cfg, 0)
	sealedTo(t, r, "tpm", "")
	sealed, err := r.agent.issuer.sealAgain(r.agent.issuer.openSigning, "a1", r.agent.host.SealKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.agent.service.Execute(t.Context(), api.Internal("a1"), state.CoreSeal{Node: "a1", Sealed: sealed}); err != nil {
		t.Fatal(err)
	}
	sealedTo(t, r, "tpm", "")
}

// TestResealIsForOneself: who is outside the core cannot have the root sealed for anybody, and an agent is sealed to
// itself alone: the name in the certificate decides, not the request.
func TestResealIsForOneself(t *testing.T) {
	agents := startCluster(t, 0, 0, 0, 0)
	v := agents[0].agent.hub.View()
	before, _ := v.Seal("a1")
	raw, err := agents[1].agent.pool.Call(t.Context(), "a1", methodReseal, agents[1].agent.host.SealKey())
	if err != nil {
		t.Fatalf("control: %s, %v", raw, err)
	}
	if _, err := agents[1].agent.pool.Call(t.Context(), "a1", methodReseal, agents[0].agent.host.SealKey()); err == nil {
		t.Error("the key of another host was taken")
	}
	if after, _ := agents[0].agent.hub.View().Seal("a1"); string(after.Sealed) != string(before.Sealed) {
		t.Error("another agent's seal was changed")
	}
	agents[0].agent.sealKeeper.serving <- struct{}{}
	if _, err := agents[1].agent.pool.Call(t.Context(), "a1", methodReseal, agents[1].agent.host.SealKey()); err == nil || !strings.Contains(err.Error(), "ask again") {
		t.Errorf("two at a time: %v", err)
	}
	<-agents[0].agent.sealKeeper.serving
	offCurve := append([]byte{4}, make([]byte, state.HardSealKeyBytes-1)...) // the state takes it: it has the form of one
	for _, key := range [][]byte{nil, make([]byte, 33), make([]byte, state.HardSealKeyBytes), offCurve, make([]byte, state.SealKeyBytes)} {
		for _, from := range []*running{agents[1], agents[3]} { // with a seal, and outside the core
			if _, err := from.agent.pool.Call(t.Context(), "a1", methodReseal, key); err == nil {
				t.Errorf("%s: a key of %d bytes was taken", from.name, len(key))
			}
		}
	}
}

// TestAskedForATPM: a host that is told to have its key in a TPM, and has none, goes on with the key in the file, and says so to
// who asks for a request and to who checks it.
func TestAskedForATPM(t *testing.T) {
	cfg := single(t)
	cfg.Identity.KeyStore, cfg.Identity.TPM = security.KeyStoreTPM, filepath.Join(cfg.DataDir, "none")
	r := start(t, cfg, 0)
	issues(t, r)
	var refused *client.Error
	if _, err := r.RequestAuthority(t.Context()); !errors.As(err, &refused) || refused.Code != api.CodeUnavailable || !strings.Contains(refused.Hint, "identity.tpm") {
		t.Errorf("a request: %v", err)
	}
	within(t, "the check warns", func(context.Context) error {
		var facts ops.CheckFacts
		if r.agent.certificateFacts(&facts); !strings.Contains(facts.SealTrouble, "does not exist") {
			return fmt.Errorf("it says %q", facts.SealTrouble)
		}
		return nil
	})
}

// TestSealIsToldWhereItIs: an agent outside the core, for which the root is not sealed, does not say that it is.
func TestSealIsToldWhereItIs(t *testing.T) {
	dir := t.TempDir()
	host, err := security.CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := security.NewKeyStore(dir, host, security.KeyStoreOptions{Kind: security.KeyStoreFile})
	if err != nil {
		t.Fatal(err)
	}
	lines, told := observer.New(zap.InfoLevel)
	k := &sealKeeper{keys: keys, log: zap.New(lines)}
	for i, step := range []struct {
		now  sealsOf
		want int
	}{
		{sealsOf{key: host.SealKey()}, 0},
		{sealsOf{key: host.SealKey(), sealed: []byte("s")}, 1},
		{sealsOf{key: host.SealKey(), sealed: []byte("t")}, 1},
		{sealsOf{key: []byte("another"), sealed: []byte("u")}, 2},
	} {
		if err := k.settle(step.now); err != nil || told.Len() != step.want || !k.settled.Load() {
			t.Errorf("step %d: told %d times, want %d, %v", i, told.Len(), step.want, err)
		}
	}
}
