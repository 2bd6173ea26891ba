package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
)

// TestRekey: agents outside the core that were off, or stopped, for more than two lives of their
// certificate come back by their host key, without a token and without anybody's help. One whose host key
// is another one now does not, and its log says so.
func TestRekey(t *testing.T) {
	t.Parallel() // it mostly waits
	const life = 10 * time.Second
	l := startLab(t, lab.Options{Agents: 6, Settings: map[string]string{"identity.leaf_ttl": life.String()}})
	clients := clientsOf(t, l)
	whole(t, clients)
	off, stopped, swapped := outsiders(t, l, clients)
	clusterID := statusOf(t, clients[off.Name]).ClusterID

	for a, sig := range map[*lab.Agent]syscall.Signal{off: syscall.SIGKILL, stopped: syscall.SIGSTOP, swapped: syscall.SIGKILL} {
		if err := l.Kill(a.Name, sig); err != nil {
			t.Fatal(err)
		}
	}
	before := copyIdentity(t, swapped)
	swapHostKey(t, swapped)
	after := copyIdentity(t, swapped)
	time.Sleep(2*life + 2*time.Second)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := errors.Join(l.Restart(ctx, off.Name), l.Kill(stopped.Name, syscall.SIGCONT), l.Restart(ctx, swapped.Name)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*lab.Agent{off, stopped} {
		eventually(t, 20*time.Second, a.Name+" ready again", func(ctx context.Context) error { return fresh(ctx, clients[a.Name]) })
		t.Logf("%s was seen ready again after %s", a.Name, time.Since(began).Round(10*time.Millisecond))
	}
	if text := readLog(t, off); !strings.Contains(text, "own certificate has expired, peers refuse it until it is renewed") {
		t.Errorf("%s did not start with an expired certificate: nothing was tested", off.Name)
	}
	others := make(map[string]*client.Client)
	for name, c := range clients {
		if name != swapped.Name {
			others[name] = c
		}
	}
	eventually(t, 30*time.Second, "everybody but "+swapped.Name+" sees everybody else", func(ctx context.Context) error {
		return errors.Join(allAlive(ctx, others), sameDigest(ctx, others))
	})
	throughAll(t, others)

	eventually(t, 20*time.Second, "the refusal in the log of "+swapped.Name, func(context.Context) error {
		for line := range strings.Lines(readLog(t, swapped)) {
			if strings.Contains(line, "the cluster does not renew this host by its key") &&
				strings.Contains(line, "wrong_host_key") && strings.Contains(line, "token create --replace") {
				t.Logf("%s", line)
				return nil
			}
		}
		return errors.New("no such line")
	})
	if s := statusOf(t, clients[swapped.Name]); s.Ready || time.Now().Before(s.SVID.NotAfter) {
		t.Errorf("with another host key: ready %t, certificate until %s", s.Ready, s.SVID.NotAfter)
	}

	// By one relay outside the core: the key that the cluster knows is answered, another one is not.
	if err := rekeyBy(t, before, swapped.Name, clusterID, off.Mesh); err != nil {
		t.Errorf("with the right key, relayed by %s: %v", off.Name, err)
	}
	var refused *security.RekeyError
	if err := rekeyBy(t, after, swapped.Name, clusterID, off.Mesh); !errors.As(err, &refused) || refused.Code != security.RekeyHostKey {
		t.Errorf("with another key, relayed by %s: %v", off.Name, err)
	}
	if err := rekeyBy(t, before, swapped.Name, strings.Repeat("0", 32), off.Mesh); !errors.As(err, &refused) || refused.Code != security.RekeyForeign {
		t.Errorf("for another cluster: %v", err)
	}
}

// outsiders are three agents outside the core.
func outsiders(t *testing.T, l *lab.Lab, clients map[string]*client.Client) (x, y, z *lab.Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	members, err := clients["a1"].Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []*lab.Agent
	for i, m := range members {
		if m.Core == "none" {
			out = append(out, l.Agents[i])
		}
	}
	if len(out) != 3 {
		t.Fatalf("%d agents outside the core", len(out))
	}
	return out[0], out[1], out[2]
}

func statusOf(t *testing.T, c *client.Client) client.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fresh wants an agent that is ready and has a valid certificate.
func fresh(ctx context.Context, c *client.Client) error {
	s, err := c.Status(ctx)
	switch {
	case err != nil:
		return err
	case !s.Ready || time.Now().After(s.SVID.NotAfter):
		return fmt.Errorf("ready %t, certificate until %s", s.Ready, s.SVID.NotAfter)
	}
	return nil
}

// allAlive wants each of them to hold each of them alive.
func allAlive(ctx context.Context, clients map[string]*client.Client) error {
	for name, c := range clients {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		for _, m := range members {
			if clients[m.Name] != nil && m.State != "alive" {
				return fmt.Errorf("%s holds %s %s", name, m.Name, m.State)
			}
		}
	}
	return nil
}

// throughAll writes through each of them and reads it by another one.
func throughAll(t *testing.T, clients map[string]*client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for name, c := range clients {
		if _, err := c.Put(ctx, "rekey/"+name, []byte(name), client.PutOptions{}); err != nil {
			t.Errorf("put through %s: %v", name, err)
		}
		for other, o := range clients {
			if p, err := o.Get(ctx, "rekey/"+name, client.ReadOptions{}); err != nil || string(p.Value) != name {
				t.Errorf("get through %s what %s put: %q, %v", other, name, p.Value, err)
			}
		}
	}
}

// copyIdentity returns a data directory with the identity of an agent.
func copyIdentity(t *testing.T, a *lab.Agent) string {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(a.DataDir, "identity", "*"))
	if err = errors.Join(err, os.Mkdir(filepath.Join(dir, "identity"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "identity", filepath.Base(file)), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// swapHostKey gives a directory the host key of a host that the cluster does not know.
func swapHostKey(t *testing.T, a *lab.Agent) {
	t.Helper()
	dir := t.TempDir()
	if _, err := security.CreateHost(dir); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "identity", "host.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.DataDir, "identity", "host.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rekeyBy renews with the identity in dir by the one agent at addr.
func rekeyBy(t *testing.T, dir, node, clusterID, addr string) error {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString("lab.parley.test")
	host, err := security.LoadHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	src, err := security.NewSource(security.SourceOptions{Dir: dir, TrustDomain: td, Node: node, Host: host, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	key, err := security.LeafKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	req, err := security.NewLeafRequest(host, node, td, &key.PublicKey, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if req.Generation, err = security.OpenRatchet(dir, clusterID, node, host).Link(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = security.Rekey(ctx, security.RekeyOptions{Source: src, ClusterID: clusterID, Addrs: []string{addr}}, req)
	return err
}
