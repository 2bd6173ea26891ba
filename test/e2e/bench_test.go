package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
)

// valueBytes is the size of the values that the benchmarks write.
const valueBytes = 256

// BenchmarkPut writes through the leader's HTTP listener of a five-agent lab, each client with one
// connection and one request at a time. It reports puts/s, p50 and p99.
func BenchmarkPut(b *testing.B) {
	value := bytes.Repeat([]byte("v"), valueBytes)
	load(b, func(base string, n int64) *http.Request {
		return request(b, http.MethodPut, fmt.Sprintf("%s/parley/v1/kv/bench/%d", base, n%10_000), value)
	})
}

// BenchmarkGet reads linearizably, otherwise as BenchmarkPut.
func BenchmarkGet(b *testing.B) {
	load(b, func(base string, n int64) *http.Request {
		return request(b, http.MethodGet, base+"/parley/v1/kv/bench/0", nil)
	})
}

// BenchmarkGetByLease reads as BenchmarkGet, from a core whose leader answers by its lease and one whose leader asks a
// majority each time, one after the other: both run all the while.
func BenchmarkGetByLease(b *testing.B) {
	how := []string{"lease", "round"}
	bases := make(map[string]string)
	for _, reads := range how {
		l := startLab(b, lab.Options{Agents: 3, Settings: map[string]string{"core.lease_reads": fmt.Sprint(reads == "lease")}})
		clients := clientsOf(b, l)
		whole(b, clients)
		leader, err := l.Agent(agentInRole(b, clients, "leader"))
		if err != nil {
			b.Fatal(err)
		}
		bases[reads] = "http://" + leader.HTTP
		do(b, http.DefaultClient, request(b, http.MethodPut, bases[reads]+"/parley/v1/kv/bench/0", []byte("first")))
	}
	for _, n := range []int{1, 64} {
		for _, reads := range how {
			b.Run(fmt.Sprintf("clients=%d/%s", n, reads), func(b *testing.B) {
				measure(b, bases[reads], n, func(base string, _ int64) *http.Request {
					return request(b, http.MethodGet, base+"/parley/v1/kv/bench/0", nil)
				})
			})
		}
	}
}

// BenchmarkPutRecorded writes as BenchmarkPut, to a core without recorders, to one that records what comes into its core, and to
// one that keeps a trace of the Go runtime besides, one after the other: all run all the while. It reports what a put costs the
// processors of all three agents.
func BenchmarkPutRecorded(b *testing.B) {
	labs, bases := make(map[string]*lab.Lab), make(map[string]string)
	how := []string{"none", "core", "core-and-runtime"}
	for i, records := range how {
		l := startLab(b, lab.Options{Agents: 3, Settings: map[string]string{
			"debug.recorder_mib": fmt.Sprint(16 * min(i, 1)), "debug.flight_seconds": fmt.Sprint(10 * max(i-1, 0)),
		}})
		clients := clientsOf(b, l)
		whole(b, clients)
		leader, err := l.Agent(agentInRole(b, clients, "leader"))
		if err != nil {
			b.Fatal(err)
		}
		labs[records], bases[records] = l, "http://"+leader.HTTP
	}
	value := bytes.Repeat([]byte("v"), valueBytes)
	for _, n := range []int{1, 64} {
		for _, records := range how {
			b.Run(fmt.Sprintf("clients=%d/%s", n, records), func(b *testing.B) {
				before := usage(b, labs[records])
				measure(b, bases[records], n, func(base string, n int64) *http.Request {
					return request(b, http.MethodPut, fmt.Sprintf("%s/parley/v1/kv/bench/%d", base, n%10_000), value)
				})
				cpu := 0.0
				for name, u := range usage(b, labs[records]) {
					cpu += u.cpu - before[name].cpu
				}
				b.ReportMetric(1e6*cpu/float64(b.N), "cpu-us/op")
			})
		}
	}
}

// BenchmarkLivez is the baseline of both: what an HTTP request costs that does nothing, on the same agent
// and with the same clients.
func BenchmarkLivez(b *testing.B) {
	load(b, func(base string, _ int64) *http.Request {
		return request(b, http.MethodGet, base+"/livez", nil)
	})
}

func request(b *testing.B, method, url string, body []byte) *http.Request {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func load(b *testing.B, next func(base string, n int64) *http.Request) {
	l := startLab(b, lab.Options{})
	clients := clientsOf(b, l)
	whole(b, clients)
	leader, err := l.Agent(agentInRole(b, clients, "leader"))
	if err != nil {
		b.Fatal(err)
	}
	base := "http://" + leader.HTTP
	do(b, http.DefaultClient, request(b, http.MethodPut, base+"/parley/v1/kv/bench/0", []byte("first")))
	for _, n := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) { measure(b, base, n, next) })
	}
}

// measure spreads b.N requests over n clients.
func measure(b *testing.B, base string, n int, next func(string, int64) *http.Request) {
	transport := &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var taken atomic.Int64
	took := make([][]time.Duration, n)
	b.ResetTimer()
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			for {
				k := taken.Add(1)
				if k > int64(b.N) {
					return
				}
				began := time.Now()
				do(b, client, next(base, k))
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

func do(b *testing.B, client *http.Client, r *http.Request) {
	resp, err := client.Do(r)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s %s: status %d, error %v: %.200s", r.Method, r.URL, resp.StatusCode, err, body)
	}
}

// BenchmarkJoin starts labs and reports the time from the first process to the moment when all agents
// see all others alive and the core has its three voters.
func BenchmarkJoin(b *testing.B) {
	for _, n := range []int{5, 30} {
		b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) {
			for b.Loop() {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				l, err := lab.Start(ctx, lab.Options{Binary: program, Agents: n})
				cancel()
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := l.Stop(); err != nil {
					b.Error(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/converged")
		})
	}
}

// BenchmarkIdle watches a lab that nobody uses for ten seconds and reports, for an agent, CPU in per
// cent of one core and resident memory.
func BenchmarkIdle(b *testing.B) {
	l := startLab(b, lab.Options{})
	clients := clientsOf(b, l)
	whole(b, clients)
	leader := agentInRole(b, clients, "leader")
	const span = 10 * time.Second
	for b.Loop() {
		before := usage(b, l)
		time.Sleep(span) // idleness is what is measured
		after := usage(b, l)
		for name, u := range after {
			role := "other"
			if name == leader {
				role = "leader"
			}
			b.Logf("%s (%s): %.2f %% of a core, %d MiB", name, role, 100*(u.cpu-before[name].cpu)/span.Seconds(), u.rssBytes>>20)
			if name == leader {
				b.ReportMetric(100*(u.cpu-before[name].cpu)/span.Seconds(), "leader-cpu-%")
				b.ReportMetric(float64(u.rssBytes>>20), "leader-MiB")
			}
		}
	}
}

type processUsage struct {
	cpu      float64 // seconds
	rssBytes int64
}

// usage reads /proc, so it works on Linux alone.
func usage(b *testing.B, l *lab.Lab) map[string]processUsage {
	const ticksPerSecond = 100 // USER_HZ, fixed on every Linux that Go runs on
	out := make(map[string]processUsage)
	for _, a := range l.Agents {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.Pid()))
		if err != nil {
			b.Skipf("needs /proc: %v", err)
		}
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		number := func(i int) int64 {
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
		out[a.Name] = processUsage{
			cpu:      float64(number(11)+number(12)) / ticksPerSecond,
			rssBytes: number(21) * int64(os.Getpagesize()),
		}
	}
	return out
}
