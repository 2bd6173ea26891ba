package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/parley-mesh/parley/transport"
)

// rpcPaths are the ways to ask by framed RPC: by Parley's own Go client, over mutual TLS. All callers share one
// connection, as the goroutines of one program do.
func (o *ours) rpcPaths() []path {
	if _, err := client.New("rpc://127.0.0.1:1", client.WithTLS(&tls.Config{MinVersion: tls.VersionTLS13})); err != nil {
		return nil // this checkout's client does not speak it
	}
	return []path{{"rpc", func(ctx context.Context, n int) ([]load.Client, func(), error) {
		leader, err := o.Leader(ctx)
		if err != nil {
			return nil, nil, err
		}
		a := o.lab.Agents[leader]
		settings, err := identity(a, transport.ALPNRPC)
		if err != nil {
			return nil, nil, err
		}
		c, err := client.New("rpc://"+a.Mesh, client.WithTLS(settings))
		if err != nil {
			return nil, nil, err
		}
		clients := make([]load.Client, n)
		for i := range clients {
			clients[i] = &rpcClient{c}
		}
		return clients, c.Close, nil
	}}}
}

// rpcClient is a load.Client by Parley's own Go client.
type rpcClient struct{ client *client.Client }

func (r *rpcClient) Put(ctx context.Context, key string, value []byte) error {
	_, err := r.client.Put(ctx, key, value, client.PutOptions{})
	return busy(err)
}

func (r *rpcClient) Get(ctx context.Context, key string) (int, error) {
	pair, err := r.client.Get(ctx, key, client.ReadOptions{})
	return len(pair.Value), busy(err)
}

func (r *rpcClient) Stale(ctx context.Context, key string) (int, error) {
	pair, err := r.client.Get(ctx, key, client.ReadOptions{Stale: true})
	return len(pair.Value), busy(err)
}

// busy marks the error of a server that has too much to do.
func busy(err error) error {
	var refused *client.Error
	if errors.As(err, &refused) && (refused.Code == "busy" || refused.Code == "too_many") {
		return fmt.Errorf("%w: %w", load.ErrBusy, err)
	}
	return err
}
