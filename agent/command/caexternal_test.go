package command

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parley-mesh/parley/security"
)

// TestResealSendsNoKeyAway: the recovery key goes to no agent that is asked over a network, also when the environment names it.
// The control: by loopback it goes.
func TestResealSendsNoKeyAway(t *testing.T) {
	key, err := security.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "recovery.key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte("{}"))
	}))
	defer agent.Close()
	loopback := strings.TrimPrefix(agent.URL, "http://")
	away := strings.Replace(loopback, "127.0.0.1", "0.0.0.0", 1) // no loopback address, and gets there
	for _, addr := range []string{away, "http://" + away, "https://" + loopback, "rpc://" + loopback} {
		var out, errs bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &out, err: &errs, getenv: func(string) string { return addr }}
		if code := a.run(t.Context(), []string{"ca", "reseal", "--recovery-key", file}); code != exitFailed || !strings.Contains(errs.String(), "cross no network") {
			t.Errorf("%s: exit %d, %s", addr, code, errs.String())
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the key was sent %d times", n)
	}
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &errs, getenv: func(string) string { return loopback }}
	if code := a.run(t.Context(), []string{"ca", "reseal", "--recovery-key", file}); code != 0 || asked.Load() != 1 {
		t.Errorf("control: exit %d, %s", code, errs.String())
	}
}

// TestChainHasABound: what never ends is no chain, and is not read until the memory is full.
func TestChainHasABound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "chain.pem")
	for size, want := range map[int]bool{security.MaxUpstreamText: true, security.MaxUpstreamText + 1: false} {
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if chain, err := readChain(file); (err == nil) != want || want && len(chain) != size {
			t.Errorf("%d bytes: %d, %v", size, len(chain), err)
		}
	}
	if _, err := readChain("/dev/zero"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("/dev/zero: %v", err)
	}
}
