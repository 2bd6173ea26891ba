package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/parley-mesh/parley/test/bench/load"
)

// Client is a load.Client by etcd's own Go client.
type Client struct{ client *clientv3.Client }

// Connect makes n clients of one server that share so many connections.
func (c *Cluster) Connect(s *Server, n, connections int) (clients []load.Client, closeAll func(), err error) {
	var dialled []*clientv3.Client
	closeAll = func() {
		for _, d := range dialled {
			_ = d.Close() // nothing is pending
		}
	}
	for range min(n, connections) {
		d, err := c.Dial(s)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		dialled = append(dialled, d)
	}
	for i := range n {
		clients = append(clients, &Client{dialled[i%len(dialled)]})
	}
	return clients, closeAll, nil
}

// Put writes a key.
func (c *Client) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.client.Put(ctx, key, string(value))
	if err == rpctypes.ErrTooManyRequests { //nolint:errorlint // the client returns this very value
		return fmt.Errorf("%w: %w", load.ErrBusy, err)
	}
	return err
}

// Get reads linearizably.
func (c *Client) Get(ctx context.Context, key string) (int, error) { return c.read(ctx, key) }

// Stale reads the server's own copy; etcd says serializable.
func (c *Client) Stale(ctx context.Context, key string) (int, error) {
	return c.read(ctx, key, clientv3.WithSerializable())
}

func (c *Client) read(ctx context.Context, key string, options ...clientv3.OpOption) (int, error) {
	answer, err := c.client.Get(ctx, key, options...)
	if err != nil || len(answer.Kvs) == 0 {
		return 0, err
	}
	return len(answer.Kvs[0].Value), nil
}

// Caller is etcd's own client of one server, for what is not a load.
type Caller struct{ client *clientv3.Client }

// Call makes a caller of a server.
func (c *Cluster) Call(s *Server) (*Caller, error) {
	client, err := c.Dial(s)
	return &Caller{client}, err
}

// Close ends it.
func (c *Caller) Close() { _ = c.client.Close() } // nothing is pending

// Put writes a key.
func (c *Caller) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.client.Put(ctx, key, string(value))
	return err
}

// PutAll writes all keys with the same value in one transaction.
func (c *Caller) PutAll(ctx context.Context, keys []string, value []byte) error {
	ops := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = clientv3.OpPut(key, string(value))
	}
	_, err := c.client.Txn(ctx).Then(ops...).Commit()
	return err
}

// Watch calls each with the values that a key gets, until ctx ends. It calls ready once it hears what comes.
func (c *Caller) Watch(ctx context.Context, key string, ready func(), each func(value []byte)) error {
	for answer := range c.client.Watch(ctx, key, clientv3.WithCreatedNotify()) {
		if answer.Created {
			ready()
		}
		for _, event := range answer.Events {
			each(event.Kv.Value)
		}
		if err := answer.Err(); err != nil {
			return err
		}
	}
	return ctx.Err()
}
