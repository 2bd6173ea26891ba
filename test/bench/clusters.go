package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"

	"github.com/parley-mesh/parley/test/bench/load"
)

const servers = 3

// cluster is three servers of one kind, by their places 0 to 2.
type cluster interface {
	// Paths are the ways in which clients talk to it.
	Paths() []path
	Pids() []int
	// Leader is the place of the server that leads.
	Leader(ctx context.Context) (int, error)
	// Kill ends a server without a warning and returns when it is gone. Launch starts it again and does not wait;
	// Serving waits until it has answered a linearizable read, Whole until all three are there and well.
	Kill(i int) error
	Launch(ctx context.Context, i int) error
	Serving(ctx context.Context, i int) error
	Whole(ctx context.Context) error
	// Call makes a caller of one server, which any number of goroutines may use.
	Call(i int) (caller, error)
	Stop() error
}

// path is one way of talking to a cluster.
type path struct {
	name string
	// connect makes n clients of the leader.
	connect func(ctx context.Context, n int) (clients []load.Client, closeAll func(), err error)
}

// caller does what is not a load.
type caller interface {
	Put(ctx context.Context, key string, value []byte) error
	PutAll(ctx context.Context, keys []string, value []byte) error
	Watch(ctx context.Context, key string, ready func(), each func(value []byte)) error
	Close()
}

// kind is a set-up of one side.
type kind struct {
	name  string
	start func(ctx context.Context, w *work) (cluster, error)
}

// work is where clusters run, and what of.
type work struct {
	dir    string // everything is below it
	parley string // programs
	etcd   string
	made   int
}

// newDir is an empty directory for one cluster. Names are short: sockets lie below them.
func (w *work) newDir() (string, error) {
	w.made++
	dir := fmt.Sprintf("%s/%d", w.dir, w.made)
	return dir, os.MkdirAll(dir, 0o700)
}

// newAddrs are loopback addresses of a block of its own, so that what the last cluster left in the kernel, and other
// programs, do not matter.
func newAddrs() []net.IP {
	a, b := byte(1+rand.IntN(254)), byte(rand.IntN(256)) //nolint:gosec // an address, no secret
	ips := make([]net.IP, servers)
	for i := range ips {
		ips[i] = net.IPv4(127, a, b, byte(i+1)).To4()
	}
	return ips
}
