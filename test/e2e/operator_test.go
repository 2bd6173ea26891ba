package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
)

// TestOperator: the life of an identity by the command line: added, used over https from another directory, capped at its
// role, renewed, removed. Its open watch ends within a second of the removal (5 s on a loaded machine); the control is
// another operator's watch, which goes on.
func TestOperator(t *testing.T) {
	dir := foreign(t)
	bind := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	agent := freshAgent(t, dir, "", "--https", bind)
	d := startAgent(t, agent...)
	own := []string{"--data-dir", dir}
	if s := parley(t, append([]string{"status", "--wait", "15s", "--expect", ".ready and .core.leader != null"}, own...)...); s.code != 0 {
		t.Fatalf("%s%s\n%s", s.out, s.err, d.said())
	}
	admin := func(args ...string) said { return parley(t, append(args, own...)...) }
	home := t.TempDir()
	eve, adam := filepath.Join(home, "eve"), filepath.Join(home, "adam")
	as := func(identity string, args ...string) said {
		return parley(t, append(args, "--identity", identity, "--addr", "https://"+bind)...)
	}

	admin("operator", "add", "eve", "--role", "local", "--out", eve, "--dry-run").mustWork(t)
	if _, err := os.Stat(eve); err == nil {
		t.Error("a dry run made files")
	}
	admin("operator", "add", "Eve", "--role", "local", "--out", eve).wants(t, 1, `"Eve" cannot be an operator's name`, "like eve")
	admin("operator", "add", "eve", "--out", eve).wants(t, 1, "--role", "--role local")
	as(eve, "status").wants(t, 4, "no identity in", "parley operator add")
	for _, name := range []string{"eve", "adam"} {
		s := admin("operator", "add", name, "--role", "local", "--out", filepath.Join(home, name))
		s.mustWork(t)
		if !strings.Contains(s.out, "export PARLEY_IDENTITY="+filepath.Join(home, name)) {
			t.Errorf("add says %s", s.out)
		}
	}
	admin("operator", "add", "eve", "--role", "local", "--out", eve).mustWork(t) // again, with the key that is there
	admin("operator", "add", "eve", "--role", "local", "--out", filepath.Join(home, "other")).wants(t, 1, "already", "--replace")
	admin("operator", "list", "-o", "json", "--expect", `map(.name) == ["adam","eve"]`).mustWork(t)

	as(eve, "kv", "put", "k", "v").mustWork(t)
	as(eve, "token", "create").wants(t, 4, `not allowed for role "local"`, "")
	as(eve, "operator", "add", "mallory", "--role", "operator", "--out", filepath.Join(home, "mallory")).wants(t, 4, `not allowed for role "local"`, "")
	as(eve, "operator", "remove", "adam", "--yes").wants(t, 4, `not allowed for role "local"`, "")
	as(eve, "operator", "renew").mustWork(t)
	parley(t, "kv", "get", "k", "--identity", eve, "--addr", "rpc://"+meshOf(t, agent)).mustWork(t)
	parley(t, "token", "create", "--identity", eve, "--addr", "rpc://"+meshOf(t, agent)).wants(t, 4, `not allowed for role "local"`, "")
	parley(t, "operator", "renew", "--identity", eve, "--addr", "unix://"+filepath.Join(dir, "admin.sock")).mustWork(t)

	ends := map[string]chan error{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, who := range []string{eve, adam} {
		ended, ready := make(chan error, 1), make(chan struct{})
		ends[who] = ended
		go func() { ended <- watchOnce(ctx, who, bind, ready) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("%s: %v", who, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the watch is not ready", who)
		}
	}
	admin("operator", "remove", "eve", "--dry-run").mustWork(t)
	if s := admin("operator", "remove", "eve"); s.code != 4 || !strings.Contains(s.err, "not confirmed") || !strings.Contains(s.err, "added") {
		t.Errorf("unconfirmed: %d %s", s.code, s.err)
	}
	as(eve, "kv", "get", "k").mustWork(t) // still there
	removed := time.Now()
	admin("operator", "remove", "eve", "--yes").mustWork(t)
	select {
	case end := <-ends[eve]:
		if took := time.Since(removed); took > 5*time.Second {
			t.Errorf("the watch ended %s after the removal (%v)", took, end)
		}
	case <-time.After(10 * time.Second):
		t.Error("the watch of a removed operator goes on")
	}
	if s := as(eve, "kv", "get", "k"); s.code == 0 {
		t.Error("a removed operator reads on")
	}
	parley(t, "operator", "renew", "--identity", eve, "--addr", "unix://"+filepath.Join(dir, "admin.sock")).wants(t, 4, "not bound", "parley operator add")
	select {
	case err := <-ends[adam]:
		t.Errorf("control: adam's watch ended: %v", err)
	default:
	}
	as(adam, "kv", "get", "k").mustWork(t)
}

// watchOnce follows a key by one connection until that ends: a client that connected again would hide a cut.
func watchOnce(ctx context.Context, identity, addr string, ready chan<- struct{}) error {
	id, err := client.LoadIdentity(identity)
	if err != nil {
		return err
	}
	c, err := client.New("https://"+addr, client.WithTLS(id.TLS()))
	if err != nil {
		return err
	}
	kv, err := c.Get(ctx, "k", client.ReadOptions{})
	if err != nil {
		return err
	}
	close(ready)
	_, err = c.Get(ctx, "k", client.ReadOptions{Index: kv.Revision, Wait: time.Minute})
	if err == nil {
		return errors.New("the key changed")
	}
	return err
}
