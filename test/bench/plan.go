package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/parley-mesh/parley/test/bench/report"
)

const (
	valueBytes = 256
	keyCount   = 10_000
)

// bench is a comparison under way.
type bench struct {
	work     *work
	result   report.Result
	keys     []string
	value    []byte
	quick    bool
	own      bool // etcd is left out
	clients  []int
	runs     int
	span     time.Duration // of one cell
	idleSpan time.Duration
	kills    int // of each side in a run
	many     int // keys at a restart
	profiles string
}

func newBench(o options, w *work) *bench {
	b := &bench{
		work: w, own: o.own, profiles: o.profiles, keys: load.Keys(keyCount), value: bytes.Repeat([]byte("v"), valueBytes),
		runs: 3, span: 2500 * time.Millisecond, idleSpan: 10 * time.Second, kills: 2, many: 500_000,
	}
	if o.quick {
		b.quick, b.runs, b.span, b.idleSpan, b.kills = true, 1, 2*time.Second, 4*time.Second, 2
	}
	if o.runs > 0 {
		b.runs = o.runs
	}
	return b
}

// side is a kind of cluster under a name of the report; paths are the names there of the ways to ask it.
type side struct {
	kind  kind
	name  string
	paths map[string]string
}

// stage is one thing that is measured, at each of its sides in turn.
type stage struct {
	name    string
	sides   []side
	measure func(ctx context.Context, b *bench, s side) error
}

// equalTimers are etcd's defaults: a heartbeat every 100 ms, which is two ticks, and an election after a second.
var equalTimers = map[string]string{"core.tick": "50ms", "core.election_ticks": "20"}

var (
	parley = side{parleyKind("parley", nil), report.Own,
		map[string]string{"http": report.HTTP, "https": report.HTTPS, "rpc": report.RPC}}
	parleySlow = side{parleyKind("parley with etcd's timers", equalTimers), report.Own, nil}
	plainEtcd  = side{etcdKind("etcd", false), report.Etcd, map[string]string{"grpc": report.Etcd}}
	bestEtcd   = side{etcdKind("etcd with a separate HTTP port", true), report.EtcdBest, map[string]string{"grpc": report.EtcdBest}}
)

var stages = []stage{
	{"put", []side{parley, plainEtcd, bestEtcd}, loadOf(report.Put, func(b *bench) load.Op { return load.Put(b.value) })},
	{"get", []side{parley, plainEtcd, bestEtcd}, loadOf(report.Get, func(*bench) load.Op { return load.Get(valueBytes) })},
	{"stale", []side{parley, plainEtcd, bestEtcd}, loadOf(report.Stale, func(*bench) load.Op { return load.Stale(valueBytes) })},
	{"failover", []side{parleySlow, plainEtcd}, func(ctx context.Context, b *bench, s side) error {
		return b.failover(ctx, report.FailoverEqual, s)
	}},
	{"failover-defaults", []side{parley}, func(ctx context.Context, b *bench, s side) error {
		return b.failover(ctx, report.Failover, s)
	}},
	{"restart", []side{parley, plainEtcd}, func(ctx context.Context, b *bench, s side) error { return b.restart(ctx, s) }},
	{"idle", []side{parley, plainEtcd}, func(ctx context.Context, b *bench, s side) error { return b.idle(ctx, s) }},
	{"watch", []side{parley, plainEtcd}, func(ctx context.Context, b *bench, s side) error { return b.watch(ctx, s) }},
	{"overload", []side{parley}, func(ctx context.Context, b *bench, s side) error { return b.overload(ctx, s) }},
}

func loadOf(what string, op func(*bench) load.Op) func(context.Context, *bench, side) error {
	return func(ctx context.Context, b *bench, s side) error { return b.loads(ctx, what, op(b), s) }
}

func stageNames() []string {
	var names []string
	for _, s := range stages {
		names = append(names, s.name)
	}
	return names
}

// choose returns the stages of a list of names, all of them for an empty one.
func choose(only string) ([]stage, error) {
	if only == "" {
		return stages, nil
	}
	var chosen []stage
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(stages, func(s stage) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there is no %q; there are %s", only, name, strings.Join(stageNames(), ", "))
		}
		chosen = append(chosen, stages[i])
	}
	return chosen, nil
}

// stage measures at every side; who begins changes from run to run.
func (b *bench) stage(ctx context.Context, run int, s stage) error {
	for i := range s.sides {
		at := s.sides[(i+run)%len(s.sides)]
		if b.own && (at.name == report.Etcd || at.name == report.EtcdBest) {
			continue
		}
		fmt.Fprintf(os.Stderr, "run %d of %d: %s, %s\n", run+1, b.runs, s.name, at.kind.name)
		if err := s.measure(ctx, b, at); err != nil {
			return fmt.Errorf("%s, %s: %w", s.name, at.kind.name, err)
		}
	}
	return nil
}

// note keeps a measure, and shows it at once.
func (b *bench) note(m report.Measure) {
	run := &b.result.Runs[len(b.result.Runs)-1]
	run.Measures = append(run.Measures, m)
	fmt.Fprintln(os.Stderr, "   ", m)
	if m.What == report.FailoverEqual && m.Side == report.Etcd { // its defaults are these timers
		m.What = report.Failover
		run.Measures = append(run.Measures, m)
	}
}

// stopped stops a cluster after an error.
func stopped(c cluster, err error) error { return errors.Join(err, c.Stop()) }
