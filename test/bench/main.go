// Command bench measures a core of three beside etcd's three servers, on this machine and in alternation, and prints the
// ratios with the floors and targets that they are held to:
//
//	make bench                 three runs, written to docs/benchmarks.md; about 17 minutes
//	make bench ARGS=-quick     one run, written nowhere; under 4 minutes
//
// Both sides run as real processes on loopback and on the same file system, get the same values, keys and closed loops,
// and are started anew for each kind of operation, one side after the other, so that a slow minute of the machine hits
// all. Mutual TLS is on among the servers of both sides. To clients etcd speaks mutual TLS; Parley is asked by plain HTTP,
// which it offers on loopback only, by HTTP over mutual TLS, and by its framed RPC over mutual TLS.
//
// The package comments of load, etcd and report have the details. Everything that is started is stopped again, on failure
// and on an interrupt too, and the directories are removed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/parley-mesh/parley/test/bench/report"
)

// Limits of a whole comparison. Building comes before.
const (
	fullLimit  = 40 * time.Minute
	quickLimit = 10 * time.Minute
)

// allClients are the numbers of clients of a whole comparison.
const allClients = "1,64,512"

// etcdConnections is how many connections the clients of etcd share. More cost both ends more, and one has locks of its own.
var etcdConnections *int

type options struct {
	only, clients, out, docs, dir, parley, etcd, profiles string
	quick, own                                            bool
	runs                                                  int
}

func main() {
	var o options
	flag.BoolVar(&o.quick, "quick", false, "one run with shorter spans and without https")
	flag.BoolVar(&o.own, "own", false, "measure Parley alone, to compare one build of it with another")
	flag.IntVar(&o.runs, "runs", 0, "how many runs (default 3, or 1 with -quick)")
	flag.StringVar(&o.only, "only", "", "measure only these, comma-separated: "+strings.Join(stageNames(), ", "))
	flag.StringVar(&o.clients, "clients", allClients, "numbers of clients of put, get and stale")
	flag.StringVar(&o.out, "o", "", "write everything that was measured to this file as JSON")
	flag.StringVar(&o.docs, "docs", "", "write the tables into this page, between its marks")
	flag.StringVar(&o.dir, "dir", "", "where the servers keep their data (default: a temporary directory)")
	flag.StringVar(&o.parley, "parley", "", "parley's program (default: build it)")
	flag.StringVar(&o.etcd, "etcd", "", "etcd's program (default: build it, which takes minutes the first time)")
	flag.StringVar(&o.profiles, "profile", "", "record where the processor time of the leader and of another server goes in each cell into this directory, by perf")
	etcdConnections = flag.Int("etcd-connections", 8, "connections that the clients of etcd share")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.docs != "" && (o.quick || o.own || o.only != "" || o.clients != allClients || o.profiles != "") {
		return errors.New("-docs takes a whole comparison: leave out -quick, -own, -only, -clients and -profile")
	}
	stages, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "b-") // short: sockets lie below it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := prepare(ctx, o, dir)
	if err != nil {
		return err
	}
	limit := fullLimit
	if o.quick {
		limit = quickLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s: the machine is too slow or too busy", limit))
	defer cancel()
	for n := range b.runs {
		b.result.Runs = append(b.result.Runs, report.Run{})
		for _, s := range stages {
			if err := b.stage(ctx, n, s); err != nil {
				return err
			}
		}
	}
	return b.finish(o)
}

// finish prints the tables and writes them where they were asked for.
func (b *bench) finish(o options) error {
	text := b.result.Markdown()
	fmt.Print(text)
	if o.out != "" {
		out, err := json.MarshalIndent(b.result, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.out, append(out, '\n'), 0o644); err != nil { //nolint:gosec // for everyone to read
			return err
		}
	}
	if o.docs == "" {
		return nil
	}
	page, err := os.ReadFile(o.docs)
	if err != nil {
		return err
	}
	changed, err := report.Replace(string(page), text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.docs, err)
	}
	return os.WriteFile(o.docs, []byte(changed), 0o644) //nolint:gosec // for everyone to read
}
