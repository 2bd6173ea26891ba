package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
)

// BenchmarkRestart fills a core of three with PARLEY_BENCH_KEYS (500,000) keys of 256 bytes, kills with SIGKILL one follower,
// then all three, and reports how long each time it takes from the start of the processes to a linearizable read over the
// HTTP listener of one that was killed. Each is done five times; the figures are medians. CPU is that of the process that was
// read from, up to that read.
func BenchmarkRestart(b *testing.B) {
	keys := 500_000
	if raw := os.Getenv("PARLEY_BENCH_KEYS"); raw != "" {
		var err error
		if keys, err = strconv.Atoi(raw); err != nil {
			b.Fatal(err)
		}
	}
	l := startLab(b, lab.Options{Agents: 3, Core: true, ReplaceAfter: time.Hour, Settings: map[string]string{"safe_mode.window": killedOften}})
	clients := clientsOf(b, l)
	whole(b, clients)
	leader, err := l.Agent(agentInRole(b, clients, "leader"))
	if err != nil {
		b.Fatal(err)
	}
	fillKeys(b, leader, keys)
	reportUsage(b, l, "filled")
	last := fmt.Sprintf("bench/%07d", keys-1)
	const times = 5
	for b.Loop() {
		var one, all restartTimes
		for range times {
			whole(b, clients)
			name := agentInRole(b, clients, "voter")
			one.add(b, l, []string{name}, last)
		}
		for range times {
			whole(b, clients)
			all.add(b, l, []string{l.Agents[0].Name, l.Agents[1].Name, l.Agents[2].Name}, last)
		}
		whole(b, clients)
		reportUsage(b, l, "after the last restart")
		one.report(b, "one")
		all.report(b, "all")
	}
}

type restartTimes struct {
	took []time.Duration
	cpu  []float64
}

// add kills the named agents, starts them again and waits for a linearizable read from the first.
func (r *restartTimes) add(b *testing.B, l *lab.Lab, names []string, key string) {
	for _, name := range names {
		if err := l.Kill(name, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	var restarts sync.WaitGroup
	for _, name := range names {
		restarts.Go(func() {
			if err := l.Restart(ctx, name); err != nil {
				b.Error(err)
			}
		})
	}
	a, err := l.Agent(names[0])
	if err != nil {
		b.Fatal(err)
	}
	for !readable(ctx, a, key) {
		if ctx.Err() != nil {
			b.Fatalf("%s answers no linearizable read: %s", a.Name, a.LogTail(20))
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.took = append(r.took, time.Since(began))
	r.cpu = append(r.cpu, usage(b, l)[a.Name].cpu)
	restarts.Wait()
}

func readable(ctx context.Context, a *lab.Agent, key string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+"/parley/v1/kv/"+key, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	_, err = io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

func (r *restartTimes) report(b *testing.B, what string) {
	b.Logf("%s: %v, CPU %v", what, r.took, r.cpu)
	slices.Sort(r.took)
	slices.Sort(r.cpu)
	b.ReportMetric(r.took[len(r.took)/2].Seconds(), what+"-s")
	b.ReportMetric(r.cpu[len(r.cpu)/2], what+"-cpu-s")
}

// fillKeys writes random values through one agent, 256 clients at a time.
func fillKeys(b *testing.B, a *lab.Agent, keys int) {
	const clients = 256
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var writers sync.WaitGroup
	for i := range clients {
		writers.Go(func() {
			value := make([]byte, valueBytes)
			for k := i; k < keys && !b.Failed(); k += clients {
				_, _ = rand.Read(value)
				do(b, client, request(b, http.MethodPut, fmt.Sprintf("http://%s/parley/v1/kv/bench/%07d", a.HTTP, k), value))
			}
		})
	}
	writers.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func reportUsage(b *testing.B, l *lab.Lab, when string) {
	for name, u := range usage(b, l) {
		b.Logf("%s, %s: %d MiB resident, %.1f s of CPU", when, name, u.rssBytes>>20, u.cpu)
	}
}
