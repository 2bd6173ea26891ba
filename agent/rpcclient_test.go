package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/transport"
)

// overRPC is a client of to's mesh port with from's certificate.
func overRPC(t *testing.T, to, from *running, options ...client.Option) *client.Client {
	t.Helper()
	options = append(options, client.WithTLS(from.agent.source.ClientTLS("", transport.ALPNRPC)))
	c, err := client.New("rpc://"+to.agent.cfg.Mesh.Bind, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A client on the mesh port reads and writes through any agent: the leader, another core member, one outside the core.
// What it may do is what the cluster gave the agent whose certificate it has, at the agent that it asks, and also where
// that one forwards it.
func TestClientsOnTheMeshPort(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, to := range agents {
		c := overRPC(t, to, agents[1], client.WithConnections(2))
		key := fmt.Sprintf("k/%d", i)
		written, err := c.Put(ctx, key, []byte{0xff, byte(i)}, client.PutOptions{Flags: 7})
		if err != nil || written.Revision == 0 {
			t.Fatalf("put through %s: %+v, %v", to.name, written, err)
		}
		pair, err := c.Get(ctx, key, client.ReadOptions{})
		if err != nil || pair.Revision != written.Revision || string(pair.Value) != string([]byte{0xff, byte(i)}) || pair.Flags != 7 {
			t.Errorf("get through %s: %+v, %v", to.name, pair, err)
		}
		if here, err := agents[0].Get(ctx, key, client.ReadOptions{}); err != nil || here.ModifiedHLC != pair.ModifiedHLC || !here.ModifiedAt.Equal(pair.ModifiedAt) {
			t.Errorf("over rpc %+v, over http %+v, %v", pair, here, err)
		}
		if pairs, err := c.List(ctx, "k/", client.ListOptions{}); err != nil || len(pairs) != i+1 {
			t.Errorf("list through %s: %+v, %v", to.name, pairs, err)
		}
		if answer, err := c.Txn(ctx, client.Txn{Then: []client.Op{{Op: "get", Key: key}}}); err != nil || !answer.Succeeded {
			t.Errorf("txn through %s: %+v, %v", to.name, answer, err)
		}
		if status, err := c.Status(ctx); err != nil || status.Name != to.name {
			t.Errorf("status of %s: %+v, %v", to.name, status, err)
		}
	}
	if err := agents[0].AllowCore(ctx, "a4", false); err != nil { // the grant implies the role operator
		t.Fatal(err)
	}
	c := overRPC(t, agents[0], agents[3]) // not of the core, whose members may do everything
	if done, err := c.Delete(ctx, "k/0", client.DeleteOptions{}); err != nil || done.Deleted != 1 {
		t.Errorf("delete: %+v, %v", done, err)
	}
	var failed *client.Error
	if _, err := c.Get(ctx, "k/0", client.ReadOptions{}); !errors.As(err, &failed) || failed.Code != "not_found" || failed.Status != 404 || failed.ExitCode() != 1 {
		t.Errorf("a missing key: %#v", err)
	}
	if err := c.SetCoreSize(ctx, 1); !errors.As(err, &failed) || failed.Code != "denied" || failed.ExitCode() != 4 {
		t.Errorf("an agent with the role %q changed the core: %v", policy.Local, err)
	}
	if err := agents[0].SetAgentRole(ctx, "a4", string(policy.Discovery)); err != nil {
		t.Fatal(err)
	}
	for _, to := range agents {
		c := overRPC(t, to, agents[3])
		within(t, "a4 may not write any more", func(ctx context.Context) error {
			_, err := c.Put(ctx, "k/9", nil, client.PutOptions{})
			if !errors.As(err, &failed) || failed.Code != "denied" {
				return fmt.Errorf("a put as %q: %w", policy.Discovery, err)
			}
			return nil
		})
	}
}
