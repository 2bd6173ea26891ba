package report

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// The nearest rank: of four values the median is the second, the 99th percentile the last.
func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{7}, 0.99, 7},
		{[]time.Duration{1, 2, 3, 4}, 0.5, 2},
		{[]time.Duration{1, 2, 3, 4}, 0.51, 3},
		{[]time.Duration{1, 2, 3, 4}, 0.99, 4},
		{[]time.Duration{1, 2, 3, 4}, 0, 1},
		{[]time.Duration{1, 2, 3, 4}, 1, 4},
	} {
		if got := Quantile(c.values, c.q); got != c.want {
			t.Errorf("Quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := Median(c.values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func measure(what string, clients int, side, metric string, value float64) Measure {
	return Measure{What: what, Clients: clients, Side: side, Values: map[string]float64{metric: value}}
}

// A ratio is taken within a run, and larger is better whichever way the figures go: 4 times the rate and a quarter of the
// time are the same 4. A run without one of the two sides has none.
func TestRatios(t *testing.T) {
	r := Result{Runs: []Run{
		{Measures: []Measure{measure(Put, 64, HTTP, PerSecond, 4000), measure(Put, 64, Etcd, PerSecond, 1000)}},
		{Measures: []Measure{measure(Put, 64, HTTP, PerSecond, 100)}},
		{Measures: []Measure{measure(Put, 64, HTTP, PerSecond, 6000), measure(Put, 64, Etcd, PerSecond, 2000)}},
		{Measures: []Measure{measure(RestartOne, 0, Own, Took, 500), measure(RestartOne, 0, Etcd, Took, 2000)}},
	}}
	rate := Goal{What: Put, Clients: 64, Side: HTTP, Metric: PerSecond}
	if got := rate.Ratios(r, Etcd); len(got) != 2 || got[0] != 4 || got[1] != 3 {
		t.Errorf("rates: got %v, want [4 3]", got)
	}
	if got := rate.Ratios(r, EtcdBest); got != nil {
		t.Errorf("a baseline that was not measured: got %v", got)
	}
	took := Goal{What: RestartOne, Side: Own, Metric: Took}
	if got := took.Ratios(r, Etcd); len(got) != 1 || got[0] != 4 {
		t.Errorf("times: got %v, want [4]", got)
	}
}

func TestVerdict(t *testing.T) {
	g := Goal{Floor: 3, Target: 5}
	for ratio, want := range map[float64]string{2.99: "below the floor", 3: "floor reached", 4.9: "floor reached", 5: "target reached"} {
		if got := g.Verdict(ratio); got != want {
			t.Errorf("Verdict(%v) = %q, want %q", ratio, got, want)
		}
	}
	if got := (Goal{Floor: 2}).Verdict(2); got != "pass" {
		t.Errorf("a goal without a target: got %q", got)
	}
	if got := (Goal{}).Verdict(0.1); got != "" {
		t.Errorf("no goal: got %q", got)
	}
}

// The tables show what was measured and say so of what was not; a floor that is missed cannot be overlooked.
func TestMarkdown(t *testing.T) {
	text := sample().Markdown()
	for _, want := range []string{
		"| put, 64 clients, HTTP/1.1 | 3 | 4.50 | 3.50 (3 to 4) | floor reached | 2 | below the floor |",
		"| put, 512 clients, HTTP/1.1 | 4 | 6 | not measured | | not measured | |",
		"| failover at the defaults | 2 |  | 1.50 | below the floor | | |",
		"| put | 64 | " + HTTP + " | 4,000 (3,000 to 5,000) |",
		"| failover at the defaults | " + Own + " | median 600 ms of 500, 600, 700",
		"0.50 of the peak is done, **below the floor of 0.8**, why",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables have no %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| ratio") || strings.HasPrefix(line, "| put, ") {
			if n := strings.Count(line, "|"); n != 8 {
				t.Errorf("%d bars, want 8: %s", n, line)
			}
		}
	}
}

func sample() Result {
	return Result{Runs: []Run{
		{Measures: []Measure{
			measure(Put, 64, HTTP, PerSecond, 3000), measure(Put, 64, Etcd, PerSecond, 1000), measure(Put, 64, EtcdBest, PerSecond, 1500),
			{What: Failover, Side: Own, Each: []float64{700, 500}, Values: map[string]float64{Took: 600}},
			measure(Failover, 0, Etcd, Took, 900),
			{What: Overload, Side: HTTP, Values: map[string]float64{Kept: 0.5}, Note: "why"},
		}},
		{Measures: []Measure{
			measure(Put, 64, HTTP, PerSecond, 5000), measure(Put, 64, Etcd, PerSecond, 1250), measure(Put, 64, EtcdBest, PerSecond, 2500),
			{What: Failover, Side: Own, Each: []float64{600}, Values: map[string]float64{Took: 600}},
			measure(Failover, 0, Etcd, Took, 900),
		}},
	}}
}

// What -o writes can be read again.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	var again Result
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if got, want := again.Markdown(), sample().Markdown(); got != want {
		t.Errorf("after JSON:\n%s\nwant\n%s", got, want)
	}
}

func TestReplace(t *testing.T) {
	got, err := Replace("above\n"+pageBegin+"old\n"+pageEnd+"below\n", "new\n")
	if want := "above\n" + pageBegin + "new\n" + pageEnd + "below\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := Replace("no marks\n", "new\n"); err == nil {
		t.Error("a page without marks was written")
	}
}

// The page that make bench writes has its marks.
func TestPageHasMarks(t *testing.T) {
	page, err := os.ReadFile("../../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Replace(string(page), ""); err != nil {
		t.Error(err)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.851: "0.85", 3: "3", 4.5: "4.50", 12.34: "12.3", 999.6: "1,000", 123: "123", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}
