package main

import (
	"context"
	"errors"
	"slices"

	"github.com/parley-mesh/parley/test/bench/etcd"
	"github.com/parley-mesh/parley/test/bench/load"
)

// etcdKind is etcd as it comes, or with a port for HTTP apart from the one for gRPC.
func etcdKind(name string, separateHTTP bool) kind {
	return kind{name, func(ctx context.Context, w *work) (cluster, error) {
		dir, err := w.newDir()
		if err != nil {
			return nil, err
		}
		c, err := etcd.Start(ctx, etcd.Options{Binary: w.etcd, Dir: dir, Addrs: newAddrs(), SeparateHTTP: separateHTTP})
		if err != nil {
			return nil, err
		}
		return &peer{c}, nil
	}}
}

// peer is a cluster of etcd.
type peer struct{ cluster *etcd.Cluster }

func (p *peer) Paths() []path {
	return []path{{"grpc", func(ctx context.Context, n int) ([]load.Client, func(), error) {
		i, err := p.Leader(ctx)
		if err != nil {
			return nil, nil, err
		}
		return p.cluster.Connect(p.cluster.Servers[i], n, *etcdConnections)
	}}}
}

func (p *peer) Pids() []int { return p.cluster.Pids() }

func (p *peer) Leader(ctx context.Context) (int, error) {
	s, err := p.cluster.Leader(ctx)
	return slices.Index(p.cluster.Servers, s), err
}

func (p *peer) Kill(i int) error {
	p.cluster.Kill(p.cluster.Servers[i])
	return nil
}

func (p *peer) Launch(_ context.Context, i int) error { return p.cluster.Launch(p.cluster.Servers[i]) }

func (p *peer) Serving(ctx context.Context, i int) error {
	return p.cluster.Serving(ctx, p.cluster.Servers[i])
}

func (p *peer) Whole(ctx context.Context) error {
	var all error
	for i := range p.cluster.Servers {
		all = errors.Join(all, p.Serving(ctx, i))
	}
	return all
}

func (p *peer) Call(i int) (caller, error) { return p.cluster.Call(p.cluster.Servers[i]) }

func (p *peer) Stop() error { return p.cluster.Stop() }
